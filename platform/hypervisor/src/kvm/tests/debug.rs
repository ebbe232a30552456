//! Steps. Breakpoints are tested with gdb (`tests/remote/gdb.rs`).

use super::*;
use crate::{GuestDebug, Trap};

fn stop(guest: &mut Guest) -> (u64, Trap) {
    match guest.vcpu.run().unwrap() {
        Exit::Debug { address, trap } => (address, trap),
        other => panic!("unexpected {other:?}"),
    }
}

fn steps(trap: Trap) -> bool {
    matches!(trap, Trap::Hardware { step: true, .. })
}

#[test]
fn a_step_is_one_instruction() {
    // nop; nop; out 0xe9, al; nop
    let Some(mut guest) = Guest::new(&[0x90, 0x90, 0xe6, 0xe9, 0x90]) else {
        return;
    };
    let start = guest.vcpu.regs().unwrap().rip;
    let debug = GuestDebug {
        step: true,
        ..GuestDebug::default()
    };
    guest.vcpu.set_debug(&debug).unwrap();
    for index in 1..=2 {
        let (address, trap) = stop(&mut guest);
        assert_eq!((address, steps(trap)), (start + index, true));
    }
    let exit = guest.vcpu.run().unwrap();
    assert!(matches!(exit, Exit::PortWrite { .. }), "{exit:?}");
    // The step ends with the access, or with the instruction after it where a kernel finishes the access only then.
    let (address, trap) = stop(&mut guest);
    assert!(steps(trap) && (start + 4..=start + 5).contains(&address));
}
