//! SIGTERM and SIGINT end the machine in an orderly way.

use std::io;
use std::thread;

use machine::Remote;
use nix::sys::signal::{SigSet, Signal};

/// Blocks the signals in this thread and in all that it starts from here on, so that they wait for
/// [`Blocked::serve`].
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn block() -> io::Result<Blocked> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    Ok(Blocked(set))
}

/// Signals that nobody receives yet.
pub(crate) struct Blocked(SigSet);

impl Blocked {
    /// Receives them on a thread of its own, for as long as the process lives.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn serve(self, remote: Remote) -> io::Result<()> {
        let receive = move || {
            while let Ok(signal) = self.0.wait() {
                telemetry::info!("{signal}: the machine and the monitor end");
                remote.stop();
            }
        };
        thread::Builder::new()
            .name("vmm_signal_handler".into())
            .spawn(receive)
            .map(drop)
    }
}
