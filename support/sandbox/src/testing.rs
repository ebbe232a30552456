//! Runs parts of a test in a process of their own, as what they do cannot be undone.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// Names the part that the child process is to run.
const PART: &str = "SANDBOX_TEST_PART";

/// How a child process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stderr: String,
}

impl Ended {
    /// Ends the test unless the part ran to its end.
    #[track_caller]
    pub(crate) fn well(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }
}

/// Runs the named test of this binary again in a child process, where [`part`] is `part`.
pub(crate) fn rerun(test: &str, part: &str) -> Ended {
    rerun_with(test, part, "")
}

/// As [`rerun`], with a word that the child finds in `SANDBOX_TEST_WORD`.
pub(crate) fn rerun_with(test: &str, part: &str, word: impl AsRef<std::ffi::OsStr>) -> Ended {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .env("SANDBOX_TEST_WORD", word)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("running 1 test"),
        "no test is named {test}: {stdout}"
    );
    Ended {
        code: output.status.code(),
        signal: output.status.signal(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The part to run; none in the test's own process.
pub(crate) fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// The word given to [`rerun_with`].
pub(crate) fn word() -> String {
    std::env::var("SANDBOX_TEST_WORD").unwrap()
}

/// Runs `act` in a forked process with only this thread; ends the test if it fails.
///
/// For use in a child of [`rerun`], where no other thread is at work that could hold a lock.
pub(crate) fn on_the_only_thread(act: impl FnOnce()) {
    // SAFETY: the other thread of the test runner only waits for this one, so that the copy of
    // the process has no lock that nobody will open.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        // SAFETY: takes a number only; the copy must not go on as a test runner.
        unsafe { libc::_exit(if result.is_ok() { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: fills the number, which lives across the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the part failed");
}
