//! Data, much of it, in every layout.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::guest::*;
use super::*;

/// Sends from the guest within its credit. `expect` sees packets for others.
fn send_all(guest: &mut Guest<'_>, peer: u32, local: u32, bytes: &[u8], sizes: &[usize]) {
    let (mut sent, mut room, mut forwarded) = (0usize, 256usize << 10, 0u32);
    let mut sizes = sizes.iter().cycle();
    while sent < bytes.len() {
        while let Some(packet) = guest.try_next() {
            assert_eq!(packet.op, CREDIT_UPDATE, "{packet:?}");
            (room, forwarded) = (packet.room as usize, packet.forwarded);
        }
        let free = room - (sent - forwarded as usize);
        let len = (*sizes.next().unwrap()).min(free).min(bytes.len() - sent);
        if len == 0 {
            std::thread::yield_now();
            continue;
        }
        guest.send(&Packet::new(RW, peer, local).with_data(&bytes[sent..sent + len]));
        sent += len;
    }
}

/// Receives `total` bytes, telling the device of the room there is.
fn receive_all(guest: &mut Guest<'_>, peer: u32, local: u32, total: usize) -> Vec<u8> {
    let (mut bytes, mut told) = (Vec::new(), 0);
    while bytes.len() < total {
        let packet = guest.next();
        match packet.op {
            RW => bytes.extend(packet.data),
            CREDIT_REQUEST => told = 0,
            _ => panic!("{packet:?}"),
        }
        let forwarded = u32::try_from(bytes.len()).unwrap();
        if forwarded - told >= ROOM / 4 || packet.op == CREDIT_REQUEST {
            let mut update = Packet::new(CREDIT_UPDATE, peer, local);
            update.forwarded = forwarded;
            guest.send(&update);
            told = forwarded;
        }
    }
    bytes
}

fn to_host(layout: Layout, len: usize, sizes: &[usize]) {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(layout);
    let (client, local) = machine.connect(&mut guest, 1);
    let bytes = pattern(0, len);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut heard = vec![0; len];
            (&client).read_exact(&mut heard).unwrap();
            heard
        });
        send_all(&mut guest, 1, local, &bytes, sizes);
        assert!(reader.join().unwrap() == bytes);
    });
}

fn to_guest(layout: Layout, len: usize, receive_len: u32) {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest_with(layout, receive_len);
    let (client, local) = machine.connect(&mut guest, 1);
    let bytes = pattern(0, len);
    std::thread::scope(|scope| {
        scope.spawn(|| (&client).write_all(&bytes).unwrap());
        assert!(receive_all(&mut guest, 1, local, len) == bytes);
    });
}

#[test]
fn many_mebibytes_reach_the_host() {
    for layout in [ONE, TWO, ODD] {
        to_host(layout, 8 << 20, &[64 << 10, 1, 4096, 30_000]);
    }
}

#[test]
fn many_mebibytes_reach_the_guest() {
    for layout in [ONE, TWO, ODD] {
        to_guest(layout, 8 << 20, 4096);
    }
    to_guest(ONE, 4 << 20, 12_000);
}

