use super::*;

/// Length byte and instruction bytes as the kernel lays them out.
fn details(flags: u64, bytes: &[u8]) -> [u64; 3] {
    let mut raw = [0; 16];
    raw[0] = u8::try_from(bytes.len()).unwrap();
    raw[1..=bytes.len()].copy_from_slice(bytes);
    let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap());
    [flags, word(0), word(8)]
}

#[test]
fn a_failed_emulation_names_the_instruction() {
    let data = details(1, &[0x0f, 0xc7, 0x0e]);
    assert_eq!(
        internal_error(1, &data, Some(0xffff_8000)),
        "the host's KVM could not emulate the instruction 0f c7 0e at 0xffff8000"
    );
}

#[test]
fn bytes_that_the_kernel_does_not_declare_are_not_shown() {
    let data = details(0, &[0x0f, 0xc7, 0x0e]);
    for data in [&data[..], &data[..1], &[]] {
        let text = internal_error(1, data, None);
        assert_eq!(
            text,
            "the host's KVM could not emulate the instruction of unknown bytes"
        );
    }
}

#[test]
fn a_length_beyond_the_bytes_is_cut() {
    let mut data = details(1, &[0x90; 15]);
    data[1] |= 0xff;
    assert_eq!(instruction(&data).unwrap().split(' ').count(), 15);
}

#[test]
fn other_errors_keep_their_details() {
    let text = internal_error(4, &[0x30, 7], Some(0x1000));
    assert!(
        text.contains("the guest was at 0x1000") && text.ends_with("(details: 0x30 0x7)"),
        "{text}"
    );
    assert!(internal_error(99, &[], None).contains("internal error 99"));
}
