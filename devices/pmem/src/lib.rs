//! Persistent memory (VIRTIO 1.3, 5.19): a file of the host in the guest's physical address space.
//!
//! The file is mapped into the monitor and from there into the guest, as RAM is: the guest reads and writes it
//! without anybody taking part, and the host's page cache is the only copy of a page. Linux calls it `/dev/pmem0`.
//! What the guest writes is in the file, but not yet on the host's disk; for that it sends a *flush* through the
//! device's only queue.
//!
//! ```text
//!  guest's loads and stores ──▶ memory slot ──▶ Mapping of the file
//!  guest's flush ── queue ──▶ Flusher (thread) ── fdatasync ──▶ disk
//! ```
//!
//! The memory is in the 64-bit device area, in the segment's own window: a [`Place`] that neither the guest can move
//! nor a BAR take. Firmware tables do not mention it; the driver reads where it is from the configuration fields.
//!
//! The memory is not RAM. Other devices of the machine refuse buffers in it.
//!
//! # Files that become shorter
//!
//! If somebody cuts the file off while the machine runs, or a disk is full when the guest fills a hole of the file,
//! the processor that touches the missing page does not get any further: the host's kernel lets it try again for
//! ever (Linux 6.1 does), or the machine ends with a message. Nothing in the monitor itself touches the mapping, so
//! that it does not get `SIGBUS`, and can be paused and ended.
#![forbid(unsafe_code)]

mod flush;
mod medium;
mod place;
mod pmem;
mod state;

use std::path::PathBuf;
use std::sync::Arc;

use device::{
    Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Syscalls,
};
use hypervisor::{HostMemory, MemoryRegion};
use keyvalue::ByteSize;
use sandbox::Allow;
use sandbox::landlock::Access;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::{Environment, OverPci, PciOptions};

pub use flush::Flush;
pub use medium::Medium;
pub use place::{Map, Place};
pub use pmem::Pmem;

#[cfg(test)]
mod tests;

/// The flag, for messages.
const OPTION: &str = "--pmem";
/// What the size is a multiple of: large pages serve all of it, and Linux's driver maps it in sections of that size.
const ALIGN: u64 = 2 << 20;

/// Persistent memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PmemConfig {
    /// File or block device with the contents. For a folder, an unnamed file in it that is gone with the machine.
    pub file: PathBuf,
    /// How much of it the guest sees, in whole multiples of 2 MiB: all of it if not given. A folder needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// What the guest writes is gone with the machine, and the file stays as it is.
    #[serde(default)]
    pub discard_writes: bool,
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

/// The kind.
#[derive(Debug)]
pub struct PersistentMemory;

impl Kind for PersistentMemory {
    const NAMES: Names = Names {
        kind: "pmem",
        option: Some(OptionNames {
            flag: "pmem",
            field: "pmem",
            form: Form::Many,
        }),
        id: "_pmem",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const HOT_PLUG: bool = true;
    const EXAMPLES: &'static [&'static str] = &[
        "file=/vm/pmem.raw",
        "file=/vm/root.raw,size=8M,discard_writes=on",
        "file=/vm/,size=64M",
    ];
    const SYSCALLS: Syscalls = Syscalls {
        owner: &[
            Allow::call(libc::SYS_openat),
            Allow::call(libc::SYS_statx),
            // A block device's size; that of an unnamed file.
            Allow::call(libc::SYS_lseek),
            Allow::call(libc::SYS_ftruncate),
            // The kernel's page map, for a snapshot.
            Allow::call(libc::SYS_pread64),
        ],
        vcpu: &[],
        worker: &[Allow::call(libc::SYS_fdatasync)],
    };
    type Config = PmemConfig;
    type Device = OverPci<Pmem>;

    fn check(config: &PmemConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        config.pci.check(OPTION)?;
        match config.size {
            Some(ByteSize(size)) if size == 0 || !size.is_multiple_of(ALIGN) => {
                let size = ByteSize(size);
                Err(Problem::new(
                    OPTION,
                    format!(
                        "size={size}: persistent memory has whole multiples of 2M, and at least one"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    fn paths(config: &PmemConfig) -> Vec<(PathBuf, Access)> {
        // The unnamed file is written to, whatever becomes of the writes of the guest.
        let access = if config.discard_writes && !config.file.is_dir() {
            Access::Read
        } else {
            Access::ReadWrite
        };
        vec![(config.file.clone(), access)]
    }

    /// Also of a file that is only read: what the guest wrote and discards later is nowhere else.
    fn exclusive(config: &PmemConfig) -> Vec<String> {
        vec![config.file.display().to_string()]
    }

    fn build(config: PmemConfig, host: &mut Host<'_>) -> Result<OverPci<Pmem>> {
        let environment = Environment::of(host, &config.pci)?;
        let medium = match host.inherit::<Medium>() {
            Some(kept) if kept.is_of(&config) => kept,
            _ => Medium::open(&config)?,
        };
        let (vm, memory) = (Arc::clone(host.vm()), Arc::clone(medium.mapping()));
        let map = move |guest_address| -> Result<Box<dyn Send>> {
            let slot = vm.map_memory(MemoryRegion {
                guest_address,
                host: Arc::clone(&memory) as Arc<dyn HostMemory>,
                read_only: false,
                log_dirty: false,
            })?;
            Ok(Box::new(slot))
        };
        let window = environment.segment.memory64();
        let place = Place::new(window, medium.size(), Box::new(map)).map_err(|source| {
            let file = config.file.display();
            Error::Backend {
                what: format!(
                    "{OPTION} file={file}: cannot put {} into the guest's address space; a smaller size, \
                     another pci_segment or more --cpus max_phys_bits help if it is full",
                    ByteSize(medium.size())
                ),
                source: source.into(),
            }
        })?;
        let device = Pmem::new(place, medium, host.id(), environment.rules.clone());
        Ok(OverPci::new(Self::NAMES.kind, device, environment)?)
    }
}
