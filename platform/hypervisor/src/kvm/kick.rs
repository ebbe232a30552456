//! Kicks: making a processor come back from the guest, from any thread.
//!
//! A kick does two things in this order: it sets `immediate_exit` in the page that the kernel shares with the
//! processor's thread, and it signals that thread. Wherever the thread is, one of the two works:
//!
//! - before the kernel looks at `immediate_exit`, the processor does not start (the flag stays set until
//!   [`super::exit::RunPage::enter`] reports the interruption);
//! - after that, the signal takes the processor out of the guest, because `KVM_RUN` ends when a signal waits.
//!
//! So the handler has nothing to do, but it must exist, and without `SA_RESTART`.
//!
//! A thread's number can be given to another thread when the thread ends, and the shared page goes away with
//! the processor. Both are therefore forgotten, under the lock that a kick holds, before that happens: the page
//! when the processor is dropped, the thread by a destructor that runs at its end.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use libc::{pid_t, siginfo_t};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use super::vm::lock;
use crate::{Error, Result};

/// Where a processor is. `None`: it is gone.
type Place = Mutex<Option<Target>>;

struct Target {
    immediate_exit: NonNull<u8>,
    /// The thread that runs it, while there is one.
    thread: Option<pid_t>,
}

// SAFETY: the byte is only accessed atomically, by whoever holds the lock around the target and by the
// processor's own thread.
unsafe impl Send for Target {}

/// Another thread's handle to a processor.
#[derive(Clone)]
pub(crate) struct KvmKicker(Arc<Place>);

impl KvmKicker {
    /// `immediate_exit` must stay valid until [`KvmKicker::processor_gone`].
    pub(super) fn new(immediate_exit: NonNull<u8>) -> Self {
        Self(Arc::new(Mutex::new(Some(Target {
            immediate_exit,
            thread: None,
        }))))
    }

    pub(crate) fn kick(&self) {
        let place = lock(&self.0);
        let Some(target) = place.as_ref() else { return };
        // SAFETY: the page is mapped while the target is there; this and the processor's thread access the
        // byte only atomically.
        let immediate_exit = unsafe { AtomicU8::from_ptr(target.immediate_exit.as_ptr()) };
        if immediate_exit.swap(1, Ordering::SeqCst) != 0 {
            // An earlier kick has not been noticed yet: it serves for this one as well.
            return;
        }
        let Some(thread) = target.thread else { return };
        // The kernel limits how many signals of this kind wait per user. At the limit it is tried again until
        // there is room or the processor has come back for another reason.
        while !signal(thread) && immediate_exit.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }

    /// The calling thread will run the processor.
    pub(super) fn attach(&self) {
        // The only failures are an invalid signal number and a signal that was not blocked.
        let _ = unblock_signal(SIGRTMIN());
        // Without a destructor (the thread is ending) the thread is not remembered: nothing will run on it.
        let remembered = HERE.try_with(|here| here.remember(&self.0)).is_ok();
        if let Some(target) = lock(&self.0).as_mut() {
            target.thread = remembered.then(this_thread);
        }
    }

    /// The shared page is about to be unmapped.
    pub(super) fn processor_gone(&self) {
        *lock(&self.0) = None;
    }
}

fn this_thread() -> pid_t {
    // SAFETY: has no arguments and cannot fail.
    unsafe { libc::gettid() }
}

/// Signals a thread of this process. `false`: too many signals wait already.
fn signal(thread: pid_t) -> bool {
    let process = std::process::id();
    // SAFETY: sends a signal that has a handler; no memory is touched. The thread exists: it takes itself out
    // of the target before it ends.
    let answer = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGRTMIN()) };
    answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)
}

/// The processors of this thread; its destructor makes them forget the thread.
struct Here(RefCell<Vec<Weak<Place>>>);

thread_local! {
    static HERE: Here = const { Here(RefCell::new(Vec::new())) };
}

impl Here {
    fn remember(&self, place: &Arc<Place>) {
        let mut places = self.0.borrow_mut();
        places.retain(|known| known.strong_count() > 0 && known.as_ptr() != Arc::as_ptr(place));
        places.push(Arc::downgrade(place));
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let me = this_thread();
        for place in self
            .0
            .get_mut()
            .drain(..)
            .filter_map(|place| place.upgrade())
        {
            if let Some(target) = lock(&place)
                .as_mut()
                .filter(|target| target.thread == Some(me))
            {
                target.thread = None;
            }
        }
    }
}

extern "C" fn handle(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

/// Installs the handler, once per process.
///
/// # Errors
/// [`Error::SignalHandler`] if the kernel refuses.
pub(super) fn install() -> Result<()> {
    static INSTALLED: OnceLock<std::result::Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(SIGRTMIN(), handle).map_err(errno::Error::errno))
        .map_err(|errno| Error::SignalHandler(io::Error::from_raw_os_error(errno)))
}

#[cfg(test)]
mod tests;
