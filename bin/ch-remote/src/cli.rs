//! The command line: one subcommand for each thing that a monitor can be asked.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use keyvalue::ByteSize;

use crate::{events, fork, offline, request, top, wishes};

/// The command line as the parser wants it.
#[must_use]
pub fn command() -> Command {
    program().subcommands(subcommands(|_| true))
}

/// Reads words with as much of [`command`] as that takes: to put all subcommands and their help together takes longer
/// than a monitor takes to answer.
///
/// # Errors
/// What the parser of the whole says, with all that it has to offer; help and version are errors, too.
pub(crate) fn read(words: &[OsString]) -> Result<ArgMatches, clap::Error> {
    // A word may be a file's name, too: whichever it is, its subcommand is there.
    let some = subcommands(|name| words.iter().any(|word| word == name));
    let part = program().subcommands(some);
    part.try_get_matches_from(words)
        .or_else(|_| command().try_get_matches_from(words))
}

fn program() -> Command {
    Command::new("ch-remote")
        .about("Ask a running monitor, through the socket of its --api-socket")
        .after_help(
            "Exit status: 0 if the monitor did it, 1 if it refused or could not be reached, 2 for a wrong command \
             line.",
        )
        .version(concat!("v", env!("CARGO_PKG_VERSION")))
        .subcommand_required(true)
        .arg(
            Arg::new("api-socket")
                .long("api-socket")
                .value_name("path")
                .help("Socket of the monitor")
                .value_parser(value_parser!(PathBuf))
                .global(true),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .help("Print answers, and on standard error the errors, as JSON, also on a terminal")
                .action(ArgAction::SetTrue)
                .global(true),
        )
}

/// Puts a subcommand together.
type Build = fn() -> Command;

/// Those whose names are wanted.
fn subcommands(wanted: impl Fn(&str) -> bool) -> Vec<Command> {
    let plain = request::PLAIN.iter();
    let mut all: Vec<Command> = plain
        .filter(|plain| wanted(plain.subcommand))
        .map(|plain| Command::new(plain.subcommand).about(plain.about))
        .collect();
    let devices = request::DEVICES.iter();
    all.extend(
        devices
            .filter(|device| wanted(device.subcommand))
            .map(|device| {
                let help = format!("key=value,... as of cloud-hypervisor's --{}", device.flag);
                Command::new(device.subcommand)
                    .about(device.about)
                    .arg(positional(device.argument, help))
            }),
    );
    let wishes = wishes::ALL.iter();
    all.extend(wishes.filter(|wish| wanted(wish.subcommand)).map(|wish| {
        let help = format!("key=value,...\n{}", (wish.help)());
        Command::new(wish.subcommand)
            .about(wish.about)
            .arg(positional(wish.argument, help))
    }));
    let others: &[(&str, Build)] = &[
        ("resize", resize),
        ("resize-disk", resize_disk),
        ("resize-zone", resize_zone),
        ("create", create),
        ("remove-device", remove_device),
        ("snapshot", snapshot),
        ("coredump", core_dump),
        (events::NAME, events::command),
        (fork::NAME, fork::command),
        (offline::CHECK, offline::check),
        (offline::MERGE, offline::merge),
        (top::NAME, top::command),
    ];
    let others = others.iter().filter(|(name, _)| wanted(name));
    all.extend(others.map(|(_, command)| command()));
    all.sort_by(|a, b| a.get_name().cmp(b.get_name()));
    all
}

