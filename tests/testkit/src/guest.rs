//! The guest's side: an initramfs of busybox and a first program that does what it is told.
//!
//! Requests and answers travel over the serial console, which every guest has. Both are base64
//! between marked lines, so a stray kernel message cannot be taken for a part of them:
//!
//! ```text
//! host:  ZWNobyBoZWxsbwo=        lines of the script, at most 512 bytes each
//! host:  @run 1                  run it; 1 is this request's number
//! guest: @begin 1 plain          or gzip, for long answers
//! guest: aGVsbG8K                what it printed
//! guest: @end 1 0                its exit status
//! ```

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::cpio::Archive;

/// The first program, a shell script for busybox.
pub const INIT: &str = include_str!("guest-init.sh");

/// Defines the shell function `serve`, which takes requests on standard input: also for guests with a distribution's
/// own user space.
pub const SERVE: &str = include_str!("guest-serve.sh");

/// What the guest prints when it takes requests.
pub const READY: &str = "@testkit-ready";

/// The word on the kernel's command line that makes the guest take requests.
pub const OPTION: &str = "testkit";

/// A terminal in line mode drops what exceeds 4095 bytes.
const LINE: usize = 512;

/// The parts of an initramfs that every guest has: busybox under all its names, and the first
/// program. More files can be added to the result.
///
/// `busybox` is the content of a static busybox, `applets` the names that it answers to
/// (`busybox --list`).
#[must_use]
pub fn base(busybox: &[u8], applets: &[&str]) -> Archive {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "tmp", "run", "root"] {
        archive.directory(folder);
    }
    archive.char_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, busybox);
    for applet in applets {
        if *applet != "busybox" {
            archive.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("serve", 0o644, SERVE.as_bytes());
    archive
}

/// An archive to append to an initramfs: the guest runs `script` and powers off.
///
/// What the script prints comes between the lines `MARKER-begin` and `MARKER-end STATUS`.
#[must_use]
pub fn command(script: &str, marker: &str) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("command", 0o755, format!("{script}\n").as_bytes());
    archive.file("marker", 0o644, format!("{marker}\n").as_bytes());
    archive.finish()
}

/// The lines that ask the guest to run a script.
pub(crate) fn request(script: &str, number: u32) -> String {
    let encoded = encode(script.as_bytes());
    let mut lines = String::with_capacity(encoded.len() + encoded.len() / LINE + 16);
    for (index, character) in encoded.chars().enumerate() {
        if index > 0 && index % LINE == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines + &format!("\n@run {number}\n")
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// base64 (RFC 4648, 4) with padding.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let sextet = bits >> (18 - 6 * position) & 63;
            let letter = ALPHABET.get(sextet as usize).copied().unwrap_or(b'=');
            text.push(if position <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}

/// Unpacks an answer: base64, below it perhaps gzip. `None` when it is neither.
///
/// # Errors
/// When the system's `gzip` cannot be started.
pub(crate) fn unpack(text: &str, packing: &str, folder: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let Some(bytes) = decode(text) else {
        return Ok(None);
    };
    if packing == "plain" {
        return Ok(Some(bytes));
    }
    // Through a file, because a pipe fills up when both sides only write.
    let packed = folder.join("answer");
    std::fs::write(&packed, bytes)?;
    let output = Command::new("gzip")
        .arg("-dc")
        .stdin(File::open(&packed)?)
        .output()?;
    Ok(output.status.success().then_some(output.stdout))
}

/// Reads base64, ignoring line ends; `None` when something else is in it.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes().filter(|letter| !b"=\r\n".contains(letter)) {
        let value = ALPHABET.iter().position(|&known| known == letter)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(bits.checked_shr(count)?.to_le_bytes()[0]);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base64_is_what_others_write() {
        let examples = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        assert_eq!(examples.map(|text| encode(text.as_bytes())), expected);
        assert_eq!(decode("Zm9v\r\nYmFy\n").unwrap(), b"foobar");
        assert!(decode("Zm9v[ 1.0] kernel").is_none());
    }

    proptest! {
        #[test]
        fn bytes_survive(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_takes() {
        let lines = request(&"x".repeat(10_000), 7);
        assert!(lines.lines().all(|line| line.len() <= LINE));
        assert!(lines.ends_with("\n@run 7\n"));
    }
}
