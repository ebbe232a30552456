//! `cargo xtask layers`: crates depend downwards only.
//!
//! The layer of a crate is its top folder. A crate may use lower layers and, because cargo
//! excludes cycles, its own; devices never use each other. Only `catalog` may depend on a device,
//! and since a Rust file can name a crate only when its manifest does, no other file names one.

use crate::error::{Error, Result};
use crate::project::Project;
use crate::workspace::{self, Crate};

/// Lowest first.
const LAYERS: &[&str] = &[
    "support",
    "platform",
    "device-model",
    "backends",
    "devices",
    "vmm",
    "bin",
];

/// The one crate that knows the devices.
const CATALOG: &str = "catalog";

/// Prints every wrong arrow.
///
/// # Errors
/// When there is one.
pub(crate) fn check(project: &Project) -> Result<()> {
    let offences = offences(&workspace::crates(project)?);
    for offence in &offences {
        eprintln!("layers: {offence}");
    }
    match offences.len() {
        0 => Ok(()),
        count => Err(Error::Check {
            check: "layers",
            count,
        }),
    }
}

fn offences(crates: &[Crate]) -> Vec<String> {
    let mut offences = Vec::new();
    for user in crates {
        for name in &user.dependencies {
            // A dependency that is no member has a path outside of the workspace.
            let problem = match crates.iter().find(|other| other.name == *name) {
                Some(used) => problem(user, used),
                None => Some("is not a member of the workspace".to_owned()),
            };
            if let Some(problem) = problem {
                offences.push(format!("{} depends on {name}, which {problem}", user.name));
            }
        }
    }
    offences
}

fn problem(user: &Crate, used: &Crate) -> Option<String> {
    let (above, below) = (layer(user), layer(used));
    if below == Some("devices") && user.name != CATALOG && user.name != used.name {
        return Some(format!("is a device: only {CATALOG} names devices"));
    }
    let height = |layer: &str| LAYERS.iter().position(|known| *known == layer);
    let (above, below) = (above.and_then(height), below.and_then(height));
    match (above, below) {
        // Tests and tools stand outside and see everything; nothing but they see them.
        (None, _) => None,
        (Some(_), None) if used.name == "testkit" => Some("is for tests only".to_owned()),
        (Some(_), None) => Some("is in no layer".to_owned()),
        (Some(above), Some(below)) if below > above => Some(format!(
            "is above it ({} over {})",
            LAYERS[below], LAYERS[above]
        )),
        _ => None,
    }
}

/// The folder that says which layer a crate is in.
fn layer(of: &Crate) -> Option<&str> {
    let top = of.folder.components().next()?.as_os_str().to_str()?;
    LAYERS.contains(&top).then_some(top)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, folder: &str, dependencies: &[&str]) -> Crate {
        Crate {
            name: name.to_owned(),
            folder: folder.into(),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
            ..Crate::default()
        }
    }

    /// Offences of one crate among a small but complete house.
    fn judged(user: Crate) -> Vec<String> {
        offences(&[
            member("keyvalue", "support/keyvalue", &[]),
            member("memory", "platform/memory", &["keyvalue"]),
            member("serial", "devices/serial", &["memory"]),
            member("config", "vmm/config", &["keyvalue", "memory"]),
            member("catalog", "vmm/catalog", &["serial", "config"]),
            member("testkit", "tests/testkit", &[]),
            user,
        ])
    }

    #[test]
    fn downwards_and_sideways_are_allowed() {
        assert_eq!(
            judged(member("machine", "vmm/machine", &["catalog", "keyvalue"])),
            [""; 0]
        );
        assert_eq!(
            judged(member("ours", "bin/ours", &["machine-less"])).len(),
            1
        );
        assert_eq!(
            judged(member("xtask", "xtask", &["testkit", "config"])),
            [""; 0]
        );
    }

    #[test]
    fn wrong_arrows_are_named() {
        let cases = [
            (member("reactor", "support/reactor", &["memory"]), "above"),
            (member("cmos", "devices/cmos", &["config"]), "above"),
            (member("cmos", "devices/cmos", &["serial"]), "is a device"),
            (member("machine", "vmm/machine", &["serial"]), "is a device"),
            (member("integration", "tests", &["serial"]), "is a device"),
            (member("machine", "vmm/machine", &["testkit"]), "tests only"),
        ];
        for (user, word) in cases {
            let found = judged(user.clone());
            assert!(
                found.len() == 1 && found[0].contains(word),
                "{user:?}: {found:?}"
            );
        }
    }
}
