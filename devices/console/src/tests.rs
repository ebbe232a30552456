use std::io::Read as _;
use std::os::unix::net::UnixStream;

use device::{AnyKind, Device};
use serde_json::json;
use virtio::testing::{Bench, Driver, DriverQueue, Part, eventually};

use super::*;

mod size;

fn device(bench: &Bench, endpoint: &Endpoint) -> OverPci<Terminal> {
    device_with(bench, HostEnd::open(endpoint).unwrap())
}

fn device_with(bench: &Bench, end: HostEnd) -> OverPci<Terminal> {
    let terminal = Terminal::new(end, "__console", &Filter::none());
    let mut device = OverPci::new("console", terminal, bench.environment("__console")).unwrap();
    device.start().unwrap();
    device
}

/// A device on a socket with a client, and its driver at work.
struct Session<'a> {
    bench: &'a Bench,
    device: OverPci<Terminal>,
    driver: Driver<'a>,
    receive: DriverQueue,
    transmit: DriverQueue,
    client: UnixStream,
    folder: tempfile::TempDir,
}

impl<'a> Session<'a> {
    fn new(bench: &'a Bench) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut device = device(bench, &Endpoint::Socket(path.clone()));
        let driver = Driver::find(bench, 1);
        let mut queues = driver.start(u64::MAX);
        bench.attend(&mut device);
        let client = UnixStream::connect(path).unwrap();
        client
            .set_read_timeout(Some(std::time::Duration::from_secs(2)))
            .unwrap();
        let (transmit, receive) = (queues.pop().unwrap(), queues.pop().unwrap());
        Self {
            bench,
            device,
            driver,
            receive,
            transmit,
            client,
            folder,
        }
    }

    fn hears(&mut self, text: &[u8]) {
        let mut bytes = vec![0; text.len()];
        self.client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, text);
    }
}

#[test]
fn has_the_ids_and_queues_of_the_reference() {
    let bench = Bench::new();
    let _device = device(&bench, &Endpoint::Null);
    let driver = Driver::find(&bench, 1);
    assert_eq!(driver.config_read(2, 2), 0x1043);
    assert_eq!(driver.offered(), SIZE | 1 << 32);
    let queues = driver.start(u64::MAX);
    assert_eq!(
        queues.iter().map(|queue| queue.size).collect::<Vec<_>>(),
        [256, 256]
    );
}

#[test]
fn what_the_guest_prints_arrives_in_order() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session
        .transmit
        .add(&[Part::Read(b"hello "), Part::Read(b"wor")]);
    session.transmit.add(&[Part::Read(b"ld\n")]);
    session.driver.kick(TRANSMIT);
    session.hears(b"hello world\n");
    eventually(|| session.transmit.used_index() == 2);
    assert_eq!(session.transmit.used(), [(0, 0), (2, 0)]);
    let long = vec![b'x'; 100_000];
    session.transmit.add(&[Part::Read(&long)]);
    session.driver.kick(TRANSMIT);
    session.hears(&long);
}

#[test]
fn what_is_typed_fills_buffers_as_they_come() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    // Nobody has offered a buffer: it waits.
    session.client.write_all(b"abcdefgh").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(10));
    let first = session.receive.add(&[Part::Write(3)]);
    let second = session.receive.add(&[Part::Write(1), Part::Write(2)]);
    session.driver.kick(RECEIVE);
    eventually(|| session.receive.used_index() == 2);
    assert_eq!(session.receive.used(), [(0, 3), (1, 3)]);
    assert_eq!(session.receive.bytes(first[0], 3), b"abc");
    assert_eq!(session.receive.bytes(second[0], 1), b"d");
    assert_eq!(session.receive.bytes(second[1], 2), b"ef");
    // A buffer that cannot be written comes back empty.
    session.receive.add(&[Part::Read(b"?")]);
    let last = session.receive.add(&[Part::Write(100)]);
    session.driver.kick(RECEIVE);
    eventually(|| session.receive.used_index() == 4);
    assert_eq!(session.receive.used(), [(3, 0), (4, 2)]);
    assert_eq!(session.receive.bytes(last[0], 2), b"gh");
    bench.sent.wait(Driver::queue_message(RECEIVE));
}

