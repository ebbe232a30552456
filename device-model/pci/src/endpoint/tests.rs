use device::{Bus, Shared, Target};
use proptest::prelude::*;

use super::*;
use crate::segment::{Layout, Pci};
use crate::{Interrupts, SharedFunction, Vector, share};

struct Registers;

impl Target for Registers {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0x55);
    }
    fn write(&mut self, _: u64, _: &[u8]) {}
}

struct NoVectors;

impl Vector for NoVectors {
    fn set(&self, _: Option<hypervisor::MsiMessage>) -> hypervisor::Result<()> {
        Ok(())
    }
    fn trigger(&self) -> hypervisor::Result<()> {
        Ok(())
    }
}

impl Interrupts for NoVectors {
    fn vector(&self) -> hypervisor::Result<Box<dyn Vector>> {
        Ok(Box::new(Self))
    }
}

const ID: Identification = Identification {
    vendor: 0x1af4,
    device: 0x1044,
    revision: 1,
    class: 0xff,
    subclass: 2,
    interface: 3,
    subsystem_vendor: 0x1111,
    subsystem: 0x2222,
};

fn pci() -> (Arc<Bus>, Pci) {
    let memory = Bus::new("memory");
    let plan = Layout {
        segments: 1,
        memory32: 0xc000_0000..0xe800_0000,
        memory64: 0x10_0000_0000..0x20_0000_0000,
    };
    let pci = Pci::new(&Bus::new("ports"), &memory, &plan).unwrap();
    (memory, pci)
}

fn endpoint(pci: &Pci) -> Endpoint {
    let segment = pci.segment(0).unwrap();
    let mut builder = EndpointBuilder::new(segment, &ID)
        .bar(0, BarKind::Memory64, 0x4000, 0, Shared::new(Registers))
        .unwrap()
        .bar(2, BarKind::Io, 4, 0, Shared::new(Registers))
        .unwrap();
    builder
        .capability(CapabilityId::Vendor, &[7, 1, 2, 3, 4], &[0, 0, 0xf0])
        .unwrap();
    let msix = Arc::new(Msix::new(5, &NoVectors).unwrap());
    builder.msix(msix, (0, 0x1000), (0, 0x2000)).unwrap();
    let mut endpoint = builder.build();
    endpoint.appear();
    endpoint
}

fn get(function: &mut Endpoint, offset: u16, len: usize) -> u32 {
    let mut data = [0xff; 4];
    function.read(offset, &mut data[..len]);
    let mut bytes = [0; 4];
    bytes[..len].copy_from_slice(&data[..len]);
    u32::from_le_bytes(bytes)
}

fn put(function: &mut Endpoint, offset: u16, len: usize, value: u32) {
    function.write(offset, &value.to_le_bytes()[..len]);
}

#[test]
fn the_header_says_what_it_is_at_every_width() {
    let (_bus, pci) = pci();
    let mut function = endpoint(&pci);
    let whole: Vec<u8> = (0..64)
        .map(|at| get(&mut function, at, 1).to_le_bytes()[0])
        .collect();
    assert_eq!(whole[..4], [0xf4, 0x1a, 0x44, 0x10]);
    assert_eq!(
        whole[4..8],
        [3, 0, 0x10, 0],
        "decodes both spaces, has capabilities"
    );
    assert_eq!(whole[8..12], [1, 3, 2, 0xff]);
    assert_eq!(whole[0xe], 0, "type 0, one function");
    assert_eq!(whole[0x2c..0x30], [0x11, 0x11, 0x22, 0x22]);
    for at in (0u16..64).step_by(4) {
        let bytes = &whole[usize::from(at)..][..4];
        assert_eq!(get(&mut function, at, 4).to_le_bytes(), bytes);
        assert_eq!(get(&mut function, at + 2, 2).to_le_bytes()[..2], bytes[2..]);
    }
}

#[test]
fn what_is_not_there_reads_as_ones_and_crossings_do_nothing() {
    let (_bus, pci) = pci();
    let mut function = endpoint(&pci);
    for (offset, len) in [
        (0x100, 4),
        (0xffc, 4),
        (0xfe, 4),
        (1, 4),
        (2, 4),
        (3, 2),
        (0, 3),
    ] {
        let ones = u32::MAX >> (32 - 8 * len);
        assert_eq!(
            get(&mut function, offset, len),
            ones,
            "{len} bytes at {offset:#x}"
        );
    }
    assert_eq!(get(&mut function, 1, 2), 0x441a);
}

#[test]
fn capabilities_are_a_list_whose_bytes_change_only_where_they_may() {
    let (_bus, pci) = pci();
    let mut function = endpoint(&pci);
    let first = get(&mut function, 0x34, 1);
    assert_eq!(first, 0x40);
    assert_eq!(get(&mut function, 0x40, 4), 0x0107_4809);
    assert_eq!(
        get(&mut function, 0x48, 4),
        0x0004_0011,
        "five vectors, the end of the list"
    );
    assert_eq!(get(&mut function, 0x4c, 4), 0x1000);
    assert_eq!(get(&mut function, 0x50, 4), 0x2000);
    for at in (0x40..0x54).step_by(4) {
        put(&mut function, at, 4, u32::MAX);
    }
    assert_eq!(get(&mut function, 0x40, 4), 0x0107_4809);
    assert_eq!(get(&mut function, 0x44, 4), 0x0004_03f2);
    assert_eq!(
        get(&mut function, 0x48, 4),
        0xc004_0011,
        "enabled and masked"
    );
    assert_eq!(get(&mut function, 0x4c, 4), 0x1000);
}

