//! Tells what the program does, to people and to machines.
//!
//! Four ways, for four readers:
//!
//! - **Log lines** for whoever looks into a problem: [`error!`], [`warn!`], [`info!`], [`debug!`]
//!   and [`trace!`], through the `log` crate so that libraries' lines show too. A guest can make
//!   much of the program speak, so each place in the code is limited to [`rate::BURST`] lines at
//!   once and one per second from then on, and says how many it left out. The `_unlimited`
//!   macros, such as [`warn_unlimited!`], are for what only the operator can cause.
//! - **Events** for programs that manage this one: [`event!`] puts a JSON object on the stream that
//!   `--event-monitor` named. Nothing a guest or a slow reader does makes the program wait for it.
//! - **A trace of the start** for developers, in builds with the feature `tracing`: [`trace::step`].
//! - **Chains of causes** for who started the program in vain: [`print_chain`].
//!
//! Times count from [`start_clock`], the first thing `main` does.
//!
//! Until [`log::init`] and [`event::init`] are called nothing is said and nothing is paid for: no
//! thread, no allocation, a few comparisons per call.
#![forbid(unsafe_code)]

mod chain;
mod clock;
mod error;
pub mod event;
pub mod log;
mod macros;
pub mod rate;
pub mod trace;

pub use chain::{chain, chain_text, print_chain};
pub use clock::{elapsed, start_clock};
pub use error::Error;

/// What the macros expand to; not for use by hand.
#[doc(hidden)]
pub mod private {
    pub use ::log::{Level, log, max_level};
}
