use std::time::SystemTime;

use device::{AnyKind, Device};
use serde_json::json;
use virtio::testing::{Bench, Driver, DriverQueue, Part, eventually};

use super::*;

const CFG: u16 = 0x1000;
const CLOCK_CAP: u16 = 0x1001;
const CROSS_CAP: u16 = 0x1002;
const READ: u16 = 1;
const READ_CROSS: u16 = 2;

const NOT_SUPPORTED: u8 = 2;
const NO_DEVICE: u8 = 3;
const INVALID: u8 = 4;

fn device(bench: &Bench) -> OverPci<Rtc> {
    let rtc = Rtc::new("__rtc", Filter::none());
    let mut device = OverPci::new("rtc", rtc, bench.environment("__rtc")).unwrap();
    device.start().unwrap();
    device
}

struct Session<'a> {
    device: OverPci<Rtc>,
    driver: Driver<'a>,
    queue: DriverQueue,
}

impl<'a> Session<'a> {
    fn new(bench: &'a Bench) -> Self {
        let mut device = device(bench);
        let driver = Driver::find(bench, 1);
        let queue = driver.start(u64::MAX).remove(0);
        bench.attend(&mut device);
        Self {
            device,
            driver,
            queue,
        }
    }

    /// Sends bytes with room for as many; gives what came back.
    fn send(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        let addresses = self.queue.add(&[Part::Read(request), Part::Write(room)]);
        let before = self.queue.used().len();
        assert_eq!(before, 0);
        let expected = self.queue.used_index().wrapping_add(1);
        self.driver.kick(0);
        eventually(|| self.queue.used_index() == expected);
        let used = self.queue.used();
        let len = usize::try_from(used[0].1).unwrap();
        self.queue.bytes(addresses[1], len)
    }

    /// A request about a clock and a counter: the body of the response, or its status.
    fn ask(&mut self, kind: u16, clock: u16, counter: u8) -> std::result::Result<u64, u8> {
        let mut request = vec![0; if kind == CFG { 8 } else { 16 }];
        request[..2].copy_from_slice(&kind.to_le_bytes());
        if kind != CFG {
            request[8..10].copy_from_slice(&clock.to_le_bytes());
            request[10] = counter;
        }
        let room = if kind == READ_CROSS { 24 } else { 16 };
        let response = self.send(&request, room);
        assert_eq!(response[1..8], [0; 7]);
        match response[0] {
            0 => {
                assert_eq!(response.len(), 16, "drivers take no other length");
                Ok(u64::from_le_bytes(response[8..].try_into().unwrap()))
            }
            status => {
                assert_eq!(response.len(), 8);
                Err(status)
            }
        }
    }

    fn set_tai(&mut self, tai: bool) {
        self.device.stop().unwrap();
        let mut saved = self.device.save().unwrap();
        saved.body["device"]["body"]["tai"] = json!(tai);
        self.device.restore(saved).unwrap();
        self.device.start().unwrap();
    }
}

#[test]
fn has_the_ids_and_the_queue_of_the_reference() {
    let bench = Bench::new();
    let session = Session::new(&bench);
    assert_eq!(session.driver.config_read(2, 2), 0x1051);
    assert_eq!(session.driver.config_read(0xa, 2), 0xff00);
    assert_eq!(session.driver.offered(), 1 << 32);
    assert_eq!(session.queue.size, 256);
}

#[test]
fn clocks_tell_their_number_and_types() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session.set_tai(false);
    assert_eq!(session.ask(CFG, 0, 0), Ok(2));
    assert_eq!(session.ask(CLOCK_CAP, 0, 0), Ok(4));
    assert_eq!(session.ask(CLOCK_CAP, 1, 0), Ok(2));
    assert_eq!(session.ask(CLOCK_CAP, 2, 0), Err(NO_DEVICE));
    session.set_tai(true);
    assert_eq!(session.ask(CFG, 0, 0), Ok(3));
    assert_eq!(session.ask(CLOCK_CAP, 2, 0), Ok(1));
    assert_eq!(session.ask(CLOCK_CAP, u16::MAX, 0), Err(NO_DEVICE));
    bench.sent.wait(Driver::queue_message(0));
}

