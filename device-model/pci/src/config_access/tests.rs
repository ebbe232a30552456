use device::Bus;

use crate::segment::{Layout, Pci};
use crate::{Function, share};

/// Notes each access.
#[derive(Default)]
struct Recorder(Vec<(u16, usize)>);

impl Function for Recorder {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.0.push((offset, data.len()));
        data.fill(0x11);
    }
    fn write(&mut self, offset: u16, data: &[u8]) {
        self.0.push((offset, data.len()));
    }
}

struct Bench {
    ports: std::sync::Arc<Bus>,
    memory: std::sync::Arc<Bus>,
    pci: Pci,
}

impl Bench {
    fn new() -> Self {
        let (ports, memory) = (Bus::new("ports"), Bus::new("memory"));
        let layout = Layout {
            segments: 2,
            memory32: 0xc000_0000..0xe800_0000,
            memory64: 0x10_0000_0000..0x20_0000_0000,
        };
        let pci = Pci::new(&ports, &memory, &layout).unwrap();
        Self { ports, memory, pci }
    }

    fn port(&self, port: u64, len: usize) -> u32 {
        let mut data = [0; 4];
        self.ports.read(port, &mut data[..len]);
        u32::from_le_bytes(data)
    }

    fn ecam(&self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.memory.read(0xe800_0000 + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }
}

#[test]
fn the_bridge_is_found_both_ways_and_the_rest_is_ones() {
    let bench = Bench::new();
    bench.ports.write(0xcf8, &0x8000_0000u32.to_le_bytes());
    assert_eq!(bench.port(0xcf8, 4), 0x8000_0000);
    assert_eq!(bench.port(0xcfc, 4), 0x0d57_8086);
    assert_eq!(bench.port(0xcfe, 2), 0x0d57);
    assert_eq!(bench.port(0xcfd, 1), 0x80);
    assert_eq!(bench.ecam(0, 4), 0x0d57_8086);
    assert_eq!(bench.ecam(0x10_0000, 4), 0x0d57_8086, "segment 1");
    assert_eq!(bench.ecam(8, 8), 0x0600_0000, "two registers at once");
    for nothing in [1 << 15, 1 << 12, 0x100, 31 << 15] {
        assert_eq!(bench.ecam(nothing, 4), 0xffff_ffff, "{nothing:#x}");
    }
    for address in [0x8000_0800u32, 0x8001_0000, 0x8000_0100, 0] {
        bench.ports.write(0xcf8, &address.to_le_bytes());
        assert_eq!(bench.port(0xcfc, 4), 0xffff_ffff, "{address:#x}");
    }
    assert!(
        !bench.memory.read(0xe820_0000, &mut [0; 4]),
        "there are two segments"
    );
}

#[test]
fn addresses_are_taken_apart_alike() {
    let bench = Bench::new();
    let slot = bench.pci.segment(0).unwrap().take(Some(21)).unwrap();
    let recorder = share(Recorder::default());
    slot.fill(recorder.clone());
    assert_eq!(bench.ecam(21 << 15 | 0xabc, 2), 0x1111);
    bench.memory.write(0xe800_0000 + (21 << 15 | 0x7e), &[0; 8]);
    bench
        .ports
        .write(0xcf8, &(0x8000_0000u32 | 21 << 11 | 0x40).to_le_bytes());
    assert_eq!(bench.port(0xcfe, 1), 0x11);
    bench.ports.write(0xcfc, &[0; 4]);
    // Over the end of the data register, and bytes of the address register: nothing.
    bench.ports.write(0xcfe, &[0; 4]);
    bench.ports.write(0xcf9, &[6]);
    assert_eq!(bench.port(0xcf9, 1), 0xff);
    let expected = [
        (0xabc, 2),
        (0x7e, 2),
        (0x80, 4),
        (0x84, 2),
        (0x42, 1),
        (0x40, 4),
    ];
    assert_eq!(recorder.lock().unwrap().0, expected);
    drop(slot);
    assert_eq!(bench.ecam(21 << 15, 4), 0xffff_ffff);
}
