//! The command line.
//!
//! Most options are types of `config` or of a device, read by `keyvalue`; here are their names, their order in
//! the help and the rules between them. Help texts are only put together when somebody asks for help: the
//! usual start does not pay for them.

mod command;
mod later;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgMatches;
use clap::error::ErrorKind;
use config::{LandlockConfig, PayloadConfig, Problem, VmConfig};
use device::{AnyKind, Form, OptionNames};
use machine::Restore;
use sandbox::Mode;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use telemetry::log::{Format, LevelFilter};

pub(crate) use command::features;
pub use command::{Help, command};
pub use later::{ELSEWHERE, LATER};

/// Where events go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventMonitorConfig {
    /// File that gets the events; created or emptied.
    #[serde(default)]
    #[schemars(extend("format" = "path"))]
    pub path: Option<PathBuf>,
    /// Descriptor that the monitor inherited.
    #[serde(default)]
    pub fd: Option<i32>,
}

/// Debug the guest with gdb: it stands still from its start on, until gdb lets it go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GdbConfig {
    /// Unix socket for gdb's `target remote`.
    #[schemars(extend("format" = "path"))]
    pub path: PathBuf,
}

/// Where the API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSocket {
    /// At a socket that the monitor makes.
    Path(PathBuf),
    /// At a socket that the monitor inherited, with this number.
    Descriptor(i32),
}

impl std::str::FromStr for ApiSocket {
    type Err = String;

