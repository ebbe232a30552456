//! Changes of a machine's configuration, before it is booted and while it runs.

use config::{Problem, VmConfig};
use device::{Descriptors, Given};
use serde_json::{Value, json};
use telemetry::event;

use crate::build::Machine;
use crate::{Answer, Error, Resize, Result, descriptors, prepare};

/// Member of the configuration that `desired_balloon` is about.
const BALLOON: &str = "balloon";

/// Changes how many processors or how much memory it has. Nothing is changed if anything is refused.
pub(crate) fn resize(
    config: &mut VmConfig,
    machine: Option<&mut Machine>,
    wish: Resize,
) -> Result<()> {
    let max = config.cpus.max();
    if let Some(vcpus) = wish.desired_vcpus.filter(|n| !(1..=max).contains(n)) {
        let text = format!("{vcpus}: the VM can have from 1 to {max} processors (cpus.max_vcpus)");
        return Err(Problem::new("desired_vcpus", text).into());
    }
    if machine.is_some() {
        let vcpus = wish.desired_vcpus.filter(|n| *n != config.cpus.boot_vcpus);
        if vcpus.is_some() {
            return Err(Error::Later("changing the processors of a running VM"));
        }
        let ram = wish.desired_ram.filter(|n| *n != config.memory.size.0);
        if ram.is_some() {
            return Err(Error::Later("changing the memory of a running VM"));
        }
    }
    event!("vm", "resizing");
    if let Some(size) = wish.desired_balloon {
        let id = balloon(config).ok_or_else(|| {
            Problem::new(
                "desired_balloon",
                "the VM has no balloon (member \"balloon\", option --balloon)",
            )
        })?;
        if let Some(machine) = machine {
            machine.update(&id, json!({ "size": size }))?;
        }
        if let Some(balloon) = config
            .devices
            .get_mut(BALLOON)
            .and_then(Value::as_object_mut)
        {
            balloon.insert("size".into(), size.into());
        }
    }
    if let Some(vcpus) = wish.desired_vcpus {
        config.cpus.boot_vcpus = vcpus;
    }
    if let Some(size) = wish.desired_ram {
        config.memory.size.0 = size;
    }
    event!("vm", "resized");
    Ok(())
}

/// The id of the machine's balloon.
fn balloon(config: &VmConfig) -> Option<String> {
    let is_it = |names: device::Names| names.option.is_some_and(|option| option.field == BALLOON);
    let mut plan = catalog::plan(&config.devices).into_iter();
    plan.find(|planned| is_it(planned.kind.names()))
        .map(|planned| planned.id)
}

/// A device that is to come.
pub(crate) struct NewDevice<'a> {
    /// Member of the machine's configuration.
    pub(crate) member: &'static str,
    pub(crate) config: Value,
    /// For it alone; closed if it does not come.
    pub(crate) descriptors: Descriptors,
    /// Where it finds them.
    pub(crate) given: &'a Given,
}

/// Gives the machine one device more: at once, or at its next boot. `number` is the one from which devices that come to
/// a running machine are named. `confined`: Landlock says which files there are.
pub(crate) fn add_device(
    config: &mut VmConfig,
    machine: Option<&mut Machine>,
    device: NewDevice<'_>,
    number: &mut u64,
    confined: bool,
) -> Result<Answer> {
    let NewDevice {
        member,
        config: mut device,
        descriptors,
        given,
    } = device;
    descriptors::enter(member, &mut device, &descriptors)?;
    let mut changed = config.clone();
    let devices = &mut changed.devices;
    match devices.entry(member).or_insert(Value::Null) {
        Value::Array(list) => list.push(device),
        none @ Value::Null if catalog::is_list(member) => *none = Value::Array(vec![device]),
        none @ Value::Null => *none = device,
        _ => {
            let text = "the VM has one already, and cannot have two";
            return Err(Problem::new(member, text).into());
        }
    }
    let Some(machine) = machine else {
        catalog::settle(devices);
        prepare::check_devices(&changed)?;
        if !descriptors.is_empty() {
            given.give(&newest(&changed, member)?.id, descriptors);
        }
        *config = changed;
        return Ok(Answer::Done);
    };
    // A number is not used again, not even after a device that could not be had.
    *number = catalog::name_all(devices, *number);
    prepare::check_devices(&changed)?;
    let planned = newest(&changed, member)?;
    let id = planned.id.clone();
    if !descriptors.is_empty() {
        given.give(&id, descriptors);
    }
    let added = machine.plug(planned).map_err(|error| {
        given.take_back(&id);
        explain(error, confined)
    })?;
    *config = changed;
    Ok(Answer::Added(added))
}

