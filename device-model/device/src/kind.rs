//! The two sides of a device: what can be made, and what was made.

use std::any::Any;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use firmware::Node;
use sandbox::Allow;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Facts, Histogram, Host, PciPlace, Problem, Result, Saved};

/// How users and the machine call a kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Name of the kind in saved state and messages: `serial`. Unique in the catalog.
    pub kind: &'static str,
    /// Command-line flag without dashes, and the member of the same meaning in the JSON configuration; none
    /// for a device that the user cannot configure.
    pub option: Option<OptionNames>,
    /// Device id (`__serial`); or, with one underscore, what generated ids begin with (`_disk` for `_disk0`). Ids
    /// are generated for devices whose user gave them none, by one count for all kinds of a machine.
    pub id: &'static str,
}

/// The names of one configurable thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionNames {
    /// Command-line flag without dashes: `debug-console`.
    pub flag: &'static str,
    /// Member of the JSON configuration: `debug_console`.
    pub field: &'static str,
    /// How many values it has.
    pub form: Form,
}

/// How many values an option has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One, of keys and values; the JSON member is an object.
    One,
    /// Any number of them, and the flag can be repeated; the JSON member is a list.
    Many,
    /// None: the flag is there or not. The JSON member, and [`Kind::Config`], is a boolean.
    Switch,
}

/// When a machine has a device of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// In every machine; the user cannot say anything about it.
    Always,
    /// In every machine, configured by default; the user may configure it otherwise, or away.
    ByDefault,
    /// Only if asked for.
    OnRequest,
}

/// The system calls of a device's code, by the thread that runs it.
#[derive(Clone, Copy, Debug)]
pub struct Syscalls {
    /// [`Kind::build`] and the methods of [`Device`], on the thread that owns the machine.
    pub owner: &'static [Allow],
    /// [`crate::Target`]'s methods, on the guest's processors.
    pub vcpu: &'static [Allow],
    /// Its workers.
    pub worker: &'static [Allow],
}

impl Syscalls {
    /// Nothing beyond [`sandbox::COMMON`].
    pub const NONE: Self = Self {
        owner: &[],
        vcpu: &[],
        worker: &[],
    };
}

/// The configuration of a device that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// A kind of device. Implemented once per device folder, on a unit struct.
pub trait Kind: Sync + 'static {
    /// What it is called.
    const NAMES: Names;
    /// When it is there.
    const PRESENCE: Presence;
    /// Values of the flag as users write them, for the documentation. Paths are below `/vm/`; the catalog's tests
    /// build a device from each, with a folder in place of `/vm/` and, for names that end in `.raw`, an empty file
    /// of 16 MiB in it. A kind that is not [`Presence::ByDefault`] has at least one.
    const EXAMPLES: &'static [&'static str] = &[];
    /// One can come to a machine and leave it while the guest runs. Only for devices on PCI, and only if [`Kind::build`]
    /// and dropping it do all there is to do.
    const HOT_PLUG: bool = false;
    /// Member of its configuration with numbers of open descriptors, a list, if it can be given any. The numbers say
    /// how many there are; the descriptors are [`Host::descriptors`].
    const DESCRIPTORS: Option<&'static str> = None;
    /// System calls that its code makes beyond [`sandbox::COMMON`].
    const SYSCALLS: Syscalls = Syscalls::NONE;

    /// What the user can say about it: flag, JSON member, help and documentation in one type.
    type Config: Serialize + DeserializeOwned + JsonSchema;
    /// What [`Kind::build`] makes.
    type Device: Device + 'static;

    /// The configuration of a machine whose user says nothing. Only for [`Presence::ByDefault`] and
    /// [`Presence::Always`].
    fn by_default() -> Option<Self::Config> {
        None
    }

    /// Whether this configuration means that there is no device (`--serial off`).
    fn is_off(_config: &Self::Config) -> bool {
        false
    }

    /// Checks what can be known without building.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    fn check(_config: &Self::Config, _facts: &Facts) -> std::result::Result<(), Problem> {
        Ok(())
    }

    /// Paths of the host that the device opens, and how: they become Landlock rules.
    fn paths(_config: &Self::Config) -> Vec<(PathBuf, sandbox::landlock::Access)> {
        Vec::new()
    }

    /// What the device has of the host that no second machine can have at the same time, each as a text for messages
    /// that is equal for the same thing: a copy of the machine that runs beside it (`vm.fork`) needs others. By default
    /// all of [`Kind::paths`] but what is only read.
    fn exclusive(config: &Self::Config) -> Vec<String> {
        let paths = Self::paths(config).into_iter();
        let others = paths.filter(|(path, access)| {
            *access != sandbox::landlock::Access::Read && path != Path::new("/dev/null")
        });
        others.map(|(path, _)| path.display().to_string()).collect()
    }

    /// Makes one. The same path serves boot, hot-plug, restore and migration.
    ///
    /// # Errors
    /// Whatever keeps it from working; nothing stays behind.
    fn build(config: Self::Config, host: &mut Host<'_>) -> Result<Self::Device>;
}

