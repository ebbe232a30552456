//! Saved states.

use arch::{MpState, Msr};

use super::*;
use crate::{ClockState, Error, VcpuState};

const TSC: u32 = 0x10;
/// `IA32_SYSENTER_ESP` and `IA32_LSTAR`.
const SOME_MSRS: [u32; 2] = [0x175, 0xc000_0082];

/// A guest with the host's features and something of its own in most parts of its state.
fn marked(code: &[u8]) -> Option<Guest> {
    let mut guest = Guest::new(code)?;
    guest
        .vcpu
        .set_cpuid(&guest.host.supported_cpuid().unwrap())
        .unwrap();
    guest.enable_apic();
    let mut regs = guest.vcpu.regs().unwrap();
    regs.rbx = 0x1234;
    regs.r15 = u64::MAX;
    guest.vcpu.set_regs(&regs).unwrap();
    guest
        .vcpu
        .set_msrs(&SOME_MSRS.map(|index| Msr {
            index,
            value: 0x7fff_0000,
        }))
        .unwrap();
    Some(guest)
}

/// Another machine with the same memory contents, before anything is restored.
fn copy_of(guest: &Guest) -> Guest {
    let copy = Guest::new(&[]).unwrap();
    for at in 0..RAM_SIZE {
        copy.ram.write(at, &[guest.ram.read(at)]);
    }
    let mut copy = copy;
    copy.vcpu
        .set_cpuid(&guest.host.supported_cpuid().unwrap())
        .unwrap();
    copy
}

/// Without what goes on while nothing runs.
fn at_rest(mut state: VcpuState) -> VcpuState {
    state.msrs.retain(|msr| msr.index != TSC);
    state
}

#[test]
fn a_restored_state_is_the_same_and_runs_on() {
    // mov al, 'a'; out 0xe9, al; mov ax, bx; out 0xe9, ax; jmp $
    let code = [0xb0, b'a', 0xe6, 0xe9, 0x89, 0xd8, 0xe7, 0xe9, 0xeb, 0xfe];
    let Some(mut guest) = marked(&code) else {
        return;
    };
    assert_eq!(guest.said(), b"a");
    guest.finish_access();
    let state = guest.vcpu.save().unwrap();
    assert_eq!(state.regs.rbx, 0x1234);
    assert_eq!(
        state.xsave.len(),
        guest.host.capabilities().xsave_size.next_multiple_of(4)
    );
    for index in SOME_MSRS {
        assert!(
            state.msrs.contains(&Msr {
                index,
                value: 0x7fff_0000
            }),
            "{index:#x}"
        );
    }

    let text = serde_json::to_string(&state).unwrap();
    let read: VcpuState = serde_json::from_str(&text).unwrap();
    assert_eq!(read, state);

    let mut copy = copy_of(&guest);
    copy.vcpu.restore(&read).unwrap();
    assert_eq!(at_rest(copy.vcpu.save().unwrap()), at_rest(state));
    assert_eq!(
        copy.said(),
        [0x34, 0x12],
        "the copy goes on behind the write"
    );
}

#[test]
fn the_extended_state_is_restored() {
    let Some(mut guest) = marked(&[]) else { return };
    let mut state = guest.vcpu.save().unwrap();
    // XMM0 at byte 160, and its bit in XSTATE_BV at byte 512 (Intel SDM volume 1, 13.4).
    state.xsave[160..176].fill(0x5a);
    state.xsave[512] |= 1 << 1;
    guest.vcpu.restore(&state).unwrap();
    let again = guest.vcpu.save().unwrap();
    assert_eq!(again.xsave[160..176], [0x5a; 16]);
    assert_eq!(again.xcrs, state.xcrs);
}

#[test]
fn a_waiting_interrupt_and_a_halted_processor_survive() {
    // cli; hlt
    let Some(mut guest) = marked(&[0xfa, 0xf4]) else {
        return;
    };
    let kicker = guest.vcpu.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        kicker.kick();
    });
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Interrupted);
    thread.join().unwrap();
    guest
        .vm
        .signal_msi(crate::MsiMessage {
            address: 0xfee0_0000,
            data: 0x33,
        })
        .unwrap();
    let state = guest.vcpu.save().unwrap();
    assert_eq!(state.mp_state, MpState::Halted);
    let mut copy = copy_of(&guest);
    copy.vcpu.restore(&state).unwrap();
    assert_eq!(at_rest(copy.vcpu.save().unwrap()), at_rest(state.clone()));
    assert_eq!(state.lapic[0x210 + 2] & 1 << 3, 1 << 3, "vector 0x33 waits");
}

