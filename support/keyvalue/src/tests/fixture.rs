//! Types like those of a VMM's configuration. Between them they use every attribute.

use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ByteSize;

fn yes() -> bool {
    true
}

fn max_phys_bits() -> u8 {
    46
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Cpus {
    /// Number of vCPUs at boot. More can be added later.
    #[schemars(extend("x-flag" = "boot", "x-flag-default" = 1))]
    pub(super) boot_vcpus: u32,
    /// Largest number of vCPUs, e.g. after
    /// all of them are added.
    #[schemars(extend("x-flag" = "max", "x-flag-default" = "=boot"))]
    pub(super) max_vcpus: u32,
    /// Threads, cores, dies and packages.
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "colon"))]
    pub(super) topology: Option<Topology>,
    #[serde(default)]
    pub(super) kvm_hyperv: bool,
    /// Width of physical addresses.
    #[serde(default = "max_phys_bits")]
    pub(super) max_phys_bits: u8,
    /// Host CPUs of each vCPU.
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "pairs"))]
    pub(super) affinity: Option<Vec<Affinity>>,
    /// Optional CPU features.
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "true-set"))]
    pub(super) features: Features,
    /// Virtualisation in the guest.
    #[serde(default = "yes")]
    pub(super) nested: bool,
    /// Which vCPUs may share a core.
    #[serde(default)]
    pub(super) core_scheduling: CoreScheduling,
    #[serde(default)]
    #[schemars(extend("x-flag-hidden" = true))]
    pub(super) profile: Profile,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Topology {
    pub(super) threads_per_core: u16,
    pub(super) cores_per_die: u16,
    pub(super) dies_per_package: u16,
    pub(super) packages: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Affinity {
    pub(super) vcpu: u32,
    pub(super) host_cpus: Vec<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Features {
    pub(super) amx: bool,
    #[schemars(extend("x-flag" = "avx-ten"))]
    pub(super) avx10: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) enum CoreScheduling {
    /// Those of one VM.
    #[default]
    Vm,
    /// None.
    Vcpu,
    Off,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-flag-case" = true, "x-flag-values" = {"Host": "Host"}))]
pub(super) enum Profile {
    /// That of the host.
    #[default]
    Host,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Memory {
    #[schemars(extend("x-flag-default" = 536_870_912))]
    pub(super) size: ByteSize,
    #[serde(default)]
    pub(super) shared: bool,
    #[serde(default)]
    #[schemars(extend("x-flag-values" = {"virtio-mem": "VirtioMem"}))]
    pub(super) hotplug_method: HotplugMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hotplug_size: Option<ByteSize>,
    /// A size that is a plain number in Rust.
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "size"), range(max = 1_073_741_824))]
    pub(super) hugepage_size: Option<u64>,
    #[serde(default)]
    #[schemars(extend("x-flag-skip" = true))]
    pub(super) zones: Option<Vec<Zone>>,
    /// Has no text, and no attribute that says so.
    #[serde(default)]
    pub(super) extra: Option<Zone>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) enum HotplugMethod {
    #[default]
    Acpi,
    VirtioMem,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Zone {
    pub(super) id: String,
    #[serde(default)]
    pub(super) host_numa_node: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Console {
    /// File to write to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub(super) file: Option<PathBuf>,
    #[schemars(extend("x-flag-syntax" = "modes"))]
    pub(super) mode: Mode,
    /// Socket to listen on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub(super) socket: Option<PathBuf>,
    #[serde(flatten)]
    pub(super) common: Common,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Common {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    /// PCI segment.
    #[serde(default)]
    pub(super) pci_segment: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) enum Mode {
    /// No device.
    Off,
    /// A new pseudo-terminal.
    Pty,
    /// The terminal of the VMM.
    Tty,
    File,
    Socket,
    /// A device whose output is lost.
    Null,
}

fn iobase() -> Option<u16> {
    Some(0xe9)
}

/// Has no `socket`, so not that mode either.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct DebugConsole {
    #[serde(default)]
    pub(super) file: Option<PathBuf>,
    #[schemars(extend("x-flag-syntax" = "modes"))]
    pub(super) mode: Mode,
    #[serde(default = "iobase")]
    #[schemars(extend("x-flag-syntax" = "hex"))]
    pub(super) iobase: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Disk {
    #[serde(default)]
    pub(super) path: Option<PathBuf>,
    #[serde(default)]
    pub(super) readonly: bool,
    #[serde(default)]
    pub(super) image_type: ImageType,
    #[serde(default)]
    pub(super) lock_granularity: Lock,
    #[serde(default)]
    #[schemars(extend("x-flag" = "_disable_aio", "x-flag-hidden" = true))]
    pub(super) disable_aio: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-flag-values" = {"vhd": "FixedVhd", "fixed-vhd": "FixedVhd", "unknown": null}))]
pub(super) enum ImageType {
    Raw,
    Qcow2,
    FixedVhd,
    #[default]
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-flag-case" = true, "x-flag-values" = {"byte-range": "ByteRange"}))]
pub(super) enum Lock {
    #[default]
    ByteRange,
    Full,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Net {
    pub(super) tap: Option<String>,
    pub(super) ip: Option<IpAddr>,
    pub(super) mac: Option<Mac>,
    #[schemars(range(min = 1280))]
    pub(super) mtu: Option<u16>,
    #[schemars(extend("x-flag" = "fd"))]
    pub(super) fds: Option<Vec<i32>>,
    pub(super) offset: i64,
    pub(super) scale: f64,
}

/// Checks itself, as types with an own text form do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub(super) struct Mac(pub(super) [u8; 6]);

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let groups = text.split(':').map(|group| match group.len() {
            2 => u8::from_str_radix(group, 16).ok(),
            _ => None,
        });
        let groups = groups
            .collect::<Option<Vec<_>>>()
            .and_then(|groups| groups.try_into().ok());
        groups
            .map(Self)
            .ok_or_else(|| "a MAC address has six groups of two hex digits".into())
    }
}

impl From<Mac> for String {
    fn from(Mac(groups): Mac) -> Self {
        groups.map(|group| format!("{group:02x}")).join(":")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Platform {
    #[schemars(extend("x-flag-default" = 64))]
    pub(super) width: u8,
    pub(super) iommu_segments: Option<Vec<u16>>,
    #[serde(alias = "uuid", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag-alias" = ["uuid", "guid"], "x-json-alias" = ["uuid"]))]
    pub(super) system_uuid: Option<String>,
    pub(super) oem_strings: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Restore {
    pub(super) source_url: String,
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "pairs"))]
    pub(super) net_fds: Option<Vec<NetFds>>,
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "pairs"))]
    pub(super) zone_updates: Vec<ZoneUpdate>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct NetFds {
    pub(super) id: String,
    #[serde(default)]
    #[schemars(extend("x-flag-skip" = true))]
    pub(super) num_fds: usize,
    #[serde(default)]
    pub(super) fds: Option<Vec<i32>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct ZoneUpdate {
    pub(super) zone: String,
    pub(super) host_node: String,
}

/// What an option without keys is read into.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) enum Seccomp {
    True,
    False,
    Log,
    Errno,
}

/// Has a default in flags and none in JSON, and two members that have to agree. schemars describes
/// the type that it is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "AnyWindow")]
pub(super) struct Window {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<u8>,
    pub(super) last: u8,
}

#[derive(Deserialize, JsonSchema)]
struct AnyWindow {
    #[serde(default)]
    #[schemars(extend("x-flag-default" = 7))]
    first: Option<u8>,
    last: u8,
}

impl TryFrom<AnyWindow> for Window {
    type Error = &'static str;

    fn try_from(AnyWindow { first, last }: AnyWindow) -> Result<Self, &'static str> {
        match first.is_none_or(|first| first <= last) {
            true => Ok(Self { first, last }),
            false => Err("the window ends before it starts"),
        }
    }
}
