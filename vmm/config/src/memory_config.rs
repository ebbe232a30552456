//! `--memory`.

use keyvalue::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Check, Problem, require};

const OPTION: &str = "--memory";

/// The machine's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Size of the memory.
    #[serde(default = "default_size")]
    pub size: ByteSize,
    /// Let the host's kernel merge equal pages (KSM).
    #[serde(default)]
    pub mergeable: bool,
    /// How memory is added to a running machine.
    #[serde(default)]
    #[schemars(extend("x-flag-values" = { "acpi": "Acpi", "virtio-mem": "VirtioMem" }))]
    pub hotplug_method: HotplugMethod,
    /// Most memory that can be added to a running machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<ByteSize>,
    /// How much of that is there from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<ByteSize>,
    /// Other processes can map the memory (vhost-user needs it).
    #[serde(default)]
    pub shared: bool,
    /// Take the memory from the host's huge page pool.
    #[serde(default)]
    pub hugepages: bool,
    /// Size of those huge pages, a power of two. Default: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<ByteSize>,
    /// Allocate all of the memory before the machine starts.
    #[serde(default)]
    pub prefault: bool,
    /// Have the host account for all of the memory at once, so that it fails now and not later if there is too
    /// little.
    #[serde(default)]
    pub reserve: bool,
    /// Let the host's kernel use transparent huge pages.
    #[serde(default = "yes")]
    pub thp: bool,
}

/// How memory is added to a running machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HotplugMethod {
    /// Memory devices of ACPI.
    #[default]
    Acpi,
    /// A virtio-mem device.
    VirtioMem,
}

fn default_size() -> ByteSize {
    ByteSize(512 << 20)
}

fn yes() -> bool {
    true
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: default_size(),
            mergeable: false,
            hotplug_method: HotplugMethod::default(),
            hotplug_size: None,
            hotplugged_size: None,
            shared: false,
            hugepages: false,
            hugepage_size: None,
            prefault: false,
            reserve: false,
            thp: true,
        }
    }
}

impl MemoryConfig {
    /// Checks what can be known before the memory is mapped.
    ///
    /// # Errors
    /// The first problem found.
    pub fn check(&self) -> Check {
        require(self.size.0 > 0, OPTION, || {
            "size=0: a machine needs memory".into()
        })?;
        require(!(self.shared && self.mergeable), OPTION, || {
            "shared=on with mergeable=on: the kernel merges private pages only, switch one off"
                .into()
        })?;
        if let Some(size) = self.hugepage_size {
            require(self.hugepages, OPTION, || {
                "hugepage_size is given without hugepages=on".into()
            })?;
            require(size.0.is_power_of_two(), OPTION, || {
                format!("hugepage_size={size}: must be a power of two")
            })?;
        }
        self.check_hotplug()
    }

    fn check_hotplug(&self) -> Check {
        let Some(asked) = self.hotplug_size.or(self.hotplugged_size) else {
            return Ok(());
        };
        Err(Problem::new(
            OPTION,
            format!(
                "hotplug_size or hotplugged_size ({asked}) asks for memory hot-plug, which this version \
                 does not have yet: leave it out and give the whole size"
            ),
        ))
    }

    /// How the memory is to be mapped.
    #[must_use]
    pub fn ram_options(&self) -> memory::RamOptions {
        memory::RamOptions {
            shared: self.shared,
            hugepages: self.hugepages.then(|| memory::HugePages {
                size: self.hugepage_size.map(|size| size.0),
            }),
            prefault: self.prefault,
            thp: self.thp,
            mergeable: self.mergeable,
            reserve: self.reserve,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> MemoryConfig {
        keyvalue::from_str(text).unwrap()
    }

    #[test]
    fn reads_every_key() {
        let config = read(
            "size=3G,shared=on,hugepages=on,hugepage_size=2M,prefault=on,thp=off,mergeable=off,\
             reserve=on,hotplug_method=virtio-mem",
        );
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.size, ByteSize(3 << 30));
        assert_eq!(config.hugepage_size, Some(ByteSize(2 << 20)));
        assert_eq!(config.hotplug_method, HotplugMethod::VirtioMem);
        let options = config.ram_options();
        assert!(options.shared && options.prefault && options.reserve && !options.thp);
        assert_eq!(options.hugepages.unwrap().size, Some(2 << 20));
    }

    #[test]
    fn default_is_512_mib() {
        assert_eq!(read(""), MemoryConfig::default());
        let json = serde_json::to_value(MemoryConfig::default()).unwrap();
        assert_eq!(json["size"], 536_870_912);
        assert_eq!(json["thp"], true);
        assert_eq!(json["hotplug_method"], "Acpi");
    }

    #[test]
    fn each_impossible_value_is_named() {
        for (text, part) in [
            ("size=0", "needs memory"),
            ("shared=on,mergeable=on", "switch one off"),
            ("hugepage_size=2M", "without hugepages=on"),
            ("hugepages=on,hugepage_size=3M", "power of two"),
            ("hotplug_size=1G", "hot-plug"),
        ] {
            let message = read(text).check().unwrap_err().to_string();
            assert!(
                message.starts_with("--memory: ") && message.contains(part),
                "{message}"
            );
        }
    }
}
