use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::Command;

use super::testing::{Wire, ip, own_network};
use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn text(error: &dyn std::error::Error) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn a_template_makes_an_interface_that_vanishes_with_us() {
    if !own_network() {
        return;
    }
    let tap = Tap::open(DEFAULT_NAME, 1).unwrap();
    let second = Tap::open(DEFAULT_NAME, 1).unwrap();
    assert_eq!((tap.name(), second.name()), ("vmtap0", "vmtap1"));
    tap.configure(&Settings::default()).unwrap();
    assert!(ip("link show vmtap0").contains(",UP"));
    assert!(!ip("link show vmtap1").contains(",UP"));
    drop(tap);
    assert!(!ip("link").contains("vmtap0"));
}

#[test]
fn properties_are_set_as_asked_and_only_those() {
    if !own_network() {
        return;
    }
    let tap = Tap::open("t0", 1).unwrap();
    let before = tap.mac().unwrap();
    let mut settings = Settings {
        address: Some((address("192.168.249.1"), address("255.255.252.0"))),
        mac: None,
        mtu: Some(4000),
    };
    tap.configure(&settings).unwrap();
    assert_eq!((tap.mac().unwrap(), tap.mtu()), (before, Some(4000)));
    let shown = ip("addr show t0");
    assert!(shown.contains("inet 192.168.249.1/22"), "{shown}");
    settings.mac = Some([0x12, 0x34, 0x56, 0x78, 0x90, 0xab]);
    tap.configure(&settings).unwrap();
    assert_eq!(tap.mac().unwrap(), [0x12, 0x34, 0x56, 0x78, 0x90, 0xab]);
    std::fs::write("/proc/sys/net/ipv6/conf/t0/disable_ipv6", "0").unwrap();
    let six = (address("fd00::1"), address("ffff:ffff:ffff:ff00::"));
    settings.address = Some(six);
    tap.configure(&settings).unwrap();
    tap.configure(&settings).unwrap();
    let shown = ip("-6 addr show t0");
    assert!(shown.contains("inet6 fd00::1/56"), "{shown}");
}

#[test]
fn a_refusal_names_the_key() {
    if !own_network() {
        return;
    }
    let tap = Tap::open("t0", 1).unwrap();
    let settings = Settings {
        mac: Some([1, 0, 0, 0, 0, 0]),
        ..Settings::default()
    };
    let error = text(&tap.configure(&settings).unwrap_err());
    assert!(
        error.starts_with("host_mac: cannot set it on t0"),
        "{error}"
    );
}

#[test]
fn several_queues_need_a_tap_for_several() {
    if !own_network() {
        return;
    }
    let tap = Tap::open("many", 4).unwrap();
    assert_eq!(tap.queues().len(), 4);
    for queue in &tap.queues()[1..] {
        queue.set_attached(false).unwrap();
        assert!(queue.set_attached(false).is_err());
    }
    tap.queues()[3].set_attached(true).unwrap();
    drop(tap);
    ip("tuntap add single mode tap vnet_hdr");
    let error = text(&Tap::open("single", 2).unwrap_err());
    assert!(error.contains("multi_queue"), "{error}");
    ip("tuntap add multi mode tap multi_queue vnet_hdr");
    assert_eq!(Tap::open("multi", 1).unwrap().queues().len(), 1);
    assert_eq!(Tap::open("multi", 2).unwrap().queues().len(), 2);
}

#[test]
fn what_is_no_tap_is_refused() {
    if !own_network() {
        return;
    }
    let error = text(&Tap::open("lo", 1).unwrap_err());
    assert!(error.contains("is it a tap?"), "{error}");
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let error = text(&Tap::adopt(vec![null]).unwrap_err());
    assert!(error.contains("not of a tap"), "{error}");
    for name in ["", "..", "a/b", "a b", "sixteen_letters_", "%d%d", "t%s"] {
        assert!(
            matches!(Tap::open(name, 1), Err(Error::Name { .. })),
            "{name}"
        );
    }
}

#[test]
fn masks_are_ones_and_then_zeros() {
    let length = |a: &str, m: &str| prefix_length(address(a), address(m)).ok();
    assert_eq!(length("10.0.0.1", "255.255.255.0"), Some(24));
    assert_eq!(length("10.0.0.1", "0.0.0.0"), Some(0));
    assert_eq!(length("10.0.0.1", "255.255.255.255"), Some(32));
    assert_eq!(length("10.0.0.1", "255.0.255.0"), None);
    assert_eq!(length("10.0.0.1", "ffff::"), None);
    assert_eq!(length("fd00::1", "ffff:ff80::"), Some(25));
    assert_eq!(length("fd00::1", "ffff:0:ffff::"), None);
}

