//! From a subcommand to a request.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use device::Form;
use keyvalue::ByteSize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::wishes;

/// How something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Only look.
    Get,
    /// Change something.
    Put,
}

/// What is asked of a monitor.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Path below `/api/v1/`.
    pub(crate) endpoint: &'static str,
    /// JSON, if there is a body.
    pub(crate) body: Option<Vec<u8>>,
    /// Descriptors that the monitor is to have.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A subcommand without arguments.
pub(crate) struct Plain {
    pub(crate) subcommand: &'static str,
    method: Method,
    endpoint: &'static str,
    pub(crate) about: &'static str,
}

const fn get(subcommand: &'static str, endpoint: &'static str, about: &'static str) -> Plain {
    Plain {
        subcommand,
        method: Method::Get,
        endpoint,
        about,
    }
}

const fn put(subcommand: &'static str, endpoint: &'static str, about: &'static str) -> Plain {
    Plain {
        subcommand,
        method: Method::Put,
        endpoint,
        about,
    }
}

/// All of them.
pub(crate) const PLAIN: &[Plain] = &[
    put("boot", "vm.boot", "Start the VM"),
    get(
        "counters",
        "vm.counters",
        "Show what the VM's devices have counted",
    ),
    put(
        "delete",
        "vm.delete",
        "Shut the VM down if it runs, and forget it",
    ),
    get(
        "info",
        "vm.info",
        "Show the VM's configuration, state and devices",
    ),
    put(
        "nmi",
        "vm.nmi",
        "Inject a non-maskable interrupt into each processor",
    ),
    put(
        "pause",
        "vm.pause",
        "Stop processors and devices where they are",
    ),
    get(
        "ping",
        "vmm.ping",
        "Show the monitor's version, process and features",
    ),
    put(
        "power-button",
        "vm.power-button",
        "Press the guest's power button",
    ),
    put("reboot", "vm.reboot", "Reset the VM"),
    put("resume", "vm.resume", "Let a paused VM go on"),
    put(
        "shutdown",
        "vm.shutdown",
        "End the VM and keep its configuration",
    ),
    put("shutdown-vmm", "vmm.shutdown", "End the VM and the monitor"),
];

/// A subcommand that adds a device.
pub(crate) struct DeviceCommand {
    pub(crate) subcommand: &'static str,
    endpoint: &'static str,
    /// Flag of `cloud-hypervisor` with the same value.
    pub(crate) flag: &'static str,
    pub(crate) argument: &'static str,
    pub(crate) about: &'static str,
}

const fn add(
    subcommand: &'static str,
    endpoint: &'static str,
    flag: &'static str,
    argument: &'static str,
    about: &'static str,
) -> DeviceCommand {
    DeviceCommand {
        subcommand,
        endpoint,
        flag,
        argument,
        about,
    }
}

/// All of them.
pub(crate) const DEVICES: &[DeviceCommand] = &[
    add(
        "add-device",
        "vm.add-device",
        "device",
        "device_config",
        "Add a device of the host",
    ),
    add(
        "add-disk",
        "vm.add-disk",
        "disk",
        "disk_config",
        "Add a disk",
    ),
    add(
        "add-fs",
        "vm.add-fs",
        "fs",
        "fs_config",
        "Add a shared file system",
    ),
    add(
        "add-generic-vhost-user",
        "vm.add-generic-vhost-user",
        "generic-vhost-user",
        "generic_vhost_user_config",
        "Add a device whose other half is another process",
    ),
    add(
        "add-net",
        "vm.add-net",
        "net",
        "net_config",
        "Add a network device; its descriptors are sent to the monitor",
    ),
    add(
        "add-pmem",
        "vm.add-pmem",
        "pmem",
        "pmem_config",
        "Add persistent memory",
    ),
    add(
        "add-user-device",
        "vm.add-user-device",
        "user-device",
        "device_config",
        "Add a device that another process emulates",
    ),
    add(
        "add-vdpa",
        "vm.add-vdpa",
        "vdpa",
        "vdpa_config",
        "Add a vDPA device",
    ),
    add(
        "add-vsock",
        "vm.add-vsock",
        "vsock",
        "vsock_config",
        "Add sockets between guest and host",
    ),
];

impl Request {
    pub(crate) fn get(endpoint: &'static str) -> Self {
        Self {
            method: Method::Get,
            endpoint,
            body: None,
            descriptors: Vec::new(),
        }
    }

    pub(crate) fn put(endpoint: &'static str, body: &Value) -> Self {
        Self {
            method: Method::Put,
            endpoint,
            body: Some(body.to_string().into_bytes()),
            descriptors: Vec::new(),
        }
    }

