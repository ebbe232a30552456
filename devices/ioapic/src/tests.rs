use super::*;

fn registers() -> Registers {
    Registers::new(Routes::Log(Vec::new()))
}

fn routes(registers: &Registers) -> &[(u32, Option<MsiMessage>)] {
    match &registers.routes {
        Routes::Log(log) => log,
        Routes::Vm(_) => &[],
    }
}

fn write(registers: &mut Registers, register: u8, value: u32) {
    registers.write(SELECT, &u32::from(register).to_le_bytes());
    registers.write(WINDOW, &value.to_le_bytes());
}

fn read(registers: &mut Registers, register: u8) -> u32 {
    registers.write(SELECT, &[register]);
    let mut data = [0; 4];
    registers.read(WINDOW, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn version_tells_24_entries() {
    let mut registers = registers();
    assert_eq!(read(&mut registers, 1), 0x0017_0011);
    write(&mut registers, 1, 0);
    assert_eq!(read(&mut registers, 1), 0x0017_0011);
}

#[test]
fn id_keeps_its_four_bits() {
    let mut registers = registers();
    write(&mut registers, 0, 0xffff_ffff);
    assert_eq!(read(&mut registers, 0), 0x0f00_0000);
    assert_eq!(read(&mut registers, 2), 0x0f00_0000);
}

#[test]
fn an_unmasked_entry_becomes_a_route_once() {
    let mut registers = registers();
    write(&mut registers, 0x19, 0x0200_0000);
    assert!(routes(&registers).is_empty(), "a masked entry has no route");
    write(&mut registers, 0x18, 0x24);
    write(&mut registers, 0x18, 0x24);
    let message = MsiMessage {
        address: 0xfee0_2000,
        data: 0x24,
    };
    assert_eq!(routes(&registers), [(4, Some(message))]);
    write(&mut registers, 0x18, 0x1_0024);
    assert_eq!(routes(&registers)[1..], [(4, None)]);
}

#[test]
fn every_entry_starts_masked_and_the_last_is_23() {
    let mut registers = registers();
    for pin in 0..24 {
        assert_eq!(read(&mut registers, 0x10 + 2 * pin), 0x1_0000);
        assert_eq!(read(&mut registers, 0x11 + 2 * pin), 0);
    }
    for register in [0x40, 0xff, 0x0f] {
        write(&mut registers, register, 0);
        assert_eq!(read(&mut registers, register), u32::MAX, "{register:#x}");
    }
    assert!(routes(&registers).is_empty());
}

#[test]
fn odd_accesses_do_nothing() {
    let mut registers = registers();
    write(&mut registers, 0x10, 0x1_0030);
    registers.write(WINDOW, &[0]);
    registers.write(WINDOW, &[0; 8]);
    registers.write(4, &[0; 4]);
    assert_eq!(read(&mut registers, 0x10), 0x1_0030);
    let mut narrow = [0];
    registers.read(WINDOW, &mut narrow);
    assert_eq!(narrow, [0x30]);
}