/// The device that came last to a member of the configuration.
fn newest<'a>(config: &'a VmConfig, member: &'static str) -> Result<catalog::Planned<'a>> {
    let of_member = |planned: &catalog::Planned<'_>| {
        let option = planned.kind.names().option;
        option.is_some_and(|option| option.field == member)
    };
    let plan = catalog::plan(&config.devices).into_iter();
    let last = plan.filter(of_member).last();
    Ok(last.ok_or_else(|| Problem::new(member, "this means that there is no device"))?)
}

/// Says that Landlock may be why a file could not be opened.
fn explain(error: Error, confined: bool) -> Error {
    match error {
        Error::Device { id, source } if confined && is_forbidden(&source) => {
            Error::Confined { id, source }
        }
        other => other,
    }
}

/// Whether the host's kernel refused access to a file.
fn is_forbidden(error: &device::Error) -> bool {
    let mut link: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = link {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        link = error.source();
    }
    false
}

/// Takes a device away: before the next boot, or when the guest has let go of it.
pub(crate) fn remove_device(
    config: &mut VmConfig,
    machine: Option<&mut Machine>,
    id: &str,
) -> Result<()> {
    if let Some(machine) = machine {
        return machine.request_removal(id);
    }
    if catalog::remove(&mut config.devices, id) {
        Ok(())
    } else {
        Err(Error::NoDevice(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VmConfig {
        let mut config = VmConfig::default();
        config.cpus.max_vcpus = Some(4);
        prepare::settle(&mut config);
        config
    }

    #[test]
    fn before_the_boot_sizes_are_changed_in_the_configuration() {
        let mut config = config();
        let wish = Resize {
            desired_vcpus: Some(3),
            desired_ram: Some(1 << 30),
            desired_balloon: None,
        };
        resize(&mut config, None, wish).unwrap();
        assert_eq!(config.cpus.boot_vcpus, 3);
        assert_eq!(config.memory.size.0, 1 << 30);
        resize(&mut config, None, Resize::default()).unwrap();
        assert_eq!(config.cpus.boot_vcpus, 3);
    }

    #[test]
    fn impossible_sizes_change_nothing() {
        let before = config();
        for wish in [
            Resize {
                desired_vcpus: Some(0),
                desired_ram: Some(1 << 30),
                ..Resize::default()
            },
            Resize {
                desired_vcpus: Some(5),
                ..Resize::default()
            },
            Resize {
                desired_balloon: Some(1 << 20),
                desired_vcpus: Some(2),
                ..Resize::default()
            },
        ] {
            let mut config = before.clone();
            assert!(resize(&mut config, None, wish).is_err(), "{wish:?}");
            assert_eq!(config, before, "{wish:?}");
        }
    }

    #[test]
    fn a_device_that_is_refused_changes_nothing() {
        let mut config = config();
        let before = config.clone();
        // There is one by default, and it is the only one.
        let device = NewDevice {
            member: "rng",
            config: json!({"src": "/dev/random"}),
            descriptors: Descriptors::default(),
            given: &Given::default(),
        };
        let error = add_device(&mut config, None, device, &mut 0, false);
        assert!(error.unwrap_err().to_string().contains("one already"));
        assert_eq!(config, before);
    }

    #[test]
    fn a_file_that_landlock_hides_is_said_to_be_hidden() {
        let forbidden = |kind: std::io::ErrorKind| Error::Device {
            id: "_disk0".into(),
            source: device::Error::Backend {
                what: "cannot open /vm/x.raw".into(),
                source: std::io::Error::from(kind).into(),
            },
        };
        let denied = std::io::ErrorKind::PermissionDenied;
        let error = explain(forbidden(denied), true).to_string();
        assert!(error.contains("--landlock-rules"), "{error}");
        for other in [
            explain(forbidden(denied), false),
            explain(forbidden(std::io::ErrorKind::NotFound), true),
        ] {
            assert!(matches!(other, Error::Device { .. }), "{other}");
        }
    }

    #[test]
    fn a_device_is_removed_by_its_id() {
        let mut config = config();
        remove_device(&mut config, None, "__rng").unwrap();
        assert!(!config.devices.contains_key("rng"));
        let error = remove_device(&mut config, None, "__rng").unwrap_err();
        assert!(error.to_string().contains("__rng"), "{error}");
    }
}