#[test]
fn packets_of_any_size_arrive_whole() {
    let strategy = (
        prop::collection::vec(1usize..66_000, 1..20),
        prop::sample::select(vec![ONE, TWO, ODD]),
        200u32..8192,
    );
    let config = Config {
        cases: 6,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&strategy, |(sizes, layout, receive_len)| {
            let total = sizes.iter().sum::<usize>().min(200_000);
            to_host(layout, total, &sizes);
            to_guest(layout, total, receive_len);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let mut client = machine.ask(1);
    let request = guest.expect(REQUEST);
    let local = request.ports[0];
    let mut response = Packet::new(RESPONSE, 1, local);
    response.room = 100;
    guest.send(&response);
    line(&client);
    client.write_all(&pattern(0, 250)).unwrap();
    assert!(guest.expect(RW).data == pattern(0, 100));
    // Asked once, and nothing more until there is room.
    guest.expect(CREDIT_REQUEST);
    let mut update = Packet::new(CREDIT_UPDATE, 1, local);
    (update.room, update.forwarded) = (100, 60);
    guest.send(&update);
    assert!(guest.expect(RW).data == pattern(100, 60));
    guest.expect(CREDIT_REQUEST);
    (update.room, update.forwarded) = (1000, 160);
    guest.send(&update);
    assert!(guest.expect(RW).data == pattern(160, 90));
    // The guest asks too.
    guest.send(&Packet::new(CREDIT_REQUEST, 1, local));
    let answer = guest.expect(CREDIT_UPDATE);
    assert_eq!((answer.room, answer.forwarded), (256 << 10, 0));
}

#[test]
fn a_client_that_does_not_read_stops_only_its_own_connection() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let (slow, slow_port) = machine.connect(&mut guest, 1);
    let (fast, fast_port) = machine.connect(&mut guest, 2);
    // All that the socket and our room take.
    let (mut sent, mut forwarded) = (0u32, 0u32);
    let full = loop {
        while let Some(packet) = guest.try_next() {
            forwarded = packet.forwarded;
        }
        if sent - forwarded + 0x1_0000 > 256 << 10 {
            within(|| guest.is_all_taken());
            guest.send(&Packet::new(CREDIT_REQUEST, 1, slow_port));
            let answer = guest.expect(CREDIT_UPDATE);
            if sent - answer.forwarded + 0x1_0000 > 256 << 10 {
                break sent;
            }
            forwarded = answer.forwarded;
        }
        let data = pattern(sent as usize, 0x1_0000);
        guest.send(&Packet::new(RW, 1, slow_port).with_data(&data));
        sent += 0x1_0000;
    };
    guest.send(&Packet::new(RW, 2, fast_port).with_data(b"here\n"));
    assert_eq!(line(&fast), "here\n");
    let mut heard = vec![0; full as usize];
    (&slow).read_exact(&mut heard).unwrap();
    assert!(heard == pattern(0, full as usize));
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(TWO);
    let mut clients: Vec<_> = (0..1000)
        .map(|peer| machine.connect(&mut guest, peer))
        .collect();
    for (peer, (client, _)) in (0u32..).zip(&mut clients) {
        client.write_all(&peer.to_le_bytes()).unwrap();
    }
    for _ in 0..1000 {
        let packet = guest.expect(RW);
        assert_eq!(packet.data, packet.ports[1].to_le_bytes());
        assert_eq!(packet.ports[0], clients[packet.ports[1] as usize].1);
        guest.send(&Packet::new(RW, packet.ports[1], packet.ports[0]).with_data(b"ok\n"));
    }
    for (client, _) in &clients {
        assert_eq!(line(client), "ok\n");
    }
    // Up to the limit, and no further.
    let server = machine.serve(1);
    for peer in 0..23 {
        machine.reach(&mut guest, &server, 5000 + peer, 1);
        // The other end went: its place stays taken until that is confirmed.
        assert_eq!(guest.expect(SHUTDOWN).flags, 3);
    }
    guest.send(&Packet::new(REQUEST, 6000, 1));
    guest.expect(RST);
    assert_eq!(rest(&UnixStream::connect(machine.path()).unwrap()), b"");
    guest.send(&Packet::new(RST, 5000, 1));
    machine.reach(&mut guest, &server, 6000, 1);
}

#[test]
fn packets_of_several_connections_keep_their_order() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let server = machine.serve(1);
    let mut guest = machine.guest(TWO);
    let clients: Vec<_> = (0..3)
        .map(|peer| machine.reach(&mut guest, &server, peer, 1))
        .collect();
    // Taken all at once: runs of one connection, changes, one that ends, nothing, a question, an end.
    machine.device.stop().unwrap();
    let say = |guest: &mut Guest<'_>, peer, text: &[u8]| {
        guest.send(&Packet::new(RW, peer, 1).with_data(text));
    };
    for (peer, text) in [(0, "a"), (0, "bc"), (1, "1"), (0, "d"), (1, "2"), (1, "3")] {
        say(&mut guest, peer, text.as_bytes());
    }
    say(&mut guest, 2, b"heard");
    guest.send(&Packet::new(RST, 2, 1));
    say(&mut guest, 2, b"not");
    say(&mut guest, 0, b"");
    say(&mut guest, 0, b"e");
    guest.send(&Packet::new(CREDIT_REQUEST, 0, 1));
    say(&mut guest, 0, b"f\n");
    let mut shut = Packet::new(SHUTDOWN, 1, 1);
    shut.flags = 2;
    guest.send(&shut);
    machine.device.start().unwrap();
    assert_eq!(line(&clients[0]), "abcdef\n");
    assert_eq!(rest(&clients[1]), b"123");
    assert_eq!(rest(&clients[2]), b"heard");
    within(|| guest.is_all_taken());
    assert_eq!(guest.expect(RST).ports, [1, 2]);
    let credit = guest.expect(CREDIT_UPDATE);
    assert_eq!((credit.ports, credit.forwarded), ([1, 0], 7));
}
