//! The options that every device on PCI has.

use device::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a device is on PCI and what it is called. Flattened into each device's configuration:
/// `#[serde(flatten)] pub pci: PciOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PciOptions {
    /// Name of the device, unique in the machine. Not to start with two underscores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Put the device behind the virtual IOMMU.
    #[serde(default, skip_serializing_if = "is_false")]
    pub iommu: bool,
    /// PCI segment, from 0.
    #[serde(default)]
    pub pci_segment: u16,
    /// PCI slot: 1 to 31. The lowest free one if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

impl PciOptions {
    /// Checks what does not depend on the rest of the machine. `option` is the flag, for messages.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    pub fn check(&self, option: &str) -> Result<(), Problem> {
        let problem = |text: String| Err(Problem::new(option, text));
        match self.pci_device_id {
            Some(0) => {
                return problem("pci_device_id=0 is the host bridge's slot, use 1 to 31".into());
            }
            Some(slot @ pci::SLOTS..) => {
                return problem(format!("pci_device_id={slot} does not exist, use 1 to 31"));
            }
            _ => {}
        }
        if let Some(id) = self.id.as_ref().filter(|id| id.starts_with("__")) {
            return problem(format!(
                "id={id}: names that start with \"__\" are the monitor's own"
            ));
        }
        if self.iommu {
            return problem(
                "iommu=on needs a virtual IOMMU, which this version does not have".into(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let options: PciOptions = keyvalue::from_str(text).unwrap();
        options
            .check("--rng")
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn slots_that_cannot_be_are_refused_with_those_that_can() {
        assert_eq!(check("pci_segment=3,pci_device_id=31,id=x"), Ok(()));
        assert_eq!(
            check("pci_device_id=0").unwrap_err(),
            "--rng: pci_device_id=0 is the host bridge's slot, use 1 to 31"
        );
        assert_eq!(
            check("pci_device_id=32").unwrap_err(),
            "--rng: pci_device_id=32 does not exist, use 1 to 31"
        );
        assert!(check("id=__rng").unwrap_err().contains("monitor's own"));
        assert!(check("iommu=on").unwrap_err().contains("does not have"));
    }

    #[test]
    fn what_is_not_set_is_not_in_the_json() {
        let json = serde_json::to_value(PciOptions::default()).unwrap();
        assert_eq!(json, serde_json::json!({ "pci_segment": 0 }));
    }
}