#[test]
fn utc_is_the_hosts_and_monotonic_time_never_goes_back() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    let now = || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(since.unwrap().as_nanos()).unwrap()
    };
    let before = now();
    let utc = session.ask(READ, 0, 0).unwrap();
    assert!(before <= utc && utc <= now(), "{before} {utc}");
    let mut last = 0;
    for _ in 0..100 {
        let reading = session.ask(READ, 1, 0).unwrap();
        assert!(reading > last);
        last = reading;
    }
    assert_eq!(session.ask(READ, 3, 0), Err(NO_DEVICE));
}

#[test]
fn tai_is_ahead_of_utc_or_not_there() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    match session.ask(CFG, 0, 0).unwrap() {
        2 => assert_eq!(session.ask(READ, 2, 0), Err(NO_DEVICE)),
        3 => {
            let (utc, tai) = (session.ask(READ, 0, 0), session.ask(READ, 2, 0));
            let ahead = tai.unwrap() - utc.unwrap();
            assert!(ahead > 10_000_000_000, "{ahead}");
        }
        count => panic!("{count} clocks"),
    }
    if session.ask(CFG, 0, 0) == Ok(2) {
        // Restored on a host that does not know it any more: it is there and cannot be read.
        session.set_tai(true);
        assert_eq!(session.ask(READ, 2, 0), Err(5));
    }
}

#[test]
fn cross_timestamps_are_not_offered() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    for counter in [0, 1, 0xff] {
        assert_eq!(session.ask(CROSS_CAP, 0, counter), Ok(0));
        assert_eq!(session.ask(READ_CROSS, 0, counter), Err(NOT_SUPPORTED));
        assert_eq!(session.ask(CROSS_CAP, 9, counter), Err(NO_DEVICE));
        assert_eq!(session.ask(READ_CROSS, 9, counter), Err(NO_DEVICE));
    }
}

#[test]
fn requests_that_make_no_sense_have_a_status() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    // Alarms, and what nobody has defined.
    for kind in [0, 3, 0x1003, 0x1004, 0x1005, 0x2000, 0xffff] {
        assert_eq!(session.ask(kind, 0, 0), Err(NOT_SUPPORTED), "{kind:#x}");
    }
    let status = |status: u8| [status, 0, 0, 0, 0, 0, 0, 0];
    for short in [&[][..], &[1], &[1, 0], &[1, 0, 0, 0, 0, 0, 0, 0], &[1; 15]] {
        let expected = if short.len() == 15 {
            NOT_SUPPORTED
        } else {
            INVALID
        };
        assert_eq!(
            session.send_or_nothing(short),
            status(expected),
            "{short:?}"
        );
    }
    assert_eq!(session.send(&[0, 0x10, 0, 0], 16), status(INVALID));
    // Longer ones are of later versions.
    let mut long = [0; 64];
    long[..2].copy_from_slice(&READ.to_le_bytes());
    assert_eq!(session.send(&long, 64).len(), 16);
    // No room for the answer, or for any.
    assert_eq!(session.send(&long[..16], 15), status(INVALID));
    assert_eq!(session.send(&long[..16], 7).len(), 7);
    assert!(!session.driver.needs_reset());
}

impl Session<'_> {
    /// As [`Session::send`], also without a byte.
    fn send_or_nothing(&mut self, request: &[u8]) -> Vec<u8> {
        if !request.is_empty() {
            return self.send(request, 16);
        }
        let address = self.queue.add(&[Part::Write(16)])[0];
        let expected = self.queue.used_index().wrapping_add(1);
        self.driver.kick(0);
        eventually(|| self.queue.used_index() == expected);
        let len = usize::try_from(self.queue.used()[0].1).unwrap();
        self.queue.bytes(address, len)
    }
}

#[test]
fn messages_may_be_in_pieces() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    let parts = [
        Part::Read(&[1]),
        Part::Read(&[0, 0, 0, 0, 0, 0, 0, 1, 0]),
        Part::Read(&[0; 6]),
        Part::Write(3),
        Part::Write(13),
    ];
    let addresses = session.queue.add(&parts);
    session.driver.kick(0);
    eventually(|| session.queue.used_index() == 1);
    assert_eq!(session.queue.used(), [(0, 16)]);
    assert_eq!(session.queue.bytes(addresses[3], 3), [0; 3]);
    let rest = session.queue.bytes(addresses[4], 13);
    assert!(rest[..5] == [0; 5] && rest[5..] != [0; 8], "{rest:?}");
}

