//! When a write is durable (VIRTIO 1.3, 5.2.6.2).

use super::*;
use crate::fields::feature;

#[test]
fn with_a_cache_only_a_flush_flushes() {
    at_work!(bench, disk, device, guest);
    assert_eq!(guest.driver.field(32, 1), 1);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 512])]).0, OK);
    assert_eq!(guest.request(FLUSH, 0, &[]).0, OK);
    assert_eq!(disk.log(), ["write 0+512", "flush"]);
}

#[test]
fn without_a_cache_every_change_is_flushed_before_it_completes() {
    at_work!(bench, disk, device, guest);
    guest.driver.set_field(32, &[0]);
    assert_eq!(guest.driver.field(32, 1), 0);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 512])]).0, OK);
    assert_eq!(disk.log(), ["write 0+512", "flush"]);
    let ranges = [range(1, 1, 0), range(3, 1, 0)].concat();
    assert_eq!(guest.request(WRITE_ZEROES, 0, &[Part::Read(&ranges)]).0, OK);
    assert_eq!(
        disk.log(),
        ["zero 512+512 false", "zero 1536+512 false", "flush"]
    );
    assert_eq!(guest.request(IN, 0, &[Part::Write(512)]).0, OK);
    assert_eq!(disk.log(), ["read 0+512"]);
    // The flush belongs to the write.
    disk.fail("flush", 5);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[2; 512])]).0, IOERR);
    disk.heal();
    disk.log();
    guest.driver.set_field(32, &[1]);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 512])]).0, OK);
    assert_eq!(disk.log(), ["write 0+512"]);
    // A driver that begins anew finds the cache on.
    guest.driver.set_field(32, &[0]);
    drop(guest);
    let guest = Guest::new(&bench, &mut device, u64::MAX);
    assert_eq!(guest.driver.field(32, 1), 1);
}

#[test]
fn a_driver_without_flushes_needs_none() {
    for features in [0, feature::CONFIG_WCE] {
        let bench = Bench::new();
        let disk = Double::new(1 << 20);
        let mut device = plug(&bench, parts(disk.clone()));
        let mut guest = Guest::new(&bench, &mut device, features);
        assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 512])]).0, OK);
        assert_eq!(disk.log(), ["write 0+512", "flush"]);
    }
}

#[test]
fn a_driver_that_cannot_choose_has_a_cache() {
    let bench = Bench::new();
    let disk = Double::new(1 << 20);
    let mut device = plug(&bench, parts(disk.clone()));
    let mut guest = Guest::new(&bench, &mut device, feature::FLUSH);
    // It did not negotiate the field.
    guest.driver.set_field(32, &[0]);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 512])]).0, OK);
    assert_eq!(disk.log(), ["write 0+512"]);
}
