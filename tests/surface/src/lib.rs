//! Any kind of device on a board without processors, and bytes in the place of a hostile guest.
//!
//! [`Rig`] is a machine to which nothing but a device is missing. [`examples`] has configurations of every kind in the
//! catalog, those that its documentation shows. [`attack`] takes a string of bytes as a list of things that a guest
//! can do and does them. The same function is what the fuzz targets in `fuzz/` call and what replays their corpus in
//! the ordinary tests. [`requests`] does the same to the API, in the place of a client, and [`images`] to disk images.
#![forbid(unsafe_code)]
#![expect(
    clippy::missing_panics_doc,
    reason = "what goes wrong here is a test that has failed"
)]

pub mod attack;
mod bytes;
mod driver;
mod examples;
pub mod images;
pub mod requests;
mod rig;

pub use bytes::Bytes;
pub use driver::Driver;
pub use examples::{Example, examples};
pub use rig::Rig;

use std::sync::Once;

/// From here on a panic ends the process, on whatever thread it is: a worker's would otherwise only be in the log.
pub fn abort_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            std::process::abort();
        }));
    });
}
