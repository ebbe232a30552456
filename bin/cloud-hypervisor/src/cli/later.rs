//! Options of the reference that this version does not have yet.

use std::ffi::OsString;

/// Their names, without dashes.
pub const LATER: &[&str] = &[
    "dbus-object-path",
    "dbus-service-name",
    "dbus-system-bus",
    "device",
    "fs",
    "fw-cfg-config",
    "generic-vhost-user",
    "host-data",
    "igvm",
    "ivshmem",
    "memory-zone",
    "numa",
    "pci-segment",
    "pvmemcontrol",
    "tpm",
    "user-device",
    "vdpa",
];

/// What to say if a command line has one of them.
pub(super) fn explain(words: &[OsString]) -> Option<String> {
    let name = words.iter().find_map(|word| {
        let name = word.to_str()?.strip_prefix("--")?;
        let name = name.split('=').next()?;
        LATER.iter().find(|later| **later == name)
    })?;
    Some(format!(
        "error: --{name} is not in this version yet; docs/compatibility.md says what is\n\n\
         For more information, try '--help'.\n"
    ))
}