/// A device of a machine.
///
/// Life: built, then started and stopped any number of times, then dropped. State is looked at and put back
/// only while it is stopped. A device without threads has nothing to start.
pub trait Device: Send {
    /// Begins to work: from here it may write guest memory and interrupt the guest.
    ///
    /// # Errors
    /// If a worker cannot start; the device is then stopped.
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    /// Ends work: after this no guest memory is written and no interrupt sent.
    ///
    /// # Errors
    /// If a worker had failed before. The device is stopped in any case.
    fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does what it asked for through [`Host::attention`], on the thread that owns the machine: what takes that
    /// thread's rights, such as starting a worker because of what the guest did.
    fn attend(&mut self) {}

    /// Its state. Only while stopped.
    ///
    /// # Errors
    /// [`Error::BadState`] if there is no form for it.
    fn save(&self) -> Result<Saved>;

    /// Puts a state back. Only while stopped.
    ///
    /// # Errors
    /// [`Error::WrongState`] or [`Error::BadState`]; the device is then as it was.
    fn restore(&mut self, saved: Saved) -> Result<()>;

    /// Changes it while it works (the size of a disk or a balloon).
    ///
    /// # Errors
    /// [`Error::NotChangeable`] unless the kind knows how.
    fn update(&mut self, _change: Value) -> Result<()> {
        Err(Error::NotChangeable("this device"))
    }

    /// What it has counted since it was built, by name.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// How long requests took, by queue. Only for metrics: `vm.counters` has what [`Device::counters`] says.
    fn histograms(&self) -> Vec<Histogram> {
        Vec::new()
    }

    /// Bytes of RAM that the guest does not use because of it, as far as it says: a balloon's.
    fn withheld(&self) -> u64 {
        0
    }

    /// Where it is on PCI; `None` if it is not there.
    fn on_pci(&self) -> Option<PciPlace> {
        None
    }

    /// How the guest's firmware tables describe it.
    fn nodes(&self) -> Vec<Node> {
        Vec::new()
    }

    /// Ends the device but keeps what the host holds of it and the guest's reset does not touch (an open file, a
    /// connected client), for the device that takes its place: see [`Host::inherit`]. Only while stopped.
    fn leave(self: Box<Self>) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// What was decided at build time and belongs into the configuration that `vm.info` shows, as members to
    /// merge (a pty's path).
    fn decided(&self) -> Option<Value> {
        None
    }
}

/// A [`Kind`] with its types erased: what the catalog lists.
pub trait AnyKind: Sync {
    /// See [`Kind::NAMES`].
    fn names(&self) -> Names;
    /// See [`Kind::PRESENCE`].
    fn presence(&self) -> Presence;
    /// See [`Kind::EXAMPLES`].
    fn examples(&self) -> &'static [&'static str];
    /// See [`Kind::HOT_PLUG`].
    fn hot_plug(&self) -> bool;
    /// See [`Kind::DESCRIPTORS`].
    fn descriptors(&self) -> Option<&'static str>;
    /// See [`Kind::SYSCALLS`].
    fn syscalls(&self) -> Syscalls;
    /// Schema of [`Kind::Config`].
    fn schema(&self) -> Schema;
    /// See [`Kind::by_default`].
    fn by_default(&self) -> Option<Value>;
    /// Reads the value of the command-line flag.
    ///
    /// # Errors
    /// A [`Problem`] that names the flag.
    fn read_flag(&self, text: &str) -> std::result::Result<Value, Problem>;
    /// The value of the command-line flag that means this configuration; for help.
    fn write_flag(&self, config: &Value) -> String;
    /// The configuration with a value for each member that has one when nobody gives it. One that does not read, or
    /// that is a switch, stays as it is.
    fn complete(&self, config: &Value) -> Value;
    /// Whether a configuration has the form of [`Kind::Config`]. Looks at nothing but the configuration.
    ///
    /// # Errors
    /// A [`Problem`] that names the option, if not.
    fn reads(&self, config: &Value) -> std::result::Result<(), Problem>;
    /// See [`Kind::check`].
    ///
    /// # Errors
    /// A [`Problem`] that names the option, also if the configuration does not read.
    fn check(&self, config: &Value, facts: &Facts) -> std::result::Result<(), Problem>;
    /// See [`Kind::is_off`]. A configuration that does not read is not off.
    fn is_off(&self, config: &Value) -> bool;
    /// See [`Kind::paths`].
    ///
    /// # Errors
    /// A [`Problem`] if the configuration does not read.
    fn paths(
        &self,
        config: &Value,
    ) -> std::result::Result<Vec<(PathBuf, sandbox::landlock::Access)>, Problem>;
    /// See [`Kind::exclusive`].
    ///
    /// # Errors
    /// A [`Problem`] if the configuration does not read.
    fn exclusive(&self, config: &Value) -> std::result::Result<Vec<String>, Problem>;
    /// See [`Kind::build`].
    ///
    /// # Errors
    /// As [`Kind::build`], and a [`Problem`] if the configuration does not read.
    fn build(&self, config: &Value, host: &mut Host<'_>) -> Result<Box<dyn Device>>;
}

