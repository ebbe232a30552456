//! Collects what a process or a console prints while the test does something else.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// More than any test prints on purpose; a guest in a print loop does not fill the memory.
const LIMIT: usize = 64 << 20;

/// What a command in the guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What it printed, standard output and standard error together.
    pub stdout: String,
    /// Its exit status, 0 to 255.
    pub status: i32,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

/// A stream that a thread reads into memory.
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<(Mutex<State>, Condvar)>);

/// How waiting for a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// At these byte offsets, start and end.
    At(usize, usize),
    /// The stream ended without it.
    Ended,
    /// Not in time.
    Timeout,
}

impl Capture {
    /// Starts to read a file descriptor until its end or an error.
    pub(crate) fn start(from: OwnedFd) -> Self {
        let capture = Self::default();
        let writer = capture.clone();
        std::thread::spawn(move || writer.read_all(File::from(from)));
        capture
    }

    fn read_all(&self, mut from: impl Read) {
        let mut buffer = [0; 8192];
        loop {
            let count = match from.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // A pty's master answers EIO once nobody has the other side open.
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let mut state = self.lock();
            if state.bytes.len() < LIMIT {
                state.bytes.extend_from_slice(&buffer[..count]);
            }
            self.0.1.notify_all();
        }
        self.lock().ended = true;
        self.0.1.notify_all();
    }

    /// Waits until `text` appears at or after byte `from`.
    pub(crate) fn wait_for(&self, text: &str, from: usize, limit: Duration) -> Found {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        let mut searched = from;
        loop {
            if let Some(at) = find(&state.bytes, text.as_bytes(), searched) {
                return Found::At(at, at + text.len());
            }
            searched = state.bytes.len().saturating_sub(text.len()).max(from);
            if state.ended {
                return Found::Ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Found::Timeout;
            }
            let waited = self.0.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the stream has ended; false when it did not in time.
    pub(crate) fn wait_end(&self, limit: Duration) -> bool {
        let waited = self
            .0
            .1
            .wait_timeout_while(self.lock(), limit, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// How many bytes have come.
    pub(crate) fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Everything so far; what is not UTF-8 is replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// What lies between two byte offsets that [`Capture::wait_for`] found.
    pub(crate) fn text_between(&self, start: usize, end: usize) -> String {
        let state = self.lock();
        String::from_utf8_lossy(state.bytes.get(start..end).unwrap_or_default()).into_owned()
    }

    /// The last lines.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(bytes: &[u8], text: &[u8], from: usize) -> Option<usize> {
    let tail = bytes.get(from..)?;
    if text.is_empty() {
        return Some(from);
    }
    tail.windows(text.len())
        .position(|window| window == text)
        .map(|at| at + from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_text_in_two_pieces_is_found_while_it_comes() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let capture = Capture::start(reader.into());
        writer.write_all(b"one login:").unwrap();
        assert_eq!(capture.wait_for("login", 0, LONG), Found::At(4, 9));
        let waiting = capture.clone();
        let thread = std::thread::spawn(move || waiting.wait_for("login", 9, LONG));
        writer.write_all(b" two lo").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        writer.write_all(b"gin").unwrap();
        assert_eq!(thread.join().unwrap(), Found::At(15, 20));
    }

    #[test]
    fn silence_and_the_end_are_told_apart() {
        let (reader, writer) = std::io::pipe().unwrap();
        let capture = Capture::start(reader.into());
        assert_eq!(
            capture.wait_for("x", 0, Duration::from_millis(10)),
            Found::Timeout
        );
        drop(writer);
        assert_eq!(capture.wait_for("x", 0, LONG), Found::Ended);
        assert!(capture.wait_end(LONG));
    }
}