#[test]
fn decoding_follows_the_command_register() {
    let (bus, pci) = pci();
    let mut function = endpoint(&pci);
    let base = u64::from(get(&mut function, 0x10, 4) & !0xf)
        | u64::from(get(&mut function, 0x14, 4)) << 32;
    let mut data = [0; 4];
    assert!(bus.read(base, &mut data));
    put(&mut function, 4, 1, 1);
    assert!(!bus.read(base, &mut data));
    put(&mut function, 4, 2, 0xffff);
    assert!(bus.read(base, &mut data));
    assert_eq!(
        get(&mut function, 4, 2),
        0x0547,
        "bits without a meaning here stay 0"
    );
}

#[test]
fn a_bar_can_be_written_byte_by_byte() {
    let (bus, pci) = pci();
    let mut function = endpoint(&pci);
    for (at, byte) in [
        (0x10, 0),
        (0x11, 0x40),
        (0x12, 0x34),
        (0x13, 0x12),
        (0x14, 0x11),
    ] {
        put(&mut function, at, 1, byte);
    }
    let mut data = [0; 1];
    assert!(bus.read(0x11_1234_4000, &mut data));
    assert_eq!(get(&mut function, 0x10, 4), 0x1234_4004);
    assert_eq!(get(&mut function, 0x13, 1), 0x12);
}

#[test]
fn too_many_capabilities_are_refused() {
    let (_bus, pci) = pci();
    let mut builder = EndpointBuilder::new(pci.segment(0).unwrap(), &ID);
    builder
        .capability(CapabilityId::Vendor, &[0; 186], &[])
        .unwrap();
    builder
        .capability(CapabilityId::Vendor, &[0; 2], &[])
        .unwrap();
    assert!(builder.capability(CapabilityId::Vendor, &[0], &[]).is_err());
}

#[test]
fn a_state_survives_and_another_functions_is_refused() {
    let (bus, pci) = pci();
    let mut original = endpoint(&pci);
    put(&mut original, 0x10, 4, 0x8000_0000);
    put(&mut original, 0x3c, 1, 11);
    put(&mut original, 0x48, 4, 0x8000_0000);
    let text = serde_json::to_string(&original.save()).unwrap();
    drop(original);
    let state: EndpointState = serde_json::from_str(&text).unwrap();
    let mut copy = endpoint(&pci);
    copy.restore(&state).unwrap();
    let address = 0x1f_8000_0000;
    assert!(!bus.read(address, &mut [0]), "not before it appears");
    copy.appear();
    assert!(bus.read(address, &mut [0]));
    assert_eq!(get(&mut copy, 0x3c, 1), 11);
    assert_eq!(serde_json::to_string(&copy.save()).unwrap(), text);

    let mut forged = state.clone();
    forged.config.fill(0xff);
    copy.restore(&forged).unwrap();
    assert_eq!(
        get(&mut copy, 0, 4),
        0x1044_1af4,
        "what a guest cannot write, a state cannot either"
    );
    for spoil in [
        |state: &mut EndpointState| state.config.truncate(255),
        |state: &mut EndpointState| state.bars.truncate(1),
        |state: &mut EndpointState| state.bars[0].index = 200,
        |state: &mut EndpointState| state.msix = None,
    ] {
        let mut bad = state.clone();
        spoil(&mut bad);
        assert!(copy.restore(&bad).is_err());
    }
}

#[test]
fn a_slot_takes_any_function() {
    struct Other;
    impl Function for Other {
        fn read(&mut self, _: u16, data: &mut [u8]) {
            data.fill(0x42);
        }
        fn write(&mut self, _: u16, _: &[u8]) {}
    }
    let (bus, pci) = pci();
    let slot = pci.segment(0).unwrap().take(Some(9)).unwrap();
    let function: SharedFunction = share(Other);
    slot.fill(function);
    let mut data = [0; 2];
    bus.read(0xe800_0000 + (9 << 15), &mut data);
    assert_eq!(data, [0x42; 2]);
}

proptest! {
    /// Anything may be written: nothing panics, names stay, and at most the window's own addresses are taken.
    #[test]
    fn any_writes_are_survived(
        writes in proptest::collection::vec((0u16..0x110, 1usize..9, any::<u32>()), 0..200)
    ) {
        let (bus, pci) = pci();
        let mut function = endpoint(&pci);
        for (offset, len, value) in writes {
            let bytes = [value.to_le_bytes(), value.to_le_bytes()].concat();
            function.write(offset, &bytes[..len]);
            let mut data = [0; 8];
            function.read(offset, &mut data[..len]);
        }
        prop_assert_eq!(get(&mut function, 0, 4), 0x1044_1af4);
        prop_assert_eq!(get(&mut function, 0x34, 1), 0x40);
        put(&mut function, 4, 1, 2);
        let low = get(&mut function, 0x10, 4);
        let high = get(&mut function, 0x14, 4);
        let address = u64::from(low & !0xf) | u64::from(high) << 32;
        let mapped = bus.read(address, &mut [0]);
        prop_assert!(mapped || low >> 14 == u32::MAX >> 14 || high == u32::MAX, "{:#x}", address);
    }
}
