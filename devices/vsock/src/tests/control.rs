//! How connections begin and end.

use std::net::Shutdown;

use device::AnyKind;
use serde_json::json;
use virtio::feature;

use super::guest::*;
use super::*;

#[test]
fn has_the_ids_queues_and_fields_of_the_reference() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let guest = machine.guest(ONE);
    assert_eq!(guest.driver.config_read(2, 2), 0x1053);
    assert_eq!(
        guest.driver.offered(),
        feature::VERSION_1 | feature::IN_ORDER
    );
    assert_eq!(
        [guest.receive.size, guest.transmit.size, guest.event.size],
        [256; 3]
    );
    assert_eq!(guest.driver.field(0, 4), CID);
    assert_eq!(guest.driver.field(4, 4), 0);
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let read = |text| Vsock.read_flag(text).unwrap();
    assert_eq!(
        read("cid=3,socket=/vm/v.sock"),
        json!({ "cid": 3, "socket": "/vm/v.sock", "pci_segment": 0 })
    );
    let facts = Facts::default();
    for cid in [0, 1, 2, u32::MAX] {
        let config = json!({ "cid": cid, "socket": "/vm/v.sock" });
        let problem = AnyKind::check(&Vsock, &config, &facts).unwrap_err();
        assert!(problem.text.contains("use 3 to 4294967294"), "{problem}");
    }
    for missing in ["cid=3", "socket=/vm/v.sock"] {
        assert!(Vsock.read_flag(missing).is_err(), "{missing}");
    }
    let good = json!({ "cid": u32::MAX - 1, "socket": "/vm/v.sock", "id": "s" });
    AnyKind::check(&Vsock, &good, &facts).unwrap();
}

#[test]
fn a_program_of_the_host_reaches_the_guest() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(TWO);
    let (mut first, first_port) = machine.connect(&mut guest, 1024);
    let (second, second_port) = machine.connect(&mut guest, 1024);
    assert_ne!(first_port, second_port);
    first.write_all(b"ping").unwrap();
    let packet = guest.expect(RW);
    assert_eq!(
        (packet.ports, packet.data),
        ([first_port, 1024], b"ping".to_vec())
    );
    guest.send(&Packet::new(RW, 1024, second_port).with_data(b"pong\n"));
    assert_eq!(line(&second), "pong\n");
    within(|| guest.is_all_taken());
    let mut heard = std::collections::HashSet::new();
    within(|| {
        heard.extend(bench.sent.take().into_iter().map(|message| message.data));
        let queues = [device_side::RECEIVE, device_side::TRANSMIT];
        queues
            .iter()
            .all(|queue| heard.contains(&Driver::queue_message(*queue)))
    });
}

#[test]
fn what_follows_a_greeting_is_data() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let mut client = UnixStream::connect(machine.path()).unwrap();
    // In pieces, and with the end of line of a terminal.
    client.write_all(b"CONN").unwrap();
    let other = machine.ask(9);
    assert_eq!(guest.expect(REQUEST).ports[1], 9);
    client.write_all(b"ECT 80\r\nGET /\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let request = guest.expect(REQUEST);
    assert_eq!(request.ports[1], 80);
    guest.send(&Packet::new(RESPONSE, 80, request.ports[0]));
    assert_eq!(guest.expect(RW).data, b"GET /\n");
    assert_eq!(guest.expect(SHUTDOWN).flags, 2);
    drop(other);
}

#[test]
fn a_guest_that_refuses_ends_the_client() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let client = machine.ask(7);
    let request = guest.expect(REQUEST);
    guest.send(&Packet::new(RST, 7, request.ports[0]));
    assert_eq!(rest(&client), b"");
}

#[test]
fn the_guest_reaches_who_listens_on_the_host() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let server = machine.serve(5000);
    let mut guest = machine.guest(ONE);
    let mut client = machine.reach(&mut guest, &server, 77, 5000);
    guest.send(&Packet::new(RW, 77, 5000).with_data(b"hello\n"));
    assert_eq!(line(&client), "hello\n");
    client.write_all(b"world").unwrap();
    assert_eq!(guest.expect(RW).data, b"world");
    // Nobody is there, and what is there is not a socket.
    std::fs::write(machine.folder.path().join("vsock_5002"), "x").unwrap();
    for port in [5001, 5002] {
        guest.send(&Packet::new(REQUEST, 78, port));
        assert_eq!(guest.expect(RST).ports, [port, 78]);
    }
}

