//! Disk images from the command line: `info`, `check`, `create`, `convert` and `resize`.
//!
//! A program of its own and no subcommands of `ch-remote`: that one asks a monitor over a socket and opens no image, and
//! is to stay so small; this one needs no monitor, reads files that nobody has to trust, and is used where images are
//! built. What formats can do is the crate `disk`'s; nothing here depends on which ones there are.
//!
//! The format of an image is said by the user (`--format`), because whoever can write an image can make it look like
//! another one. Only `info` guesses, and says so.
#![forbid(unsafe_code)]

pub mod cli;
mod copy;
mod error;
mod progress;
mod work;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;

use work::Outcome;

/// Exit status of a wrong command line.
const USAGE: u8 = 2;
/// Exit status of a check that found contradictions.
const CONTRADICTIONS: u8 = 3;

/// Runs with the process's own command line.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match cli::command().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => {
            // Nobody is left to tell if it cannot be printed.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let json = matches.get_flag("json");
    match work::act(&matches) {
        Ok(outcome) => {
            print(&outcome, json);
            match outcome.contradictions {
                true => ExitCode::from(CONTRADICTIONS),
                false => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            error.print(json);
            ExitCode::FAILURE
        }
    }
}

fn print(outcome: &Outcome, json: bool) {
    let text = match json {
        true => format!("{}\n", outcome.json),
        false => outcome.text.clone(),
    };
    // A reader that left early (`| head`) has what it wanted.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
