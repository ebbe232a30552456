//! Copies a stream up to the trailer that says "nothing more comes".
//!
//! A virtio port has no end of file that QEMU would pass on, so the emulated host writes a random
//! trailer after the job's last byte. Everything before it is passed on at once, as far as it
//! cannot be the beginning of the trailer.

use std::io::{self, Read, Write};

/// Copies until `trailer` (not copied) or the end of the stream.
///
/// Returns what was read behind the trailer already, or `None` when the trailer did not come.
///
/// # Errors
/// When reading or writing fails.
pub(crate) fn copy(
    mut from: impl Read,
    mut to: impl Write,
    trailer: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    let mut held = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            to.write_all(&held)?;
            to.flush()?;
            return Ok(None);
        }
        held.extend_from_slice(&buffer[..count]);
        if let Some(at) = find(&held, trailer) {
            to.write_all(&held[..at])?;
            to.flush()?;
            return Ok(Some(held.split_off(at + trailer.len())));
        }
        let keep = possible_start(&held, trailer);
        let pass = held.len() - keep;
        to.write_all(&held[..pass])?;
        to.flush()?;
        held.drain(..pass);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// Length of the longest end of `bytes` with which the trailer may begin.
fn possible_start(bytes: &[u8], trailer: &[u8]) -> usize {
    let longest = bytes.len().min(trailer.len() - 1);
    (0..=longest)
        .rev()
        .find(|&n| bytes.ends_with(&trailer[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte per read, the worst case for a trailer.
    struct Dripping<'a>(&'a [u8]);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }

    fn copied(input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let ended = copy(Dripping(input), &mut out, b"aab").unwrap().is_some();
        let mut at_once = Vec::new();
        assert_eq!(copy(input, &mut at_once, b"aab").unwrap().is_some(), ended);
        assert_eq!(out, at_once);
        (out, ended)
    }

    #[test]
    fn the_trailer_ends_the_stream_and_is_not_copied() {
        assert_eq!(copied(b"xyaab"), (b"xy".to_vec(), true));
        assert_eq!(copied(b"aab"), (b"".to_vec(), true));
        // A false start right before the real one.
        assert_eq!(copied(b"aaab"), (b"a".to_vec(), true));
    }

    #[test]
    fn what_was_read_behind_the_trailer_is_given_back() {
        let rest = copy(&b"xyaab 3\n"[..], io::sink(), b"aab").unwrap();
        assert_eq!(rest.as_deref(), Some(&b" 3\n"[..]));
    }

    #[test]
    fn without_a_trailer_nothing_is_lost() {
        assert_eq!(copied(b"xaa"), (b"xaa".to_vec(), false));
        assert_eq!(copied(b""), (b"".to_vec(), false));
    }

    #[test]
    fn what_cannot_be_the_trailer_is_passed_on_at_once() {
        assert_eq!(possible_start(b"xa", b"aab"), 1);
        assert_eq!(possible_start(b"xaa", b"aab"), 2);
        assert_eq!(possible_start(b"aax", b"aab"), 0);
    }
}
