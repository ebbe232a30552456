use std::sync::Mutex;

use device::{AnyKind, Device, Facts, PowerEvent};
use serde_json::json;
use virtio::testing::{Bench, Driver, DriverQueue, Part, eventually};

use super::*;

/// Long enough not to pass in a test.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

type Requests = Arc<Mutex<Vec<PowerEvent>>>;

fn power() -> (Power, Requests) {
    let requests = Requests::default();
    let heard = Arc::clone(&requests);
    (
        Power::new(move |event| heard.lock().unwrap().push(event)),
        requests,
    )
}

fn device(bench: &Bench, timeout: Duration, power: Power) -> OverPci<Watchdog> {
    let watchdog = Watchdog::new(timeout, power, "__watchdog", Filter::none());
    OverPci::new("watchdog", watchdog, bench.environment("__watchdog")).unwrap()
}

/// A device with its driver at work.
struct Session<'a> {
    device: OverPci<Watchdog>,
    driver: Driver<'a>,
    queue: DriverQueue,
    requests: Requests,
}

impl<'a> Session<'a> {
    fn new(bench: &'a Bench, timeout: Duration) -> Self {
        let (power, requests) = power();
        let mut device = device(bench, timeout, power);
        device.start().unwrap();
        let driver = Driver::find(bench, 1);
        let queue = driver.start(u64::MAX).remove(0);
        bench.attend(&mut device);
        Self {
            device,
            driver,
            queue,
            requests,
        }
    }

    fn ping(&mut self) {
        let before = self.queue.used_index();
        self.queue.add(&[Part::Write(1)]);
        self.driver.kick(0);
        eventually(|| self.queue.used_index() == before.wrapping_add(1));
    }

    fn resets(&self) -> usize {
        let requests = self.requests.lock().unwrap();
        assert!(requests.iter().all(|event| *event == PowerEvent::Reset));
        requests.len()
    }

    /// Milliseconds left, while stopped.
    fn left(&self) -> Option<u64> {
        self.device.save().unwrap().body["device"]["body"]["left_ms"].as_u64()
    }
}

#[test]
fn has_the_ids_and_the_queue_of_the_reference() {
    let bench = Bench::new();
    let session = Session::new(&bench, LONG);
    assert_eq!(session.driver.config_read(2, 2), 0x1063);
    assert_eq!(session.driver.config_read(0xa, 2), 0xff00);
    assert_eq!(session.driver.offered(), 1 << 32);
    assert_eq!(session.queue.size, 8);
    assert_eq!(TIMEOUT, Duration::from_secs(20));
}

#[test]
fn pings_come_back_at_once_with_one_byte() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, LONG);
    let address = session.queue.add(&[Part::Write(8)])[0];
    session.queue.add(&[Part::Read(b"hello"), Part::Write(1)]);
    session.queue.add(&[Part::Read(b"no room")]);
    session.driver.kick(0);
    eventually(|| session.queue.used_index() == 3);
    assert_eq!(session.queue.used(), [(0, 1), (1, 1), (3, 0)]);
    assert_eq!(session.queue.bytes(address, 2), [1, 0]);
    bench.sent.wait(Driver::queue_message(0));
    assert_eq!(session.device.counters(), [("pings", 3), ("resets", 0)]);
}

#[test]
fn a_guest_that_never_pings_is_left_alone() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, SHORT);
    std::thread::sleep(3 * SHORT);
    session.device.stop().unwrap();
    assert_eq!((session.resets(), session.left()), (0, None));
}

#[test]
fn silence_after_a_ping_resets_the_machine_once() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, SHORT);
    session.ping();
    eventually(|| session.resets() == 1);
    std::thread::sleep(3 * SHORT);
    assert_eq!(session.resets(), 1);
    assert_eq!(session.device.counters(), [("pings", 1), ("resets", 1)]);
    // The machine's owner may be slow; a guest that pings again is watched again.
    session.ping();
    eventually(|| session.resets() == 2);
}

#[test]
fn the_clock_stands_still_while_stopped() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, LONG);
    session.ping();
    session.device.stop().unwrap();
    let left = session.left().unwrap();
    assert!(left > 0 && left <= 20_000);
    std::thread::sleep(SHORT);
    assert_eq!(session.left(), Some(left));
    session.device.start().unwrap();
    session.device.stop().unwrap();
    assert!(session.left().unwrap() <= left, "only a ping winds it up");
}

