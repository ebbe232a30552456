//! What is done with snapshots by this program itself, without a monitor.

use clap::{Arg, ArgMatches, Command};

use crate::error::{Error, Result};

pub(crate) const CHECK: &str = "check-snapshot";
pub(crate) const MERGE: &str = "merge-snapshot";

pub(crate) fn check() -> Command {
    Command::new(CHECK)
        .about("Read all of a snapshot and of those below it, and compare it with its checksums; needs no monitor")
        .arg(folder("url", "file://<folder>"))
}

pub(crate) fn merge() -> Command {
    Command::new(MERGE)
        .about("Make a whole snapshot of an increment and those below it; needs no monitor")
        .arg(folder("url", "The increment: file://<folder>"))
        .arg(folder("new", "The new one: file://<folder that exists>"))
}

fn folder(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).required(true).help(help)
}

/// Does it, and says what is to be printed; `None` if it is none of these.
pub(crate) fn run(name: &str, arguments: &ArgMatches) -> Option<Result<String>> {
    let folder = |name: &str| {
        let url = arguments.get_one::<String>(name).map_or("", String::as_str);
        snapshot::folder(url).map_err(|error| Error::Saved(error.into()))
    };
    match name {
        CHECK => Some(folder("url").and_then(|folder| {
            let checked = machine::check_snapshot(&folder).map_err(Error::Saved)?;
            Ok(format!("{}\n", serde_json::json!(checked)))
        })),
        MERGE => Some(folder("url").and_then(|from| {
            let merged = machine::merge_snapshot(&from, &folder("new")?);
            merged.map(|()| String::new()).map_err(Error::Saved)
        })),
        _ => None,
    }
}
