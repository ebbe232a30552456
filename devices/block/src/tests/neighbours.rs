//! Requests that go on where the one before ends, and become one transfer.

use super::*;

/// Makes writes of a sector each available at once, and waits for all. Gives their statuses.
fn write_at_once(
    device: &mut OverPci<BlockDevice>,
    guest: &mut Guest<'_>,
    sectors: &[u64],
) -> Vec<u8> {
    let used = guest.queues[0].used_index();
    // Stopped, as it may be looking at the queue without being told.
    device.stop().unwrap();
    let mut all = Vec::new();
    for sector in sectors {
        let byte = u8::try_from(*sector).unwrap();
        all.push(guest.add(0, OUT, *sector, &[Part::Read(&[byte; 512])]));
    }
    device.start().unwrap();
    let count = u16::try_from(sectors.len()).unwrap();
    guest.wait(0, used.wrapping_add(count));
    all.iter()
        .map(|addresses| guest.status(addresses))
        .collect()
}

#[test]
fn neighbours_are_written_together_and_others_are_not() {
    at_work!(bench, disk, device, guest);
    assert_eq!(
        write_at_once(&mut device, &mut guest, &[8, 9, 10, 12, 11]),
        [OK; 5]
    );
    assert_eq!(
        disk.log(),
        ["write 4096+1536", "write 6144+512", "write 5632+512"]
    );
    for sector in 8..13_u8 {
        assert_eq!(disk.bytes(usize::from(sector) * 512, 512), [sector; 512]);
    }
    guest.assert_alive();
}

#[test]
fn neighbours_are_read_together_each_into_its_own_memory() {
    at_work!(bench, disk, device, guest);
    device.stop().unwrap();
    let first = guest.add(0, IN, 3, &[Part::Write(512)]);
    let second = guest.add(0, IN, 4, &[Part::Write(100), Part::Write(412)]);
    // A write that goes on there is none of them.
    let third = guest.add(0, OUT, 5, &[Part::Read(&[7; 512])]);
    device.start().unwrap();
    guest.wait(0, 3);
    assert_eq!(disk.log(), ["read 1536+1024", "write 2560+512"]);
    for addresses in [&first, &second, &third] {
        assert_eq!(guest.status(addresses), OK);
    }
    assert_eq!(guest.bytes(first[0], 512), disk.bytes(1536, 512));
    assert_eq!(guest.bytes(second[0], 100), disk.bytes(2048, 100));
    assert_eq!(guest.bytes(second[1], 412), disk.bytes(2148, 412));
}

#[test]
fn of_neighbours_only_the_broken_one_fails() {
    at_work!(bench, disk, device, guest);
    disk.fail("write 4096+1536", 5);
    disk.fail("write 4608+512", 5);
    assert_eq!(
        write_at_once(&mut device, &mut guest, &[8, 9, 10]),
        [OK, IOERR, OK]
    );
    assert_eq!(
        disk.log(),
        [
            "write 4096+1536",
            "write 4096+512",
            "write 4608+512",
            "write 5120+512"
        ]
    );
    assert_eq!(disk.bytes(4096, 512), [8; 512]);
    assert_eq!(disk.bytes(5120, 512), [10; 512]);
    guest.assert_alive();
}

#[test]
fn neighbours_without_a_cache_are_durable_together() {
    let bench = Bench::new();
    let disk = Double::new(1 << 20);
    let mut device = plug(&bench, parts(disk.clone()));
    // A driver without FLUSH: a write is complete when it is durable.
    let mut guest = Guest::new(&bench, &mut device, virtio::feature::VERSION_1);
    assert_eq!(write_at_once(&mut device, &mut guest, &[8, 9]), [OK; 2]);
    assert_eq!(disk.log(), ["write 4096+1024", "flush"]);
    // What cannot be made durable is not made again.
    disk.fail("flush", 5);
    assert_eq!(write_at_once(&mut device, &mut guest, &[8, 9]), [IOERR; 2]);
    assert_eq!(disk.log(), ["write 4096+1024", "flush"]);
    // What is made again alone is made durable too.
    disk.heal();
    disk.fail("write 4096+1024", 5);
    assert_eq!(write_at_once(&mut device, &mut guest, &[8, 9]), [OK; 2]);
    let log = disk.log();
    let flushes = log.iter().filter(|line| *line == "flush").count();
    assert_eq!((log.len(), flushes), (5, 2), "{log:?}");
    guest.assert_alive();
}
