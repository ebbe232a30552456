use super::*;

fn state(size: usize) -> Vec<u8> {
    let mut state = vec![0; size];
    state[SIZE].copy_from_slice(&u32::try_from(size).unwrap().to_ne_bytes());
    state
}

#[test]
fn a_guest_outside_of_nested_virtualisation_has_no_state() {
    let mut intel = state(HEADER);
    intel[VMXON_ADDRESS].fill(0xff);
    assert!(is_idle(&intel));
    intel[VMXON_ADDRESS].copy_from_slice(&0x1000_u64.to_ne_bytes());
    assert!(
        !is_idle(&intel),
        "in VMX operation without a control structure"
    );

    let mut amd = state(HEADER);
    amd[FORMAT].copy_from_slice(&1_u16.to_ne_bytes());
    assert!(
        !is_idle(&amd),
        "the global interrupt flag is clear, which a new processor's is not"
    );
    amd[FLAGS].copy_from_slice(&0x100_u16.to_ne_bytes());
    assert!(is_idle(&amd));
    assert!(!is_idle(&state(HEADER + 4096)));
}

#[test]
fn a_damaged_state_is_not_given_to_the_kernel() {
    check(&state(HEADER)).unwrap();
    check(&state(MAX_SIZE)).unwrap();
    assert!(check(&[]).is_err());
    assert!(check(&state(HEADER)[..HEADER - 1]).is_err());
    assert!(check(&state(MAX_SIZE + 1)).is_err());
    let mut larger_than_it_is = state(HEADER + 8);
    larger_than_it_is[SIZE].copy_from_slice(&8320_u32.to_ne_bytes());
    assert!(check(&larger_than_it_is).is_err());
}