#[test]
fn a_broken_chain_ends_the_queue_only() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session.queue.describe(0, u64::MAX, 16, 2, 0);
    session.queue.offer(0);
    session.driver.kick(0);
    eventually(|| session.driver.needs_reset());
    session.device.stop().unwrap();
    // The driver resets it, and all is well.
    session.device.start().unwrap();
    session.queue = session.driver.start(0).remove(0);
    bench.attend(&mut session.device);
    assert!(session.ask(CFG, 0, 0).is_ok());
}

#[test]
fn a_copys_monotonic_clock_goes_on() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    session.device.stop().unwrap();
    let mut saved = session.device.save().unwrap();
    let hour = 3_600_000_000_000u64;
    saved.body["device"]["body"]["monotonic_ns"] = json!(hour);
    drop(session.device);
    let rtc = Rtc::new("__rtc", Filter::none());
    let mut copy = OverPci::new("rtc", rtc, bench.environment("__rtc")).unwrap();
    copy.restore(saved).unwrap();
    copy.start().unwrap();
    session.device = copy;
    let reading = session.ask(READ, 1, 0).unwrap();
    assert!(reading > hour && reading < 2 * hour, "{reading}");
}

#[test]
fn states_of_version_1_are_read_and_damaged_ones_are_not() {
    let saved: Saved = serde_json::from_str(include_str!("../fixtures/state-v1.json")).unwrap();
    let mut rtc = Rtc::new("__rtc", Filter::none());
    rtc.restore(saved.clone()).unwrap();
    assert!(rtc.clocks.has_tai());
    assert_eq!(rtc.save().unwrap(), saved);
    for body in [
        json!({ "monotonic_ns": -1, "tai": true }),
        json!({ "monotonic_ns": 1 }),
        json!({ "monotonic_ns": 1, "tai": false, "more": 1 }),
    ] {
        let saved = Saved::new("rtc", 1, &body).unwrap();
        assert!(rtc.restore(saved).is_err(), "{body}");
    }
    assert!(
        rtc.restore(Saved::new("rtc", 2, &saved.body).unwrap())
            .is_err()
    );
    assert!(
        rtc.restore(Saved::new("rng", 1, &saved.body).unwrap())
            .is_err()
    );
}

#[test]
fn requests_are_answered_over_stops() {
    let bench = Bench::new();
    let mut session = Session::new(&bench);
    for _ in 0..50 {
        let mut request = [0; 16];
        request[0] = 1;
        session.queue.add(&[Part::Read(&request), Part::Write(16)]);
        let expected = session.queue.used_index().wrapping_add(1);
        session.driver.kick(0);
        session.device.stop().unwrap();
        session.device.start().unwrap();
        eventually(|| session.queue.used_index() == expected);
    }
    assert!(session.queue.used().iter().all(|(_, len)| *len == 16));
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let read = |text| RtcKind.read_flag(text).unwrap();
    assert_eq!(read(""), json!({ "pci_segment": 0 }));
    assert_eq!(
        read("id=clocks,iommu=off,pci_segment=1,pci_device_id=7"),
        json!({ "id": "clocks", "pci_segment": 1, "pci_device_id": 7 })
    );
    assert_eq!(AnyKind::by_default(&RtcKind), None);
    let facts = Facts::default();
    let check = |config| AnyKind::check(&RtcKind, &config, &facts).map_err(|problem| problem.text);
    assert_eq!(check(json!({})), Ok(()));
    assert!(
        check(json!({ "alarm": true }))
            .unwrap_err()
            .contains("alarm")
    );
    assert!(check(json!({ "pci_device_id": 0 })).is_err());
    assert!(check(json!({ "id": "__rtc" })).is_err());
    for example in <RtcKind as Kind>::EXAMPLES {
        assert_eq!(check(read(example)), Ok(()));
    }
}
