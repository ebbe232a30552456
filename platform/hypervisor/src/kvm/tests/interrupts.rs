//! Interrupts from devices.

use std::os::fd::{AsFd, AsRawFd};

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::{Error, IOAPIC_PINS, MsiMessage};

const VECTOR: u8 = 0x41;

fn message(vector: u8) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data: vector.into(),
    }
}

/// Whether the interrupt waits in the local APIC (interrupt request register, Intel SDM volume 3A).
fn waits(guest: &Guest, vector: u8) -> bool {
    let at = 0x200 + usize::from(vector / 32) * 0x10 + usize::from(vector % 32 / 8);
    guest.vcpu.lapic().unwrap()[at] & 1 << (vector % 8) != 0
}

fn guest_with_apic(code: &[u8]) -> Option<Guest> {
    let mut guest = Guest::new(code)?;
    guest.enable_apic();
    Some(guest)
}

#[test]
fn a_message_interrupt_runs_the_guests_handler() {
    // sti; hlt; jmp to hlt
    let Some(mut guest) = guest_with_apic(&[0xfb, 0xf4, 0xeb, 0xfd]) else {
        return;
    };
    // mov al, 'i'; out 0xe9, al; iret
    guest.ram.write(0x3000, &[0xb0, b'i', 0xe6, 0xe9, 0xcf]);
    guest
        .ram
        .write(usize::from(VECTOR) * 4, &[0x00, 0x30, 0x00, 0x00]);
    let msi = guest.vm.msi().unwrap();
    msi.set(Some(message(VECTOR))).unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        msi.trigger().unwrap();
        msi
    });
    assert_eq!(guest.said(), b"i");
    thread.join().unwrap();
}

#[test]
fn an_interrupt_without_a_message_delivers_nothing_then_or_later() {
    let Some(guest) = guest_with_apic(&[]) else {
        return;
    };
    let msi = guest.vm.msi().unwrap();
    msi.trigger().unwrap();
    msi.set(Some(message(VECTOR))).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waits(&guest, VECTOR), "a signal from before the message");
    msi.set(None).unwrap();
    msi.trigger().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    msi.set(Some(message(VECTOR))).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(
        !waits(&guest, VECTOR),
        "a signal while there was no message"
    );
    msi.trigger().unwrap();
    assert!(eventually(|| waits(&guest, VECTOR)));
}

#[test]
fn a_changed_message_is_delivered_instead() {
    let Some(guest) = guest_with_apic(&[]) else {
        return;
    };
    let msi = guest.vm.msi().unwrap();
    msi.set(Some(message(0x51))).unwrap();
    msi.set(Some(message(0x62))).unwrap();
    msi.trigger().unwrap();
    assert!(eventually(|| waits(&guest, 0x62)));
    assert!(!waits(&guest, 0x51));
}

#[test]
fn a_dropped_interrupt_is_disconnected_and_its_number_used_again() {
    let Some(guest) = guest_with_apic(&[]) else {
        return;
    };
    let first = guest.vm.msi().unwrap();
    first.set(Some(message(0x51))).unwrap();
    let event = duplicate(&first);
    drop(first);
    let second = guest.vm.msi().unwrap();
    second.set(Some(message(0x62))).unwrap();
    event.write(1).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(
        !waits(&guest, 0x51) && !waits(&guest, 0x62),
        "the first one's descriptor is still connected"
    );
    second.trigger().unwrap();
    assert!(eventually(|| waits(&guest, 0x62)));
}

/// Another descriptor of the same event, as a device in another process has.
fn duplicate(event: &impl AsFd) -> EventFd {
    use std::os::fd::{FromRawFd, IntoRawFd};
    let fd = event.as_fd().try_clone_to_owned().unwrap().into_raw_fd();
    // SAFETY: the descriptor is a new one, of an event.
    unsafe { EventFd::from_raw_fd(fd) }
}