fn option_of(names: &Names) -> String {
    names.option.map_or_else(
        || names.kind.to_owned(),
        |option| format!("--{}", option.flag),
    )
}

fn read<K: Kind>(config: &Value) -> std::result::Result<K::Config, Problem> {
    K::Config::deserialize(config)
        .map_err(|error| Problem::new(option_of(&K::NAMES), error.to_string()))
}

impl<K: Kind> AnyKind for K {
    fn names(&self) -> Names {
        K::NAMES
    }

    fn presence(&self) -> Presence {
        K::PRESENCE
    }

    fn examples(&self) -> &'static [&'static str] {
        K::EXAMPLES
    }

    fn hot_plug(&self) -> bool {
        K::HOT_PLUG
    }

    fn descriptors(&self) -> Option<&'static str> {
        K::DESCRIPTORS
    }

    fn syscalls(&self) -> Syscalls {
        K::SYSCALLS
    }

    fn schema(&self) -> Schema {
        schemars::schema_for!(K::Config)
    }

    fn by_default(&self) -> Option<Value> {
        let config = K::by_default()?;
        Some(serde_json::to_value(config).expect("a configuration is plain data"))
    }

    fn read_flag(&self, text: &str) -> std::result::Result<Value, Problem> {
        let problem = |text: String| Problem::new(option_of(&K::NAMES), text);
        let config: K::Config =
            keyvalue::from_str(text).map_err(|error| problem(error.to_string()))?;
        serde_json::to_value(config).map_err(|error| problem(error.to_string()))
    }

    fn write_flag(&self, config: &Value) -> String {
        let text = read::<K>(config)
            .ok()
            .and_then(|config| keyvalue::to_string(&config).ok());
        text.unwrap_or_default()
    }

    fn complete(&self, config: &Value) -> Value {
        let complete = read::<K>(config).map(serde_json::to_value);
        match complete {
            Ok(Ok(complete)) if config.is_object() => complete,
            _ => config.clone(),
        }
    }

    fn reads(&self, config: &Value) -> std::result::Result<(), Problem> {
        read::<K>(config).map(drop)
    }

    fn check(&self, config: &Value, facts: &Facts) -> std::result::Result<(), Problem> {
        K::check(&read::<K>(config)?, facts)
    }

    fn is_off(&self, config: &Value) -> bool {
        read::<K>(config).is_ok_and(|config| K::is_off(&config))
    }

    fn paths(
        &self,
        config: &Value,
    ) -> std::result::Result<Vec<(PathBuf, sandbox::landlock::Access)>, Problem> {
        Ok(K::paths(&read::<K>(config)?))
    }

    fn exclusive(&self, config: &Value) -> std::result::Result<Vec<String>, Problem> {
        Ok(K::exclusive(&read::<K>(config)?))
    }

    fn build(&self, config: &Value, host: &mut Host<'_>) -> Result<Box<dyn Device>> {
        Ok(Box::new(K::build(read::<K>(config)?, host)?))
    }
}

impl Debug for dyn AnyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kind").field(&self.names().kind).finish()
    }
}
