//! What a driver asks for, in every form that it may have.

use disk::Topology;
use proptest::prelude::*;
use virtio::feature::{EVENT_IDX, INDIRECT_DESC, RING_RESET, VERSION_1};

use super::double::pattern;
use super::*;
use crate::fields::feature;

/// What the disk holds at first.
fn original(sector: usize, len: usize) -> Vec<u8> {
    (sector * 512..sector * 512 + len).map(pattern).collect()
}

#[test]
fn the_device_says_what_it_is() {
    at_work!(bench, disk, device, guest);
    let driver = &guest.driver;
    assert_eq!(driver.config_read(2, 2), 0x1042);
    assert_eq!(driver.config_read(0xa, 2), 0x0100, "mass storage");
    let offered = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | feature::TOPOLOGY;
    let offered = offered | feature::CONFIG_WCE | feature::DISCARD | feature::WRITE_ZEROES;
    let transport = VERSION_1 | EVENT_IDX | INDIRECT_DESC | RING_RESET;
    assert_eq!(driver.offered(), offered | transport);
    assert_eq!(driver.field(0, 8), 2048, "sectors");
    assert_eq!(driver.field(8, 4), 0, "no size_max");
    assert_eq!(driver.field(12, 4), 14, "two descriptors are not data");
    assert_eq!(driver.field(20, 4), 512);
    assert_eq!(driver.field(24, 1), 3, "eight blocks of 512 bytes");
    assert_eq!(driver.field(25, 1), 0);
    assert_eq!(driver.field(26, 2), 8);
    assert_eq!(driver.field(28, 4), 128);
    assert_eq!(driver.field(32, 1), 1);
    assert_eq!(driver.field(34, 2), 1);
    assert_eq!(driver.field(36, 4), 4 << 20);
    assert_eq!(driver.field(40, 4), 64);
    assert_eq!(driver.field(44, 4), 8);
    assert_eq!(driver.field(48, 4), 4 << 20);
    assert_eq!(driver.field(52, 4), 64);
    assert_eq!(driver.field(56, 1), 1);
    // Fields are the device's, but for one.
    driver.set_field(0, &[1; 8]);
    driver.set_field(34, &[9]);
    assert_eq!((driver.field(0, 8), driver.field(34, 2)), (2048, 1));
    guest.assert_alive();
    drop(disk);
}

