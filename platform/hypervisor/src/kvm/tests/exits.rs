//! Why a processor comes back.

use super::*;
use crate::{Address, DoorbellValue};

#[test]
fn a_port_is_written_and_read() {
    // mov al, 'x'; out 0xe9, al; in ax, dx (dx = 0x3f8); out 0xe9, ax; hlt
    let Some(mut guest) = Guest::new(&[
        0xb0, b'x', 0xe6, 0xe9, 0xba, 0xf8, 0x03, 0xed, 0xe7, 0xe9, 0xf4,
    ]) else {
        return;
    };
    let exit = guest.vcpu.run().unwrap();
    assert_eq!(
        exit,
        Exit::PortWrite {
            port: 0xe9,
            width: 1,
            data: b"x"
        }
    );
    match guest.vcpu.run().unwrap() {
        Exit::PortRead {
            port: 0x3f8,
            width: 2,
            data,
        } => data.copy_from_slice(&[0x34, 0x12]),
        other => panic!("unexpected {other:?}"),
    }
    let exit = guest.vcpu.run().unwrap();
    assert_eq!(
        exit,
        Exit::PortWrite {
            port: 0xe9,
            width: 2,
            data: &[0x34, 0x12]
        }
    );
}

#[test]
fn a_string_is_written_item_by_item_or_at_once() {
    // mov dx, 0xe9; mov si, 0x2000; mov cx, 4; cld; rep outsw; hlt
    let code = [
        0xba, 0xe9, 0x00, 0xbe, 0x00, 0x20, 0xb9, 0x04, 0x00, 0xfc, 0xf3, 0x6f, 0xf4,
    ];
    let Some(mut guest) = Guest::new(&code) else {
        return;
    };
    guest.ram.write(0x2000, b"abcdefgh");
    let mut text = Vec::new();
    while text.len() < 8 {
        match guest.vcpu.run().unwrap() {
            Exit::PortWrite {
                port: 0xe9,
                width: 2,
                data,
            } => {
                assert!(!data.is_empty() && data.len() % 2 == 0);
                text.extend_from_slice(data);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(text, b"abcdefgh");
}

#[test]
fn a_string_is_read_with_several_items_in_one_exit() {
    // mov dx, 0x1f0; mov di, 0x2000; mov cx, 6; cld; rep insb; out 0xe9, al; hlt
    let code = [
        0xba, 0xf0, 0x01, 0xbf, 0x00, 0x20, 0xb9, 0x06, 0x00, 0xfc, 0xf3, 0x6c, 0xe6, 0xe9, 0xf4,
    ];
    let Some(mut guest) = Guest::new(&code) else {
        return;
    };
    let mut next = b'a';
    let mut largest = 0;
    loop {
        match guest.vcpu.run().unwrap() {
            Exit::PortRead {
                port: 0x1f0,
                width: 1,
                data,
            } => {
                largest = largest.max(data.len());
                for byte in data {
                    *byte = next;
                    next += 1;
                }
            }
            Exit::PortWrite { .. } => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    let text: Vec<_> = (0x2000..0x2006).map(|at| guest.ram.read(at)).collect();
    assert_eq!(text, b"abcdef");
    assert!(
        largest > 1,
        "KVM reads ahead: a count above 1 must come through"
    );
}

#[test]
fn memory_that_is_not_mapped_is_read_and_written() {
    // mov ax, 0x2000; mov ds, ax; mov word [0x10], 0xbeef; mov al, [0x20]; out 0xe9, al; hlt
    let code = [
        0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xc7, 0x06, 0x10, 0x00, 0xef, 0xbe, 0xa0, 0x20, 0x00, 0xe6,
        0xe9, 0xf4,
    ];
    let Some(mut guest) = Guest::new(&code) else {
        return;
    };
    let exit = guest.vcpu.run().unwrap();
    assert_eq!(
        exit,
        Exit::MmioWrite {
            address: 0x2_0010,
            data: &[0xef, 0xbe]
        }
    );
    match guest.vcpu.run().unwrap() {
        Exit::MmioRead {
            address: 0x2_0020,
            data,
        } => data.copy_from_slice(b"m"),
        other => panic!("unexpected {other:?}"),
    }
    assert_eq!(guest.said(), b"m");
}

#[test]
fn memory_mapped_read_only_reports_its_writes() {
    // mov ax, 0x2000; mov ds, ax; mov byte [0x10], 7; mov al, [0x11]; out 0xe9, al; hlt
    let code = [
        0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xc6, 0x06, 0x10, 0x00, 0x07, 0xa0, 0x11, 0x00, 0xe6, 0xe9,
        0xf4,
    ];
    let Some(mut guest) = Guest::new(&code) else {
        return;
    };
    let rom = Ram::new(0x1000);
    rom.write(0x11, b"r");
    let region = MemoryRegion {
        read_only: true,
        ..region(&rom, 0x2_0000, false)
    };
    let _slot = guest.vm.map_memory(region).unwrap();
    let exit = guest.vcpu.run().unwrap();
    assert_eq!(
        exit,
        Exit::MmioWrite {
            address: 0x2_0010,
            data: &[7]
        }
    );
    assert_eq!(guest.said(), b"r", "reads do not leave the guest");
    assert_eq!(rom.read(0x10), 0);
}

#[test]
fn a_triple_fault_shuts_down() {
    // ud2, in protected mode without an interrupt table
    let Some(mut guest) = Guest::new(&[0x0f, 0x0b]) else {
        return;
    };
    let mut special = guest.vcpu.special_regs().unwrap();
    special.cr0 |= 1;
    special.idt.limit = 0;
    for segment in [&mut special.cs, &mut special.ds, &mut special.ss] {
        segment.base = 0;
        segment.limit = u32::MAX;
        segment.granular = true;
        segment.default_big = true;
        segment.selector = 8;
    }
    special.cs.kind = 0xb;
    guest.vcpu.set_special_regs(&special).unwrap();
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Shutdown);
}

#[test]
fn an_instruction_that_cannot_be_emulated_is_named() {
    // mov ax, 0x2000; mov ds, ax; fxsave [0x10], in memory that is not mapped
    let Some(mut guest) = Guest::new(&[0xb8, 0x00, 0x20, 0x8e, 0xd8, 0x0f, 0xc7, 0x36, 0x10, 0x00])
    else {
        return;
    };
    match guest.vcpu.run().unwrap() {
        Exit::Failed(text) => {
            assert!(text.contains("could not emulate the instruction"), "{text}");
            assert!(text.contains("at 0x1005"), "{text}");
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_halted_processor_waits_in_the_kernel() {
    // cli; hlt: with the interrupt controller in the kernel, nothing but a kick comes back from this.
    let Some(mut guest) = Guest::new(&[0xfa, 0xf4]) else {
        return;
    };
    let kicker = guest.vcpu.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        kicker.kick();
    });
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Interrupted);
    thread.join().unwrap();
    assert_eq!(guest.vcpu.mp_state().unwrap(), arch::MpState::Halted);
}

#[test]
fn doorbells_ring_by_value_and_place_without_an_exit() {
    // mov dx, 0x510; mov ax, 1; out dx, ax; mov ax, 2; out dx, ax;
    // mov ax, 0x2000; mov ds, ax; mov word [0x10], 3; mov byte [0x20], 4; out 0xe9, al
    let code = [
        0xba, 0x10, 0x05, 0xb8, 0x01, 0x00, 0xef, 0xb8, 0x02, 0x00, 0xef, 0xb8, 0x00, 0x20, 0x8e,
        0xd8, 0xc7, 0x06, 0x10, 0x00, 0x03, 0x00, 0xc6, 0x06, 0x20, 0x00, 0x04, 0xe6, 0xe9,
    ];
    let Some(mut guest) = Guest::new(&code) else {
        return;
    };
    let port = Address::Port(0x510);
    let one = guest.vm.doorbell(port, DoorbellValue::U16(1)).unwrap();
    let three = guest
        .vm
        .doorbell(Address::Mmio(0x2_0010), DoorbellValue::U16(3))
        .unwrap();
    let any = guest
        .vm
        .doorbell(Address::Mmio(0x2_0020), DoorbellValue::Any)
        .unwrap();
    let exit = guest.vcpu.run().unwrap();
    assert_eq!(
        exit,
        Exit::PortWrite {
            port: 0x510,
            width: 2,
            data: &[2, 0]
        },
        "the value of nobody"
    );
    assert_eq!(guest.said(), [0]);
    for bell in [&one, &three, &any] {
        assert_eq!(bell.event().read().unwrap(), 1, "{bell:?}");
    }

    // A dropped doorbell leaves the write to the monitor again.
    drop(one);
    guest.finish_access();
    guest.start_at_code();
    let exit = guest.vcpu.run().unwrap();
    assert_eq!(
        exit,
        Exit::PortWrite {
            port: 0x510,
            width: 2,
            data: &[1, 0]
        }
    );
    let twice = guest
        .vm
        .doorbell(Address::Mmio(0x2_0020), DoorbellValue::Any);
    assert!(twice.is_err(), "two doorbells at the same place");
    drop((three, any));
}
