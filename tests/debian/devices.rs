//! The devices that are neither disks nor networks.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::Builder;

use crate::{Debian, file};

const PMEM: u64 = 64 << 20;

pub(crate) fn options(builder: Builder, folder: &Path) -> Builder {
    let kept = file(&folder.join("pmem"), PMEM);
    let passing = file(&folder.join("passing"), PMEM);
    builder
        .arg("--pmem", format!("file={kept}"))
        .arg("--pmem", format!("file={passing},discard_writes=on"))
        .arg(
            "--balloon",
            "size=0,deflate_on_oom=on,free_page_reporting=on",
        )
        .flag("--pvpanic")
        .flag("--watchdog")
}

/// PCI as `lspci` shows it.
pub(crate) fn look(debian: &mut Debian) {
    let list = debian.run("lspci -n | cut -d' ' -f3 | sort | uniq -c | tr -s ' '");
    // Host bridge; net, block, rng, balloon, vsock, pmem, watchdog; pvpanic.
    for line in [
        " 1 8086:0d57",
        " 2 1af4:1041",
        " 7 1af4:1042",
        " 1 1af4:1044",
        " 1 1af4:1045",
        " 1 1af4:1053",
        " 2 1af4:105b",
        " 1 1af4:1063",
        " 1 1b36:0011",
    ] {
        assert!(
            list.lines().any(|shown| shown == line),
            "{line:?} in {list}"
        );
    }
    let details = debian.run("lspci -vv -d 1af4:1042");
    assert!(details.contains("MSI-X: Enable+"), "{details}");
    assert!(
        details.contains("Kernel driver in use: virtio-pci"),
        "{details}"
    );
}

pub(crate) fn entropy(debian: &mut Debian) {
    let current = debian.run("cat /sys/class/misc/hw_random/rng_current");
    assert!(current.starts_with("virtio_rng"), "{current}");
    let sums =
        debian.run("for i in 1 2; do dd if=/dev/hwrng bs=4096 count=4 2>/dev/null | md5sum; done");
    let sums: Vec<&str> = sums.lines().collect();
    assert_ne!(sums[0], sums[1]);
}

pub(crate) fn persistent_memory(debian: &mut Debian) {
    // Without page cache: what is mapped is the host's file.
    debian.run(
        "modprobe virtio_pmem; for i in $(seq 40); do [ -e /dev/pmem1 ] && break; sleep 0.5; done
         for i in 0 1; do
             mkfs.ext4 -q -F -b 4096 /dev/pmem$i && mkdir -p /mnt/pmem$i && mount -o dax /dev/pmem$i /mnt/pmem$i || exit 1
             mount | grep /mnt/pmem$i | grep -q dax || exit 2
             echo 'written by the guest' > /mnt/pmem$i/text && sync
         done
         umount /mnt/pmem0 /mnt/pmem1",
    );
    let holds = |name: &str| {
        let bytes = std::fs::read(debian.path(name)).unwrap();
        bytes
            .windows(20)
            .any(|window| window == b"written by the guest")
    };
    assert!(holds("pmem"), "the file has what the guest wrote");
    assert!(!holds("passing"), "writes are discarded");
}

/// Bytes that nobody in the guest uses. What it has in all stays the same for Linux if the balloon gives pages back
/// when they are needed.
fn free(debian: &mut Debian) -> u64 {
    let text = debian
        .run("sync; echo 3 > /proc/sys/vm/drop_caches; grep MemFree /proc/meminfo | tr -dc 0-9");
    text.trim().parse::<u64>().unwrap() << 10
}

pub(crate) fn balloon(debian: &mut Debian) {
    const SIZE: u64 = 256 << 20;
    const SLACK: u64 = 32 << 20;
    let before = free(debian);
    let mut client = debian.client();
    let resize = |client: &mut crate::Client, bytes: u64| {
        client.act(
            "vm.resize",
            &json!({ "desired_balloon": bytes }).to_string(),
        );
    };
    resize(&mut client, SIZE);
    let actual = |client: &mut crate::Client| {
        client.get("vm.info").json()["memory_actual_size"]
            .as_u64()
            .unwrap()
    };
    wait(|| actual(&mut client) == (1 << 30) - SIZE);
    let inflated = free(debian);
    assert!(
        inflated + SIZE <= before + SLACK,
        "{before} bytes, then {inflated}"
    );
    resize(&mut client, 0);
    wait(|| actual(&mut client) == 1 << 30);
    let deflated = free(debian);
    assert!(
        deflated + SLACK >= before,
        "{before} bytes, then {deflated}"
    );
    let reporting = debian.run("cat /sys/bus/virtio/drivers/virtio_balloon/virtio*/features");
    // Features 2 (deflate on OOM) and 5 (reporting), bit by bit from the left.
    let bits: Vec<u8> = reporting.bytes().collect();
    assert_eq!((bits[2], bits[5]), (b'1', b'1'), "{reporting}");
}

fn wait(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(crate) fn counters(debian: &mut Debian) {
    let counters = debian.client().get("vm.counters").json();
    let count = |device: &str, name: &str| counters[device][name].as_u64().unwrap();
    for device in ["ring", "aio-direct", "sync", "queues"] {
        assert!(count(device, "write_bytes") >= 12 << 20, "{counters}");
        assert!(count(device, "read_ops") > 0, "{counters}");
        assert!(
            count(device, "write_latency_max") < 60_000_000,
            "{counters}"
        );
    }
    let nets = counters
        .as_object()
        .unwrap()
        .iter()
        .filter(|(id, _)| id.starts_with("_net"));
    for (_, net) in nets {
        assert!(net["rx_frames"].as_u64().unwrap() > 0, "{counters}");
        assert!(net["tx_bytes"].as_u64().unwrap() > 0, "{counters}");
    }
}

/// Everything goes on after a pause, also what was under way.
pub(crate) fn pause_and_resume(debian: &mut Debian) {
    debian.run("(fio --name=p --filename=/tmp/load --size=32M --rw=randrw --bs=4k --time_based --runtime=6 \
                 --verify=crc32c --minimal; echo $? > /tmp/status) >/dev/null 2>&1 &");
    let mut client = debian.client();
    for _ in 0..20 {
        client.act("vm.pause", "");
        assert_eq!(client.state(), "Paused");
        client.act("vm.resume", "");
        std::thread::sleep(Duration::from_millis(50));
    }
    debian.wait("[ -e /tmp/status ]");
    assert_eq!(debian.run("cat /tmp/status"), "0\n");
    debian.run("ping -c 2 -W 5 192.168.249.1");
}

pub(crate) fn panic_is_an_event(debian: &mut Debian) {
    debian.run("modprobe pvpanic-pci; (sleep 1; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &");
    let events = debian.path("events");
    wait(|| {
        let text = std::fs::read_to_string(&events).unwrap();
        let mut events = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        events.any(|event| {
            event.is_ok_and(|event| {
                event["source"] == "guest"
                    && event["event"] == "panic"
                    && event["properties"]["event"] == "panic"
            })
        })
    });
}