    /// `path=...`, `fd=...`, or a path alone. A descriptor wins over a path.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut path = None;
        for part in text.split(',') {
            match part
                .split_once('=')
                .map(|(key, value)| (key.trim(), value.trim()))
            {
                Some(("fd", number)) => {
                    let number = number.parse().map_err(|_| {
                        format!("fd {number:?}: the number of an inherited socket is expected")
                    })?;
                    return Ok(Self::Descriptor(number));
                }
                Some(("path", value)) => path = Some(value.to_owned()),
                // Then it is a path with such characters.
                _ => return Ok(Self::Path(text.into())),
            }
        }
        match path {
            Some(path) if !path.is_empty() => Ok(Self::Path(path.into())),
            _ => Err("give path=<path> or fd=<number>".into()),
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub struct Invocation {
    /// The machine; `None` if one is to come through the API.
    pub vm: Option<VmConfig>,
    /// The saved machine to restore; then there is no other.
    pub restore: Option<Restore>,
    /// Where the API is served, if anywhere.
    pub api_socket: Option<ApiSocket>,
    /// Where on D-Bus the API is served, if anywhere.
    #[cfg(feature = "dbus_api")]
    pub dbus: Option<dbus::Place>,
    /// Confine the process by Landlock.
    pub landlock: bool,
    /// Files of the machines that come through the API.
    pub landlock_rules: Vec<LandlockConfig>,
    /// System-call filters.
    pub seccomp: Mode,
    /// Keep the monitor when the guest powers off.
    pub no_shutdown: bool,
    /// Where events go.
    pub event_monitor: Option<EventMonitorConfig>,
    /// Where gdb is served, if anywhere.
    pub gdb: Option<GdbConfig>,
    /// Where the log goes; standard error otherwise.
    pub log_file: Option<PathBuf>,
    /// How a line of the log looks.
    pub log_format: Format,
    /// What is logged.
    pub log_level: LevelFilter,
}

/// Why a command line does not lead to a machine.
#[derive(Debug)]
pub enum Stop {
    /// It asked for a text: exit status 0.
    Done(String),
    /// It is not a possible command line: exit status 2.
    Usage(String),
    /// A value of it is wrong: exit status 1.
    Problem(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Invocation {
    /// Reads a command line, program name first.
    ///
    /// # Errors
    /// [`Stop`] if it is wrong or asks for a text.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, Stop> {
        let words: Vec<OsString> = words.into_iter().collect();
        let matches = match command(Help::No).try_get_matches_from(&words) {
            Ok(matches) => matches,
            Err(error) => return Err(explain(&error, &words)),
        };
        if matches.get_flag("version") {
            return Err(Stop::Done(command::version(
                matches.get_count("verbose") > 0,
            )));
        }
        let runs = check_groups(&matches)?;
        let restore = read(&matches, "restore")?;
        let vm = vm_config(&matches)?;
        Ok(Self {
            landlock: vm.landlock_enable,
            landlock_rules: vm.landlock_rules.clone().unwrap_or_default(),
            vm: runs.then_some(vm),
            restore,
            api_socket: parse(&matches, "api-socket")?,
            #[cfg(feature = "dbus_api")]
            dbus: dbus_place(&matches),
            seccomp: parse(&matches, "seccomp")?.unwrap_or_default(),
            no_shutdown: matches.get_flag("no-shutdown"),
            event_monitor: read(&matches, "event-monitor")?,
            gdb: read(&matches, "gdb")?,
            log_file: path(&matches, "log-file"),
            log_format: parse(&matches, "log-format")?.unwrap_or_default(),
            log_level: match matches.get_count("verbose") {
                0 => LevelFilter::Warn,
                1 => LevelFilter::Info,
                2 => LevelFilter::Debug,
                _ => LevelFilter::Trace,
            },
        })
    }
}

/// Turns the parser's refusal into ours: help is built only here, and an option that the reference has and
/// this version does not is named as such.
fn explain(error: &clap::Error, words: &[OsString]) -> Stop {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp => Stop::Done(command(Help::Yes).render_help().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Stop::Usage(command(Help::Yes).render_help().to_string())
        }
        ErrorKind::UnknownArgument => later::explain(words).map_or(Stop::Usage(text), Stop::Usage),
        _ => Stop::Usage(text),
    }
}

/// Whether there is a machine to run. If not, one must be able to come through the API.
fn check_groups(matches: &ArgMatches) -> Result<bool, Stop> {
    let boots = matches.contains_id("kernel") || matches.contains_id("firmware");
    if boots && matches.contains_id("restore") {
        return Err(Stop::Usage(
            "error: --restore makes the machine that was saved, --kernel and --firmware another one: give one of \
             them\n\n\
             For more information, try '--help'.\n"
                .into(),
        ));
    }
    if boots {
        return Ok(true);
    }
    let dbus = cfg!(feature = "dbus_api") && matches.contains_id("dbus-service-name");
    if matches.contains_id("restore") || matches.contains_id("api-socket") || dbus {
        return Ok(false);
    }
    Err(Stop::Usage(
        "error: the machine has nothing to run: give --kernel or --firmware, or --api-socket to be told \
         later\n\n\
         For more information, try '--help'.\n"
            .into(),
    ))
}

/// Where on D-Bus the API is wanted. The parser has seen to it that both names are given or none.
#[cfg(feature = "dbus_api")]
fn dbus_place(matches: &ArgMatches) -> Option<dbus::Place> {
    let bus = match matches.get_flag("dbus-system-bus") {
        true => dbus::Bus::System,
        false => dbus::Bus::Session,
    };
    Some(dbus::Place {
        service: text(matches, "dbus-service-name")?.to_owned(),
        path: text(matches, "dbus-object-path")?.to_owned(),
        bus,
    })
}

fn vm_config(matches: &ArgMatches) -> Result<VmConfig, Problem> {
    let mut config = VmConfig {
        cpus: read(matches, "cpus")?.unwrap_or_default(),
        memory: read(matches, "memory")?.unwrap_or_default(),
        payload: Some(PayloadConfig {
            firmware: path(matches, "firmware"),
            kernel: path(matches, "kernel"),
            cmdline: text(matches, "cmdline").map(ToOwned::to_owned),
            initramfs: path(matches, "initramfs"),
        }),
        platform: read(matches, "platform")?,
        landlock_enable: matches.get_flag("landlock"),
        landlock_rules: read_all::<LandlockConfig>(matches, "landlock-rules")?,
        devices: serde_json::Map::new(),
    };
    for (names, kind) in catalog::options() {
        if let Some(value) = device(matches, names, kind)? {
            config.devices.insert(names.field.to_owned(), value);
        }
    }
    Ok(config)
}

/// The configuration of a kind of device, if its flag was given.
fn device(
    matches: &ArgMatches,
    names: OptionNames,
    kind: &dyn AnyKind,
) -> Result<Option<Value>, Problem> {
    match names.form {
        Form::One => text(matches, names.flag)
            .map(|value| kind.read_flag(value))
            .transpose(),
        Form::Many => matches
            .get_many::<String>(names.flag)
            .map(|values| values.map(|value| kind.read_flag(value)).collect())
            .transpose(),
        Form::Switch => Ok(matches.get_flag(names.flag).then_some(Value::Bool(true))),
    }
}

fn text<'a>(matches: &'a ArgMatches, option: &str) -> Option<&'a str> {
    matches.get_one::<String>(option).map(String::as_str)
}

fn path(matches: &ArgMatches, option: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(option).cloned()
}

fn problem(option: &str, error: &(impl ToString + ?Sized)) -> Problem {
    Problem::new(format!("--{option}"), error.to_string())
}

fn parse<T: std::str::FromStr<Err: ToString>>(
    matches: &ArgMatches,
    option: &str,
) -> Result<Option<T>, Problem> {
    text(matches, option)
        .map(|text| {
            text.parse()
                .map_err(|error: T::Err| problem(option, &error))
        })
        .transpose()
}

fn read<T: DeserializeOwned + JsonSchema>(
    matches: &ArgMatches,
    option: &str,
) -> Result<Option<T>, Problem> {
    text(matches, option)
        .map(|text| keyvalue::from_str(text).map_err(|error| problem(option, &error)))
        .transpose()
}

fn read_all<T: DeserializeOwned + JsonSchema>(
    matches: &ArgMatches,
    option: &str,
) -> Result<Option<Vec<T>>, Problem> {
    let Some(values) = matches.get_many::<String>(option) else {
        return Ok(None);
    };
    values
        .map(|text| keyvalue::from_str(text).map_err(|error| problem(option, &error)))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Prints what was asked for.
#[must_use]
pub fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // A reader that left early (`| head`) has what it wanted.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests;
