use super::*;

/// What the hypervisor was asked to do, in order.
#[derive(Clone, Default)]
struct Log(
    Arc<Mutex<Vec<(u16, Event)>>>,
    Arc<std::sync::atomic::AtomicU16>,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Set(u64, u32),
    Trigger,
}

struct Line(u16, Log);

impl Vector for Line {
    fn set(&self, message: Option<MsiMessage>) -> hypervisor::Result<()> {
        let message = message.unwrap();
        self.1
            .0
            .lock()
            .unwrap()
            .push((self.0, Event::Set(message.address, message.data)));
        Ok(())
    }
    fn trigger(&self) -> hypervisor::Result<()> {
        self.1.0.lock().unwrap().push((self.0, Event::Trigger));
        Ok(())
    }
}

impl Interrupts for Log {
    fn vector(&self) -> hypervisor::Result<Box<dyn Vector>> {
        Ok(Box::new(Line(
            self.1.fetch_add(1, Ordering::AcqRel),
            self.clone(),
        )))
    }
}

impl Log {
    fn take(&self) -> Vec<(u16, Event)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

use Event::{Set, Trigger};

fn table(count: u16) -> (Arc<Msix>, Log) {
    let log = Log::default();
    (Arc::new(Msix::new(count, &log).unwrap()), log)
}

fn program(msix: &Msix, vector: u64, data: u32) {
    msix.write_table(16 * vector, &0xfee0_1000u64.to_le_bytes());
    msix.write_table(16 * vector + 8, &data.to_le_bytes());
}

fn mask(msix: &Msix, vector: u64, masked: bool) {
    msix.write_table(16 * vector + 12, &u32::from(masked).to_le_bytes());
}

fn pending(msix: &Msix) -> u64 {
    let mut bits = [0xff; 8];
    msix.read_pending(0, &mut bits);
    u64::from_le_bytes(bits)
}

/// A table that is enabled, with every vector programmed and open.
fn open_table(count: u16) -> (Arc<Msix>, Log) {
    let (msix, log) = table(count);
    for vector in 0..count {
        program(&msix, vector.into(), 0x30 + u32::from(vector));
        mask(&msix, vector.into(), false);
    }
    assert!(
        log.take().is_empty(),
        "nothing is told before it is enabled"
    );
    msix.set_control(ENABLE);
    (msix, log)
}

#[test]
fn vectors_start_masked_and_deliver_their_message_when_open() {
    let (msix, log) = table(2);
    let mut entry = [0; 4];
    msix.read_table(16 + 12, &mut entry);
    assert_eq!(entry, [1, 0, 0, 0]);
    msix.trigger(0);
    assert_eq!(
        pending(&msix),
        0,
        "nothing is signalled before it is enabled"
    );
    program(&msix, 1, 0x41);
    mask(&msix, 1, false);
    msix.set_control(ENABLE);
    assert_eq!(log.take(), [(1, Set(0xfee0_1000, 0x41))]);
    msix.trigger(1);
    msix.trigger(0);
    msix.trigger(2);
    msix.trigger(0xffff);
    assert_eq!(log.take(), [(1, Trigger)]);
    assert_eq!(pending(&msix), 1);
}

#[test]
fn a_masked_vector_waits_and_is_sent_once() {
    let (msix, log) = open_table(2);
    log.take();
    mask(&msix, 1, true);
    for _ in 0..3 {
        msix.trigger(1);
    }
    msix.trigger(0);
    assert_eq!(log.take(), [(0, Trigger)]);
    assert_eq!(pending(&msix), 0b10);
    mask(&msix, 1, false);
    assert_eq!(log.take(), [(1, Trigger)]);
    assert_eq!(pending(&msix), 0);
}

#[test]
fn the_function_mask_holds_all_back() {
    let (msix, log) = open_table(3);
    log.take();
    msix.set_control(ENABLE | FUNCTION_MASK);
    msix.trigger(0);
    msix.trigger(2);
    assert!(log.take().is_empty());
    assert_eq!(pending(&msix), 0b101);
    assert_eq!(msix.control(), [2, 0xc0]);
    msix.set_control(ENABLE);
    assert_eq!(log.take(), [(0, Trigger), (2, Trigger)]);
}

#[test]
fn a_new_message_while_masked_is_used_for_what_waits() {
    let (msix, log) = open_table(1);
    log.take();
    mask(&msix, 0, true);
    msix.trigger(0);
    program(&msix, 0, 0x99);
    assert!(log.take().is_empty());
    mask(&msix, 0, false);
    assert_eq!(log.take(), [(0, Set(0xfee0_1000, 0x99)), (0, Trigger)]);
    mask(&msix, 0, true);
    mask(&msix, 0, false);
    assert!(log.take().is_empty(), "masking alone costs nothing");
}

#[test]
fn only_aligned_words_and_double_words_reach_the_table() {
    let (msix, _) = table(2);
    let image = |msix: &Msix| {
        let mut bytes = [0; 32];
        for (at, chunk) in (0..).step_by(8).zip(bytes.chunks_mut(8)) {
            msix.read_table(at, chunk);
        }
        bytes
    };
    let before = image(&msix);
    for (offset, len) in [
        (0, 1),
        (0, 2),
        (1, 4),
        (2, 4),
        (4, 8),
        (12, 8),
        (7, 1),
        (0, 3),
        (32, 4),
        (u64::MAX - 7, 8),
    ] {
        msix.write_table(offset, &[0xff; 8][..len]);
        let mut data = [0xab; 8];
        msix.read_table(offset, &mut data[..len]);
        msix.read_pending(u64::MAX - 7, &mut [0; 8]);
        assert_eq!(data, [0xab; 8], "{len} bytes at {offset:#x}");
    }
    assert_eq!(image(&msix), before);
    for at in (0..32).step_by(8) {
        msix.write_table(at, &[0xff; 8]);
    }
    let expected = [
        0xfc, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0,
    ];
    assert_eq!(image(&msix)[16..], expected);
}

#[test]
fn pending_bits_go_beyond_the_first_eight() {
    let (msix, _) = table(70);
    msix.set_control(ENABLE);
    for vector in [0, 9, 31, 63, 64, 69] {
        msix.trigger(vector);
    }
    assert_eq!(pending(&msix), 1 | 1 << 9 | 1 << 31 | 1 << 63);
    let mut bits = [0; 4];
    msix.read_pending(8, &mut bits);
    assert_eq!(bits, [0b10_0001, 0, 0, 0]);
}

#[test]
fn a_state_survives_with_what_waits() {
    let (msix, _) = open_table(2);
    mask(&msix, 1, true);
    msix.trigger(1);
    let state = msix.save();
    let (copy, log) = table(2);
    copy.restore(&state).unwrap();
    assert_eq!(copy.save(), state);
    assert_eq!(log.take(), [(0, Set(0xfee0_1000, 0x30))]);
    mask(&copy, 1, false);
    assert_eq!(log.take(), [(1, Set(0xfee0_1000, 0x31)), (1, Trigger)]);
    assert!(table(3).0.restore(&state).is_err());
    copy.reset();
    assert_eq!(copy.save(), table(2).0.save());
}

#[test]
fn no_signal_is_lost_while_vectors_are_masked_and_unmasked() {
    let (msix, log) = open_table(1);
    log.take();
    let signals = 20_000;
    std::thread::scope(|scope| {
        let device = scope.spawn(|| {
            for _ in 0..signals {
                msix.trigger(0);
            }
        });
        while !device.is_finished() {
            mask(&msix, 0, true);
            mask(&msix, 0, false);
        }
    });
    // The last signal has been sent: nothing waits, and there was at least one after each mask.
    assert_eq!(pending(&msix), 0);
    let sent = log.take().len();
    assert!((1..=signals).contains(&sent));
}

#[test]
fn counts_that_the_capability_cannot_express_are_refused() {
    let log = Log::default();
    assert!(Msix::new(0, &log).is_err());
    assert!(Msix::new(2049, &log).is_err());
    assert_eq!(Msix::new(2048, &log).unwrap().control(), [0xff, 7]);
}
