//! The client of the monitor's API.
//!
//! A command line ([`cli`]) becomes a `request::Request`, which goes over the monitor's Unix socket (`http`). The
//! answer is printed as it came, for programs, or for people where standard output is a terminal (`show`).
#![forbid(unsafe_code)]

pub mod cli;
mod error;
mod events;
mod fork;
mod http;
mod offline;
mod request;
mod show;
mod top;
mod wishes;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::ArgMatches;
use clap::error::ErrorKind;

use error::{Error, Result};
use http::Connection;
use request::Request;

/// Exit status of a wrong command line.
const USAGE: u8 = 2;

/// Runs the client with the process's own command line.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    let matches = match cli::read(&words) {
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
    match ask(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(matches.get_flag("json"));
            ExitCode::FAILURE
        }
    }
}

/// Does what the subcommand says.
fn ask(matches: &ArgMatches) -> Result<()> {
    // The parser demands one.
    let (name, arguments) = matches.subcommand().ok_or(Error::NoSubcommand)?;
    if let Some(done) = offline::run(name, arguments) {
        print(done?.as_bytes());
        return Ok(());
    }
    let socket = matches
        .get_one::<std::path::PathBuf>("api-socket")
        .ok_or(Error::NoSocket)?;
    match name {
        events::NAME => return events::run(socket, matches),
        top::NAME => return top::run(socket, arguments),
        _ => {}
    }
    let answer = match name {
        fork::NAME => fork::run(socket, arguments)?,
        _ => send(socket, Request::read(name, arguments)?)?,
    };
    let people = std::io::stdout().is_terminal() && !matches.get_flag("json");
    let text = people.then(|| show::readable(name, &answer)).flatten();
    print(&text.unwrap_or_else(|| show::raw(&answer)));
    Ok(())
}

/// One request on a connection of its own.
fn send(socket: &Path, request: Request) -> Result<http::Answer> {
    Connection::open(socket)?.ask(request)?.success()
}

/// A reader that left early (`| head`) has what it wanted.
fn print(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text).and_then(|()| out.flush());
}
