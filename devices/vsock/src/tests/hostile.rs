//! Guests and programs of the host that break the rules.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::guest::*;
use super::*;

/// The device still does its work.
fn lives(machine: &Machine<'_>, guest: &mut Guest<'_>) {
    let client = machine.ask(4_000_000);
    let request = loop {
        let packet = guest.next();
        if packet.op == REQUEST && packet.ports[1] == 4_000_000 {
            break packet;
        }
    };
    guest.send(&Packet::new(RESPONSE, 4_000_000, request.ports[0]));
    assert_eq!(line(&client), format!("OK {}\n", request.ports[0]));
    guest.send(&Packet::new(RST, 4_000_000, request.ports[0]));
    assert_eq!(rest(&client), b"");
    assert!(!guest.driver.needs_reset());
}

#[test]
fn packets_that_make_no_sense_are_answered_with_a_reset() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let server = machine.serve(1);
    let mut guest = machine.guest(ONE);
    for op in [
        0,
        RESPONSE,
        SHUTDOWN,
        RW,
        CREDIT_UPDATE,
        CREDIT_REQUEST,
        8,
        16,
        u16::MAX,
    ] {
        guest.send(&Packet::new(op, 5, 1));
        assert_eq!(guest.expect(RST).ports, [1, 5], "operation {op}");
    }
    let mut strange = Packet::new(REQUEST, 5, 1);
    strange.kind = 2;
    guest.send(&strange);
    let answer = guest.expect(RST);
    assert_eq!((answer.kind, answer.ports), (2, [1, 5]));
    strange = Packet::new(REQUEST, 5, 1);
    strange.cids[1] = 9;
    guest.send(&strange);
    assert_eq!(guest.expect(RST).cids, [9, CID]);
    // In another's name, and a reset of nothing: nobody is answered.
    strange = Packet::new(REQUEST, 5, 1);
    strange.cids[0] = 4;
    guest.send(&strange);
    guest.send(&Packet::new(RST, 5, 1));
    // Each of these ends the connection that there is.
    let mut long = Packet::new(RW, 6, 1).with_data(b"abc");
    long.len = 4;
    let mut endless = Packet::new(RW, 6, 1);
    endless.len = u32::MAX;
    for packet in [
        Packet::new(REQUEST, 6, 1),
        Packet::new(RESPONSE, 6, 1),
        Packet::new(99, 6, 1),
        long,
        endless,
    ] {
        let client = machine.reach(&mut guest, &server, 6, 1);
        guest.send(&packet);
        assert_eq!(guest.expect(RST).ports, [1, 6], "{packet:?}");
        assert_eq!(rest(&client), b"");
    }
    lives(&machine, &mut guest);
}

#[test]
fn a_guest_that_sends_beyond_its_credit_loses_the_connection() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let (client, local) = machine.connect(&mut guest, 1);
    let data = pattern(0, 0x1_0000);
    let end = loop {
        guest.send(&Packet::new(RW, 1, local).with_data(&data));
        if let Some(packet) = guest.try_next()
            && packet.op != CREDIT_UPDATE
        {
            break packet;
        }
    };
    assert_eq!((end.op, end.ports), (RST, [local, 1]));
    assert!(rest(&client).len() < 4 << 20);
    within(|| guest.is_all_taken());
    while guest.try_next().is_some() {}
    lives(&machine, &mut guest);
}

#[test]
fn a_guest_that_claims_too_much_gets_nothing() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let (mut client, local) = machine.connect(&mut guest, 1);
    let mut lie = Packet::new(CREDIT_UPDATE, 1, local);
    lie.forwarded = 1;
    guest.send(&lie);
    within(|| guest.is_all_taken());
    client.write_all(b"data").unwrap();
    guest.expect(CREDIT_REQUEST);
    lie.forwarded = 0;
    guest.send(&lie);
    assert_eq!(guest.expect(RW).data, b"data");
}

#[test]
fn floods_wait_until_the_guest_takes_the_answers() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = Guest::new(&bench, ONE, 4096);
    bench.attend(&mut machine.device);
    // No buffer for any answer: so many packets are taken and no more.
    for number in 0..256u32 {
        guest.send(&Packet::new(RW, number, 1));
    }
    within(|| guest.is_all_taken());
    for number in 256..272u32 {
        guest.send(&Packet::new(RW, number, 1));
    }
    machine.device.stop().unwrap();
    assert!(!guest.is_all_taken());
    machine.device.start().unwrap();
    guest.offer_buffers(u16::MAX);
    for number in 0..272u32 {
        assert_eq!(guest.expect(RST).ports, [1, number]);
    }
    within(|| guest.is_all_taken());
    lives(&machine, &mut guest);
}

