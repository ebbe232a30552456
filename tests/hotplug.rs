//! Devices that come to a running guest and leave it, by the API and as Linux sees it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "api/client.rs"]
mod client;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Builder, Vm};

use client::Client;

const MIB: u64 = 1 << 20;
/// Loads the drivers that the kernel has as modules.
const LOAD: &str = "for module in /modules/*.ko; do insmod $module || exit 1; done";
/// Longest that anything here takes on a busy machine.
const SECONDS: u64 = 120;
/// Cycles of coming and going.
const CYCLES: usize = 30;

/// A machine, its API and its files.
struct Machine {
    vm: Vm,
    folder: TempDir,
    client: Client,
}

impl Machine {
    /// Boots Linux; its drivers are there.
    fn linux(cmdline: &str) -> Self {
        let mut machine = Self::start(Vm::linux().extend_cmdline(cmdline));
        machine.ready();
        machine
    }

    fn start(builder: Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api");
        let events = folder.path().join("events");
        let builder = builder
            .arg("--api-socket", format!("path={}", socket.display()))
            .arg("--event-monitor", format!("path={}", events.display()));
        Self {
            vm: builder.spawn().unwrap(),
            client: Client::connect(&socket),
            folder,
        }
    }

    fn ready(&mut self) {
        self.vm.wait_ready(SECONDS).unwrap();
        self.run(LOAD);
    }

    fn run(&mut self, script: &str) -> String {
        let output = self.vm.run(script).unwrap();
        assert_eq!(output.status, 0, "{script}: {}", output.stdout);
        output.stdout
    }

    /// Waits until a condition holds in the guest.
    fn wait(&mut self, condition: &str) {
        self.run(&format!(
            "for i in $(seq 30); do {condition} && exit 0; sleep 1; done; \
             ls /sys/bus/pci/devices /sys/block; dmesg | tail -n 30; exit 1"
        ));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of 16 MiB that begins with `text`.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(16 * MIB).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
        path.display().to_string()
    }

