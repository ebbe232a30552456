//! Drivers that break the rules.

use proptest::prelude::*;

use super::*;

#[test]
fn sectors_beyond_the_end_or_that_wrap_are_errors() {
    at_work!(bench, disk, device, guest);
    let bytes = [1; 1024];
    for sector in [
        2047,
        2048,
        2049,
        u64::MAX,
        u64::MAX / 512,
        u64::MAX / 512 + 1,
        u64::MAX - 1,
        1 << 55,
        1 << 63,
    ] {
        assert_eq!(guest.request(IN, sector, &[Part::Write(1024)]).0, IOERR);
        assert_eq!(guest.request(OUT, sector, &[Part::Read(&bytes)]).0, IOERR);
        for kind in [DISCARD, WRITE_ZEROES] {
            let range = range(sector, 2, 0);
            assert_eq!(guest.request(kind, 0, &[Part::Read(&range)]).0, IOERR);
        }
    }
    assert!(disk.log().is_empty());
    guest.assert_alive();
}

#[test]
fn lengths_that_are_no_sectors_are_errors() {
    at_work!(bench, disk, device, guest);
    for len in [1, 511, 513, 1023] {
        let bytes = vec![1; len];
        assert_eq!(guest.request(OUT, 0, &[Part::Read(&bytes)]).0, IOERR);
        let len = u32::try_from(len).unwrap();
        assert_eq!(guest.request(IN, 0, &[Part::Write(len)]).0, IOERR);
    }
    assert!(disk.log().is_empty());
    guest.assert_alive();
}

#[test]
fn a_header_that_is_too_short_is_an_error() {
    at_work!(bench, disk, device, guest);
    for len in [0, 1, 15] {
        let mut chain = vec![Part::Write(1)];
        let bytes = vec![0; len];
        if len > 0 {
            chain.insert(0, Part::Read(&bytes));
        }
        let used = guest.queues[0].used_index() + 1;
        let at = guest.queues[0].add(&chain);
        guest.kick(0);
        guest.wait(0, used);
        assert_eq!(guest.status(&at), IOERR);
    }
    assert!(disk.log().is_empty());
    guest.assert_alive();
}

#[test]
fn a_request_without_room_for_a_status_ends_the_queue_and_a_reset_begins_anew() {
    at_work!(bench, disk, device, guest);
    let header = header(OUT, 0);
    guest.queues[0].add(&[Part::Read(&header), Part::Read(&[1; 512])]);
    // This one comes too late.
    guest.add(0, OUT, 0, &[Part::Read(&[1; 512])]);
    guest.kick(0);
    eventually(|| guest.driver.needs_reset());
    assert!(disk.log().is_empty());
    drop(guest);
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    guest.assert_alive();
}

#[test]
fn ranges_that_cannot_be_are_refused_as_a_whole() {
    at_work!(bench, disk, device, guest);
    let many: Vec<_> = (0..65).flat_map(|n| range(n, 1, 0)).collect();
    let bad_second = [range(1, 1, 0), range(2048, 1, 0)].concat();
    for kind in [DISCARD, WRITE_ZEROES] {
        for bytes in [
            &many[..],
            &bad_second,
            &range(1, 1, 0)[..15],
            &many[..17],
            &range(0, (4 << 20) + 1, 0),
            &range(0, u32::MAX, 0),
        ] {
            assert_eq!(guest.request(kind, 0, &[Part::Read(bytes)]).0, IOERR);
        }
        assert_eq!(guest.request(kind, 0, &[]).0, IOERR, "no range at all");
        assert_eq!(
            guest.request(kind, 0, &[Part::Read(&range(1, 1, 2))]).0,
            UNSUPP
        );
        assert_eq!(
            guest
                .request(kind, 0, &[Part::Read(&range(1, 1, 1 << 31))])
                .0,
            UNSUPP
        );
    }
    let unmap = range(1, 1, 1);
    assert_eq!(guest.request(DISCARD, 0, &[Part::Read(&unmap)]).0, UNSUPP);
    assert!(
        disk.log().is_empty(),
        "nothing was done of those that are good"
    );
    guest.assert_alive();
}

#[test]
fn the_first_sector_of_a_guessed_image_is_not_written() {
    at_work!(bench, disk, device, guest);
    disk.protect();
    let before = disk.bytes(0, 4096);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 512])]).0, IOERR);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 4096])]).0, IOERR);
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_eq!(
            guest.request(kind, 0, &[Part::Read(&range(0, 8, 0))]).0,
            IOERR
        );
    }
    assert_eq!(disk.bytes(0, 4096), before);
    assert_eq!(guest.request(IN, 0, &[Part::Write(512)]).0, OK);
    assert_eq!(guest.request(OUT, 1, &[Part::Read(&[1; 512])]).0, OK);
    assert_eq!(disk.log(), ["read 0+512", "write 512+512"]);
}

#[test]
fn a_status_that_the_device_reads_is_a_data_byte() {
    at_work!(bench, disk, device, guest);
    // Everything readable: there is no room for a status.
    let header = header(IN, 0);
    guest.queues[0].add(&[Part::Read(&header), Part::Read(&[0])]);
    guest.kick(0);
    eventually(|| guest.driver.needs_reset());
    assert!(disk.log().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is in a chain with room for a status, there is one, and the device lives on.
    #[test]
    fn any_request_gets_a_status(
        requests in prop::collection::vec(
            (
                prop_oneof![0..16_u32, any::<u32>()],
                prop_oneof![0..2060_u64, any::<u64>()],
                prop::collection::vec(any::<u8>(), 0..80),
                0..2000_u32,
            ),
            1..8,
        ),
    ) {
        at_work!(bench, disk, device, guest);
        disk.protect();
        for (kind, sector, bytes, room) in requests {
            let mut data = Vec::new();
            if !bytes.is_empty() {
                data.push(Part::Read(&bytes));
            }
            if room > 0 {
                data.push(Part::Write(room));
            }
            let (status, _) = guest.request(kind, sector, &data);
            prop_assert!(status <= UNSUPP);
        }
        guest.assert_alive();
    }
}
