//! Memory slots.

use super::*;
use crate::Error;

#[test]
fn memory_comes_and_goes_with_its_slot() {
    // mov ax, 0x2000; mov ds, ax; mov al, [0]; out 0xe9, al
    let code = [0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0x00, 0x00, 0xe6, 0xe9];
    let Some(mut guest) = Guest::new(&code) else {
        return;
    };
    for letter in [b'a', b'b'] {
        let more = Ram::new(0x2000);
        more.write(0, &[letter]);
        let slot = guest.vm.map_memory(region(&more, 0x2_0000, false)).unwrap();
        guest.start_at_code();
        assert_eq!(guest.said(), [letter]);
        drop(slot);
        assert_eq!(
            Arc::strong_count(&more),
            1,
            "the slot has let go of the memory"
        );
        guest.finish_access();
        guest.start_at_code();
        let exit = guest.vcpu.run().unwrap();
        assert!(
            matches!(
                exit,
                Exit::MmioRead {
                    address: 0x2_0000,
                    ..
                }
            ),
            "{exit:?}"
        );
        guest.finish_access();
    }
}

#[test]
fn a_slot_keeps_its_memory_and_its_machine() {
    let Some(guest) = Guest::new(&[]) else { return };
    let Guest {
        vcpu,
        vm,
        ram,
        slot,
        host,
    } = guest;
    let memory = Arc::downgrade(&ram);
    drop((vcpu, vm, host, ram));
    assert!(memory.upgrade().is_some());
    assert_eq!(slot.region().host.size(), RAM_SIZE as u64);
    drop(slot);
    assert!(memory.upgrade().is_none());
}

#[test]
fn what_cannot_be_mapped_is_explained() {
    let Some(guest) = Guest::new(&[]) else { return };
    let more = Ram::new(0x2000);
    let refused = |region| {
        let error = guest.vm.map_memory(region).unwrap_err();
        assert!(matches!(error, Error::MapMemory { .. }), "{error:?}");
        error.to_string()
    };
    let text = refused(region(&more, 0xf000, false));
    assert!(
        text.contains("0x2000 bytes") && text.contains("at guest address 0xf000"),
        "{text}"
    );
    assert!(text.contains("overlaps"), "{text}");
    assert!(refused(region(&more, 0x2_0800, false)).contains("page size"));
    refused(region(&more, u64::MAX - 0xfff, false));
    let nothing = Arc::new(Ram {
        address: more.address(),
        size: 0,
    });
    refused(region(&nothing, 0x2_0000, false));
    // It is not a mapping of its own.
    std::mem::forget(nothing);
    // None of these took a slot: number 0 is the guest's memory.
    let slot = guest.vm.map_memory(region(&more, 0x2_0000, false)).unwrap();
    assert_eq!(slot.number, 1);
}

#[test]
fn slot_numbers_are_used_again() {
    let Some(guest) = Guest::new(&[]) else { return };
    let rams: Vec<_> = (0..4).map(|_| Ram::new(0x1000)).collect();
    let map = |index: u64| {
        let at = 0x10_0000 + index * 0x1000;
        guest
            .vm
            .map_memory(region(&rams[usize::try_from(index).unwrap()], at, false))
            .unwrap()
    };
    let mut slots: Vec<_> = (0..3).map(map).collect();
    let freed = slots.remove(1).number;
    assert_eq!(map(3).number, freed);
}

#[test]
fn written_pages_are_logged_once() {
    // mov byte [0x5000], 1; mov byte [0x9000], 1; out 0xe9, al; mov byte [0x6000], 1; out 0xe9, al
    let code = [
        0xc6, 0x06, 0x00, 0x50, 0x01, 0xc6, 0x06, 0x00, 0x90, 0x01, 0xe6, 0xe9, 0xc6, 0x06, 0x00,
        0x60, 0x01, 0xe6, 0xe9,
    ];
    let Some(mut guest) = Guest::with_log(&code, true) else {
        return;
    };
    let taken = |guest: &Guest| guest.vm.take_dirty_pages(&guest.slot).unwrap();
    guest.said();
    assert_eq!(taken(&guest), [1 << 5 | 1 << 9]);
    assert_eq!(
        taken(&guest),
        [0],
        "a page is reported until it is written again"
    );
    guest.said();
    assert_eq!(taken(&guest), [1 << 6]);
}

#[test]
fn logging_is_switched() {
    // mov byte [0x5000], 1; out 0xe9, al
    let Some(mut guest) = Guest::new(&[0xc6, 0x06, 0x00, 0x50, 0x01, 0xe6, 0xe9]) else {
        return;
    };
    guest.said();
    assert!(
        guest.vm.take_dirty_pages(&guest.slot).is_err(),
        "the slot does not log yet"
    );
    guest.vm.log_dirty(&guest.slot, true).unwrap();
    guest.finish_access();
    guest.start_at_code();
    guest.said();
    assert_eq!(
        guest.vm.take_dirty_pages(&guest.slot).unwrap()[0] & 1 << 5,
        1 << 5
    );
    guest.vm.log_dirty(&guest.slot, false).unwrap();
    assert!(guest.vm.take_dirty_pages(&guest.slot).is_err());
}

#[test]
fn a_slot_is_never_taken_for_that_of_another_machine() {
    let (Some(one), Some(other)) = (Guest::new(&[]), Guest::new(&[])) else {
        return;
    };
    assert_eq!(one.slot.number, other.slot.number);
    other.vm.log_dirty(&one.slot, true).unwrap();
    one.vm.take_dirty_pages(&one.slot).unwrap();
    assert!(other.vm.take_dirty_pages(&other.slot).is_err());
}
