use std::sync::{Arc, Mutex};

use super::*;

fn registers(facts: &Facts) -> (Registers, Arc<Mutex<Vec<PowerEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    (
        Registers::new(
            facts,
            Power::new(move |event| log.lock().unwrap().push(event)),
        ),
        events,
    )
}

fn read(registers: &mut Registers, index: u8) -> u8 {
    registers.write(INDEX, &[index]);
    let mut data = [0xff];
    registers.read(DATA, &mut data);
    data[0]
}

#[test]
fn tells_the_sizes_of_memory() {
    let facts = Facts {
        ram_below_4g: 3 << 30,
        ram_above_4g: 5 << 30,
        ..Facts::default()
    };
    let (mut registers, _) = registers(&facts);
    let low = u16::from_le_bytes([read(&mut registers, 0x34), read(&mut registers, 0x35)]);
    assert_eq!(u64::from(low) * 65536 + (16 << 20), 3 << 30);
    let high = [0x5b, 0x5c, 0x5d].map(|index| read(&mut registers, index));
    let high = u32::from_le_bytes([high[0], high[1], high[2], 0]);
    assert_eq!(u64::from(high) * 65536, 5 << 30);
}

#[test]
fn a_machine_below_16_mib_has_nothing_above() {
    let (mut registers, _) = registers(&Facts {
        ram_below_4g: 8 << 20,
        ..Facts::default()
    });
    assert_eq!(read(&mut registers, 0x34), 0);
}

#[test]
fn zero_in_the_shutdown_status_resets_only_with_nmi_off() {
    let (mut registers, events) = registers(&Facts::default());
    // Linux writes 0x0f around the start of each processor: that is no reset.
    registers.write(INDEX, &[0x0f]);
    registers.write(DATA, &[0x0a]);
    registers.write(DATA, &[0]);
    registers.write(INDEX, &[0x8f]);
    registers.write(DATA, &[1]);
    assert!(events.lock().unwrap().is_empty());
    registers.write(DATA, &[0]);
    assert_eq!(*events.lock().unwrap(), [PowerEvent::Reset]);
}

#[test]
fn ram_keeps_bytes_and_the_clock_does_not() {
    let (mut registers, _) = registers(&Facts::default());
    registers.write(INDEX, &[0xc0]);
    registers.write(DATA, &[0x5a]);
    assert_eq!(read(&mut registers, 0x40), 0x5a);
    registers.write(INDEX, &[0x0d]);
    registers.write(DATA, &[0x11]);
    assert_eq!(read(&mut registers, 0x0d), 0x80);
}

#[test]
fn wide_accesses_and_the_index_port_read_as_nothing() {
    let (mut registers, _) = registers(&Facts::default());
    let mut data = [0xff; 2];
    registers.read(INDEX, &mut data);
    registers.write(INDEX, &[1, 2]);
    assert_eq!(data, [0xff; 2]);
    assert_eq!(registers.index, 0);
}

#[test]
fn the_clock_is_described_without_an_interrupt() {
    let resources = node().resources;
    assert_eq!(resources, [Resource::Ports { base: 0x70, len: 2 }]);
}
