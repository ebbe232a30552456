//! Pause, reset, restore.

use super::guest::*;
use super::*;
use device::Saved;

#[test]
fn nothing_is_lost_over_pauses() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(TWO);
    let (client, local) = machine.connect(&mut guest, 1);
    let total = 1 << 20;
    let bytes = pattern(0, total);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut heard = vec![0; total];
            (&client).read_exact(&mut heard).unwrap();
            heard
        });
        scope.spawn(|| (&client).write_all(&bytes).unwrap());
        let (mut sent, mut forwarded, mut received) = (0, 0, Vec::new());
        let mut rounds = 0;
        while received.len() < total || sent < total {
            rounds += 1;
            if rounds % 16 == 0 {
                machine.device.stop().unwrap();
                machine.device.start().unwrap();
            }
            while let Some(packet) = guest.try_next() {
                forwarded = packet.forwarded as usize;
                received.extend(packet.data);
            }
            let mut packet = Packet::new(RW, 1, local);
            packet.forwarded = u32::try_from(received.len()).unwrap();
            let len = (256 << 10) - (sent - forwarded);
            let len = len.min(10_000).min(total - sent);
            guest.send(&packet.with_data(&bytes[sent..sent + len]));
            sent += len;
        }
        assert!(received == bytes);
        assert!(echo.join().unwrap() == bytes);
    });
    // While it is paused clients wait at the door.
    machine.device.stop().unwrap();
    while guest.try_next().is_some() {}
    let waiting = machine.ask(9);
    machine.device.start().unwrap();
    assert_eq!(guest.expect(REQUEST).ports[1], 9);
    drop(waiting);
}

#[test]
fn a_reset_ends_connections_and_keeps_the_way_in() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let (client, _) = machine.connect(&mut guest, 1);
    drop(guest);
    // The driver comes anew.
    let mut guest = machine.guest(TWO);
    assert_eq!(rest(&client), b"");
    machine.connect(&mut guest, 1);
    assert_eq!(guest.event.used_index(), 0);
}

#[test]
fn the_next_machine_inherits_the_way_in() {
    let bench = Bench::new();
    let mut machine = Machine::new(&bench);
    let mut guest = machine.guest(ONE);
    let (client, _) = machine.connect(&mut guest, 1);
    machine.device.stop().unwrap();
    let path = machine.path();
    let Machine { device, folder, .. } = machine;
    let left = Box::new(device).leave().unwrap();
    assert_eq!(rest(&client), b"");
    let early = UnixStream::connect(&path).unwrap();
    let listener: Box<Listener> = left.downcast().unwrap();
    let next = Bench::new();
    let ram = next.ram.clone();
    let sockets = Sockets::new(3, *listener, ram, "_vsock0", Filter::none(), TICK).unwrap();
    let mut device = OverPci::new("vsock", sockets, next.environment("_vsock0")).unwrap();
    device.start().unwrap();
    let mut machine = Machine {
        bench: &next,
        device,
        folder,
    };
    let mut guest = machine.guest(ONE);
    (&early).write_all(b"CONNECT 5\n").unwrap();
    assert_eq!(guest.expect(REQUEST).ports[1], 5);
    drop(machine.device);
    assert!(!path.exists());
}

/// A copy of a stopped machine with the same memory, on a socket of its own.
fn copy<'a>(machine: Machine<'a>, bench: &'a Bench) -> Machine<'a> {
    let saved = machine.device.save().unwrap();
    let Machine { device, .. } = machine;
    drop(device);
    let folder = tempfile::tempdir().unwrap();
    let sockets = sockets(bench, &folder.path().join("vsock"), TICK);
    let mut device = OverPci::new("vsock", sockets, bench.environment("_vsock0")).unwrap();
    device.restore(saved).unwrap();
    device.start().unwrap();
    Machine {
        bench,
        device,
        folder,
    }
}

#[test]
fn after_a_restore_the_guest_hears_that_its_connections_are_gone() {
    for early in [true, false] {
        let bench = Bench::new();
        let mut machine = Machine::new(&bench);
        let mut guest = machine.guest(ONE);
        if early {
            guest.offer_event_buffer();
        }
        let (client, local) = machine.connect(&mut guest, 1);
        machine.device.stop().unwrap();
        let machine = copy(machine, &bench);
        assert_eq!(rest(&client), b"");
        if !early {
            guest.offer_event_buffer();
        }
        assert_eq!(guest.event(), [0; 4]);
        bench.sent.wait(Driver::queue_message(device_side::EVENT));
        // What the guest says of the old connection is answered.
        guest.send(&Packet::new(RW, 1, local).with_data(b"old"));
        assert_eq!(guest.expect(RST).ports, [local, 1]);
        // Ports go on, so that no connection is taken for an old one.
        let (_, next) = machine.connect(&mut guest, 1);
        assert_eq!(next, local + 1);
    }
}

#[test]
fn a_state_of_version_1_is_read() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let mut sockets = sockets(&bench, &folder.path().join("vsock"), TICK);
    use virtio::VirtioDevice;
    let text = include_str!("../../fixtures/state-v1.json");
    let saved: Saved = serde_json::from_str(text).unwrap();
    sockets.restore(saved.clone()).unwrap();
    assert_eq!(sockets.save().unwrap(), saved);
    for (member, value) in [("next_port", 0), ("next_port", u32::MAX), ("other", 1)] {
        let mut bad = saved.clone();
        bad.body[member] = value.into();
        let error = sockets.restore(bad).unwrap_err();
        assert!(matches!(error, device::Error::BadState { .. }), "{error}");
    }
    let mut later = saved.clone();
    later.version = 2;
    assert!(sockets.restore(later).is_err());
    assert_eq!(sockets.save().unwrap(), saved);
}
