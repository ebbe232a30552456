//! `--platform`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Check, require};

const OPTION: &str = "--platform";

/// The machine's identity and its platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlatformConfig {
    /// Number of PCI segments.
    #[serde(default = "one")]
    pub num_pci_segments: u16,
    /// Serial number in SMBIOS type 1.
    #[serde(
        default,
        alias = "serial_number",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("x-flag-alias" = ["serial_number"], "x-json-alias" = ["serial_number"]))]
    pub system_serial_number: Option<String>,
    /// UUID in SMBIOS type 1.
    #[serde(default, alias = "uuid", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag-alias" = ["uuid"], "x-json-alias" = ["uuid"]))]
    pub system_uuid: Option<String>,
    /// Strings in SMBIOS type 11.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oem_strings: Option<Vec<String>>,
    /// Manufacturer in SMBIOS type 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_manufacturer: Option<String>,
    /// Product name in SMBIOS type 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_product_name: Option<String>,
    /// Version in SMBIOS type 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_version: Option<String>,
    /// Family in SMBIOS type 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_family: Option<String>,
    /// SKU number in SMBIOS type 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_sku_number: Option<String>,
    /// Asset tag in SMBIOS type 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chassis_asset_tag: Option<String>,
}

fn one() -> u16 {
    1
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self {
            num_pci_segments: one(),
            system_serial_number: None,
            system_uuid: None,
            oem_strings: None,
            system_manufacturer: None,
            system_product_name: None,
            system_version: None,
            system_family: None,
            system_sku_number: None,
            chassis_asset_tag: None,
        }
    }
}

impl PlatformConfig {
    /// Checks what can be known before the tables are built.
    ///
    /// # Errors
    /// The first problem found.
    pub fn check(&self) -> Check {
        require(self.num_pci_segments == 1, OPTION, || {
            format!(
                "num_pci_segments={}: this version has one PCI segment only, leave it out",
                self.num_pci_segments
            )
        })?;
        firmware::smbios::build(&self.identity())
            .map(drop)
            .map_err(|error| crate::Problem::new(OPTION, error.to_string()))
    }

    /// What SMBIOS tells the guest.
    #[must_use]
    pub fn identity(&self) -> firmware::smbios::Identity {
        firmware::smbios::Identity {
            manufacturer: self.system_manufacturer.clone(),
            product_name: self.system_product_name.clone(),
            version: self.system_version.clone(),
            serial_number: self.system_serial_number.clone(),
            uuid: self.system_uuid.clone(),
            sku_number: self.system_sku_number.clone(),
            family: self.system_family.clone(),
            chassis_asset_tag: self.chassis_asset_tag.clone(),
            oem_strings: self.oem_strings.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_mean_the_new_ones() {
        let config: PlatformConfig =
            keyvalue::from_str("serial_number=s1,uuid=5d8d0d4e-0d0f-4b43-9fbb-1d4c5f2b7a10")
                .unwrap();
        assert_eq!(config.system_serial_number.as_deref(), Some("s1"));
        assert!(config.system_uuid.is_some());
        let json: PlatformConfig = serde_json::from_str(r#"{"serial_number":"s2"}"#).unwrap();
        assert_eq!(json.system_serial_number.as_deref(), Some("s2"));
        assert!(
            serde_json::to_value(&json)
                .unwrap()
                .get("system_serial_number")
                .is_some()
        );
    }

    #[test]
    fn oem_strings_are_a_list() {
        let config: PlatformConfig = keyvalue::from_str("oem_strings=[a b,c=d]").unwrap();
        assert_eq!(config.oem_strings.unwrap(), ["a b", "c=d"]);
    }

    #[test]
    fn a_bad_uuid_is_found_before_boot() {
        let config: PlatformConfig = keyvalue::from_str("system_uuid=nonsense").unwrap();
        let message = config.check().unwrap_err().to_string();
        assert!(
            message.starts_with("--platform: ") && message.contains("nonsense"),
            "{message}"
        );
    }

    #[test]
    fn more_than_one_segment_is_refused() {
        let config: PlatformConfig = keyvalue::from_str("num_pci_segments=2").unwrap();
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .contains("num_pci_segments=2")
        );
    }
}