#[test]
fn a_line_delivers_what_its_pin_is_routed_to() {
    let Some(guest) = guest_with_apic(&[]) else {
        return;
    };
    let line = guest.vm.irq_line(4).unwrap();
    assert_eq!(line.gsi(), 4);
    assert!(line.as_fd().as_raw_fd() >= 0);
    line.trigger().unwrap();
    guest.vm.route_pin(4, Some(message(0x34))).unwrap();
    line.trigger().unwrap();
    assert!(eventually(|| waits(&guest, 0x34)));
    guest.vm.route_pin(4, None).unwrap();
    guest.vm.route_pin(5, Some(message(0x35))).unwrap();
    drop(line);
    let other = guest.vm.irq_line(5).unwrap();
    other.trigger().unwrap();
    assert!(eventually(|| waits(&guest, 0x35)));
}

#[test]
fn the_end_of_a_level_interrupt_is_reported() {
    // sti; hlt; jmp to hlt
    let Some(mut guest) = guest_with_apic(&[0xfb, 0xf4, 0xeb, 0xfd]) else {
        return;
    };
    // mov dword fs:[0xb0], 0 (end of interrupt); mov al, 'e'; out 0xe9, al; iret
    guest.ram.write(
        0x3000,
        &[
            0x64, 0x66, 0xc7, 0x06, 0xb0, 0x00, 0, 0, 0, 0, 0xb0, b'e', 0xe6, 0xe9, 0xcf,
        ],
    );
    guest
        .ram
        .write(usize::from(VECTOR) * 4, &[0x00, 0x30, 0x00, 0x00]);
    let mut special = guest.vcpu.special_regs().unwrap();
    special.fs.base = 0xfee0_0000;
    guest.vcpu.set_special_regs(&special).unwrap();
    let level = MsiMessage {
        data: 1 << 15 | 1 << 14 | u32::from(VECTOR),
        ..message(0)
    };
    guest.vm.route_pin(9, Some(level)).unwrap();
    let line = guest.vm.irq_line(9).unwrap();
    line.trigger().unwrap();
    // KVM may report it before or after the instruction behind it.
    let (mut ended, mut said) = (false, false);
    while !(ended && said) {
        match guest.vcpu.run().unwrap() {
            Exit::IoapicEoi(VECTOR) => ended = true,
            Exit::PortWrite { data: b"e", .. } => said = true,
            other => panic!("unexpected {other:?} (ended: {ended}, said: {said})"),
        }
    }
}

#[test]
fn a_message_can_be_sent_without_a_route() {
    let Some(guest) = guest_with_apic(&[]) else {
        return;
    };
    guest.vm.signal_msi(message(0x77)).unwrap();
    assert!(waits(&guest, 0x77));
    // To a processor that there is not: lost, as by hardware.
    guest
        .vm
        .signal_msi(MsiMessage {
            address: 0xfee0_5000,
            data: 0x78,
        })
        .unwrap();
    assert!(!waits(&guest, 0x78));
}

#[test]
fn an_nmi_runs_the_guests_handler() {
    // hlt; jmp to hlt
    let Some(mut guest) = Guest::new(&[0xf4, 0xeb, 0xfd]) else {
        return;
    };
    guest.ram.write(0x3000, &[0xb0, b'n', 0xe6, 0xe9, 0xcf]);
    guest.ram.write(2 * 4, &[0x00, 0x30, 0x00, 0x00]);
    guest.vcpu.inject_nmi().unwrap();
    assert_eq!(guest.said(), b"n");
}

#[test]
fn only_pins_are_pins() {
    let Some(guest) = Guest::new(&[]) else { return };
    guest.vm.irq_line(IOAPIC_PINS - 1).unwrap();
    let error = guest.vm.irq_line(IOAPIC_PINS).unwrap_err();
    assert_eq!(
        error.to_string(),
        "interrupt 24 is not a pin of the I/O APIC, which has pins 0 to 23"
    );
    assert!(matches!(
        guest.vm.route_pin(u32::MAX, None),
        Err(Error::NotAPin(u32::MAX))
    ));
}
