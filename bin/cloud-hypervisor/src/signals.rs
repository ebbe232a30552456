//! SIGTERM and SIGINT end the machine in an orderly way; SIGWINCH tells consoles of their terminal's new size.

use std::io;
use std::sync::mpsc;
use std::thread;

use machine::Remote;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use sandbox::{Allow, Filter};

use crate::error::Error;

/// What the thread that receives signals calls beyond [`sandbox::COMMON`].
pub(crate) const SYSCALLS: &[Allow] = &[Allow::call(libc::SYS_rt_sigtimedwait)];

/// Blocks the signals in this thread and in all that it starts from here on, so that they wait for
/// [`Blocked::serve`].
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn block() -> io::Result<Blocked> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.add(Signal::SIGWINCH);
    set.thread_block()?;
    Ok(Blocked(set))
}

/// Signals that nobody receives yet.
pub(crate) struct Blocked(SigSet);

impl Blocked {
    /// Receives them on a thread of its own, under this filter, for as long as the process lives.
    ///
    /// # Errors
    /// If the thread cannot be started or confined.
    pub(crate) fn serve(self, remote: Remote, filter: Filter) -> Result<(), Error> {
        let (ready, is_ready) = mpsc::sync_channel(1);
        let receive = move || {
            let confined = filter.apply();
            let go = confined.is_ok();
            let _ = ready.send(confined);
            while go && let Ok(signal) = self.0.wait() {
                if signal == Signal::SIGWINCH {
                    stream::announce_resize();
                    continue;
                }
                telemetry::info!("{signal}: the machine and the monitor end");
                remote.stop();
            }
        };
        thread::Builder::new()
            .name("vmm_signal_handler".into())
            .spawn(receive)
            .map_err(Error::Signals)?;
        let died = |_| Error::Signals(io::Error::other("the thread for them ended at its start"));
        Ok(is_ready.recv().map_err(died)??)
    }
}