#[test]
fn a_read_only_disk_offers_nothing_that_changes_it() {
    let bench = Bench::new();
    let disk = Double::read_only();
    disk.set_topology(Topology {
        logical_block: 4096,
        physical_block: 4096,
        minimum_io: 0,
        optimal_io: 0,
    });
    let mut device = plug(&bench, parts(disk.clone()));
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    let offered = guest.driver.offered();
    assert_ne!(offered & feature::RO, 0);
    assert_eq!(offered & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    assert_eq!(guest.driver.field(20, 4), 4096);
    assert_eq!(guest.driver.field(24, 8), 0);
    assert_eq!(guest.driver.field(36, 8), 0);
    assert_eq!(guest.request(OUT, 1, &[Part::Read(&[1; 512])]).0, IOERR);
    assert_eq!(
        guest.request(DISCARD, 0, &[Part::Read(&range(1, 1, 0))]).0,
        UNSUPP
    );
    assert_eq!(
        guest
            .request(WRITE_ZEROES, 0, &[Part::Read(&range(1, 1, 0))])
            .0,
        UNSUPP
    );
    assert_eq!(guest.request(FLUSH, 0, &[]).0, OK);
    guest.assert_alive();
    assert_eq!(disk.bytes(0, 1 << 20), original(0, 1 << 20));
}

#[test]
fn without_sparse_nothing_is_discarded() {
    let bench = Bench::new();
    let mut parts = parts(Double::new(1 << 20));
    parts.options.sparse = false;
    let mut device = plug(&bench, parts);
    let guest = Guest::new(&bench, &mut device, u64::MAX);
    let offered = guest.driver.offered();
    assert_eq!(offered & feature::DISCARD, 0);
    assert_ne!(offered & feature::WRITE_ZEROES, 0);
    assert_eq!(guest.driver.field(36, 8), 0);
    assert_eq!(guest.driver.field(56, 1), 0, "zeros give no space back");
}

#[test]
fn sectors_are_read_and_written() {
    at_work!(bench, disk, device, guest);
    let (status, at) = guest.request(IN, 5, &[Part::Write(1024)]);
    assert_eq!(status, OK);
    assert_eq!(guest.bytes(at[0], 1024), original(5, 1024));
    assert_eq!(guest.queues[0].used(), [(0, 1025)]);
    let new: Vec<_> = (0..1536_u32).map(|n| (n % 255).to_le_bytes()[0]).collect();
    let data = [Part::Read(&new[..512]), Part::Read(&new[512..])];
    assert_eq!(guest.request(OUT, 2045, &data).0, OK);
    assert_eq!(disk.bytes(2045 * 512, 1536), new);
    assert_eq!(guest.queues[0].used()[0].1, 1);
    assert_eq!(disk.log(), ["read 2560+1024", "write 1047040+1536"]);
    bench.sent.wait(Driver::queue_message(0));
}

#[test]
fn parts_of_a_request_can_be_cut_anywhere() {
    at_work!(bench, disk, device, guest);
    // The header in three, the data in odd pieces together with the header's end.
    let header = header(OUT, 9);
    let (head, tail) = header.split_at(7);
    let mut second = tail.to_vec();
    second.extend([0x11; 100]);
    let [third, fourth] = [vec![0x22; 411], vec![0x33; 1]];
    let all = [&head[..1], &head[1..], &second, &third, &fourth];
    let mut chain: Vec<_> = all.iter().map(|bytes| Part::Read(bytes)).collect();
    chain.push(Part::Write(1));
    let at = guest.queues[0].add(&chain);
    guest.kick(0);
    guest.wait(0, 1);
    assert_eq!(guest.status(&at), OK);
    let expected = [vec![0x11; 100], third, fourth].concat();
    assert_eq!(disk.bytes(9 * 512, 512), expected);
    // The status behind the data in one buffer, and data before it in odd pieces.
    let read = super::header(IN, 9);
    let chain = [
        Part::Read(&read),
        Part::Write(3),
        Part::Write(500),
        Part::Write(10),
    ];
    let at = guest.queues[0].add(&chain);
    guest.kick(0);
    guest.wait(0, 2);
    let got = [
        guest.bytes(at[1], 3),
        guest.bytes(at[2], 500),
        guest.bytes(at[3], 10),
    ]
    .concat();
    assert_eq!(got[..512], expected);
    assert_eq!(got[512], OK);
    assert_eq!(guest.queues[0].used()[1].1, 513);
}

#[test]
fn a_table_of_its_own_describes_more_than_the_queue_has() {
    at_work!(bench, disk, device, guest);
    let table = 0x60_0000;
    let header = super::header(IN, 0);
    bench.ram.write(0x61_0000, &header).unwrap();
    guest.queues[0].describe_at(table, 0, 0x61_0000, 16, 1, 1);
    for block in 0..64_u16 {
        let address = 0x62_0000 + 0x1000 * u64::from(63 - block);
        guest.queues[0].describe_at(table, 1 + block, address, 512, 3, 2 + block);
    }
    bench.ram.write(0x61_0100, &[UNTOUCHED]).unwrap();
    guest.queues[0].describe_at(table, 65, 0x61_0100, 1, 2, 0);
    guest.queues[0].describe(0, table, 66 * 16, 4, 0);
    guest.queues[0].offer(0);
    guest.kick(0);
    guest.wait(0, 1);
    assert_eq!(guest.status(&[0x61_0100]), OK);
    for block in 0..64 {
        let got = guest.bytes(0x62_0000 + 0x1000 * (63 - block as u64), 512);
        assert_eq!(got, original(block, 512));
    }
    assert_eq!(disk.log(), ["read 0+32768"]);
}

#[test]
fn the_serial_number_is_twenty_bytes() {
    at_work!(bench, disk, device, guest);
    let (status, at) = guest.request(GET_ID, 0, &[Part::Write(20)]);
    assert_eq!(status, OK);
    assert_eq!(guest.bytes(at[0], 20), b"serial number\0\0\0\0\0\0\0");
    let (status, at) = guest.request(GET_ID, 0, &[Part::Write(19), Part::Write(5)]);
    assert_eq!(status, OK);
    assert_eq!(
        guest.bytes(at[1], 5),
        [0, UNTOUCHED, UNTOUCHED, UNTOUCHED, UNTOUCHED]
    );
    let (status, at) = guest.request(GET_ID, 0, &[Part::Write(19)]);
    assert_eq!((status, guest.bytes(at[0], 1)[0]), (IOERR, UNTOUCHED));
    assert_eq!(guest.request(GET_ID, 0, &[]).0, IOERR);
    assert!(disk.log().is_empty());
}

#[test]
fn the_default_serial_number_is_made_of_the_images_numbers() {
    let disk = Double::new(512);
    assert_eq!(&serial(None, &*disk).unwrap(), b"20490123456789012345");
    assert_eq!(&serial(Some("abc"), &*disk).unwrap()[..4], b"abc\0");
    assert_eq!(serial(Some(""), &*disk).unwrap(), [0; 20]);
}

#[test]
fn ranges_are_discarded_and_zeroed_one_after_the_other() {
    at_work!(bench, disk, device, guest);
    let ranges = [range(1, 2, 0), range(2000, 48, 0), range(7, 0, 0)].concat();
    assert_eq!(guest.request(DISCARD, 99, &[Part::Read(&ranges)]).0, OK);
    assert_eq!(disk.log(), ["discard 512+1024", "discard 1024000+24576"]);
    let ranges = [range(5, 1, 1), range(6, 1, 0)].concat();
    // Cut in the middle of a range.
    let (first, second) = ranges.split_at(9);
    let data = [Part::Read(first), Part::Read(second)];
    assert_eq!(guest.request(WRITE_ZEROES, 0, &data).0, OK);
    assert_eq!(disk.log(), ["zero 2560+512 true", "zero 3072+512 false"]);
    assert_eq!(disk.bytes(4 * 512, 512), original(4, 512));
    assert_eq!(disk.bytes(5 * 512, 1024), [0; 1024]);
    assert_eq!(disk.bytes(7 * 512, 512), original(7, 512));
    let many: Vec<_> = (0..64).flat_map(|n| range(100 + n, 1, 0)).collect();
    assert_eq!(guest.request(DISCARD, 0, &[Part::Read(&many)]).0, OK);
    assert_eq!(disk.log().len(), 64);
    // Nothing to do is done.
    assert_eq!(
        guest
            .request(DISCARD, 0, &[Part::Read(&range(2048, 0, 0))])
            .0,
        OK
    );
    assert!(disk.log().is_empty());
}

#[test]
fn a_range_that_fails_ends_the_request() {
    at_work!(bench, disk, device, guest);
    disk.fail("zero", 5);
    let ranges = [range(1, 1, 0), range(2, 1, 0)].concat();
    assert_eq!(
        guest.request(WRITE_ZEROES, 0, &[Part::Read(&ranges)]).0,
        IOERR
    );
    assert_eq!(disk.log(), ["zero 512+512 false"]);
    // Nothing is left over for the next one.
    assert_eq!(
        guest.request(DISCARD, 0, &[Part::Read(&range(3, 1, 0))]).0,
        OK
    );
    assert_eq!(disk.log(), ["discard 1536+512"]);
}

#[test]
fn errors_are_the_guests_and_leave_the_rest_alone() {
    at_work!(bench, disk, device, guest);
    disk.fail("read", 5);
    disk.fail("write", 28);
    disk.fail("flush", 5);
    let (status, _) = guest.request(IN, 0, &[Part::Write(512)]);
    assert_eq!(status, IOERR);
    assert_eq!(guest.queues[0].used(), [(0, 0)], "no data was written");
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[0; 512])]).0, IOERR);
    assert_eq!(guest.request(FLUSH, 0, &[]).0, IOERR);
    disk.heal();
    for _ in 0..40 {
        guest.assert_alive();
    }
}