#[test]
fn nothing_is_lost_over_a_pause() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session.receive.add(&[Part::Write(16)]);
    session.driver.kick(RECEIVE);
    std::thread::sleep(std::time::Duration::from_millis(10));
    session.device.stop().unwrap();
    let saved = session.device.save().unwrap();
    assert_eq!(
        saved.body["transport"]["queues"][0]["next_available"], 0,
        "the buffer was put back"
    );
    session.client.write_all(b"typed").unwrap();
    session.transmit.add(&[Part::Read(b"printed")]);
    session.driver.kick(TRANSMIT);
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(
        (session.receive.used_index(), session.transmit.used_index()),
        (0, 0)
    );
    session.device.start().unwrap();
    session.hears(b"printed");
    eventually(|| session.receive.used_index() == 1);
    assert_eq!(session.receive.used(), [(0, 5)]);
}

#[test]
fn a_reset_leaves_the_client_connected() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session.receive.add(&[Part::Write(16)]);
    session.driver.kick(RECEIVE);
    let mut queues = session.driver.start(0);
    session.bench.attend(&mut session.device);
    queues[1].add(&[Part::Read(b"again")]);
    session.driver.kick(TRANSMIT);
    session.hears(b"again");
    queues[0].add(&[Part::Write(16)]);
    session.driver.kick(RECEIVE);
    session.client.write_all(b"me too").unwrap();
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used(), [(0, 6)]);
}

#[test]
fn a_client_stays_connected_when_the_machine_is_built_anew() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session.client.write_all(b"typed before").unwrap();
    session.device.stop().unwrap();
    let end = Box::new(session.device)
        .leave()
        .unwrap()
        .downcast()
        .unwrap();
    session.device = device_with(&bench, *end);
    session.driver = Driver::find(&bench, 1);
    let mut queues = session.driver.start(0);
    bench.attend(&mut session.device);
    queues[0].add(&[Part::Write(64)]);
    session.driver.kick(RECEIVE);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used(), [(0, 12)]);
    queues[1].add(&[Part::Read(b"printed after")]);
    session.driver.kick(TRANSMIT);
    session.hears(b"printed after");
}

#[test]
fn a_broken_receive_queue_leaves_printing_alone() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session.receive.describe(0, u64::MAX, 8, 2, 0);
    session.receive.offer(0);
    session.driver.kick(RECEIVE);
    session.client.write_all(b"x").unwrap();
    eventually(|| session.driver.needs_reset());
    session.transmit.add(&[Part::Read(b"fine")]);
    session.driver.kick(TRANSMIT);
    session.hears(b"fine");
    drop(session.folder);
}

#[test]
fn output_goes_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let bench = Bench::new();
    let mut device = device(&bench, &Endpoint::File(path.clone()));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    queues[0].add(&[Part::Write(8)]);
    queues[1].add(&[Part::Read(b"to the file")]);
    driver.kick(RECEIVE);
    driver.kick(TRANSMIT);
    eventually(|| queues[1].used_index() == 1);
    assert_eq!(std::fs::read(path).unwrap(), b"to the file");
    assert_eq!(queues[0].used_index(), 0, "nobody types");
    device.stop().unwrap();
    device.start().unwrap();
}

#[test]
fn a_pseudo_terminals_path_is_told() {
    let bench = Bench::new();
    let device = device(&bench, &Endpoint::Pty);
    let path = device.decided().unwrap()["file"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(path.starts_with("/dev/pts/"), "{path}");
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let read = |text| Console.read_flag(text).unwrap();
    assert_eq!(
        read("file=/tmp/log,id=hvc,iommu=off,pci_segment=1,pci_device_id=7"),
        json!({
            "file": "/tmp/log", "mode": "File", "id": "hvc", "pci_segment": 1, "pci_device_id": 7
        })
    );
    assert_eq!(read("tty"), AnyKind::by_default(&Console).unwrap());
    assert!(Console.is_off(&read("off")));
    let facts = Facts::default();
    let check = |config| AnyKind::check(&Console, &config, &facts).map_err(|problem| problem.text);
    assert_eq!(check(json!({ "mode": "Pty" })), Ok(()));
    assert!(
        check(json!({ "mode": "File" }))
            .unwrap_err()
            .contains("file=")
    );
    assert!(
        check(json!({ "mode": "Tty", "rows": 25 }))
            .unwrap_err()
            .contains("rows")
    );
    assert!(
        check(json!({ "mode": "Tty", "pci_device_id": 0 }))
            .unwrap_err()
            .contains("host bridge")
    );
}

#[test]
fn printing_needs_no_system_call_beyond_reading() {
    // One list serves both threads; `Allow` compares as it shows.
    let all: Vec<String> = stream::SYSCALLS
        .iter()
        .map(|call| format!("{call:?}"))
        .collect();
    for call in stream::OUTPUT_SYSCALLS {
        assert!(all.contains(&format!("{call:?}")), "{call:?}");
    }
}
