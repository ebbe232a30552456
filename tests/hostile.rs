//! A guest that breaks the rules: the device asks for a reset or ignores it, works again after a reset, and
//! everything else goes on. What is done is in the guest's `tests/`; a test here is one attack on every device.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use nix::sched::{CloneFlags, unshare};
use testkit::bare::Bare;

/// Longest that an attack on all devices takes, also in an emulated host.
const SECONDS: u64 = 120;

/// The devices that are attacked, in the order of their slots.
const VICTIMS: &[&str] = &[
    "console", "block", "net", "rng", "pmem", "vsock", "balloon", "watchdog", "rtc",
];

/// One attack on each device of a machine that has all of them.
fn attack(name: &str) {
    // The tap is in a network of this thread and its children alone.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["disk", "pmem"] {
        let file = std::fs::File::create(path(name)).unwrap();
        file.set_len(4 << 20).unwrap();
    }
    let guest = Bare::start(&format!("test=attack attack={name}"), |builder| {
        builder
            .console("null")
            .arg("--disk", format!("path={},image_type=raw", path("disk")))
            .arg("--net", "tap=")
            .arg("--pmem", format!("file={}", path("pmem")))
            .arg("--vsock", format!("cid=3,socket={}", path("vsock")))
            .arg("--balloon", "size=0,free_page_reporting=on")
            .flag("--watchdog")
            .arg("--rtc", "id=clocks")
            .flag("--pvpanic")
    });
    match guest.and_then(|guest| guest.finish(SECONDS)) {
        Ok(report) => {
            let facts = report.facts().filter(|(name, _)| *name == "victim");
            let victims: Vec<&str> = facts.map(|(_, value)| value).collect();
            assert_eq!(victims, VICTIMS);
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

/// One test for each attack; the guest's names have hyphens.
macro_rules! attacks {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            attack(&stringify!($name).replace('_', "-"));
        }
    )*};
}

attacks! {
    // rings.rs
    head_past_the_table
    head_of_all_ones
    next_past_the_table
    loop_of_many
    loop_of_one
    index_jumps
    index_goes_back
    readable_after_writable
    buffer_in_the_hole
    buffer_past_the_end_of_ram
    buffer_behind_ram
    buffer_wraps
    buffer_of_4_gib
    buffer_is_its_registers
    buffer_is_another_device
    lengths_wrap
    indirect_not_negotiated
    indirect_in_indirect
    indirect_of_no_bytes
    indirect_of_odd_bytes
    indirect_too_long
    indirect_in_the_hole
    indirect_with_next
    indirect_loop
    indirect_next_past_the_table
    // setup.rs
    queue_outside_ram
    queue_misaligned
    queue_in_its_own_registers
    queue_size_odd
    features_not_offered
    features_after_agreement
    driver_ok_without_features
    queue_changed_at_work
    queues_that_do_not_exist
    doorbells_of_no_queue
    doorbells_before_driver_ok
    status_takes_bits_back
    config_written
    overlapping_queues
    // resets.rs
    reset_in_flight
    queue_reset_in_flight
    queue_reset_not_agreed
    reset_after_reset
    // pci.rs
    unmapped_reads
    bar_moved_and_back
    bar_on_another_bar
    bar_on_ram
    bar_on_the_board
    bar_off_the_window
    bar_moved_while_decoding
    decoding_off
    msix_odd_widths
    msix_pending_bits
    msix_messages_anywhere
    msix_vectors_that_do_not_exist
    config_access
    config_access_out_of_bounds
    // fuzz.rs
    fuzz_registers
    fuzz_rings
    fuzz_config_space
}
