//! Entropy source (VIRTIO 1.3, 5.4): gives the guest random bytes from a file of the host.
//!
//! The driver makes buffers available, the device fills them. There is nothing to configure and nothing to save:
//! this is the smallest virtio device there is, and the one to copy when writing another.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use device::{
    Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Saved, Syscalls,
};
use sandbox::landlock::Access;
use sandbox::{Allow, Filter, HostFile, ReadOnly};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::{
    Chain, Class, Environment, Identity, OverPci, PciOptions, QueueTask, Ring, Service,
    VirtioDevice,
};

#[cfg(test)]
mod tests;

/// Device type (VIRTIO 1.3, chapter 5).
const ENTROPY_SOURCE: u16 = 4;
const QUEUE_SIZE: u16 = 256;
/// Where random bytes come from unless the user says otherwise.
const DEFAULT_SOURCE: &str = "/dev/urandom";
/// The most bytes per request. A device may give fewer than there is room for (VIRTIO 1.3, 5.4.6.1), and a request
/// of 4 GiB should not keep the machine from being paused.
const MOST: u64 = 64 << 10;

/// The entropy source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RngConfig {
    /// File of the host that random bytes are read from.
    #[schemars(with = "PathBuf", extend("x-flag-default" = DEFAULT_SOURCE))]
    pub src: HostFile<ReadOnly>,
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

/// The kind.
#[derive(Debug)]
pub struct Rng;

impl Kind for Rng {
    const NAMES: Names = Names {
        kind: "rng",
        option: Some(OptionNames {
            flag: "rng",
            field: "rng",
            form: Form::One,
        }),
        id: "__rng",
    };
    const PRESENCE: Presence = Presence::ByDefault;
    const EXAMPLES: &'static [&'static str] = &[
        "src=/dev/random",
        "src=/dev/urandom,id=dice,pci_device_id=5",
    ];
    const SYSCALLS: Syscalls = Syscalls {
        owner: &[Allow::call(libc::SYS_openat), Allow::call(libc::SYS_statx)],
        vcpu: &[],
        worker: &[],
    };
    type Config = RngConfig;
    type Device = OverPci<Entropy>;

    fn by_default() -> Option<RngConfig> {
        Some(RngConfig {
            src: DEFAULT_SOURCE.into(),
            pci: PciOptions::default(),
        })
    }

    fn check(config: &RngConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        config.pci.check("--rng")
    }

    fn paths(config: &RngConfig) -> Vec<(PathBuf, Access)> {
        vec![(config.src.path().to_owned(), Access::Read)]
    }

    fn build(config: RngConfig, host: &mut Host<'_>) -> Result<OverPci<Entropy>> {
        let environment = Environment::of(host, &config.pci)?;
        let source = open(&config.src)?;
        let device = Entropy::new(source, host.id(), environment.rules.clone());
        Ok(OverPci::new(Self::NAMES.kind, device, environment)?)
    }
}

/// Opens the source, which must be one from which reading does not wait for somebody to write.
fn open(source: &HostFile<ReadOnly>) -> Result<File> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Backend {
        what: "--rng src".into(),
        source,
    };
    let file = source.open().map_err(|error| failed(error.into()))?;
    let kind = file
        .metadata()
        .map_err(|error| failed(error.into()))?
        .file_type();
    if kind.is_char_device() || kind.is_file() {
        return Ok(file);
    }
    let text = format!(
        "{} is neither a character device, such as {DEFAULT_SOURCE}, nor a file",
        source.path().display()
    );
    Err(failed(text.into()))
}

/// The device.
#[derive(Debug)]
pub struct Entropy {
    queue: QueueTask<Source>,
}

impl Entropy {
    /// A device that reads `source`, on a thread of this name and these rules.
    #[must_use]
    pub fn new(source: File, thread: &str, rules: Filter) -> Self {
        Self {
            queue: QueueTask::new(thread.to_owned(), rules, Source(source)),
        }
    }
}

impl VirtioDevice for Entropy {
    fn identity(&self) -> Identity {
        Identity {
            device_type: ENTROPY_SOURCE,
            class: Class::OTHER,
            features: 0,
            queue_sizes: vec![QUEUE_SIZE],
            config_len: 0,
        }
    }

    fn start(&mut self, _index: u16, ring: Ring) -> Result<()> {
        self.queue.start(ring)
    }

    fn stop(&mut self, _index: u16) -> Option<Ring> {
        self.queue.stop()
    }

    fn save(&self) -> Result<Saved> {
        Saved::new(Rng::NAMES.kind, 1, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        saved.read(Rng::NAMES.kind, 1)
    }
}

/// Fills buffers from the file.
#[derive(Debug)]
struct Source(File);

impl Service for Source {
    fn serve(&mut self, chain: &mut Chain) -> u32 {
        // No more than fits: random bytes can be dear.
        let most = u64::from(chain.writable_len()).min(MOST);
        let mut random = (&mut self.0).take(most);
        let mut writer = chain.writer();
        let mut buffer = [0; 4096];
        let mut fill = || -> std::io::Result<()> {
            loop {
                let count = random.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                writer.write_all(&buffer[..count])?;
            }
        };
        if let Err(error) = fill() {
            telemetry::warn!("rng: cannot read random bytes: {error}");
        }
        writer.written()
    }
}
