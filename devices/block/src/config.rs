//! What a user says about a disk.

use std::path::PathBuf;

use device::{Facts, Problem};
use disk::{ImageType, LockGranularity, OpenOptions};
use limiter::RateLimiterConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::PciOptions;

use crate::request::ID_LEN;

pub(crate) const OPTION: &str = "--disk";
/// Descriptors of a queue (VIRTIO 1.3, 2.7), and the least that a request needs: header, data and status.
const MOST_DESCRIPTORS: u16 = 32768;
const LEAST_DESCRIPTORS: u16 = 4;
/// One interrupt vector per queue and one for the configuration.
const MOST_QUEUES: usize = 1024;

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Image file or block device of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The guest can only read it. The image is opened for reading only, and several machines can share it.
    #[serde(default)]
    pub readonly: bool,
    /// Go around the host's page cache (`O_DIRECT`).
    #[serde(default)]
    pub direct: bool,
    /// Number of queues, each with a thread of its own; at most one per processor.
    #[serde(default = "default_queues")]
    pub num_queues: usize,
    /// Descriptors of each queue: a power of two from 4 to 32768.
    #[serde(default = "default_queue_size")]
    pub queue_size: u16,
    /// The disk is served by another process.
    #[serde(default)]
    pub vhost_user: bool,
    /// Unix socket of the process that serves the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag" = "socket"))]
    pub vhost_socket: Option<PathBuf>,
    /// Limits of this disk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// Name of the rate limit group whose limits the disk shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_group: Option<String>,
    /// Host CPUs that the threads of queues run on, by queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag-syntax" = "pairs"))]
    pub queue_affinity: Option<Vec<VirtQueueAffinity>>,
    /// Serial number that the guest reads, at most 20 bytes. Made of the image's numbers in the host if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Open the files that a QCOW2 image names as its base.
    #[serde(default)]
    pub backing_files: bool,
    /// Space that the guest discards or fills with zeros is given back to the host.
    #[serde(default = "yes")]
    pub sparse: bool,
    /// Format of the image. Without it a file that looks like no other format is taken for raw, and the guest cannot
    /// write its first sector.
    #[serde(default)]
    pub image_type: ImageType,
    /// How much of the file is locked against other processes: the bytes of the disk, or all.
    #[serde(default)]
    pub lock_granularity: LockGranularity,
    /// For tests: do not use io_uring.
    #[serde(default)]
    #[schemars(extend("x-flag" = "_disable_io_uring", "x-flag-hidden" = true))]
    pub disable_io_uring: bool,
    /// For tests: do not use Linux AIO.
    #[serde(default)]
    #[schemars(extend("x-flag" = "_disable_aio", "x-flag-hidden" = true))]
    pub disable_aio: bool,
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

/// Where the thread of a queue runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VirtQueueAffinity {
    /// Index of the queue.
    pub queue_index: u16,
    /// Host CPUs.
    pub host_cpus: Vec<usize>,
}

fn default_queues() -> usize {
    1
}

fn default_queue_size() -> u16 {
    128
}

fn yes() -> bool {
    true
}

impl DiskConfig {
    /// Checks what can be known without opening anything.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    pub(crate) fn check(&self, facts: &Facts) -> Result<(), Problem> {
        self.check_backend()?;
        self.check_queues(facts)?;
        self.check_limits()?;
        if let Some(serial) = self.serial.as_ref().filter(|text| text.len() > ID_LEN) {
            return refuse(format!(
                "serial={serial} has {} bytes, at most {ID_LEN} are possible",
                serial.len()
            ));
        }
        self.pci.check(OPTION)
    }

    fn check_backend(&self) -> Result<(), Problem> {
        match (&self.path, &self.vhost_socket) {
            (Some(_), Some(_)) => refuse("path and socket exclude each other"),
            _ if self.vhost_user || self.vhost_socket.is_some() => refuse(
                "vhost_user=on is not in this version: disks are served by the monitor, with path",
            ),
            (None, _) => refuse("path is missing: which file or block device is it?"),
            (Some(_), None) => Ok(()),
        }
    }

    fn check_queues(&self, facts: &Facts) -> Result<(), Problem> {
        let vcpus = usize::try_from(facts.boot_vcpus).unwrap_or(usize::MAX);
        // A machine that is not known yet has no processors.
        let most = vcpus.clamp(1, MOST_QUEUES);
        if self.num_queues == 0 || self.num_queues > most {
            return refuse(format!(
                "num_queues={} is not possible: 1 to {most} are, no more than the machine has processors at boot \
                 (--cpus boot)",
                self.num_queues
            ));
        }
        let sizes = LEAST_DESCRIPTORS..=MOST_DESCRIPTORS;
        if !self.queue_size.is_power_of_two() || !sizes.contains(&self.queue_size) {
            return refuse(format!(
                "queue_size={} is not possible: it is a power of two from {LEAST_DESCRIPTORS} to {MOST_DESCRIPTORS}",
                self.queue_size
            ));
        }
        let mut seen = Vec::new();
        for VirtQueueAffinity {
            queue_index,
            host_cpus,
        } in self.queue_affinity.iter().flatten()
        {
            if usize::from(*queue_index) >= self.num_queues {
                return refuse(format!(
                    "queue_affinity names queue {queue_index}, there are {} (num_queues), from 0",
                    self.num_queues
                ));
            }
            if host_cpus.is_empty() {
                return refuse(format!(
                    "queue_affinity gives queue {queue_index} no host CPU"
                ));
            }
            if seen.contains(queue_index) {
                return refuse(format!("queue_affinity names queue {queue_index} twice"));
            }
            seen.push(*queue_index);
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Problem> {
        let own = self.rate_limiter_config.as_ref();
        match &self.rate_limit_group {
            Some(group) if own.is_some_and(RateLimiterConfig::is_limit) => refuse(format!(
                "rate_limit_group={group} and limits of the disk's own (bw_size, ops_size) exclude each other"
            )),
            _ => Ok(()),
        }
    }

    /// How the image is opened; `None` if there is no path.
    pub(crate) fn open_options(&self) -> Option<OpenOptions> {
        Some(OpenOptions {
            read_only: self.readonly,
            direct: self.direct,
            sparse: self.sparse,
            image_type: self.image_type,
            lock_granularity: self.lock_granularity,
            backing_files: self.backing_files,
            disable_io_uring: self.disable_io_uring,
            disable_aio: self.disable_aio,
            ..OpenOptions::new(self.path.as_ref()?)
        })
    }

    /// Host CPUs of a queue; empty for any.
    pub(crate) fn cpus(&self, queue: usize) -> &[usize] {
        let mut affinity = self.queue_affinity.iter().flatten();
        let own = affinity.find(|affinity| usize::from(affinity.queue_index) == queue);
        own.map_or(&[], |affinity| &affinity.host_cpus)
    }
}

fn refuse(text: impl Into<String>) -> Result<(), Problem> {
    Err(Problem::new(OPTION, text))
}
