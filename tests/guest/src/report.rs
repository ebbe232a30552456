//! What the guest tells the host: lines on the debug console.
//!
//! ```text
//! fact NAME VALUE…     something that the host's test looks at
//! fail TEXT            something that should not be
//! done                 the last line of a run that came to its end
//! ```

use core::fmt::{self, Write};

use crate::machine;

/// The debug console.
const PORT: u16 = 0xe9;
/// Longest line; the rest of a longer one is lost.
const LINE: usize = 512;

/// A line that is complete before any of it is printed: the host may look at any time.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.bytes.get_mut(self.len) {
                // Panic messages have line ends in them.
                *place = if byte == b'\n' { b' ' } else { byte };
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Prints one line.
pub(crate) fn line(word: &str, text: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; LINE],
        len: 0,
    };
    // It cannot fail: what does not fit is dropped.
    let _ = line.write_fmt(format_args!("{word} {text}"));
    let end = line.len.min(LINE - 1);
    line.bytes[end] = b'\n';
    machine::out_bytes(PORT, &line.bytes[..=end]);
}

/// The last line.
pub(crate) fn done() {
    machine::out_bytes(PORT, b"done\n");
}

/// Prints a line that the host's test looks at.
macro_rules! fact {
    ($($text:tt)*) => { $crate::report::line("fact", format_args!($($text)*)) };
}

/// Says that something is not as it should be; the test goes on.
macro_rules! fail {
    ($($text:tt)*) => { $crate::report::line("fail", format_args!($($text)*)) };
}

/// Says so if a condition does not hold, with the place in the source.
macro_rules! expect {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            $crate::report::line("fail", format_args!("{}:{}: {}", file!(), line!(), format_args!($($text)*)));
        }
    };
}
