//! Checksums and segmentation that are left to the other side.

use super::*;
use crate::feature::{
    CSUM, CTRL_GUEST_OFFLOADS, CTRL_VQ, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF,
};
use tap::testing::WIRE_HEADER;

/// Header flags: the checksum is to be computed; it is known to be good.
const NEEDS_CSUM: u8 = 1;
const GSO_TCP4: u8 = 1;
const MSS: u16 = 1000;

/// A TCP segment of `payload` bytes over IPv4, without the checksum of TCP but with that of its pseudo header.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = frame(5, 54 + payload);
    frame[12..14].copy_from_slice(&[8, 0]);
    let total = u16::try_from(40 + payload).unwrap();
    let ip = &mut frame[14..34];
    ip.copy_from_slice(&[
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let checksum = !sum(ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend((total - 20).to_be_bytes());
    let pseudo = sum(&pseudo).to_be_bytes();
    let header = &mut frame[34..54];
    header.copy_from_slice(&[
        0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0,
    ]);
    header[16..18].copy_from_slice(&pseudo);
    frame
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut total: u32 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap()
}

/// Whether the checksum of a TCP segment is right.
fn is_right(frame: &[u8]) -> bool {
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, 6]);
    bytes.extend(u16::try_from(frame.len() - 34).unwrap().to_be_bytes());
    bytes.extend(&frame[34..]);
    sum(&bytes) == 0xffff
}

/// The header that leaves both to the other side.
fn header(segments: bool) -> [u8; HEADER] {
    let [m0, m1] = MSS.to_le_bytes();
    let mut header = [NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
    if segments {
        header[1..6].copy_from_slice(&[GSO_TCP4, 54, 0, m0, m1]);
    }
    header
}

fn buffers(driver: &Driver<'_>, queue: &mut DriverQueue) -> Vec<u64> {
    let places = (0..15)
        .map(|_| queue.add(&[Part::Write(65562)])[0])
        .collect();
    driver.kick(RX);
    places
}

#[test]
fn uncut_segments_of_the_guest_reach_the_host_uncut() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(CSUM | HOST_TSO4);
    bench.attend(&mut device);
    let wire = Wire::with_header(TAP);
    let sent = tcp(20_000);
    queues[1].add(&[Part::Read(&header(true)), Part::Read(&sent)]);
    queues[1].add(&[Part::Read(&header(false)), Part::Read(&tcp(100))]);
    driver.kick(TX);
    let seen = wire.wait();
    assert_eq!(seen[..2], [NEEDS_CSUM, GSO_TCP4]);
    assert_eq!(seen[4..6], MSS.to_le_bytes());
    assert!(seen[WIRE_HEADER..] == sent);
    let seen = wire.wait();
    assert_eq!(seen[..2], [NEEDS_CSUM, 0]);
    assert!(seen[WIRE_HEADER..] == tcp(100));
}

#[test]
fn uncut_segments_of_the_host_reach_a_guest_that_wants_them() {
    if !own_network() {
        return;
    }
    for merge in [0, MRG_RXBUF] {
        let bench = Bench::new();
        let mut device = device(&bench, &config("tap=t0"));
        let driver = Driver::find(&bench, 1);
        let mut queues = driver.start(GUEST_CSUM | GUEST_TSO4 | merge);
        bench.attend(&mut device);
        let wire = Wire::with_header(TAP);
        let places = buffers(&driver, &mut queues[0]);
        let mut sent = header(true)[..WIRE_HEADER].to_vec();
        sent.extend(tcp(50_000));
        sends(&wire, &sent);
        eventually(|| queues[0].used_index() == 1);
        assert_eq!(queues[0].used(), [(0, 50_066)]);
        let seen = queues[0].bytes(places[0], 50_066);
        assert_eq!(seen[..2], [NEEDS_CSUM, GSO_TCP4]);
        assert_eq!(seen[4..6], MSS.to_le_bytes());
        assert_eq!(seen[10..12], [1, 0]);
        assert!(seen[HEADER..] == tcp(50_000));
        // The next device makes an interface of this name.
        device.stop().unwrap();
    }
}

#[test]
fn a_guest_that_wants_no_offloads_gets_finished_packets_also_if_it_decides_late() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let mut device = device(&bench, &config("tap=t0"));
    let driver = Driver::find(&bench, 1);
    let wire = Wire::with_header(TAP);
    let mut sent = header(true)[..WIRE_HEADER].to_vec();
    sent.extend(tcp(2500));
    let finished = |queue: &mut DriverQueue, places: &[u64], before: u16| {
        eventually(|| queue.used_index() == before + 3);
        for (used, place) in queue.used().iter().zip(places) {
            let seen = queue.bytes(*place, used.1 as usize);
            assert_eq!(seen[..2], [0, 0]);
            assert!(is_right(&seen[HEADER..]), "{seen:?}");
        }
    };
    let mut queues = driver.start(0);
    bench.attend(&mut device);
    let places = buffers(&driver, &mut queues[0]);
    sends(&wire, &sent);
    finished(&mut queues[0], &places, 0);

    let mut queues = driver.start(GUEST_CSUM | GUEST_TSO4 | CTRL_VQ | CTRL_GUEST_OFFLOADS);
    bench.attend(&mut device);
    let places = buffers(&driver, &mut queues[0]);
    sends(&wire, &sent);
    eventually(|| queues[0].used_index() == 1);
    assert_eq!(queues[0].used()[0].1, 2566);
    let command = [[5, 0].as_slice(), &[0; 8]].concat();
    let answer = queues[2].add(&[Part::Read(&command), Part::Write(1)])[1];
    driver.kick(2);
    eventually(|| queues[2].used_index() == 1);
    assert_eq!(queues[2].bytes(answer, 1), [0]);
    sends(&wire, &sent);
    finished(&mut queues[0], &places[1..], 1);
}

#[test]
fn toggles_say_what_is_offered() {
    if !own_network() {
        return;
    }
    let bit = |bits: &[u32]| bits.iter().fold(0, |all, bit| all | 1u64 << bit);
    let always = bit(&[3, 5, 15, 16, 17, 21, 22, 28, 29, 32, 40]);
    let (csum, tso, ufo) = (bit(&[0, 1, 2]), bit(&[7, 8, 9, 11, 12, 13]), bit(&[10, 14]));
    for (flag, features) in [
        ("tap=t0", csum | tso | ufo),
        ("offload_tso=off", csum | ufo),
        ("offload_ufo=off", csum | tso),
        ("offload_csum=off,offload_tso=off,offload_ufo=off", 0),
    ] {
        let bench = Bench::new();
        let _device = device(&bench, &config(flag));
        assert_eq!(
            Driver::find(&bench, 1).offered(),
            always | features,
            "{flag}"
        );
    }
}
