//! The body of `vm.create`: a whole machine.

use config::{LandlockConfig, VmConfig};
use device::Presence;
use machine::Call;
use serde_json::{Map, Value};

use crate::body::{self, Bad};

/// Members that the reference has and this version has not yet.
const LATER: &[&str] = &[
    "rate_limit_groups",
    "disks",
    "net",
    "balloon",
    "generic_vhost_user",
    "fs",
    "pmem",
    "devices",
    "user_devices",
    "vdpa",
    "vsock",
    "pvmemcontrol",
    "pvpanic",
    "iommu",
    "numa",
    "watchdog",
    "rtc",
    "gdb",
    "pci_segments",
    "tpm",
    "ivshmem",
];

pub(crate) fn call(body: &[u8]) -> Result<Call, Bad> {
    Ok(Call::Create(Box::new(vm_config(body)?)))
}

/// Reads a machine's configuration. What is checked is its form; whether it makes sense is found at the boot.
///
/// # Errors
/// [`Bad`] with the place of the mistake.
pub fn vm_config(body: &[u8]) -> Result<VmConfig, Bad> {
    let Value::Object(mut members) = body::json(body)? else {
        return Err(Bad::body("$: a machine is an object"));
    };
    // As if they were not there.
    members.retain(|member, value| !value.is_null() || has_default(member));
    let mut config = VmConfig::default();
    fixed(&mut config, &mut members)?;
    for (member, value) in &members {
        check_member(member, value)?;
    }
    members.retain(|member, _| !is_later(member));
    config.devices = members;
    Ok(config)
}

/// Takes the members out that are not devices.
fn fixed(config: &mut VmConfig, members: &mut Map<String, Value>) -> Result<(), Bad> {
    if let Some(value) = members.shift_remove("cpus") {
        config.cpus = body::member("$.cpus", value)?;
    }
    if let Some(value) = members.shift_remove("memory") {
        config.memory = body::member("$.memory", value)?;
    }
    if let Some(value) = members.shift_remove("payload") {
        config.payload = Some(body::member("$.payload", value)?);
    }
    if let Some(value) = members.shift_remove("platform") {
        config.platform = Some(body::member("$.platform", value)?);
    }
    if let Some(value) = members.shift_remove("landlock_enable") {
        config.landlock_enable = body::member("$.landlock_enable", value)?;
    }
    if let Some(value) = members.shift_remove("landlock_rules") {
        let rules: Vec<LandlockConfig> = body::member("$.landlock_rules", value)?;
        config.landlock_rules = Some(rules);
    }
    Ok(())
}

fn check_member(member: &str, value: &Value) -> Result<(), Bad> {
    let found = catalog::options().find(|(names, _)| names.field == member);
    let Some((names, kind)) = found else {
        return match value {
            // What is off or empty is not missed.
            _ if is_later(member) && is_nothing(value) => Ok(()),
            _ if is_later(member) => Err(Bad::Later(format!("member \"{member}\""))),
            _ => Err(unknown(member)),
        };
    };
    let path = format!("$.{member}");
    match value {
        Value::Array(list) if catalog::is_list(names.field) => {
            for (index, one) in list.iter().enumerate() {
                body::check_device(&format!("{path}[{index}]"), kind, one)?;
            }
            Ok(())
        }
        _ if catalog::is_list(names.field) => Err(Bad::Body(format!("{path}: it is a list"))),
        one => body::check_device(&path, kind, one),
    }
}

/// Whether a machine has this member whatever the user says, so that null is no value for it.
pub(crate) fn has_default(member: &str) -> bool {
    ["cpus", "memory", "landlock_enable"].contains(&member)
        || body::kind(member).is_some_and(|kind| kind.presence() == Presence::ByDefault)
}

fn is_later(member: &str) -> bool {
    LATER.contains(&member) && catalog::options().all(|(names, _)| names.field != member)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn unknown(member: &str) -> Bad {
    let known: Vec<String> = VmConfig::FIXED_MEMBERS
        .iter()
        .copied()
        .chain(catalog::options().map(|(names, _)| names.field))
        .map(str::to_owned)
        .collect();
    let suggestion = keyvalue::nearest(member, known.iter().map(String::as_str));
    Bad::body(&keyvalue::Error::UnknownMember {
        path: format!("$.{member}"),
        suggestion: suggestion.map(str::to_owned),
        known: known.clone(),
    })
}
