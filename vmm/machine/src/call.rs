//! What can be asked of the driver, and what it answers.

use std::collections::BTreeMap;
use std::fmt;

use config::VmConfig;
use device::{Descriptors, Histogram};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Fork, Forked, MemorySource, Received, Restore, Result};

/// A request to the thread that owns the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Say what the machine is to be.
    Create(Box<VmConfig>),
    /// Shut the machine down if it runs, and forget it.
    Delete,
    /// Build the machine and let it run.
    Boot,
    /// Take the machine apart and keep its configuration.
    Shutdown,
    /// Take the machine apart, build it anew and let it run.
    Reboot,
    /// Stop its processors and devices where they are.
    Pause,
    /// Let it run on.
    Resume,
    /// Save all of the paused machine to files.
    Snapshot(Snapshot),
    /// Write the guest's memory and its processors' registers to a file, for debuggers. A machine that runs stands still
    /// meanwhile.
    CoreDump(CoreDump),
    /// Make a machine from files; it is paused then.
    Restore(Box<Restore>),
    /// Make further machines of it in other monitors, while it goes on.
    Fork(Box<Fork>),
    /// Take a machine over that another monitor has made of its own.
    ReceiveFork(Received),
    /// Press the guest's power button.
    PowerButton,
    /// Inject a non-maskable interrupt into each processor.
    Nmi,
    /// Change how many processors or how much memory it has.
    Resize(Resize),
    /// Change the size of a disk: its id, and bytes.
    ResizeDisk(ResizeDisk),
    /// Give the machine one device more: the member of its configuration, and the device's configuration. While it
    /// is built the device is there at once, and the guest is told.
    AddDevice {
        /// Member of the machine's configuration: `disks`.
        member: &'static str,
        /// Configuration of the device.
        config: Value,
        /// Open descriptors for it, if it can be given any ([`device::Kind::DESCRIPTORS`]).
        descriptors: Descriptors,
    },
    /// Take a device away. While the machine is built the guest is asked to let go of it, and it is gone when the
    /// guest has; whether and when that is, is up to the guest.
    RemoveDevice(RemoveDevice),
    /// Tell everything about it: [`Answer::Info`].
    Info,
    /// Tell what its devices have counted: [`Answer::Counters`].
    Counters,
    /// Tell all that can be measured, whether there is a machine or not: [`Answer::Measures`].
    Measure,
    /// End the machine and the monitor.
    StopMonitor,
}

/// New sizes of a machine; what is not there stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Number of processors.
    #[serde(default)]
    pub desired_vcpus: Option<u32>,
    /// Bytes of memory.
    #[serde(default)]
    pub desired_ram: Option<u64>,
    /// Bytes that the balloon takes away from the guest.
    #[serde(default)]
    pub desired_balloon: Option<u64>,
}

/// A new size of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeDisk {
    /// Id of the disk.
    pub id: String,
    /// Bytes.
    pub desired_size: u64,
}

/// A device to take away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveDevice {
    /// Id of the device.
    pub id: String,
}

/// Where a machine is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// A folder that exists: `file:///<folder>`. Nothing in it is replaced.
    #[schemars(extend("format" = "url"))]
    pub destination_url: String,
    /// The snapshot that the VM was restored from with its memory mapped: only pages that were changed since are
    /// written, and the base stays necessary (ours; the reference has none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "url"))]
    pub base_url: Option<String>,
}

/// Where a core dump is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CoreDump {
    /// A file that does not exist yet: `file:///<file>`.
    #[schemars(extend("format" = "url"))]
    pub destination_url: String,
}

/// What the driver answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is done.
    Done,
    /// To [`Call::AddDevice`] of a machine that is built.
    Added(PciDevice),
    /// To [`Call::Fork`].
    Forked(Forked),
    /// To [`Call::Info`].
    Info(Box<Info>),
    /// To [`Call::Counters`].
    Counters(Counters),
    /// To [`Call::Measure`].
    Measures(Box<Measures>),
}

/// A device that has come to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PciDevice {
    /// Its id.
    pub id: String,
    /// Its PCI address: segment, bus, device and function, as `0000:00:03.0`.
    pub bdf: String,
}

/// Name and value of what devices have counted, by the device's id.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// All that can be measured of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// As in [`Info::state`]; `None` if there is no machine.
    pub state: Option<&'static str>,
    /// Bytes of memory that the guest has at the moment; `None` if there is no machine.
    pub memory: Option<u64>,
    /// What its devices have counted; empty while it is not built.
    pub counters: Counters,
    /// How long requests took, by the device's id; empty while it is not built.
    pub histograms: Vec<(String, Vec<Histogram>)>,
}

/// Everything about a machine.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Info {
    /// Its configuration, with what was decided for the user: ids, paths of terminals, addresses.
    pub config: VmConfig,
    /// `Created`, `Running` or `Paused`; `BreakPoint` if it runs and a debugger has stopped it.
    pub state: &'static str,
    /// Bytes of memory that the guest has at the moment.
    pub memory_actual_size: u64,
    /// For a machine that was restored or forked: where its memory comes from (ours; the reference has none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_restore_mode: Option<MemorySource>,
    /// For a machine that was restored on demand: bytes of the snapshot's memory that are still to come (ours; the
    /// reference has none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_missing: Option<u64>,
    /// Its devices by their ids; absent while it is not booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<BTreeMap<String, Node>>,
}

/// A device in [`Info::device_tree`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// What it occupies, such as the ranges of its BARs.
    pub resources: Vec<Value>,
    /// Id of the node that it is behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Ids of the nodes behind it.
    pub children: Vec<String>,
    /// Its PCI address, as `0000:00:03.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_bdf: Option<String>,
    /// What turned out about it and cannot be configured, such as the engine of a disk (ours; the reference has none).
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schemars(default)]
    pub details: Map<String, Value>,
}

/// Where the answer to a call goes. Every call is answered: if the driver ends before it comes to a call, the
/// answer is [`Error::Ending`].
pub struct Reply(Option<Box<dyn FnOnce(Result<Answer>) + Send>>);

impl Reply {
    /// `deliver` is called once, on the driver's thread or on that of whoever calls a driver that has ended; it must
    /// not block.
    pub fn new(deliver: impl FnOnce(Result<Answer>) + Send + 'static) -> Self {
        Self(Some(Box::new(deliver)))
    }

    /// Answers.
    pub fn send(mut self, answer: Result<Answer>) {
        if let Some(deliver) = self.0.take() {
            deliver(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(deliver) = self.0.take() {
            deliver(Err(Error::Ending));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_reply_answers_once() {
        let (sender, answers) = channel();
        Reply::new(move |answer| sender.send(answer).unwrap()).send(Ok(Answer::Done));
        assert_eq!(answers.recv().unwrap().unwrap(), Answer::Done);
        assert!(answers.recv().is_err());
    }

    #[test]
    fn a_reply_that_is_dropped_says_that_the_monitor_ends() {
        let (sender, answers) = channel();
        drop(Reply::new(move |answer| sender.send(answer).unwrap()));
        assert!(matches!(answers.recv().unwrap(), Err(Error::Ending)));
    }
}
