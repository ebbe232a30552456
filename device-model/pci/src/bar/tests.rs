use std::sync::Mutex;

use super::*;
use crate::window::Window;

const WINDOW: std::ops::Range<u64> = 0x10_0000_0000..0x20_0000_0000;
const SIZE: u64 = 0x1000;

/// Registers that answer with their own name.
struct Named(u8);

impl Target for Named {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(self.0);
    }
    fn write(&mut self, _: u64, _: &[u8]) {}
}

/// As [`Named`], and notes where it is.
struct Placed(Shared<Named>, Arc<Mutex<Vec<Option<u64>>>>);

impl Contents for Placed {
    fn insert(&self, bus: &Arc<Bus>, start: u64, len: u64) -> device::Result<Region> {
        self.0.insert(bus, start, len)
    }
    fn placed(&self, at: Option<u64>) {
        self.1.lock().unwrap().push(at);
    }
}

struct Bench {
    bus: Arc<Bus>,
    wide: Window,
    low: Window,
    ports: Window,
}

impl Bench {
    fn new() -> Self {
        Self {
            bus: Bus::new("memory"),
            wide: Window::new("64-bit", 0, WINDOW),
            low: Window::new("32-bit", 0, 0xc000_0000..0xe000_0000),
            ports: Window::new("ports", 0, 0x1000..0x1_0000),
        }
    }

    fn add(&self, bars: &mut Bars, index: usize, kind: BarKind, name: u8) -> u64 {
        let window = match kind {
            BarKind::Memory64 => &self.wide,
            BarKind::Memory32 => &self.low,
            BarKind::Io => &self.ports,
        };
        let span = window.allocate(SIZE, SIZE).unwrap();
        let start = span.start();
        let contents = Box::new(Shared::new(Named(name)));
        bars.add(index, kind, Arc::clone(&self.bus), span, contents)
            .unwrap();
        start
    }

    fn at(&self, address: u64) -> u8 {
        let mut data = [0];
        self.bus.read(address, &mut data);
        data[0]
    }

    /// A decoded 64-bit BAR 0.
    fn one(&self, name: u8) -> (Bars, u64) {
        let mut bars = Bars::default();
        let home = self.add(&mut bars, 0, BarKind::Memory64, name);
        bars.decode(true, false);
        (bars, home)
    }
}

/// Writes both halves, as a driver does that moves a BAR.
fn move_to(bars: &mut Bars, address: u64, decoded: bool) {
    let [low, high] = halves(address);
    bars.write(0, low, decoded, false);
    bars.write(1, high, decoded, false);
}

#[test]
fn sizes_and_types_are_told_by_writing_ones() {
    let bench = Bench::new();
    let mut bars = Bars::default();
    bench.add(&mut bars, 0, BarKind::Memory64, 1);
    bench.add(&mut bars, 2, BarKind::Memory32, 2);
    bench.add(&mut bars, 3, BarKind::Io, 3);
    bars.decode(true, true);
    for (decoded, _) in [(true, 0), (false, 1)] {
        bars.decode(decoded, decoded);
        let before: Vec<u32> = (0..COUNT).map(|register| bars.read(register)).collect();
        for register in 0..COUNT {
            bars.write(register, u32::MAX, decoded, decoded);
        }
        let sizes: Vec<u32> = (0..COUNT).map(|register| bars.read(register)).collect();
        assert_eq!(
            sizes,
            [0xffff_f004, 0xffff_ffff, 0xffff_f000, 0xffff_f001, 0, 0]
        );
        for (register, value) in before.iter().enumerate() {
            bars.write(register, *value, decoded, decoded);
            assert_eq!(bars.read(register), *value);
        }
    }
    bars.decode(true, true);
    assert_eq!(
        bars.mapped_at(0),
        Some(join(bars.read(0) & !0xf, bars.read(1)))
    );
}

#[test]
fn is_there_only_while_decoded() {
    let bench = Bench::new();
    let (mut bars, home) = bench.one(7);
    assert_eq!(home, WINDOW.end - SIZE);
    assert_eq!(bench.at(home), 7);
    bars.decode(false, true);
    assert_eq!(bench.at(home), 0xff);
    bars.decode(true, false);
    assert_eq!(bench.at(home + SIZE - 1), 7);
}

