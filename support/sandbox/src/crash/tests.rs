use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use libc::{SIGABRT, SIGBUS, SIGFPE, SIGHUP, SIGILL, SIGQUIT, SIGSEGV, SIGSYS};

use super::*;
use crate::testing::{Ended, part, rerun_with, word};
use crate::{COMMON, Error, Filter, Mode};

const TEST: &str = "crash::tests::parts_in_their_own_process";

/// Runs a part that registers the removal of a file and then ends in its way.
fn end(part: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    fs::write(&path, "").unwrap();
    let ended = rerun_with(TEST, part, &path);
    assert!(!path.exists(), "the file is still there: {ended:?}");
    assert!(!ended.stderr.contains("still here"), "{ended:?}");
    ended
}

/// Does nothing by itself. A child process does one way out.
#[test]
fn parts_in_their_own_process() {
    let Some(part) = part() else { return };
    // Whoever runs the tests in the background may have them ignored, and the process would go on ignoring them.
    for request in [SIGHUP, SIGQUIT] {
        // SAFETY: the default action is no code of ours.
        unsafe { libc::signal(request, libc::SIG_DFL) };
    }
    install().unwrap();
    install_panic_hook();
    let removal = LastAct::remove_file(Path::new(&word())).unwrap();
    match part.as_str() {
        "abort" => std::process::abort(),
        "segv" => fault(),
        "overflow" => {
            overflow(0);
        }
        "panic" => panic!("out of patience"),
        "panic-in-filtered-thread" => filtered("vcpu0", || panic!("out of patience")),
        "refused" => filtered("vcpu0", || raw(libc::SYS_connect)),
        "refused-rare" => filtered("a \"quoted\" name", || raw(4242)),
        "segv-in-filtered-thread" => filtered("vcpu0", fault),
        "abort-in-filtered-thread" => filtered("vcpu0", || std::process::abort()),
        "many-at-once" => many_at_once(),
        "fault-in-panic" => fault_in_panic(),
        "drop-meets-crash" => drop_meets_crash(removal),
        number => {
            let signal = number.parse().unwrap();
            let me = std::process::id().cast_signed();
            // SAFETY: takes numbers only.
            unsafe { libc::kill(me, signal) };
            // The runner's thread may be the one that takes it.
            thread::sleep(std::time::Duration::from_secs(10));
        }
    }
    eprintln!("still here");
}

/// Runs on a thread with the smallest filter.
fn filtered(name: &str, act: impl FnOnce() + Send + 'static) {
    let run = || {
        Filter::compile(Mode::Trap, &[COMMON])
            .unwrap()
            .apply()
            .unwrap();
        act();
    };
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

fn raw(number: libc::c_long) {
    // SAFETY: the filter refuses the call before it does anything.
    unsafe { libc::syscall(number, 0, 0, 0) };
}

fn fault() {
    // SAFETY: unsound on purpose; the process ends here, which is what is tested.
    unsafe { std::ptr::without_provenance_mut::<u32>(8).write_volatile(1) };
}

#[expect(unconditional_recursion, reason = "the stack must run out")]
fn overflow(depth: u64) -> u64 {
    let page = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + page[511]
}

/// Faults in many threads at the same time: still one end.
fn many_at_once() {
    let threads: Vec<_> = (0..8).map(|_| thread::spawn(fault)).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The message of a panic cannot be printed, as when a filter forbids what a backtrace needs.
fn fault_in_panic() {
    std::panic::set_hook(Box::new(|_| fault()));
    install_panic_hook();
    panic!("out of patience");
}

/// A crash finds the act being done by another thread, which must get to its end.
fn drop_meets_crash(act: LastAct) {
    let start = std::sync::Arc::new(std::sync::Barrier::new(2));
    let other = std::sync::Arc::clone(&start);
    thread::spawn(move || {
        other.wait();
        drop(act);
    });
    start.wait();
    fault();
}

#[test]
fn abort_stays_sigabrt() {
    assert_eq!(end("abort").signal, Some(SIGABRT));
    assert_eq!(end("abort-in-filtered-thread").signal, Some(SIGABRT));
}

#[test]
fn a_fault_stays_sigsegv() {
    assert_eq!(end("segv").signal, Some(SIGSEGV));
    assert_eq!(end("segv-in-filtered-thread").signal, Some(SIGSEGV));
}

#[test]
fn signals_from_outside_end_it_truly() {
    for signal in [
        SIGSYS, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGHUP, SIGQUIT,
    ] {
        assert_eq!(end(&signal.to_string()).signal, Some(signal));
    }
}

#[test]
fn a_stack_overflow_keeps_its_message() {
    let ended = end("overflow");
    assert_eq!(ended.signal, Some(SIGABRT), "{ended:?}");
    assert!(
        ended.stderr.contains("has overflowed its stack"),
        "{ended:?}"
    );
}

#[test]
fn a_panic_says_its_message_and_exits_101() {
    for part in ["panic", "panic-in-filtered-thread"] {
        let ended = end(part);
        assert_eq!(ended.code, Some(101), "{ended:?}");
        assert!(ended.stderr.contains("panicked at"), "{ended:?}");
        assert!(ended.stderr.contains("out of patience"), "{ended:?}");
    }
}

#[test]
fn a_panic_that_goes_wrong_exits_101_too() {
    assert_eq!(end("fault-in-panic").code, Some(101));
}

#[test]
fn a_crash_waits_for_an_act_that_is_being_done() {
    for _ in 0..20 {
        assert_eq!(end("drop-meets-crash").signal, Some(SIGSEGV));
    }
}

#[test]
fn a_refused_call_is_explained() {
    let ended = end("refused");
    assert_eq!(ended.signal, Some(SIGSYS), "{ended:?}");
    let expected = format!(
        "seccomp: thread \"vcpu0\" made system call {} (connect), which its filter does not allow; \
         run with --seccomp log to record all, --seccomp false to disable\n",
        libc::SYS_connect
    );
    assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
    let ended = end("refused-rare");
    assert!(
        ended.stderr.contains("made system call 4242, which"),
        "{}",
        ended.stderr
    );
}

#[test]
fn threads_that_crash_together_end_it_once() {
    for _ in 0..5 {
        assert_eq!(end("many-at-once").signal, Some(SIGSEGV));
    }
}

#[test]
fn dropping_does_the_act() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    fs::write(&path, "").unwrap();
    let removal = LastAct::remove_file(&path).unwrap();
    assert!(path.exists());
    drop(removal);
    assert!(!path.exists());
    // The file being gone already is fine.
    drop(LastAct::remove_file(&path).unwrap());
}

#[test]
fn impossible_paths_are_errors() {
    let error = LastAct::remove_file(Path::new("a\0b")).unwrap_err();
    assert!(matches!(error, Error::LastAct { .. }));
    assert!(
        error.to_string().starts_with("cannot prepare to remove a"),
        "{error}"
    );
    assert!(LastAct::remove_file(Path::new("")).is_err());
}

#[test]
fn a_full_table_is_an_error_and_slots_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none");
    for _ in 0..3 {
        // Other tests of this process hold some at the same time.
        let mut held = Vec::new();
        let error = loop {
            match LastAct::remove_file(&path) {
                Ok(act) => held.push(act),
                Err(error) => break error,
            }
            assert!(held.len() <= MAX_LAST_ACTS);
        };
        assert!(matches!(error, Error::TooManyLastActs));
        assert!(held.len() > MAX_LAST_ACTS - 10);
    }
}