#[test]
fn either_side_can_stop_sending_and_go_on_receiving() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let server = machine.serve(1);
    let mut guest = machine.guest(TWO);
    // The guest first.
    let mut client = machine.reach(&mut guest, &server, 10, 1);
    guest.send(&Packet::new(RW, 10, 1).with_data(b"question"));
    let mut shut = Packet::new(SHUTDOWN, 10, 1);
    shut.flags = 2;
    guest.send(&shut);
    assert_eq!(rest(&client), b"question");
    client.write_all(b"answer").unwrap();
    assert_eq!(guest.expect(RW).data, b"answer");
    drop(client);
    assert_eq!(guest.expect(SHUTDOWN).flags, 3);
    guest.send(&Packet::new(RST, 10, 1));
    // The host first.
    let (mut client, local) = machine.connect(&mut guest, 11);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(RW).data, b"question");
    assert_eq!(guest.expect(SHUTDOWN).flags, 2);
    guest.send(&Packet::new(RW, 11, local).with_data(b"answer"));
    shut = Packet::new(SHUTDOWN, 11, local);
    shut.flags = 3;
    guest.send(&shut);
    assert_eq!(rest(&client), b"answer");
    assert_eq!(guest.expect(RST).ports, [local, 11]);
}

#[test]
fn either_side_can_stop_receiving() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let (mut client, local) = machine.connect(&mut guest, 20);
    let mut shut = Packet::new(SHUTDOWN, 20, local);
    shut.flags = 1;
    guest.send(&shut);
    within(|| client.write_all(b"x").is_err());
    guest.send(&Packet::new(RW, 20, local).with_data(b"still\n"));
    assert_eq!(line(&client), "still\n");
    drop(client);
    assert_eq!(guest.expect(SHUTDOWN).flags, 3);
    // The host.
    let (mut client, local) = machine.connect(&mut guest, 21);
    client.shutdown(Shutdown::Read).unwrap();
    guest.send(&Packet::new(RW, 21, local).with_data(b"nobody hears"));
    assert_eq!(guest.expect(SHUTDOWN).flags, 1);
    client.write_all(b"says").unwrap();
    assert_eq!(guest.expect(RW).data, b"says");
    drop(client);
    assert_eq!(guest.expect(SHUTDOWN).flags, 3);
}

#[test]
fn last_words_are_delivered_before_the_end() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let (mut client, local) = machine.connect(&mut guest, 30);
    client.write_all(&pattern(0, 10_000)).unwrap();
    drop(client);
    let mut heard = Vec::new();
    while heard.len() < 10_000 {
        heard.extend(guest.expect(RW).data);
    }
    assert!(heard == pattern(0, 10_000));
    assert_eq!(guest.expect(SHUTDOWN).flags, 3);
    guest.send(&Packet::new(RST, 30, local));
    // More than a Unix socket holds, and the guest closes at once.
    let (client, local) = machine.connect(&mut guest, 31);
    for at in 0..4 {
        let data = pattern(at * 0x1_0000, 0x1_0000);
        guest.send(&Packet::new(RW, 31, local).with_data(&data));
    }
    let mut shut = Packet::new(SHUTDOWN, 31, local);
    shut.flags = 3;
    guest.send(&shut);
    let mut packet = guest.next();
    while packet.op == CREDIT_UPDATE {
        packet = guest.next();
    }
    assert_eq!((packet.op, packet.ports), (RST, [local, 31]));
    assert!(rest(&client) == pattern(0, 0x4_0000));
}

#[test]
fn what_does_not_last_is_ended() {
    let bench = Bench::new();
    let mut machine = Machine::with_tick(&bench, SOON);
    let mut guest = machine.guest(ONE);
    // No greeting; no answer to a request; no confirmation of an end.
    let silent = UnixStream::connect(machine.path()).unwrap();
    assert_eq!(rest(&silent), b"");
    let unanswered = machine.ask(40);
    let request = guest.expect(REQUEST);
    assert_eq!(rest(&unanswered), b"");
    assert_eq!(guest.expect(RST).ports, [request.ports[0], 40]);
    let client = machine.ask(41);
    let request = guest.expect(REQUEST);
    guest.send(&Packet::new(RESPONSE, 41, request.ports[0]));
    line(&client);
    drop(client);
    // The end of the data can be seen before the end of the client.
    let mut flags = guest.expect(SHUTDOWN).flags;
    if flags == 2 {
        flags = guest.expect(SHUTDOWN).flags;
    }
    assert_eq!(flags, 3);
    assert_eq!(guest.expect(RST).ports, [request.ports[0], 41]);
    guest.send(&Packet::new(CREDIT_UPDATE, 41, request.ports[0]));
    assert_eq!(guest.expect(RST).ports, [request.ports[0], 41]);
}

#[test]
fn a_path_in_use_is_refused_and_a_dead_one_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vsock");
    let first = Listener::open(&path).unwrap();
    let error = Listener::open(&path).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(first);
    assert!(!path.exists(), "removed at the end");
    drop(UnixListener::bind(&path).unwrap());
    drop(Listener::open(&path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    let error = Listener::open(&path).unwrap_err();
    assert!(matches!(error, Error::NotASocket { .. }), "{error}");
    let long = folder.path().join("x".repeat(120));
    let error = Listener::open(&long).unwrap_err();
    assert!(error.to_string().starts_with("cannot bind to"), "{error}");
}
