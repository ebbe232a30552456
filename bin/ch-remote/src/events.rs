//! `events`: what happens to the machine, as it happens.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use clap::{ArgMatches, Command};
use serde_json::Value;

use crate::error::Result;
use crate::http::Connection;
use crate::request::Request;
use crate::show::plain;

pub(crate) const NAME: &str = "events";
/// An event is short; what has more bytes without a line end is none.
const MAX_LINE: usize = 1 << 20;

pub(crate) fn command() -> Command {
    Command::new(NAME).about("Show what happens to the VM, as it happens: one event in each line")
}

pub(crate) fn run(socket: &Path, matches: &ArgMatches) -> Result<()> {
    let people = io::stdout().is_terminal() && !matches.get_flag("json");
    let mut lines = Lines::default();
    Connection::open(socket)?.follow(Request::get("events"), |piece| {
        lines.add(piece, |line| print(line, people))
    })
}

/// Pieces of a stream, cut at line ends.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Gives whole lines to `take`. False if that, or an impossible line, ends it.
    fn add(&mut self, piece: &[u8], mut take: impl FnMut(&[u8]) -> bool) -> bool {
        self.0.extend_from_slice(piece);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            let line = &line[..end];
            // An empty one only keeps the connection alive.
            if !line.is_empty() && !take(line) {
                return false;
            }
        }
        self.0.len() <= MAX_LINE
    }
}

/// False if nobody reads it.
fn print(line: &[u8], people: bool) -> bool {
    let mut out = io::stdout().lock();
    let text = people
        .then(|| serde_json::from_slice(line).ok())
        .flatten()
        .map_or_else(
            || [line, b"\n"].concat(),
            |event| readable(&event).into_bytes(),
        );
    out.write_all(&text).and_then(|()| out.flush()).is_ok()
}

/// Seconds since the monitor's start, what happened to what, and more about it.
fn readable(event: &Value) -> String {
    let text = |value: &Value| plain(value.as_str().unwrap_or("?"));
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let when = &event["timestamp"];
    let mut line = format!(
        "{:>6}.{:03}  {} {}",
        number(&when["secs"]),
        number(&when["nanos"]) / 1_000_000,
        text(&event["source"]),
        text(&event["event"]),
    );
    for (key, value) in event["properties"].as_object().into_iter().flatten() {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        line.push_str(&format!("  {}={}", plain(key), plain(&value)));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_cut_wherever_pieces_end() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for piece in [&b"{\"a"[..], b"\":1}\n\n{", b"}\n{\"b\":2}\nrest"] {
            assert!(lines.add(piece, |line| {
                got.push(String::from_utf8(line.to_vec()).unwrap());
                true
            }));
        }
        assert_eq!(got, ["{\"a\":1}", "{}", "{\"b\":2}"]);
        assert!(!lines.add(b"\n", |_| false));
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let mut lines = Lines::default();
        assert!(!lines.add(&vec![b'x'; MAX_LINE + 1], |_| true));
    }

    #[test]
    fn a_person_reads_when_and_what() {
        let event = json!({
            "timestamp": {"secs": 3, "nanos": 45_000_000}, "source": "vm", "event": "booted",
            "properties": {"id": "a\u{7}", "n": 1},
        });
        assert_eq!(readable(&event), "     3.045  vm booted  id=a?  n=1\n");
        assert_eq!(readable(&json!(1)), "     0.000  ? ?\n");
    }
}
