//! The table of endpoints.

use machine::Call;

use crate::body::{self, Bad};
use crate::create;

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
    /// There must be one, of this form.
    Json(fn(&[u8]) -> Result<Call, Bad>),
    /// It is answered without the driver.
    Ping,
    /// It is not built yet.
    Later,
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

use Takes::{Anything, Json, Later, Nothing, Ping};

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
        "vm.info",
        "Configuration, state and devices of the VM",
        Nothing(|| Call::Info),
    ),
    get(
        "vm.counters",
        "What the VM's devices have counted",
        Nothing(|| Call::Counters),
    ),
    put("vm.create", "Say what the VM is to be", Json(create::call)),
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
        Json(|body| Ok(Call::Resize(body::read(body)?))),
    ),
    put(
        "vm.resize-disk",
        "Change the size of a disk",
        Json(|body| Ok(Call::ResizeDisk(body::read(body)?))),
    ),
    put("vm.resize-zone", "Change the size of a memory zone", Later),
    put(
        "vm.add-device",
        "Add a host device",
        Json(|body| body::device("vm.add-device", "devices", body)),
    ),
    put(
        "vm.add-disk",
        "Add a disk",
        Json(|body| body::device("vm.add-disk", "disks", body)),
    ),
    put(
        "vm.add-fs",
        "Add a shared file system",
        Json(|body| body::device("vm.add-fs", "fs", body)),
    ),
    put(
        "vm.add-generic-vhost-user",
        "Add a device whose other half is another process",
        Json(|body| body::device("vm.add-generic-vhost-user", "generic_vhost_user", body)),
    ),
    put(
        "vm.add-pmem",
        "Add persistent memory",
        Json(|body| body::device("vm.add-pmem", "pmem", body)),
    ),
    put(
        "vm.add-net",
        "Add a network device",
        Json(|body| body::device("vm.add-net", "net", body)),
    ),
    put(
        "vm.add-vdpa",
        "Add a vDPA device",
        Json(|body| body::device("vm.add-vdpa", "vdpa", body)),
    ),
    put(
        "vm.add-vsock",
        "Add sockets between guest and host",
        Json(|body| body::device("vm.add-vsock", "vsock", body)),
    ),
    put(
        "vm.add-user-device",
        "Add a device that another process emulates",
        Json(|body| body::device("vm.add-user-device", "user_devices", body)),
    ),
    put(
        "vm.remove-device",
        "Take a device away",
        Json(|body| Ok(Call::RemoveDevice(body::read(body)?))),
    ),
    put("vm.snapshot", "Save the VM to files", Later),
    put("vm.restore", "Make a VM from saved files", Later),
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
    put("vm.coredump", "Write the guest's memory to a file", Later),
];

/// The endpoint at a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Endpoint> {
    let name = path.strip_prefix(PREFIX)?;
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name)
}