fn duplicate(queue: &Queue) -> OwnedFd {
    queue.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn open_descriptors_are_taken_over_if_they_fit() {
    if !own_network() {
        return;
    }
    let single = Tap::open("single", 1).unwrap();
    let several = Tap::open("several", 2).unwrap();
    let tap = Tap::adopt(vec![duplicate(&single.queues()[0])]).unwrap();
    assert_eq!((tap.name(), tap.kind()), ("single", Kind::Given));
    let both: Vec<_> = several
        .queues()
        .iter()
        .map(|queue| duplicate(queue))
        .collect();
    assert_eq!(Tap::adopt(both).unwrap().queues().len(), 2);
    let mixed = vec![
        duplicate(&several.queues()[0]),
        duplicate(&single.queues()[0]),
    ];
    let error = text(&Tap::adopt(mixed).unwrap_err());
    assert!(error.contains("descriptor 1"), "{error}");
    // Not ours to set up.
    tap.configure(&Settings::default()).unwrap();
    assert!(!ip("link show single").contains(",UP"));
}

#[test]
fn a_macvtap_is_opened_by_name_and_by_descriptor() {
    if !own_network() {
        return;
    }
    let made = Command::new("ip")
        .args("link add v0 type veth peer name v1".split(' '))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: the kernel has no veth");
        return;
    }
    let made = Command::new("ip")
        .args("link add link v0 name mv0 type macvtap mode bridge".split(' '))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: the kernel has no macvtap");
        return;
    }
    ip("link set v0 up");
    ip("link set v1 up");
    let shown = ip("link show mv0");
    let index = shown.split(':').next().unwrap();
    let node = format!("/dev/tap{index}");
    if !std::path::Path::new(&node).exists() {
        let error = text(&Tap::open("mv0", 1).unwrap_err());
        assert!(error.contains("is it a tap?"), "{error}");
        // A host with udev or devtmpfs would have made it.
        let devices = std::fs::read_to_string("/proc/devices").unwrap();
        let major = devices
            .lines()
            .find_map(|line| line.trim().strip_suffix(" macvtap"));
        let minor = 1;
        let made = Command::new("mknod")
            .args([&node, "c", major.unwrap(), &minor.to_string()])
            .status();
        assert!(made.unwrap().success());
    }
    let opened = Tap::open("mv0", 1);
    let adopted = opened
        .as_ref()
        .ok()
        .map(|tap| Tap::adopt(vec![duplicate(&tap.queues()[0])]));
    let outcome = opened.map(|tap| {
        tap.configure(&Settings::default()).unwrap();
        assert_eq!(tap.kind(), Kind::Macvtap);
        // What comes in on the other end of the cable is read from the file.
        let mut frame = vec![0u8; 64];
        frame[..6].copy_from_slice(&tap.mac().unwrap());
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        assert!(Wire::new("v1").send(&frame));
        let mut seen = [0; 128];
        let length = rustix::io::read(&tap.queues()[0], &mut seen);
        assert_eq!(length.unwrap(), HEADER + 64);
        assert_eq!(seen[HEADER..HEADER + 64], frame);
    });
    std::fs::remove_file(node).unwrap();
    outcome.unwrap();
    assert_eq!(adopted.unwrap().unwrap().name(), "mv0");
}

/// Opens the tap that the environment names, as whoever runs this. Called by the test below in another process.
#[test]
fn as_somebody_else() {
    let Ok(name) = std::env::var("TAP_OF_SOMEBODY") else {
        return;
    };
    let tap = Tap::open(&name, 1).unwrap();
    let mut settings = Settings {
        address: Some((address("10.9.8.7"), address("255.255.255.0"))),
        mac: None,
        mtu: Some(1400),
    };
    tap.configure(&settings).unwrap();
    settings.address = Some((address("fd00::2"), address("ffff::")));
    tap.configure(&settings).unwrap();
    settings.mtu = Some(1300);
    let error = text(&tap.configure(&settings).unwrap_err());
    assert!(
        error.starts_with("mtu:") && error.contains("CAP_NET_ADMIN"),
        "{error}"
    );
    let error = text(&Tap::open("vmtap%d", 1).unwrap_err());
    assert!(error.contains("CAP_NET_ADMIN"), "{error}");
}

