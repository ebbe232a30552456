//! Options of the reference that this version does not have yet.

use std::ffi::OsString;

/// Their names, without dashes.
pub const LATER: &[&str] = &[
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

/// Names of those that only other builds have, and the feature that they need.
pub const ELSEWHERE: &[(&str, &str)] = if cfg!(feature = "dbus_api") {
    &[]
} else {
    &[
        ("dbus-object-path", "dbus_api"),
        ("dbus-service-name", "dbus_api"),
        ("dbus-system-bus", "dbus_api"),
    ]
};

/// What to say if a command line has one of them.
pub(super) fn explain(words: &[OsString]) -> Option<String> {
    let why = words.iter().find_map(|word| {
        let name = word.to_str()?.strip_prefix("--")?;
        let name = name.split('=').next()?;
        if let Some((_, feature)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
            return Some(format!(
                "--{name} is not in this build: build it with --features {feature}"
            ));
        }
        LATER.contains(&name).then(|| {
            format!("--{name} is not in this version yet; docs/compatibility.md says what is")
        })
    })?;
    Some(format!(
        "error: {why}\n\nFor more information, try '--help'.\n"
    ))
}
