//! The command line: one subcommand for each thing that a monitor can be asked.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};
use keyvalue::ByteSize;

use crate::{events, fork, request, top, wishes};

/// The command line as the parser wants it.
#[must_use]
pub fn command() -> Command {
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
        .subcommands(subcommands())
}

fn subcommands() -> Vec<Command> {
    let mut all: Vec<Command> = request::PLAIN
        .iter()
        .map(|plain| Command::new(plain.subcommand).about(plain.about))
        .collect();
    all.extend(request::DEVICES.iter().map(|device| {
        let help = format!("key=value,... as of cloud-hypervisor's --{}", device.flag);
        Command::new(device.subcommand)
            .about(device.about)
            .arg(positional(device.argument, help))
    }));
    all.extend(sizes());
    all.extend(files());
    all.extend(migrations());
    all.extend([events::command(), fork::command(), top::command()]);
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

fn sizes() -> [Command; 3] {
    [
        Command::new("resize")
            .about("Change the number of processors, the memory or the balloon")
            .arg(option("cpus", "number", "Number of processors").value_parser(value_parser!(u32)))
            .arg(size("memory", "Bytes of memory; K, M and G are suffixes"))
            .arg(size(
                "balloon",
                "Bytes that the balloon takes from the guest",
            )),
        Command::new("resize-disk")
            .about("Change the size of a disk")
            .arg(option("disk", "id", "Id of the disk").required(true))
            .arg(size("size", "Bytes of the disk").required(true)),
        Command::new("resize-zone")
            .about("Change the size of a memory zone")
            .arg(option("id", "id", "Id of the zone").required(true))
            .arg(size("size", "Bytes of the zone").required(true)),
    ]
}

fn files() -> [Command; 4] {
    [
        Command::new("create")
            .about("Say what the VM is to be")
            .arg(
                Arg::new("path")
                    .default_value("-")
                    .value_parser(value_parser!(PathBuf))
                    .help("File with the VM's configuration as JSON; - is standard input"),
            ),
        Command::new("remove-device")
            .about("Take a device away from the VM")
            .arg(positional("id", "Id of the device")),
        Command::new("snapshot")
            .about("Save the paused VM to files")
            .arg(positional("snapshot_config", "file://<folder that exists>"))
            .arg(
                Arg::new("base").long("base").value_name("url").help(
                    "Write only what was changed since the VM was restored from this snapshot, file://<folder>",
                ),
            ),
        Command::new("coredump")
            .about("Write the guest's memory to a file")
            .arg(positional("coredump_config", "file://<file>")),
    ]
}

fn migrations() -> impl Iterator<Item = Command> {
    wishes::ALL.iter().map(|wish| {
        let help = format!("key=value,...\n{}", (wish.help)());
        Command::new(wish.subcommand)
            .about(wish.about)
            .arg(positional(wish.argument, help))
    })
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
             boot coredump counters create delete events fork info nmi pause ping power-button reboot receive-migration \
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
