//! The table of endpoints.

use machine::{
    Call, CoreDump, Fork, ReceiveFork, RemoveDevice, Resize, ResizeDisk, Restore, Snapshot,
};
use schemars::{JsonSchema, Schema, schema_for};

use crate::body::{self, Bad};

/// What the paths of all endpoints begin with.
pub const PREFIX: &str = "/api/v1/";

/// How an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Only look.
    Get,
    /// Change something.
    Put,
}

/// One thing that can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Its path after [`PREFIX`]: `vm.info`.
    pub name: &'static str,
    /// How it is asked.
    pub method: Method,
    /// What it does, for documentation.
    pub about: &'static str,
    pub(crate) takes: Takes,
}

/// What an endpoint does with a request's body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Takes {
    /// A body is refused.
    Nothing(fn() -> Call),
    /// A body is not looked at.
    Anything(fn() -> Call),
    /// A whole machine.
    Machine,
    /// There must be a body, of this form.
    Json(Read, fn() -> Schema),
    /// A machine of another monitor's: its parts come as descriptors.
    Fork,
    /// A device, in the form of this member of a machine's configuration.
    Device(&'static str),
    /// It is answered without the driver.
    Ping,
    /// As [`Takes::Ping`], with the description of the API.
    Document,
    /// It is answered for as long as the client listens.
    Events,
    /// It is answered from several answers of the driver.
    Metrics,
    /// It is not built yet.
    Later,
}

/// Reads a body.
pub(crate) type Read = fn(&[u8]) -> Result<Call, Bad>;

impl Endpoint {
    /// What the endpoint takes is not built yet: it answers 501.
    #[must_use]
    pub fn is_later(&self) -> bool {
        match self.takes {
            Takes::Later => true,
            Takes::Device(member) => body::kind(member).is_none(),
            _ => false,
        }
    }
}

const fn get(name: &'static str, about: &'static str, takes: Takes) -> Endpoint {
    Endpoint {
        name,
        method: Method::Get,
        about,
        takes,
    }
}

const fn put(name: &'static str, about: &'static str, takes: Takes) -> Endpoint {
    Endpoint {
        name,
        method: Method::Put,
        about,
        takes,
    }
}

/// The body of `vm.receive-fork`.
pub(crate) fn receive_fork() -> Schema {
    schema::<ReceiveFork>()
}

fn schema<T: JsonSchema>() -> Schema {
    schema_for!(T)
}

use Takes::{Anything, Device, Document, Events, Json, Later, Machine, Metrics, Nothing, Ping};

/// All endpoints.
pub const ENDPOINTS: &[Endpoint] = &[
    get(
        "vmm.ping",
        "Version, process and features of the monitor",
        Ping,
    ),
    put(
        "vmm.shutdown",
        "End the VM and the monitor",
        Anything(|| Call::StopMonitor),
    ),
    get(
        "openapi.json",
        "This description of the API (ours; the reference has none)",
        Document,
    ),
    get(
        "events",
        "What happens, as it happens: one JSON object in each line, for as long as the client listens (ours; the \
         reference has none)",
        Events,
    ),
    get(
        "metrics",
        "What the VM's devices have counted, as text for Prometheus (ours; the reference has none)",
        Metrics,
    ),
    get(
        "vm.info",
        "Configuration, state and devices of the VM",
        Nothing(|| Call::Info),
    ),
    get(
        "vm.counters",
        "What the VM's devices have counted",
        Nothing(|| Call::Counters),
    ),
    put("vm.create", "Say what the VM is to be", Machine),
    put(
        "vm.delete",
        "Shut the VM down if it runs, and forget it",
        Nothing(|| Call::Delete),
    ),
    put("vm.boot", "Start the VM", Nothing(|| Call::Boot)),
    put(
        "vm.pause",
        "Stop processors and devices where they are",
        Nothing(|| Call::Pause),
    ),
    put(
        "vm.resume",
        "Let a paused VM go on",
        Nothing(|| Call::Resume),
    ),
    put(
        "vm.shutdown",
        "End the VM and keep its configuration",
        Nothing(|| Call::Shutdown),
    ),
    put("vm.reboot", "Reset the VM", Nothing(|| Call::Reboot)),
    put(
        "vm.power-button",
        "Press the guest's power button",
        Nothing(|| Call::PowerButton),
    ),
    put(
        "vm.nmi",
        "Inject a non-maskable interrupt into each processor",
        Nothing(|| Call::Nmi),
    ),
    put(
        "vm.resize",
        "Change the number of processors, the memory or the balloon",
        Json(|body| Ok(Call::Resize(body::read(body)?)), schema::<Resize>),
    ),
    put(
        "vm.resize-disk",
        "Change the size of a disk",
        Json(
            |body| Ok(Call::ResizeDisk(body::read(body)?)),
            schema::<ResizeDisk>,
        ),
    ),
    put("vm.resize-zone", "Change the size of a memory zone", Later),
    put("vm.add-device", "Add a host device", Device("devices")),
    put("vm.add-disk", "Add a disk", Device("disks")),
    put("vm.add-fs", "Add a shared file system", Device("fs")),
    put(
        "vm.add-generic-vhost-user",
        "Add a device whose other half is another process",
        Device("generic_vhost_user"),
    ),
    put("vm.add-pmem", "Add persistent memory", Device("pmem")),
    put("vm.add-net", "Add a network device", Device("net")),
    put("vm.add-vdpa", "Add a vDPA device", Device("vdpa")),
    put(
        "vm.add-vsock",
        "Add sockets between guest and host",
        Device("vsock"),
    ),
    put(
        "vm.add-user-device",
        "Add a device that another process emulates",
        Device("user_devices"),
    ),
    put(
        "vm.remove-device",
        "Take a device away",
        Json(
            |body| Ok(Call::RemoveDevice(body::read(body)?)),
            schema::<RemoveDevice>,
        ),
    ),
    put(
        "vm.snapshot",
        "Save the paused VM to files",
        Json(
            |body| Ok(Call::Snapshot(body::read(body)?)),
            schema::<Snapshot>,
        ),
    ),
    put(
        "vm.restore",
        "Make a VM from saved files",
        Json(body::restore, schema::<Restore>),
    ),
    put(
        "vm.fork",
        "Make further VMs of this one in other monitors, while it goes on (ours; the reference has none)",
        Json(
            |body| Ok(Call::Fork(Box::new(body::read(body)?))),
            schema::<Fork>,
        ),
    ),
    put(
        "vm.receive-fork",
        "Take a VM over that vm.fork of another monitor has made: its configuration, state and memory come as \
         descriptors (ours; the reference has none)",
        Takes::Fork,
    ),
    put(
        "vm.receive-migration",
        "Take a VM over from another monitor",
        Later,
    ),
    put(
        "vm.send-migration",
        "Hand the VM over to another monitor",
        Later,
    ),
    put(
        "vm.coredump",
        "Write the guest's memory and registers to a file, for debuggers",
        Json(
            |body| Ok(Call::CoreDump(body::read(body)?)),
            schema::<CoreDump>,
        ),
    ),
];

/// The endpoint at a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Endpoint> {
    let name = path.strip_prefix(PREFIX)?;
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name)
}