#[test]
fn a_driver_that_resets_the_device_ends_the_watch() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, LONG);
    session.ping();
    session.driver.set_status(0);
    session.device.stop().unwrap();
    assert_eq!(session.left(), None);
}

#[test]
fn a_copy_goes_on_with_the_time_that_was_left() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, LONG);
    session.ping();
    session.device.stop().unwrap();
    let mut saved = session.device.save().unwrap();
    saved.body["device"]["body"]["left_ms"] = json!(1);
    let (power, requests) = power();
    session.queue.add(&[Part::Write(1)]);
    drop(session.device);
    let mut copy = device(&bench, LONG, power);
    copy.restore(saved.clone()).unwrap();
    copy.start().unwrap();
    // A ping waits in the queue: it counts, although the time is over.
    eventually(|| session.queue.used_index() == 2);
    copy.stop().unwrap();
    assert!(requests.lock().unwrap().is_empty());
    let left = copy.save().unwrap().body["device"]["body"]["left_ms"].clone();
    assert!(left.as_u64().unwrap() > 1000, "{left}");
    // Without one, the time is over at once.
    saved.body["transport"]["queues"][0]["next_available"] = json!(2);
    saved.body["transport"]["queues"][0]["next_used"] = json!(2);
    copy.restore(saved).unwrap();
    copy.start().unwrap();
    eventually(|| requests.lock().unwrap().len() == 1);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let (power, _) = power();
    let mut watchdog = Watchdog::new(TIMEOUT, power, "__watchdog", Filter::none());
    for body in [
        json!({ "left_ms": 20_001 }),
        json!({ "left_ms": -1 }),
        json!({ "left_ms": null, "more": 1 }),
        json!([]),
    ] {
        let saved = Saved::new("watchdog", 1, &body).unwrap();
        assert!(watchdog.restore(saved).is_err(), "{body}");
    }
    let saved = Saved::new("watchdog", 2, &json!({ "left_ms": 1 })).unwrap();
    assert!(watchdog.restore(saved).is_err());
}

#[test]
fn states_of_version_1_are_read() {
    let saved: Saved = serde_json::from_str(include_str!("../fixtures/state-v1.json")).unwrap();
    let (power, _) = power();
    let mut watchdog = Watchdog::new(TIMEOUT, power, "__watchdog", Filter::none());
    watchdog.restore(saved.clone()).unwrap();
    assert_eq!(watchdog.save().unwrap(), saved);
}

#[test]
fn a_broken_queue_is_dead_and_the_clock_goes_on() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, SHORT);
    session.ping();
    session.queue.describe(7, u64::MAX, 8, 2, 0);
    session.queue.offer(7);
    session.driver.kick(0);
    eventually(|| session.driver.needs_reset());
    eventually(|| session.resets() == 1);
}

#[test]
fn more_pings_than_the_queue_has_room_for_do_no_harm() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, LONG);
    session.queue.set_available(9);
    session.driver.kick(0);
    eventually(|| session.driver.needs_reset());
    session.device.stop().unwrap();
    session.device.start().unwrap();
    assert_eq!(session.resets(), 0);
}

#[test]
fn no_ping_is_lost_over_stops() {
    let bench = Bench::new();
    let mut session = Session::new(&bench, LONG);
    for count in 1..=50 {
        session.queue.add(&[Part::Write(1)]);
        session.driver.kick(0);
        session.device.stop().unwrap();
        session.device.start().unwrap();
        eventually(|| session.queue.used_index() == count);
    }
    assert_eq!(session.device.counters()[0], ("pings", 50));
}

#[test]
fn it_is_a_switch_that_is_off() {
    let default = AnyKind::by_default(&WatchdogKind).unwrap();
    assert_eq!(default, json!(false));
    assert!(WatchdogKind.is_off(&default));
    assert!(!WatchdogKind.is_off(&json!(true)));
    let facts = Facts::default();
    assert!(AnyKind::check(&WatchdogKind, &json!({}), &facts).is_err());
    let schema = WatchdogKind.schema();
    assert_eq!(schema.get("type"), Some(&json!("boolean")));
    assert!(schema.get("description").is_some());
}