#[test]
fn connections_made_and_broken_without_end_take_no_memory() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let server = machine.serve(1);
    server.set_nonblocking(true).unwrap();
    let mut guest = Guest::new(&bench, ONE, 4096);
    bench.attend(&mut machine.device);
    for _ in 0..1000 {
        guest.send(&Packet::new(REQUEST, 5, 1));
        guest.send(&Packet::new(RST, 5, 1));
        while server.accept().is_ok() {}
    }
    within(|| guest.is_all_taken());
    machine.device.stop().unwrap();
    machine.device.with_device(|sockets| {
        let switch = sockets.switch_for_tests();
        assert_eq!(switch.table.len(), 0);
        assert!(switch.table.places().len() <= 2);
        assert!(switch.table.next().is_none() || switch.table.next().is_none());
    });
    machine.device.start().unwrap();
    guest.offer_buffers(u16::MAX);
    // What the guest refuses to take from the host's side was never sent.
    while guest.try_next().is_some() {}
    lives(&machine, &mut guest);
}

#[test]
fn malformed_chains_ask_for_a_reset() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    guest.send_bytes(&[0; 43]);
    within(|| guest.driver.needs_reset());
    // Anew, with receive buffers that hold no packet.
    let mut guest = Guest::new(&bench, ONE, 43);
    bench.attend(&mut machine.device);
    guest.offer_buffers(4);
    guest.send(&Packet::new(RW, 5, 1));
    within(|| guest.driver.needs_reset());
    // With those that hold no data.
    let mut guest = Guest::new(&bench, ONE, 44);
    bench.attend(&mut machine.device);
    guest.offer_buffers(4);
    let (mut client, _) = machine.connect(&mut guest, 1);
    client.write_all(b"x").unwrap();
    within(|| guest.driver.needs_reset());
    let mut guest = machine.guest(ONE);
    lives(&machine, &mut guest);
}

#[test]
fn clients_that_say_nonsense_are_refused() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    for text in ["HELLO 1\n", "CONNECT x\n", "CONNECT 4294967296\n", "\n"] {
        let mut client = UnixStream::connect(machine.path()).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        assert_eq!(rest(&client), b"", "{text}");
    }
    let mut endless = UnixStream::connect(machine.path()).unwrap();
    let _ = endless.write_all(&[b'C'; 1000]);
    assert_eq!(rest(&endless), b"");
    // Half a greeting, and gone.
    let mut half = UnixStream::connect(machine.path()).unwrap();
    half.write_all(b"CONNECT 1").unwrap();
    drop(half);
    // As many as can wait, and one more.
    let waiting: Vec<_> = (0..128)
        .map(|_| UnixStream::connect(machine.path()).unwrap())
        .collect();
    within(|| {
        let more = UnixStream::connect(machine.path()).unwrap();
        more.set_read_timeout(Some(SOON)).unwrap();
        let mut byte = [0];
        matches!((&more).read(&mut byte), Ok(0))
    });
    drop(waiting);
    within(|| {
        let mut client = UnixStream::connect(machine.path()).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let _ = client.write_all(b"CONNECT 2\n");
        guest.try_next().is_some()
    });
    while guest.try_next().is_some() {}
    lives(&machine, &mut guest);
}

#[test]
fn random_packets_do_no_harm() {
    let packet = (
        prop::sample::select(vec![3u64, 3, 3, 3, 0, u64::MAX]),
        0u32..4,
        0u32..4,
        prop::sample::select(vec![1u16, 1, 1, 1, 1, 0, 2]),
        prop::sample::select(vec![
            REQUEST,
            RESPONSE,
            RST,
            SHUTDOWN,
            RW,
            RW,
            CREDIT_UPDATE,
            CREDIT_REQUEST,
            0,
            9,
        ]),
        0u32..4,
        prop::sample::select(vec![0, 1, 1000, ROOM, u32::MAX]),
        any::<u32>(),
        0usize..2000,
        prop::sample::select(vec![0u32, 0, 0, 1, u32::MAX]),
    )
        .prop_map(
            |(cid, peer, local, kind, op, flags, room, forwarded, len, lie)| {
                let mut packet = Packet::new(op, peer, local).with_data(&pattern(0, len));
                packet.cids[0] = cid;
                packet.kind = kind;
                (packet.flags, packet.room, packet.forwarded) = (flags, room, forwarded);
                packet.len = packet.len.wrapping_add(lie);
                packet
            },
        );
    let strategy = prop::collection::vec((packet, any::<bool>()), 1..300);
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&strategy, |packets| {
            let bench = Bench::new();
            let mut machine = Machine::new(&bench);
            let server = machine.serve(1);
            server.set_nonblocking(true).unwrap();
            let mut guest = machine.guest(ODD);
            let mut clients = Vec::new();
            for (packet, host_acts) in packets {
                guest.send(&packet);
                while guest.try_next().is_some() {}
                if let Ok((client, _)) = server.accept() {
                    client.set_nonblocking(true).unwrap();
                    clients.push(client);
                }
                if host_acts && let Some(client) = clients.last_mut() {
                    let _ = client.write(b"something");
                    let _ = client.read(&mut [0; 100]);
                } else if host_acts {
                    let client = machine.ask(2);
                    client.set_nonblocking(true).unwrap();
                    clients.push(client);
                } else if clients.len() > 3 {
                    clients.remove(0);
                }
            }
            drop(clients);
            within(|| {
                while guest.try_next().is_some() {}
                guest.is_all_taken()
            });
            lives(&machine, &mut guest);
            Ok(())
        })
        .unwrap();
}