    fn begins_with(&self, name: &str) -> String {
        let mut bytes = [0; 5];
        let file = std::fs::File::open(self.path(name)).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Adds a device to the running machine; its id and its address.
    fn add(&mut self, endpoint: &str, body: &Value) -> (String, String) {
        let answer = self.client.put(endpoint, &body.to_string());
        assert_eq!(answer.status, 200, "{endpoint} {body}: {answer:?}");
        let json = answer.json();
        let text = |member: &str| json[member].as_str().unwrap().to_owned();
        assert_eq!(json.as_object().unwrap().len(), 2, "{json}");
        (text("id"), text("bdf"))
    }

    fn remove(&mut self, id: &str) {
        let answer = self.client.put("vm.remove-device", &of(id));
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{id}");
    }

    /// What is answered instead: the status, and the links of the chain of errors as one text.
    fn refusal(&mut self, endpoint: &str, body: &Value) -> (u16, String) {
        let answer = self.client.put(endpoint, &body.to_string());
        (answer.status, answer.body)
    }

    fn info(&mut self) -> Value {
        self.client.get("vm.info").json()
    }

    /// Waits until the machine does not have the device any more.
    fn wait_gone(&mut self, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(SECONDS);
        while self.info()["device_tree"].get(id).is_some() {
            assert!(Instant::now() < deadline, "{id} is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes a device, and waits until both sides have let go of it.
    fn remove_and_wait(&mut self, id: &str, bdf: &str) {
        self.remove(id);
        self.wait_gone(id);
        self.wait(&format!("[ ! -e /sys/bus/pci/devices/{bdf} ]"));
    }

    /// Open descriptors and threads of the monitor.
    fn held(&self) -> (usize, usize) {
        let count = |what: &str| {
            let folder = format!("/proc/{}/{what}", self.vm.pid());
            std::fs::read_dir(folder).unwrap().count()
        };
        (count("fd"), count("task"))
    }

    /// Mappings of a file into the monitor.
    fn maps(&self, name: &str) -> bool {
        let maps = format!("/proc/{}/maps", self.vm.pid());
        std::fs::read_to_string(maps).unwrap().contains(name)
    }
}

fn of(id: &str) -> String {
    json!({ "id": id }).to_string()
}

fn disk(path: &str) -> Value {
    json!({"path": path, "image_type": "Raw"})
}

#[test]
fn a_disk_comes_is_used_goes_and_comes_again() {
    let mut machine = Machine::linux("");
    let path = machine.file("first", "first");
    let (id, bdf) = machine.add("vm.add-disk", &disk(&path));
    assert_eq!(id, "_disk0");
    machine.wait("[ -b /dev/vda ]");
    let seen = machine.run(&format!(
        "cat /sys/bus/pci/devices/{bdf}/device; head -c 5 /dev/vda; cat /sys/block/vda/size"
    ));
    assert_eq!(seen, "0x1042\nfirst32768\n");
    machine.run("printf hello | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null");
    assert_eq!(machine.begins_with("first"), "hello");
    let info = machine.info();
    assert_eq!(info["config"]["disks"][0]["path"], path.as_str());
    assert_eq!(
        info["device_tree"]["_virtio-pci-_disk0"]["pci_bdf"],
        bdf.as_str()
    );
    let counters = machine.client.get("vm.counters").json();
    assert!(counters["_disk0"]["read_ops"].as_u64().unwrap() > 0);

    // It goes while it is busy.
    machine.run(
        "for i in 1 2; do (while dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done) \
         </dev/null >/dev/null 2>&1 & done",
    );
    machine.remove(&id);
    machine.wait_gone(&id);
    machine.wait("[ ! -e /sys/block/vda ]");
    let info = machine.info();
    assert!(
        info["config"].get("disks").is_none_or(Value::is_null),
        "{info}"
    );
    let events = std::fs::read_to_string(machine.path("events")).unwrap();
    assert!(
        events.contains("device-removed") && events.contains(&bdf),
        "{events}"
    );

    // Its number is not used again, its slot and its file are free.
    let again = machine.add("vm.add-disk", &disk(&path));
    assert_eq!(again, ("_disk1".to_owned(), bdf.clone()));
    machine.wait("[ -b /dev/vda ]");
    assert_eq!(machine.run("head -c 5 /dev/vda"), "hello");
    machine.remove_and_wait("_disk1", &bdf);
    let mut named = disk(&path);
    named["id"] = id.clone().into();
    assert_eq!(machine.add("vm.add-disk", &named), (id, bdf));
    machine.wait("[ -b /dev/vda ]");

    // A reset of the guest does not concern it; the machine is another one, and its driver finds it at boot.
    machine.vm.run_last("reboot -f").unwrap();
    machine.ready();
    machine.wait("[ -b /dev/vda ]");
    assert_eq!(machine.run("head -c 5 /dev/vda"), "hello");
    machine.vm.power_off().unwrap();
}

#[test]
fn networks_and_memory_come_and_go_also_while_the_machine_is_paused() {
    let mut machine = Machine::linux("");
    let (net, net_at) = machine.add("vm.add-net", &json!({"mac": "52:54:00:01:02:03"}));
    machine.wait("grep -q 52:54:00:01:02:03 /sys/class/net/*/address");
    machine.client.act("vm.pause", "");
    assert_eq!(machine.client.state(), "Paused");
    let path = machine.file("memory", "kept!");
    let (pmem, pmem_at) = machine.add("vm.add-pmem", &json!({"file": path}));
    assert_eq!((net.as_str(), pmem.as_str()), ("_net0", "_pmem1"));
    assert_ne!(net_at, pmem_at);
    machine.client.act("vm.resume", "");
    machine.wait("[ -b /dev/pmem0 ]");
    assert_eq!(machine.run("head -c 5 /dev/pmem0"), "kept!");
    machine.run("printf hello | dd of=/dev/pmem0 conv=notrunc,fsync 2>/dev/null");
    assert_eq!(machine.begins_with("memory"), "hello");
    let socket = machine.path("vsock").display().to_string();
    let (vsock, vsock_at) = machine.add("vm.add-vsock", &json!({"cid": 3, "socket": socket}));
    machine.wait(&format!("[ -e /sys/bus/pci/devices/{vsock_at} ]"));

    assert!(machine.maps("/memory"));
    for (id, bdf) in [(net, net_at), (pmem, pmem_at), (vsock, vsock_at)] {
        machine.remove_and_wait(&id, &bdf);
    }
    assert!(!machine.maps("/memory"));
    assert!(!machine.path("vsock").exists());
    machine.run("! grep -q 52:54:00:01:02:03 /sys/class/net/*/address");
    let config = machine.info()["config"].clone();
    for member in ["net", "pmem", "vsock"] {
        assert!(config.get(member).is_none_or(Value::is_null), "{config}");
    }
    machine.vm.power_off().unwrap();
}

#[test]
fn a_network_comes_as_descriptors_and_their_unplug_closes_them() {
    if !tap::testing::own_network() {
        return;
    }
    let mut machine = Machine::linux("");
    let held = machine.held();
    let tap = tap::Tap::open("given0", 1).unwrap();
    tap.configure(&tap::Settings {
        address: Some((
            "192.168.7.1".parse().unwrap(),
            "255.255.255.0".parse().unwrap(),
        )),
        mac: None,
        mtu: None,
    })
    .unwrap();
    let copy = rustix::io::dup(&*tap.queues()[0]).unwrap();
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
    drop(tap);
    let number = std::os::fd::AsRawFd::as_raw_fd(&copy);
    let net = format!("fd=[{number}],id=given,mac=52:54:00:01:02:04");
    let said = std::process::Command::new(testkit::env::remote().unwrap())
        .args(["--api-socket", &machine.path("api").display().to_string()])
        .args(["add-net", &net])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{err}");
    drop(copy);
    let added: Value = serde_json::from_slice(&said.stdout).unwrap();
    machine.wait("grep -q 52:54:00:01:02:04 /sys/class/net/*/address");
    machine.run(
        "net=$(basename $(dirname $(grep -l 52:54:00:01:02:04 /sys/class/net/*/address))); \
         ip link set $net up && ip addr add 192.168.7.2/24 dev $net && ping -c 3 -w 20 192.168.7.1",
    );
    // The monitor has the only ones, and the interface ends with them.
    assert!(tap::testing::ip("link show given0").contains("given0"));
    machine.remove_and_wait("given", added["bdf"].as_str().unwrap());
    let left = std::process::Command::new("ip")
        .args(["link", "show", "given0"])
        .output()
        .unwrap();
    assert!(!left.status.success(), "{left:?}");
    assert_eq!(machine.held().1, held.1, "threads");
    machine.vm.power_off().unwrap();
}

#[test]
fn nothing_is_left_of_what_came_and_went() {
    let mut machine = Machine::linux("");
    let (path, memory) = (machine.file("disk", "disk"), machine.file("memory", "mem"));
    let mut before = None;
    for cycle in 0..=CYCLES {
        let (disk, disk_at) = machine.add("vm.add-disk", &disk(&path));
        let (pmem, pmem_at) = machine.add("vm.add-pmem", &json!({"file": memory}));
        machine.wait("[ -b /dev/vda ] && [ -b /dev/pmem0 ]");
        machine.remove(&disk);
        machine.remove(&pmem);
        machine.wait_gone(&disk);
        machine.wait_gone(&pmem);
        machine.wait(&format!(
            "[ ! -e /sys/bus/pci/devices/{disk_at} ] && [ ! -e /sys/bus/pci/devices/{pmem_at} ]"
        ));
        // What is made once, such as descriptors for events, is there after the first one.
        let held = machine.held();
        assert_eq!(*before.get_or_insert(held), held, "after cycle {cycle}");
        assert!(!machine.maps("/memory"));
    }
    machine.vm.power_off().unwrap();
}

#[test]
fn what_the_guest_does_not_eject_stays_and_works() {
    // Linux without its driver for slots.
    let mut machine = Machine::linux("acpiphp.disable=1");
    let path = machine.file("disk", "first");
    let (id, bdf) = machine.add("vm.add-disk", &disk(&path));
    machine.run("echo 1 > /sys/bus/pci/rescan");
    machine.wait("[ -b /dev/vda ]");
    for _ in 0..3 {
        machine.remove(&id);
    }
    assert_eq!(machine.run("head -c 5 /dev/vda"), "first");
    let info = machine.info();
    assert_eq!(info["config"]["disks"][0]["id"], id.as_str());
    assert_eq!(
        info["device_tree"]["_virtio-pci-_disk0"]["pci_bdf"],
        bdf.as_str()
    );
    machine.client.act("vm.shutdown", "");
    machine.remove(&id);
    let config = machine.info()["config"].clone();
    assert!(config.get("disks").is_none_or(Value::is_null), "{config}");
}

#[test]
fn refusals_say_why_and_leave_nothing() {
    let mut machine = Machine::start(Vm::linux());
    let (path, other) = (machine.file("one", "one"), machine.file("two", "two"));
    let (id, bdf) = machine.add("vm.add-disk", &disk(&path));
    let before = (machine.info(), machine.held());
    let slot = u8::from_str_radix(&bdf[8..10], 16).unwrap();
    let with = |member: &str, value: Value| {
        let mut disk = disk(&other);
        disk[member] = value;
        disk
    };
    let missing = machine.path("missing").display().to_string();
    for (endpoint, body, why) in [
        (
            "vm.add-disk",
            with("id", id.into()),
            "two devices have the id",
        ),
        (
            "vm.add-disk",
            with("pci_device_id", slot.into()),
            "another device is there",
        ),
        (
            "vm.add-disk",
            with("pci_device_id", 32.into()),
            "pci_device_id",
        ),
        ("vm.add-disk", with("pci_segment", 1.into()), "segment"),
        ("vm.add-disk", disk(&missing), "missing"),
        ("vm.add-disk", disk(&path), "one"),
        ("vm.add-pmem", json!({"file": missing}), "missing"),
        (
            "vm.remove-device",
            json!({"id": "nobody"}),
            "no device with the id",
        ),
        (
            "vm.remove-device",
            json!({"id": "__rng"}),
            "cannot leave a running VM",
        ),
        (
            "vm.remove-device",
            json!({"id": "__serial"}),
            "cannot leave a running VM",
        ),
    ] {
        let (status, text) = machine.refusal(endpoint, &body);
        assert_eq!(status, 500, "{endpoint} {body}: {text}");
        assert!(text.contains(why), "{endpoint} {body}: {text}");
    }
    assert_eq!((machine.info(), machine.held()), before);
    let socket = machine.path("vsock").display().to_string();
    let vsock = json!({"cid": 3, "socket": socket});
    machine.add("vm.add-vsock", &vsock);
    let (status, text) = machine.refusal("vm.add-vsock", &vsock);
    assert!(status == 500 && text.contains("one already"), "{text}");
}

#[test]
fn landlock_is_named_where_it_hides_a_file() {
    let mut machine = Machine::start(Vm::linux().flag("--landlock"));
    let path = machine.file("one", "one");
    let (status, text) = machine.refusal("vm.add-disk", &disk(&path));
    assert!(status == 500 && text.contains("--landlock-rules"), "{text}");
}
