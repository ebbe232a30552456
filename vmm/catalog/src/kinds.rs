//! What a machine asks of a list of kinds.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use device::{AnyKind, Facts, Form, OptionNames, Presence, Problem, Syscalls};
use sandbox::landlock::Access;
use serde_json::{Map, Value};

/// A device that a machine is to have.
#[derive(Clone, Debug)]
pub struct Planned<'a> {
    /// Its id in the machine.
    pub id: String,
    /// Its kind.
    pub kind: &'static dyn AnyKind,
    /// Its configuration.
    pub config: &'a Value,
}

impl Planned<'_> {
    /// PCI segment and slot that the user chose for it. Devices on PCI all have these members.
    #[must_use]
    pub fn chosen_slot(&self) -> Option<(u16, u8)> {
        let number = |member: &str| self.config.get(member).and_then(Value::as_u64);
        let slot = number("pci_device_id")?.try_into().ok()?;
        let segment = number("pci_segment").unwrap_or(0).try_into().ok()?;
        Some((segment, slot))
    }
}

/// A list of kinds, in the order of creation, and what a machine asks of it. The machine's own is
/// [`ALL`](super::ALL); tests have others.
#[derive(Clone, Copy, Debug)]
pub struct Kinds(pub &'static [&'static dyn AnyKind]);

impl Kinds {
    /// Kinds that the user can configure, with the names they go by.
    pub fn options(self) -> impl Iterator<Item = (OptionNames, &'static dyn AnyKind)> {
        self.0
            .iter()
            .filter_map(|kind| Some((kind.names().option?, *kind)))
    }

    /// Fills in the configuration of kinds that are there by default, and ids for devices that have none.
    pub fn settle(self, devices: &mut Map<String, Value>) {
        for (names, kind) in self.options() {
            if let Some(config) = kind.by_default() {
                devices.entry(names.field).or_insert(config);
            }
        }
        self.name_all(devices, 0);
    }

    /// The number from which new devices are named, so that no generated id is given twice: above all that are there.
    #[must_use]
    pub fn next_number(self, devices: &Map<String, Value>) -> u64 {
        let number = |planned: Planned<'_>| -> Option<u32> {
            planned
                .id
                .strip_prefix(planned.kind.names().id)?
                .parse()
                .ok()
        };
        let numbers = self.plan(devices).into_iter().filter_map(number);
        numbers.max().map_or(0, |last| u64::from(last) + 1)
    }

    /// Gives an id to each device that has none and whose kind has no fixed one, and gives the number after the last
    /// one that was used. The count is one for all kinds, from `next` on in the catalog's order; ids that are taken are
    /// skipped.
    pub fn name_all(self, devices: &mut Map<String, Value>, mut next: u64) -> u64 {
        let mut taken: HashSet<String> = self
            .plan(devices)
            .into_iter()
            .map(|planned| planned.id)
            .collect();
        for (names, kind) in self.options() {
            let prefix = kind.names().id;
            let member = devices.get_mut(names.field);
            let configs = member.map(each_mut).unwrap_or_default();
            for config in configs.iter_mut().filter_map(Value::as_object_mut) {
                if prefix.starts_with("__") || config.get("id").is_some_and(Value::is_string) {
                    continue;
                }
                let id = loop {
                    let id = format!("{prefix}{next}");
                    next += 1;
                    if taken.insert(id.clone()) {
                        break id;
                    }
                };
                config.insert("id".into(), id.into());
            }
        }
        next
    }

    /// Checks the devices' configurations, which have been [settled](Self::settle).
    ///
    /// # Errors
    /// The first problem found: a member that no kind has, or what a kind objects to.
    pub fn check(
        self,
        devices: &Map<String, Value>,
        facts: &Facts,
        other_members: &[&str],
    ) -> Result<(), Problem> {
        for (member, config) in devices {
            let Some((_, kind)) = self.options().find(|(names, _)| names.field == member) else {
                let known = self
                    .options()
                    .map(|(names, _)| names.field)
                    .chain(other_members.iter().copied());
                let hint = keyvalue::nearest(member, known)
                    .map_or_else(String::new, |near| format!(", did you mean \"{near}\"?"));
                return Err(Problem::new(
                    "vm config",
                    format!("unknown member \"{member}\"{hint}"),
                ));
            };
            let many = kind.names().option.is_some_and(|o| o.form == Form::Many);
            if many != config.is_array() {
                let form = if many { "a list" } else { "one device" };
                let text = format!("member \"{member}\" is {form}");
                return Err(Problem::new("vm config", text));
            }
            for config in each(config) {
                kind.check(config, facts)?;
            }
        }
        let mut ids = HashSet::new();
        for planned in self.plan(devices) {
            if let Some(id) = ids.replace(planned.id) {
                let text = format!("two devices have the id \"{id}\": give one of them another");
                return Err(Problem::new("vm config", text));
            }
        }
        Ok(())
    }

    /// The devices that a settled and checked configuration asks for, in the order of creation.
    #[must_use]
    pub fn plan(self, devices: &Map<String, Value>) -> Vec<Planned<'_>> {
        static NO_CONFIG: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
        let mut planned = Vec::new();
        for kind in self.0 {
            let names = kind.names();
            let config = match names.option {
                Some(option) => devices.get(option.field),
                None => (kind.presence() == Presence::Always).then_some(&*NO_CONFIG),
            };
            for config in config.map(each).unwrap_or_default() {
                if kind.is_off(config) {
                    continue;
                }
                // Devices that can have another id have a member for it.
                let id = config.get("id").and_then(Value::as_str);
                planned.push(Planned {
                    id: id.unwrap_or(names.id).to_owned(),
                    kind: *kind,
                    config,
                });
            }
        }
        planned
    }

    /// System calls that the kinds' code makes.
    pub fn syscalls(self) -> impl Iterator<Item = Syscalls> {
        self.0.iter().map(|kind| kind.syscalls())
    }

    /// Paths of the host that the configured devices use.
    ///
    /// # Errors
    /// A [`Problem`] if a configuration does not read.
    pub fn paths(self, devices: &Map<String, Value>) -> Result<Vec<(PathBuf, Access)>, Problem> {
        let mut paths = Vec::new();
        for planned in self.plan(devices) {
            paths.extend(planned.kind.paths(planned.config)?);
        }
        Ok(paths)
    }
}

/// The configurations in a member: those of a list, or the member itself.
pub(crate) fn each(member: &Value) -> &[Value] {
    match member {
        Value::Array(list) => list,
        one => std::slice::from_ref(one),
    }
}

pub(crate) fn each_mut(member: &mut Value) -> &mut [Value] {
    match member {
        Value::Array(list) => list,
        one => std::slice::from_mut(one),
    }
}