/// The two ends of a pseudo-terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let mut fds = [-1; 2];
    let [host, guest] = &mut fds;
    // SAFETY: the call fills the two numbers; null for the rest means defaults.
    let result = unsafe {
        let none = std::ptr::null_mut();
        libc::openpty(host, guest, none, none.cast(), none.cast())
    };
    assert_eq!(result, 0);
    // SAFETY: nobody else knows the descriptors that were just made.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into()
}

fn settings(terminal: impl AsFd) -> libc::termios {
    let mut settings = std::mem::MaybeUninit::uninit();
    // SAFETY: the call fills the settings.
    let result = unsafe { libc::tcgetattr(terminal.as_fd().as_raw_fd(), settings.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: the call succeeded.
    unsafe { settings.assume_init() }
}

fn make_raw(terminal: impl AsFd) {
    let mut raw = settings(&terminal);
    // SAFETY: changes the structure only.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    // SAFETY: reads the structure only.
    unsafe { libc::tcsetattr(terminal.as_fd().as_raw_fd(), libc::TCSANOW, &raw const raw) };
}

fn is_cooked(terminal: impl AsFd) -> bool {
    settings(terminal).c_lflag & (libc::ICANON | libc::ECHO) == libc::ICANON | libc::ECHO
}

#[test]
fn a_terminal_gets_its_settings_back() {
    let (host, guest) = terminal();
    let act = LastAct::keep_terminal(&guest).unwrap();
    make_raw(&guest);
    assert!(!is_cooked(&guest));
    // The act has a descriptor of its own.
    drop(guest);
    drop(act);
    assert!(is_cooked(&host));
    let (read, _write) = std::io::pipe().unwrap();
    assert!(matches!(
        LastAct::keep_terminal(read),
        Err(Error::LastAct { .. })
    ));
}

#[test]
fn a_crash_restores_the_terminal_before_it_explains() {
    match part() {
        None => {
            let (host, guest) = terminal();
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["crash::tests::a_crash_restores_the_terminal_before_it_explains"]);
            child.args(["--exact", "--nocapture", "--test-threads=1"]);
            child
                .env("SANDBOX_TEST_PART", "terminal")
                .env("SANDBOX_TEST_WORD", "");
            child
                .stdin(guest.try_clone().unwrap())
                .stderr(guest.try_clone().unwrap());
            child.stdout(std::process::Stdio::null());
            let mut child = child.spawn().unwrap();
            let status = child.wait().unwrap();
            assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&status),
                Some(SIGSYS)
            );
            assert!(is_cooked(&guest));
            let mut text = [0; 1000];
            let length = fs::File::from(host).read(&mut text).unwrap();
            let text = String::from_utf8_lossy(&text[..length]);
            // The terminal added the carriage return: it was in its normal mode.
            assert!(text.contains("--seccomp false to disable\r\n"), "{text:?}");
        }
        Some(_) => {
            install().unwrap();
            let _act = LastAct::keep_terminal(std::io::stdin()).unwrap();
            make_raw(std::io::stdin());
            filtered("vcpu0", || raw(libc::SYS_connect));
        }
    }
}

#[test]
fn a_forked_child_leaves_the_acts_to_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    fs::write(&path, "").unwrap();
    let _act = LastAct::remove_file(&path).unwrap();
    // SAFETY: the child only walks the table and exits, which is async-signal-safe.
    let child = unsafe { libc::fork() };
    if child == 0 {
        last_act::perform_all();
        exit(0);
    }
    // SAFETY: waits for the child just made; null means its status is not wanted.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    assert!(path.exists());
}

#[test]
fn names_of_calls() {
    assert_eq!(names::name(libc::SYS_connect), Some("connect"));
    assert_eq!(
        names::name(libc::SYS_io_uring_enter),
        Some("io_uring_enter")
    );
    assert_eq!(names::name(-1), None);
    let _ = std::io::stderr().flush();
}
