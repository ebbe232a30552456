//! PCI and the devices on it, as a Linux guest sees them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use testkit::Vm;
use testkit::terminal::Terminal;

/// Loads the drivers that the kernel has as modules.
const LOAD: &str = "for module in /modules/*.ko; do insmod $module || exit 1; done";

/// Longest that anything here takes on a busy machine.
const SECONDS: u64 = 60;

fn run(vm: &mut Vm, script: &str) -> String {
    let output = vm.run(script).unwrap();
    assert_eq!(output.status, 0, "{script}: {}", output.stdout);
    output.stdout
}

#[test]
fn linux_finds_the_host_bridge_the_console_and_the_entropy_source() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("console");
    let mut vm = Vm::linux()
        .console(format!("socket={}", socket.display()))
        .spawn()
        .unwrap();
    vm.wait_ready(120).unwrap();
    let ids = run(
        &mut vm,
        "cd /sys/bus/pci/devices; for d in *; do echo $d $(cat $d/vendor $d/device); done",
    );
    assert_eq!(
        ids,
        "0000:00:00.0 0x8086 0x0d57\n0000:00:01.0 0x1af4 0x1043\n0000:00:02.0 0x1af4 0x1044\n"
    );
    run(&mut vm, LOAD);

    // The entropy source gives bytes that differ.
    let rng = run(&mut vm, "cat /sys/class/misc/hw_random/rng_current");
    assert_eq!(rng, "virtio_rng.0\n");
    let sums = run(
        &mut vm,
        "for i in 1 2; do dd if=/dev/hwrng bs=4096 count=4 2>/dev/null | md5sum; done",
    );
    let sums: Vec<&str> = sums.lines().collect();
    assert_ne!(sums[0], sums[1]);

    // The console carries both ways.
    let mut client = UnixStream::connect(&socket).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(SECONDS)))
        .unwrap();
    run(&mut vm, "echo from the guest > /dev/hvc0");
    expect(&mut client, "from the guest\n");
    run(&mut vm, "head -n 1 < /dev/hvc0 > /tmp/typed &");
    client.write_all(b"from the host\n").unwrap();
    let typed = run(
        &mut vm,
        "for i in $(seq 30); do [ -s /tmp/typed ] && break; sleep 1; done; cat /tmp/typed",
    );
    assert_eq!(typed, "from the host\n");
    // Many small chains, in order. Linux waits for each one.
    run(&mut vm, "seq 1 200 > /dev/hvc0; echo all > /dev/hvc0");
    let text = expect(&mut client, "all\n");
    assert!(text.contains("\n199\n200\n"), "{} bytes", text.len());

    // Interrupts are messages, one per queue.
    let interrupts = run(&mut vm, "grep virtio /proc/interrupts");
    assert!(
        interrupts.contains("PCI-MSI") && interrupts.contains("virtio1-input"),
        "{interrupts}"
    );

    // Drivers come and go.
    run(
        &mut vm,
        "cd /sys/bus/virtio/drivers/virtio_rng; echo virtio1 > unbind; echo virtio1 > bind",
    );
    run(
        &mut vm,
        "dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c",
    );
    vm.power_off().unwrap();
}

fn expect(from: &mut UnixStream, text: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // The guest's terminal driver ends lines as terminals want it.
        let so_far = String::from_utf8_lossy(&seen).replace("\r\n", "\n");
        if so_far.contains(text) {
            return so_far;
        }
        let count = from.read(&mut buffer).unwrap();
        assert!(count > 0, "the end instead of {text:?}, after {so_far:?}");
        seen.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn serial_port_and_console_share_the_terminal() {
    let mut vm = Vm::linux()
        .terminal(Terminal::open().unwrap())
        .console("tty,id=screen,pci_device_id=7")
        .arg("--rng", "src=/dev/zero")
        .spawn()
        .unwrap();
    vm.wait_ready(120).unwrap();
    run(&mut vm, LOAD);
    let slots = run(&mut vm, "ls /sys/bus/pci/devices");
    assert_eq!(slots, "0000:00:00.0\n0000:00:01.0\n0000:00:07.0\n");
    run(&mut vm, "echo printed over virtio > /dev/hvc0");
    let shown = vm.console();
    assert!(shown.contains("printed over virtio"), "{shown}");
    let zeros = run(
        &mut vm,
        "dd if=/dev/hwrng bs=16 count=1 2>/dev/null | md5sum",
    );
    let expected = run(
        &mut vm,
        "dd if=/dev/zero bs=16 count=1 2>/dev/null | md5sum",
    );
    assert_eq!(zeros, expected, "the source is the one that was asked for");
    vm.power_off().unwrap();
}
