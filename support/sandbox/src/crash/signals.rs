//! Handlers of the signals that end the process.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use libc::{c_int, c_void, siginfo_t};

use super::line::Line;
use super::{PANIC_STATUS, PANICKING, claim_the_end, exit, last_act, names};
use crate::{Allow, Error};

/// The faults and aborts, which get a handler whatever was in place before.
const FAULTS: [c_int; 6] = [
    libc::SIGSYS,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
];

/// Signals from outside whose default is to end the process; left alone if someone else handles
/// or ignores them (as `nohup` does).
const REQUESTS: [c_int; 2] = [libc::SIGHUP, libc::SIGQUIT];

/// What was in place before [`install`], by signal number.
static PREVIOUS: [OnceLock<libc::sigaction>; 32] = [const { OnceLock::new() }; 32];

/// `SYS_SECCOMP` of `asm-generic/siginfo.h`: the signal comes from a filter.
const SYS_SECCOMP: c_int = 1;

/// The calls of the ways out. [`crate::Filter::compile`] puts them into every filter.
///
/// One of them is not harmless: a thread that was taken over can remove files. It could as well
/// make a thread do it that has to remove its sockets, since threads share memory; Landlock is
/// what bounds this.
pub const SYSCALLS: &[Allow] = &[
    // The end itself.
    Allow::call(libc::SYS_exit_group),
    Allow::call(libc::SYS_rt_sigreturn),
    Allow::call(libc::SYS_rt_sigprocmask),
    // `abort`, and giving a signal its default action back before raising it again.
    Allow::arg32(
        libc::SYS_rt_sigaction,
        0,
        &[
            libc::SIGSYS as u64,
            libc::SIGSEGV as u64,
            libc::SIGBUS as u64,
            libc::SIGILL as u64,
            libc::SIGFPE as u64,
            libc::SIGABRT as u64,
            libc::SIGHUP as u64,
            libc::SIGQUIT as u64,
        ],
    ),
    Allow::call(libc::SYS_getpid),
    Allow::call(libc::SYS_gettid),
    Allow::call(libc::SYS_tgkill),
    // Who and what: the thread's name, the message.
    Allow::arg32(libc::SYS_prctl, 0, &[libc::PR_GET_NAME as u64]),
    Allow::call(libc::SYS_write),
    // A thread that finds another one ending the process waits.
    Allow::call(libc::SYS_clock_nanosleep),
    Allow::call(libc::SYS_nanosleep),
    // The acts.
    Allow::ioctl(&[libc::TCSETS]),
    #[expect(
        clippy::cast_sign_loss,
        reason = "the low half is compared, sign and all"
    )]
    Allow::arg32(libc::SYS_unlinkat, 0, &[libc::AT_FDCWD as u64]),
];

/// Installs the handlers of `SIGSYS`, `SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE` and `SIGABRT`, and
/// those of `SIGHUP` and `SIGQUIT` where nobody else has a say. Called once, early in `main`.
///
/// They do the pending [`super::LastAct`]s, explain a call that a seccomp filter refused, and let
/// the signal end the process as it would have. They run on the alternate stack that Rust gives
/// every thread, so that a stack overflow is handled too, and keeps its usual message.
///
/// A filter's signal on a thread that blocks `SIGSYS` ends the process without any of this.
///
/// # Errors
///
/// [`Error::CrashHandler`] if the kernel refuses a handler.
pub fn install() -> Result<(), Error> {
    for signal in FAULTS {
        let previous = current(signal)?;
        // A second `install` must not take our own handler for the previous one.
        let _ = slot(signal).set(previous);
        handle(signal)?;
    }
    for signal in REQUESTS {
        if current(signal)?.sa_sigaction == libc::SIG_DFL {
            handle(signal)?;
        }
    }
    Ok(())
}

/// The remembered action of a signal.
fn slot(signal: c_int) -> &'static OnceLock<libc::sigaction> {
    &PREVIOUS[usize::try_from(signal).unwrap_or(0) % PREVIOUS.len()]
}

/// What is in place for a signal.
fn current(signal: c_int) -> Result<libc::sigaction, Error> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: nothing is changed; on success the call fills the action.
    if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(Error::CrashHandler(io::Error::last_os_error()));
    }
    // SAFETY: the call succeeded, so the action is filled.
    Ok(unsafe { action.assume_init() })
}

/// Puts our handler in place.
fn handle(signal: c_int) -> Result<(), Error> {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_signal;
    let mut action = default_action();
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // A fault while one is being handled must not start over: a blocked one ends the process.
    for other in FAULTS.into_iter().chain(REQUESTS) {
        // SAFETY: the set is initialised and the signal's number valid.
        unsafe { libc::sigaddset(&raw mut action.sa_mask, other) };
    }
    // SAFETY: the handler has the type that SA_SIGINFO announces and is async-signal-safe.
    if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
        return Err(Error::CrashHandler(io::Error::last_os_error()));
    }
    Ok(())
}

/// `SIG_DFL` with no flags and an empty mask.
fn default_action() -> libc::sigaction {
    // SAFETY: all zeros is a valid value of this C structure, and SIG_DFL is zero.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Ends the process. Async-signal-safe.
extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    claim_the_end();
    last_act::perform_all();
    // SAFETY: the kernel passes a valid description of the signal.
    let code = unsafe { (*info).si_code };
    if signal == libc::SIGSYS && code == SYS_SECCOMP {
        // SAFETY: the kernel passes a valid description, and the code says which kind.
        explain(unsafe { refused_call(info) });
    }
    if PANICKING.load(Ordering::SeqCst) {
        exit(PANIC_STATUS);
    }

    // Positive codes are the processor's: returning runs into the same fault again, now with what
    // was in place before us. That is the standard library's handler, which knows a stack overflow
    // when it sees one. Everything else is raised again, and arrives when this handler returns.
    let is_fault = code > 0 && matches!(signal, libc::SIGSEGV | libc::SIGBUS);
    let previous = slot(signal).get().copied().filter(|_| is_fault);
    let action = previous.unwrap_or_else(default_action);
    // SAFETY: the action is either what the kernel gave us earlier, or the default.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    if !is_fault {
        // SAFETY: takes a number only.
        unsafe { libc::raise(signal) };
    }
}

/// The number of the system call that a filter refused.
///
/// # Safety
///
/// `info` describes a `SIGSYS` whose code is `SYS_SECCOMP`.
unsafe fn refused_call(info: *const siginfo_t) -> c_int {
    /// The start of `siginfo_t` as `asm-generic/siginfo.h` lays it out for `_sigsys`.
    #[repr(C)]
    struct SigSys {
        signal: c_int,
        error: c_int,
        code: c_int,
        address: *const c_void,
        number: c_int,
    }
    // SAFETY: the structure is a prefix of `siginfo_t`, and the caller vouches for its kind.
    unsafe { (*info.cast::<SigSys>()).number }
}

/// Says on standard error which call was refused, to whom, and what to do about it.
fn explain(number: c_int) {
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, with a zero at the end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let length = name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(name.len());

    let mut line = Line::new();
    line.text("seccomp: thread \"").text(&name[..length]);
    line.text("\" made system call ").number(number.into());
    if let Some(call) = names::name(number.into()) {
        line.text(" (").text(call).text(")");
    }
    line.text(", which its filter does not allow; ");
    line.text("run with --seccomp log to record all, --seccomp false to disable\n");
    line.print();
}