#[test]
fn moves_with_decoding_on_or_off() {
    let bench = Bench::new();
    let (mut bars, home) = bench.one(7);
    let (second, third) = (0x11_0000_2000, 0x1f_ffff_0000);
    move_to(&mut bars, second, true);
    assert_eq!((bench.at(home), bench.at(second)), (0xff, 7));
    bars.decode(false, false);
    move_to(&mut bars, third, false);
    assert_eq!((bench.at(second), bench.at(third)), (0xff, 0xff));
    bars.decode(true, false);
    assert_eq!(bench.at(third), 7);
}

#[test]
fn a_bad_move_is_rolled_back() {
    let bench = Bench::new();
    let (mut bars, home) = bench.one(7);
    let (_others, taken) = bench.one(8);
    for decoded in [true, false] {
        for bad in [taken, 0, WINDOW.end, 0xfee0_0000, 0xffff_0000_0000_0000] {
            bars.decode(decoded, false);
            move_to(&mut bars, bad, decoded);
            if !decoded {
                assert_eq!(
                    join(bars.read(0) & !0xf, bars.read(1)),
                    bad,
                    "nothing is judged yet"
                );
                bars.decode(true, false);
            }
            assert_eq!(join(bars.read(0) & !0xf, bars.read(1)), home, "{bad:#x}");
            assert_eq!((bench.at(home), bench.at(taken)), (7, 8), "{bad:#x}");
        }
    }
}

#[test]
fn a_size_that_was_asked_for_and_left_there_is_rolled_back_when_decoded() {
    let bench = Bench::new();
    let (mut bars, home) = bench.one(7);
    move_to(&mut bars, u64::MAX, true);
    assert_eq!(bars.read(1), u32::MAX, "kept to be read");
    assert_eq!(bench.at(home), 7, "the old mapping stays");
    bars.decode(false, false);
    bars.decode(true, false);
    assert_eq!(bars.read(1), 0x1f);
    assert_eq!(bench.at(home), 7);
}

#[test]
fn two_bars_can_change_places_with_decoding_off() {
    let bench = Bench::new();
    let (mut first, a) = bench.one(7);
    let (mut second, b) = bench.one(8);
    first.decode(false, false);
    second.decode(false, false);
    move_to(&mut first, b, false);
    move_to(&mut second, a, false);
    first.decode(true, false);
    second.decode(true, false);
    assert_eq!((bench.at(a), bench.at(b)), (8, 7));
}

#[test]
fn a_bar_whose_place_was_taken_meanwhile_is_nowhere_and_hurts_nobody() {
    let bench = Bench::new();
    let (mut first, a) = bench.one(7);
    let (mut second, b) = bench.one(8);
    first.decode(false, false);
    move_to(&mut second, a, true);
    first.decode(true, false);
    assert_eq!(first.mapped_at(0), None);
    assert_eq!(bench.at(a), 8);
    move_to(&mut second, b, true);
    first.decode(false, false);
    first.decode(true, false);
    assert_eq!((bench.at(a), bench.at(b)), (7, 8));
}

#[test]
fn contents_hear_where_they_are() {
    let bench = Bench::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut bars = Bars::default();
    let span = bench.wide.allocate(SIZE, SIZE).unwrap();
    let home = span.start();
    let contents = Placed(Shared::new(Named(1)), Arc::clone(&log));
    bars.add(
        0,
        BarKind::Memory64,
        Arc::clone(&bench.bus),
        span,
        Box::new(contents),
    )
    .unwrap();
    bars.decode(true, false);
    bars.write(0, 0xffff_ffff, true, false);
    bars.write(0, 0xffff_0000, true, false);
    bars.decode(false, false);
    let moved = (home & !0xffff_ffff) | 0xffff_0000;
    assert_eq!(*log.lock().unwrap(), [Some(home), Some(moved), None]);
}

#[test]
fn impossible_bars_are_refused() {
    let bench = Bench::new();
    let mut bars = Bars::default();
    bench.add(&mut bars, 1, BarKind::Memory64, 1);
    let mut add = |index, kind, size| {
        let span = bench.wide.allocate(size, 16).unwrap();
        let contents = Box::new(Shared::new(Named(0)));
        bars.add(index, kind, Arc::clone(&bench.bus), span, contents)
            .is_err()
    };
    assert!(add(0, BarKind::Memory64, SIZE), "its upper half is taken");
    assert!(add(2, BarKind::Memory32, SIZE), "is an upper half");
    assert!(add(5, BarKind::Memory64, SIZE), "has no upper half");
    assert!(add(6, BarKind::Memory32, SIZE), "does not exist");
    assert!(add(0, BarKind::Memory32, 24), "no power of two");
    assert!(add(0, BarKind::Memory32, 8), "too small");
    assert!(!add(0, BarKind::Memory32, 16));
}
