//! The options: names, kinds of values, order in the help.

use std::fmt::Write as _;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, value_parser};
use config::{CpusConfig, LandlockConfig, MemoryConfig, PlatformConfig};
use device::Form;
use schemars::{JsonSchema, schema_for};

use super::{EventMonitorConfig, GdbConfig};

/// Whether the texts of the help are wanted: they cost more than everything else here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// Parse only.
    No,
    /// With descriptions.
    Yes,
}

const PAYLOAD: &str = "What the machine runs";
const MACHINE: &str = "The machine";
const MONITOR: &str = "The monitor";
const LOGGING: &str = "Logging";

/// The command line as the parser wants it. Options are sorted within their group.
#[must_use]
pub fn command(help: Help) -> Command {
    let mut options = payload();
    options.extend(machine(help));
    options.extend(devices(help));
    options.extend(monitor(help));
    options.extend(dbus());
    options.extend(logging());
    options.sort_by(|a, b| a.get_id().cmp(b.get_id()));
    Command::new("cloud-hypervisor")
        .about("Launch a cloud-hypervisor VMM")
        .arg_required_else_help(true)
        .disable_version_flag(true)
        .next_line_help(true)
        .args(options)
}

fn payload() -> Vec<Arg> {
    vec![
        file(
            PAYLOAD,
            "kernel",
            "Linux kernel: an ELF file with a PVH entry point, or a bzImage",
        ),
        file(PAYLOAD, "firmware", "Firmware image with a PVH entry point"),
        file(
            PAYLOAD,
            "initramfs",
            "Initial RAM file system of the kernel",
        ),
        word(PAYLOAD, "cmdline", "Command line of the kernel").value_name("text"),
    ]
}

fn machine(help: Help) -> Vec<Arg> {
    vec![
        structured::<CpusConfig>(help, "cpus").default_value("boot=1,max_phys_bits=46"),
        structured::<MemoryConfig>(help, "memory").default_value("size=512M"),
        structured::<PlatformConfig>(help, "platform"),
        structured::<machine::Restore>(help, "restore"),
        switch(
            MACHINE,
            "landlock",
            "Let the monitor open only the files that its configuration names",
        ),
        structured::<LandlockConfig>(help, "landlock-rules")
            .action(ArgAction::Append)
            .num_args(1..),
    ]
}

fn monitor(help: Help) -> Vec<Arg> {
    vec![
        word(
            MONITOR,
            "api-socket",
            "Unix socket at which the monitor takes requests; without --kernel or --firmware it waits there for a VM",
        )
        .value_name("path=<path>|fd=<number>"),
        structured::<EventMonitorConfig>(help, "event-monitor").help_heading(MONITOR),
        structured::<GdbConfig>(help, "gdb").help_heading(MONITOR),
        switch(
            MONITOR,
            "no-shutdown",
            "Keep the monitor when the guest powers off",
        ),
        word(
            MONITOR,
            "seccomp",
            "What happens on a system call that the monitor does not need",
        )
        .value_name("true|false|log|errno")
        .default_value("true"),
        switch(
            MONITOR,
            "version",
            "Print the version; with -v also the features",
        )
        .short('V'),
    ]
}

/// Those of the API on D-Bus.
#[cfg(feature = "dbus_api")]
fn dbus() -> [Arg; 3] {
    [
        word(
            MONITOR,
            "dbus-service-name",
            "Name under which the API is on D-Bus",
        )
        .value_name("name")
        .requires("dbus-object-path"),
        word(
            MONITOR,
            "dbus-object-path",
            "Path of the object that the API is there",
        )
        .value_name("path")
        .requires("dbus-service-name"),
        switch(
            MONITOR,
            "dbus-system-bus",
            "Use the system's bus, not the session's",
        )
        .requires("dbus-service-name"),
    ]
}

#[cfg(not(feature = "dbus_api"))]
fn dbus() -> [Arg; 0] {
    []
}

fn logging() -> Vec<Arg> {
    vec![
        file(
            LOGGING,
            "log-file",
            "File that gets the log; standard error otherwise",
        ),
        word(LOGGING, "log-format", "How a line of the log looks")
            .value_name("template")
            .default_value(telemetry::log::DEFAULT_FORMAT),
        // It has no long form.
        Arg::new("verbose")
            .short('v')
            .help_heading(LOGGING)
            .help("Log more; up to three times")
            .action(ArgAction::Count),
    ]
}

fn devices(help: Help) -> impl Iterator<Item = Arg> {
    catalog::options().map(move |(names, kind)| {
        let option = match names.form {
            Form::One => word(MACHINE, names.flag, ""),
            Form::Many => word(MACHINE, names.flag, "")
                .action(ArgAction::Append)
                .num_args(1..),
            Form::Switch => switch(MACHINE, names.flag, ""),
        };
        if help == Help::No {
            return option;
        }
        let schema = kind.schema();
        if names.form == Form::Switch {
            return option.help(about(&schema));
        }
        let option = describe(option, &schema);
        match kind.by_default().map(|config| kind.write_flag(&config)) {
            Some(text) => option.default_value(text),
            None => option,
        }
    })
}

fn structured<T: JsonSchema>(help: Help, name: &'static str) -> Arg {
    let option = word(MACHINE, name, "");
    if help == Help::No {
        option
    } else {
        describe(option, &schema_for!(T))
    }
}

/// The first paragraph of a schema's description, without its full stop.
fn about(schema: &schemars::Schema) -> String {
    let about = schema
        .get("description")
        .and_then(|text| text.as_str())
        .unwrap_or_default();
    let first = about.split("\n\n").next().unwrap_or_default();
    first.trim_end_matches('.').to_owned()
}

fn describe(option: Arg, schema: &schemars::Schema) -> Arg {
    let first = about(schema);
    option.value_name("parameters").help(format!(
        "{first}, as key=value,...\n{}",
        keyvalue::help(schema)
    ))
}

fn word(group: &'static str, name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help_heading(group)
        .help(help)
        .action(ArgAction::Set)
}

fn file(group: &'static str, name: &'static str, help: &'static str) -> Arg {
    let path: ValueParser = value_parser!(std::path::PathBuf);
    word(group, name, help)
        .value_name("path")
        .value_parser(path)
}

fn switch(group: &'static str, name: &'static str, help: &'static str) -> Arg {
    word(group, name, help).action(ArgAction::SetTrue)
}

/// What this build can do beyond the machine itself, as `--version -v` and the API tell it.
const FEATURES: &[(&str, bool)] = &[
    ("dbus_api", cfg!(feature = "dbus_api")),
    ("dhat-heap", cfg!(feature = "dhat-heap")),
    ("guest_debug", true),
    ("kvm", cfg!(feature = "kvm")),
    ("tracing", cfg!(feature = "tracing")),
];

/// Names of the features of this build.
pub(crate) fn features() -> Vec<String> {
    let built = FEATURES.iter().filter(|(_, on)| *on);
    built.map(|(name, _)| (*name).to_owned()).collect()
}

/// What `--version` prints.
pub(super) fn version(features: bool) -> String {
    let mut text = format!(
        "cloud-hypervisor v{}\nMigration Protocol Versions: 0\n",
        env!("CARGO_PKG_VERSION")
    );
    if features {
        let _ = writeln!(text, "Enabled features: {:?}", self::features());
    }
    text
}