#[test]
fn what_the_device_does_not_know_is_unsupported() {
    at_work!(bench, disk, device, guest);
    for kind in [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 24, u32::MAX] {
        assert_eq!(
            guest.request(kind, 0, &[Part::Write(512)]).0,
            UNSUPP,
            "{kind}"
        );
    }
    assert!(disk.log().is_empty());
    guest.assert_alive();
}

#[test]
fn what_was_not_negotiated_is_unsupported() {
    let bench = Bench::new();
    let mut device = plug(&bench, parts(Double::new(1 << 20)));
    let mut guest = Guest::new(&bench, &mut device, feature::FLUSH);
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_eq!(
            guest.request(kind, 0, &[Part::Read(&range(1, 1, 0))]).0,
            UNSUPP
        );
    }
    guest.assert_alive();
}

#[test]
fn requests_of_no_bytes_do_nothing() {
    at_work!(bench, disk, device, guest);
    for kind in [IN, OUT] {
        assert_eq!(guest.request(kind, 2048, &[]).0, OK);
        assert_eq!(guest.request(kind, 2049, &[]).0, IOERR);
    }
    assert!(disk.log().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// However header, data and status are cut, the same bytes go to the same place.
    #[test]
    fn cuts_make_no_difference(
        sector in 0..2040_u64,
        sectors in 1..8_usize,
        cuts in prop::collection::btree_set(1..4000_usize, 0..12),
    ) {
        at_work!(bench, disk, device, guest);
        let data: Vec<_> = (0..sectors * 512).map(|n| (n % 241).to_le_bytes()[0]).collect();
        let all = [&header(OUT, sector)[..], &data].concat();
        let mut edges: Vec<_> = cuts.into_iter().filter(|cut| *cut < all.len()).collect();
        edges.insert(0, 0);
        edges.push(all.len());
        let mut chain: Vec<_> = edges.windows(2).map(|pair| Part::Read(&all[pair[0]..pair[1]])).collect();
        chain.push(Part::Write(1));
        let at = guest.queues[0].add(&chain);
        guest.kick(0);
        guest.wait(0, 1);
        prop_assert_eq!(guest.status(&at), OK);
        prop_assert_eq!(disk.bytes(usize::try_from(sector).unwrap() * 512, data.len()), data);
    }
}