#[test]
fn a_prepared_tap_takes_no_rights() {
    if !own_network() {
        return;
    }
    let node = "/dev/net/tun";
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(node).unwrap().permissions());
    if mode & 0o006 != 0o006 {
        eprintln!("note: {node} is for root only here, the other user gets a descriptor of a copy");
    }
    ip("tuntap add mine mode tap user 65534 vnet_hdr");
    std::fs::write("/proc/sys/net/ipv6/conf/mine/disable_ipv6", "0").unwrap();
    ip("link set mine mtu 1400 up");
    ip("addr add 10.9.8.7/24 dev mine");
    ip("addr add fd00::2/16 dev mine nodad");
    // Its own copy of the test's program, where everybody can read it, and of the node.
    let folder = std::env::temp_dir().join(format!("tap-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let everybody = |path: &std::path::Path, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    everybody(&folder, 0o755);
    everybody(&program, 0o755);
    let script = format!(
        "mknod {0}/tun c 10 200 && chmod 666 {0}/tun && mount --bind {0}/tun {node} && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all \
         {0}/test --exact tests::as_somebody_else --nocapture",
        folder.display()
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .env("TAP_OF_SOMEBODY", "mine")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

fn batch(ram: &memory::GuestRam, frames: &[&[u8]]) -> Batch {
    let mut batch = Batch::new(ram);
    for (index, frame) in (0u64..).zip(frames) {
        let place = batch.next_frame().unwrap();
        // In two parts, every second one.
        let (first, second) = frame.split_at(frame.len() / 2);
        let mut address = 0x1000 * (index + 1);
        for part in if index % 2 == 0 {
            [*frame, &[]]
        } else {
            [first, second]
        } {
            if !part.is_empty() {
                ram.write(address, part).unwrap();
                place.push(address, part.len().try_into().unwrap()).unwrap();
                address += 0x800;
            }
        }
    }
    batch
}

fn ram() -> memory::GuestRam {
    let region = memory::RegionSpec {
        start: 0,
        size: 2 << 20,
    };
    memory::GuestRam::new(&[region], &memory::RamOptions::default()).unwrap()
}

#[test]
fn a_batch_sends_in_order_what_it_can_and_tells_of_each_frame() {
    if !own_network() {
        return;
    }
    let tap = Tap::open("t0", 1).unwrap();
    tap.configure(&Settings::default()).unwrap();
    let wire = Wire::new("t0");
    let frame = |number: u8| {
        let mut frame = vec![number; HEADER + 60];
        frame[..HEADER].fill(0);
        frame[HEADER..HEADER + 6].fill(0xff);
        frame[HEADER + 12..HEADER + 14].copy_from_slice(&[0x88, 0xb5]);
        frame
    };
    // Alone, one by one, and all that fit.
    for count in [1, 3, 8, MOST_FRAMES] {
        let mut frames: Vec<_> = (0..count).map(|it| frame(it.try_into().unwrap())).collect();
        // Nonsense in between, also at the end, and nothing at all.
        if count == 8 {
            frames[2][..4].copy_from_slice(&[1, 1, 0, 0]);
            frames[4] = Vec::new();
            frames[7].truncate(HEADER + 3);
        }
        let list: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let mut batch = batch(&ram(), &list);
        assert_eq!(count == MOST_FRAMES, batch.next_frame().is_none());
        let mut expected = vec![Outcome::Sent; count];
        if count < MOST_FRAMES {
            // The empty frame that was asked for just now.
            expected.push(Outcome::Refused);
        }
        if count == 8 {
            for index in [2, 4, 7] {
                expected[index] = Outcome::Refused;
            }
        }
        batch.send(&tap.queues()[0]);
        assert_eq!(batch.outcomes(), expected);
        for (frame, outcome) in frames.iter().zip(&expected) {
            if *outcome == Outcome::Sent {
                assert!(wire.wait() == frame[HEADER..]);
            }
        }
        assert!(wire.receive().is_none());
        batch.send(&tap.queues()[0]);
        assert!(batch.outcomes().is_empty(), "it was sent");
    }
}

#[test]
fn a_queue_that_is_full_says_so_at_once() {
    let (queue, end) = testing::narrow_queue(1);
    let frames = [[7u8; 1000].as_slice(); 20];
    let mut batch = batch(&ram(), &frames);
    batch.send(&queue);
    let sent = |outcome: &&Outcome| **outcome == Outcome::Sent;
    let taken = batch.outcomes().iter().take_while(sent).count();
    assert!((1..20).contains(&taken), "{taken}");
    assert!(
        batch.outcomes()[taken..]
            .iter()
            .all(|it| *it == Outcome::Full)
    );
    assert_eq!(batch.send_again(taken, &queue), Outcome::Full);
    let mut seen = [0; 2000];
    for _ in 0..taken {
        let (_, count) =
            rustix::net::recv(&end, &mut seen, rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!(count, 1000);
    }
    assert_eq!(batch.send_again(taken, &queue), Outcome::Sent);
    drop(end);
    assert_eq!(batch.send_again(taken, &queue), Outcome::Refused);
    assert_eq!(batch.send_again(MOST_FRAMES, &queue), Outcome::Refused);
}
