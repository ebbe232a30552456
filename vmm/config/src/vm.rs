//! The whole machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Check, CpusConfig, LandlockConfig, MemoryConfig, PayloadConfig, PlatformConfig};

/// Everything the user says about a machine.
///
/// The devices' configurations are kept as JSON under the name of their member; the catalog knows their types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmConfig {
    /// Processors.
    #[serde(default)]
    pub cpus: CpusConfig,
    /// Memory.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<PayloadConfig>,
    /// Identity and platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformConfig>,
    /// Confine the monitor's access to files to those that the configuration names.
    #[serde(default)]
    pub landlock_enable: bool,
    /// Further files that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock_rules: Option<Vec<LandlockConfig>>,
    /// Devices, by the name of their member.
    #[serde(flatten)]
    // The catalog has their schemas.
    #[schemars(skip)]
    pub devices: Map<String, Value>,
}

impl VmConfig {
    /// Members that are not devices.
    pub const FIXED_MEMBERS: &'static [&'static str] = &[
        "cpus",
        "memory",
        "payload",
        "platform",
        "landlock_enable",
        "landlock_rules",
    ];

    /// Checks all but the devices.
    ///
    /// # Errors
    /// The first problem found.
    pub fn check(&self) -> Check {
        self.cpus.check()?;
        self.memory.check()?;
        if let Some(platform) = &self.platform {
            platform.check()?;
        }
        for rule in self.landlock_rules.iter().flatten() {
            rule.check()?;
        }
        Ok(())
    }

    /// Fills in what follows from the rest, as `vm.info` shows it.
    pub fn settle(&mut self) {
        self.cpus.max_vcpus = Some(self.cpus.max());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_kept_by_member() {
        let text = r#"{"cpus":{"boot_vcpus":2},"serial":{"mode":"Tty"}}"#;
        let mut config: VmConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.devices["serial"]["mode"], "Tty");
        config.settle();
        let back = serde_json::to_value(&config).unwrap();
        assert_eq!(back["cpus"]["max_vcpus"], 2);
        assert_eq!(back["serial"]["mode"], "Tty");
        assert!(back.get("platform").is_none());
    }

    #[test]
    fn an_unknown_member_inside_is_refused() {
        assert!(serde_json::from_str::<VmConfig>(r#"{"cpus":{"boot_vcpus":1,"x":1}}"#).is_err());
    }
}