#[test]
fn a_processor_in_the_middle_of_an_access_is_not_saved() {
    let Some(mut guest) = Guest::new(&[0xe6, 0xe9, 0xeb, 0xfe]) else {
        return;
    };
    let state = guest.vcpu.save().unwrap();
    guest.said();
    assert!(matches!(guest.vcpu.save(), Err(Error::Unfinished)));
    assert!(matches!(guest.vcpu.restore(&state), Err(Error::Unfinished)));
    guest.finish_access();
    assert_eq!(guest.vcpu.save().unwrap().regs.rip, u64::from(CODE) + 2);
}

#[test]
fn a_damaged_state_is_refused_with_its_reason() {
    let Some(mut guest) = marked(&[]) else { return };
    let state = guest.vcpu.save().unwrap();
    let mut refused = |change: &dyn Fn(&mut VcpuState), reason: &str| {
        let mut damaged = state.clone();
        change(&mut damaged);
        let text = guest.vcpu.restore(&damaged).unwrap_err().to_string();
        assert!(text.contains(reason), "{text}");
    };
    refused(
        &|state| state.lapic.truncate(1023),
        "local APIC has 1023 bytes",
    );
    refused(
        &|state| state.xsave.truncate(100),
        "extended state has 100 bytes",
    );
    refused(
        &|state| state.xcrs = vec![crate::Xcr::default(); 17],
        "17 extended control registers",
    );
    refused(&|state| state.nested = Some(vec![0; 3]), "nested");
    // Bits that no processor has in CR4.
    refused(&|state| state.special_regs.cr4 = u64::MAX, "KVM_SET_SREGS");
    guest.vcpu.restore(&state).unwrap();
}

#[test]
fn a_register_that_does_not_exist_is_named() {
    let Some(mut guest) = marked(&[]) else { return };
    let good = Msr {
        index: SOME_MSRS[0],
        value: 5,
    };
    let bad = Msr {
        index: 0xdead_beef,
        value: 7,
    };
    let error = guest
        .vcpu
        .set_msrs(&[good, bad, Msr { value: 6, ..good }])
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::MsrRefused {
                index: 0xdead_beef,
                value: 7
            }
        ),
        "{error:?}"
    );
    // Those before it are set, those after it are not; reading leaves it out.
    let read = guest
        .vcpu
        .msrs(&[bad.index, good.index, bad.index])
        .unwrap();
    assert_eq!(read, [good]);
}

#[test]
fn more_registers_than_one_request_takes() {
    let Some(mut guest) = marked(&[]) else { return };
    let values: Vec<_> = (0..1000)
        .map(|value| Msr {
            index: SOME_MSRS[0],
            value,
        })
        .collect();
    guest.vcpu.set_msrs(&values).unwrap();
    let read = guest.vcpu.msrs(&[SOME_MSRS[0]; 1000]).unwrap();
    assert_eq!(
        read,
        [Msr {
            index: SOME_MSRS[0],
            value: 999
        }; 1000]
    );
}

#[test]
fn all_registers_of_the_state_are_taken_back() {
    let Some(mut guest) = marked(&[]) else { return };
    let state = guest.vcpu.save().unwrap();
    guest.vcpu.set_msrs(&state.msrs).unwrap();
    assert!(state.msrs.len() > 10, "{}", state.msrs.len());
}

#[test]
fn the_clock_is_set_and_goes_on() {
    let Some(guest) = Guest::new(&[]) else { return };
    let hour = 3_600_000_000_000;
    guest
        .vm
        .set_clock(&ClockState {
            nanoseconds: hour,
            ..ClockState::default()
        })
        .unwrap();
    let clock = guest.vm.clock().unwrap();
    assert!(
        (hour..hour + 60_000_000_000).contains(&clock.nanoseconds),
        "{clock:?}"
    );
    // With the wall clock of a minute ago, the minute is added.
    let Some(realtime) = clock.realtime else {
        return;
    };
    let past = ClockState {
        nanoseconds: hour,
        realtime: Some(realtime - 60_000_000_000),
        host_tsc: None,
    };
    guest.vm.set_clock(&past).unwrap();
    assert!(guest.vm.clock().unwrap().nanoseconds >= hour + 60_000_000_000);
}

#[test]
fn the_counter_keeps_its_frequency() {
    let Some(mut guest) = Guest::new(&[]) else {
        return;
    };
    let khz = guest.vcpu.tsc_khz().unwrap();
    guest.vcpu.set_tsc_khz(khz).unwrap();
    assert_eq!(guest.vcpu.tsc_khz().unwrap(), khz);
    if !guest.host.capabilities().tsc_scaling {
        let error = guest.vcpu.set_tsc_khz(khz / 2).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error:?}");
    }
}

#[test]
fn a_pause_can_be_told_to_a_guest_that_does_not_ask() {
    let Some(mut guest) = Guest::new(&[]) else {
        return;
    };
    guest.vcpu.notify_paused().unwrap();
}