    /// What a subcommand of these arguments asks.
    pub(crate) fn read(subcommand: &str, arguments: &ArgMatches) -> Result<Self> {
        if let Some(plain) = PLAIN.iter().find(|plain| plain.subcommand == subcommand) {
            return Ok(Self {
                method: plain.method,
                ..Self::get(plain.endpoint)
            });
        }
        let device = DEVICES
            .iter()
            .find(|device| device.subcommand == subcommand);
        if let Some(device) = device {
            return Self::add(device, text(arguments, device.argument));
        }
        let wish = wishes::ALL
            .iter()
            .find(|wish| wish.subcommand == subcommand);
        if let Some(wish) = wish {
            let (body, descriptors) = (wish.read)(text(arguments, wish.argument))?;
            return Self::put(wish.endpoint, &body).with(&descriptors);
        }
        Ok(match subcommand {
            "create" => Self {
                body: Some(file(arguments.get_one::<PathBuf>("path"))?),
                ..Self::put("vm.create", &Value::Null)
            },
            "remove-device" => Self::put("vm.remove-device", &json!({"id": text(arguments, "id")})),
            "snapshot" => Self::put("vm.snapshot", &snapshot(arguments)),
            "coredump" => Self::put("vm.coredump", &destination(arguments, "coredump_config")),
            "resize" => Self::put(
                "vm.resize",
                &json!({
                    "desired_vcpus": arguments.get_one::<u32>("cpus"),
                    "desired_ram": size(arguments, "memory"),
                    "desired_balloon": size(arguments, "balloon"),
                }),
            ),
            "resize-disk" => Self::put(
                "vm.resize-disk",
                &json!({"id": text(arguments, "disk"), "desired_size": size(arguments, "size")}),
            ),
            "resize-zone" => Self::put(
                "vm.resize-zone",
                &json!({"id": text(arguments, "id"), "desired_ram": size(arguments, "size")}),
            ),
            _ => return Err(Error::NoSubcommand),
        })
    }

    /// Adds a device whose configuration is written as on the monitor's command line.
    fn add(device: &DeviceCommand, value: &str) -> Result<Self> {
        let mut config = configuration(device.flag, value)?;
        let descriptors = take_descriptors(&mut config);
        Self::put(device.endpoint, &config).with(&descriptors)
    }

    /// Sends these descriptors along.
    fn with(mut self, descriptors: &[i32]) -> Result<Self> {
        for &fd in descriptors {
            let owned = sandbox::adopt_descriptor(fd);
            let owned = owned.map_err(|source| Error::Descriptor { fd, source })?;
            self.descriptors.push(owned);
        }
        Ok(self)
    }
}

/// The configuration of a device. What this version has no type for goes as it is written, for the monitor to judge.
fn configuration(flag: &str, value: &str) -> Result<Value> {
    let kind = catalog::options().find(|(names, _)| names.flag == flag);
    match kind {
        Some((names, kind)) if names.form != Form::Switch => Ok(kind.read_flag(value)?),
        _ => Ok(Value::Object(pairs(value))),
    }
}

/// `a=1,b=2` as texts.
fn pairs(value: &str) -> Map<String, Value> {
    value
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

/// Takes the numbers of descriptors out, which mean nothing to another process.
fn take_descriptors(config: &mut Value) -> Vec<i32> {
    let Some(members) = config.as_object_mut() else {
        return Vec::new();
    };
    let numbers = members.shift_remove("fds").unwrap_or_default();
    let numbers = numbers.as_array().into_iter().flatten();
    numbers
        .filter_map(|number| i32::try_from(number.as_i64()?).ok())
        .collect()
}

fn text<'a>(arguments: &'a ArgMatches, name: &str) -> &'a str {
    // The parser demands those that are asked for here.
    arguments.get_one::<String>(name).map_or("", String::as_str)
}

fn size(arguments: &ArgMatches, name: &str) -> Option<u64> {
    arguments.get_one::<ByteSize>(name).map(|size| size.0)
}

/// Where a VM is saved, and above what.
fn snapshot(arguments: &ArgMatches) -> Value {
    let mut body = destination(arguments, "snapshot_config");
    if let Some(base) = arguments.get_one::<String>("base") {
        body["base_url"] = base.as_str().into();
    }
    body
}

fn destination(arguments: &ArgMatches, name: &str) -> Value {
    json!({"destination_url": text(arguments, name)})
}

/// What is in a file, or comes from standard input, as it is.
fn file(path: Option<&PathBuf>) -> Result<Vec<u8>> {
    let path = path.map_or(Path::new("-"), PathBuf::as_path);
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map(|_| bytes).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
