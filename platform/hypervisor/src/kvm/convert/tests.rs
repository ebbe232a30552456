use proptest::prelude::*;

use super::*;

#[test]
fn a_cpuid_entry_survives() {
    let plain = CpuidEntry {
        leaf: 7,
        eax: 1,
        ebx: 2,
        ecx: 3,
        edx: 4,
        ..CpuidEntry::default()
    };
    let indexed = CpuidEntry {
        subleaf: 1,
        indexed: true,
        ..plain
    };
    for entry in [plain, indexed] {
        assert_eq!(from_cpuid(&to_cpuid(&entry)), entry);
    }
}

#[test]
fn a_clock_only_moves_on_if_the_wall_clock_is_kept() {
    let clock = ClockState {
        nanoseconds: 5,
        realtime: Some(9),
        host_tsc: Some(3),
    };
    let kernel = to_clock(&clock);
    assert_eq!(
        (kernel.clock, kernel.realtime, kernel.flags),
        (5, 9, kvm::KVM_CLOCK_REALTIME)
    );
    assert_eq!(
        to_clock(&ClockState {
            realtime: None,
            ..clock
        })
        .flags,
        0
    );
}

#[test]
fn more_extended_control_registers_than_there_are_is_an_error() {
    let xcrs = vec![Xcr { index: 0, value: 7 }; 16];
    assert_eq!(from_xcrs(&to_xcrs(&xcrs).unwrap()), xcrs);
    assert!(to_xcrs(&vec![Xcr::default(); 17]).is_err());
}

#[test]
fn a_waiting_triple_fault_is_never_dropped_silently() {
    let flag = |pending, machine| {
        let events = VcpuEvents {
            triple_fault: pending,
            ..VcpuEvents::default()
        };
        to_events(&events, true, machine).flags & kvm::KVM_VCPUEVENT_VALID_TRIPLE_FAULT != 0
    };
    assert!(flag(Some(true), true) && flag(Some(false), true));
    assert!(
        flag(Some(true), false),
        "the kernel refuses it, and the caller learns of it"
    );
    assert!(!flag(Some(false), false) && !flag(None, true));
}

prop_compose! {
    fn segments()(
        base: u64, limit: u32, selector: u16, kind in 0..16_u8, privilege in 0..4_u8, bits: [bool; 7],
    ) -> Segment {
        let [present, default_big, code_or_data, long, granular, available, unusable] = bits;
        Segment {
            base, limit, selector, kind, present, privilege, default_big, code_or_data, long, granular,
            available, unusable,
        }
    }
}

prop_compose! {
    fn event_states()(
        bits: [bool; 13], numbers: [u8; 2], shadow in 0..4_u8, words: [u32; 2], payload: Option<u64>,
    ) -> VcpuEvents {
        VcpuEvents {
            exception: ExceptionEvent {
                injected: bits[0],
                pending: bits[1],
                vector: numbers[0],
                has_error_code: bits[2],
                error_code: words[0],
                payload,
            },
            interrupt: InterruptEvent { injected: bits[3], vector: numbers[1], software: bits[4], shadow },
            nmi: NmiEvent { injected: bits[5], pending: bits[6], masked: bits[7] },
            smi: SmiEvent {
                in_smm: bits[8], pending: bits[9], inside_nmi: bits[10], latched_init: bits[11],
            },
            sipi_vector: words[1],
            triple_fault: Some(bits[12]),
        }
    }
}

proptest! {
    #[test]
    fn segments_survive(segment in segments()) {
        prop_assert_eq!(from_segment(&to_segment(&segment)), segment);
    }

    #[test]
    fn events_survive(events in event_states()) {
        prop_assert_eq!(from_events(&to_events(&events, true, true)), events);
    }

    #[test]
    fn an_address_is_cut_in_halves_with_the_whole_destination_in_the_upper(address: u64) {
        let (low, high) = halves(MsiMessage { address, data: 0 });
        let plain = address & !0xfe0;
        let extension = (address >> 5 & 0x7f) << 40;
        prop_assert_eq!(u64::from(high) << 32 | u64::from(low), plain | extension);
    }
}