fn positional(name: &'static str, help: impl Into<String>) -> Arg {
    Arg::new(name).required(true).help(help.into())
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn size(name: &'static str, help: &'static str) -> Arg {
    option(name, "size", help).value_parser(value_parser!(ByteSize))
}

fn resize() -> Command {
    Command::new("resize")
        .about("Change the number of processors, the memory or the balloon")
        .arg(option("cpus", "number", "Number of processors").value_parser(value_parser!(u32)))
        .arg(size("memory", "Bytes of memory; K, M and G are suffixes"))
        .arg(size(
            "balloon",
            "Bytes that the balloon takes from the guest",
        ))
}

fn resize_disk() -> Command {
    Command::new("resize-disk")
        .about("Change the size of a disk")
        .arg(option("disk", "id", "Id of the disk").required(true))
        .arg(size("size", "Bytes of the disk").required(true))
}

fn resize_zone() -> Command {
    Command::new("resize-zone")
        .about("Change the size of a memory zone")
        .arg(option("id", "id", "Id of the zone").required(true))
        .arg(size("size", "Bytes of the zone").required(true))
}

fn create() -> Command {
    Command::new("create")
        .about("Say what the VM is to be")
        .arg(
            Arg::new("path")
                .default_value("-")
                .value_parser(value_parser!(PathBuf))
                .help("File with the VM's configuration as JSON; - is standard input"),
        )
}

fn remove_device() -> Command {
    Command::new("remove-device")
        .about("Take a device away from the VM")
        .arg(positional("id", "Id of the device"))
}

fn snapshot() -> Command {
    Command::new("snapshot")
        .about("Save the paused VM to files")
        .arg(positional("snapshot_config", "file://<folder that exists>"))
        .arg(Arg::new("base").long("base").value_name("url").help(
            "Write only what was changed since the VM was restored from this snapshot, file://<folder>",
        ))
}

fn core_dump() -> Command {
    Command::new("coredump")
        .about("Write the guest's memory to a file")
        .arg(positional("coredump_config", "file://<file>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    /// The subcommands of v53, and ours.
    #[test]
    fn every_subcommand_is_there() {
        let all: Vec<String> = command()
            .get_subcommands()
            .map(|one| one.get_name().to_owned())
            .collect();
        assert_eq!(
            all.join(" "),
            "add-device add-disk add-fs add-generic-vhost-user add-net add-pmem add-user-device add-vdpa add-vsock \
             boot check-snapshot coredump counters create delete events fork info merge-snapshot nmi pause ping power-button reboot receive-migration \
             remove-device resize resize-disk resize-zone restore resume send-migration shutdown shutdown-vmm \
             snapshot top"
        );
    }

    #[test]
    fn the_socket_is_named_before_or_after_the_subcommand() {
        for words in [
            ["ch-remote", "--api-socket", "/s", "ping"],
            ["ch-remote", "ping", "--api-socket", "/s"],
        ] {
            let matches = command().try_get_matches_from(words).unwrap();
            let socket = matches.get_one::<PathBuf>("api-socket").unwrap();
            assert_eq!(socket.to_str(), Some("/s"));
        }
    }

    /// What is read with a part of the command line is what all of it reads, and says the same where it is wrong.
    #[test]
    fn a_part_of_the_command_line_reads_the_same() {
        let whole = command();
        let names = whole.get_subcommands().map(Command::get_name);
        let mut lines: Vec<Vec<&str>> = names
            .flat_map(|name| {
                [
                    vec![name],
                    vec![name, "x"],
                    vec!["help", name],
                    vec![name, "-h"],
                ]
            })
            .collect();
        lines.push(vec![]);
        lines.push(vec!["--version"]);
        lines.push(vec!["nonsense"]);
        lines.push(vec!["nonsense", "ping"]);
        lines.push(vec!["--api-socket", "ping", "resize", "--cpus", "2"]);
        lines.push(vec!["--api-socket", "ping"]);
        for line in lines {
            let words: Vec<OsString> = ["ch-remote"]
                .iter()
                .chain(&line)
                .map(OsString::from)
                .collect();
            let part = read(&words);
            let all = command().try_get_matches_from(&words);
            match (part, all) {
                (Ok(part), Ok(all)) => {
                    let socket = |read: &ArgMatches| read.get_one::<PathBuf>("api-socket").cloned();
                    assert_eq!(socket(&part), socket(&all), "{line:?}");
                    assert_eq!(part.subcommand(), all.subcommand(), "{line:?}");
                }
                (Err(part), Err(all)) => {
                    assert_eq!(part.to_string(), all.to_string(), "{line:?}");
                }
                (part, all) => panic!("{line:?}: {part:?} and not {all:?}"),
            }
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for words in [
            &["ch-remote"][..],
            &["ch-remote", "nonsense"],
            &["ch-remote", "ping", "more"],
            &["ch-remote", "add-disk"],
            &["ch-remote", "resize", "--memory", "1.5G"],
            &["ch-remote", "resize", "--cpus", "-1"],
            &["ch-remote", "resize-disk", "--disk", "a"],
            &["ch-remote", "remove-device"],
        ] {
            assert!(command().try_get_matches_from(words).is_err(), "{words:?}");
        }
    }
}
