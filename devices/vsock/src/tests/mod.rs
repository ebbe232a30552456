mod control;
mod guest;
mod hostile;
mod life;
mod stream;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use device::Device;
use sandbox::Filter;
use virtio::testing::{Bench, Driver};

use super::*;
use guest::{Guest, Layout, Packet};

/// A tick that makes time limits come soon.
const SOON: std::time::Duration = std::time::Duration::from_millis(2);

/// A device on a bench.
pub(crate) struct Machine<'a> {
    bench: &'a Bench,
    device: OverPci<Sockets>,
    folder: tempfile::TempDir,
}

fn sockets(bench: &Bench, path: &Path, tick: std::time::Duration) -> Sockets {
    let listener = Listener::open(path).unwrap();
    let ram = bench.ram.clone();
    Sockets::new(3, listener, ram, "_vsock0", Filter::none(), tick).unwrap()
}

impl<'a> Machine<'a> {
    fn new(bench: &'a Bench) -> Self {
        Self::with_tick(bench, TICK)
    }

    fn with_tick(bench: &'a Bench, tick: std::time::Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sockets = sockets(bench, &folder.path().join("vsock"), tick);
        let mut device = OverPci::new("vsock", sockets, bench.environment("_vsock0")).unwrap();
        device.start().unwrap();
        Self {
            bench,
            device,
            folder,
        }
    }

    /// The guest's driver at work, with receive buffers of 4 KiB.
    fn guest(&mut self, layout: Layout) -> Guest<'a> {
        self.guest_with(layout, 4096)
    }

    fn guest_with(&mut self, layout: Layout, receive_len: u32) -> Guest<'a> {
        let mut guest = Guest::new(self.bench, layout, receive_len);
        self.bench.attend(&mut self.device);
        guest.offer_buffers(u16::MAX);
        guest
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("vsock")
    }

    /// A program that serves a port of the host.
    fn serve(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("vsock_{port}"))).unwrap()
    }

    /// A program of the host that asks for a port of the guest.
    fn ask(&self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.path()).unwrap();
        let timeout = Some(std::time::Duration::from_secs(10));
        client.set_read_timeout(timeout).unwrap();
        client.set_write_timeout(timeout).unwrap();
        client
            .write_all(format!("CONNECT {port}\n").as_bytes())
            .unwrap();
        client
    }

    /// A connection that a program of the host has made to port `peer`. Gives the host's port.
    fn connect(&self, guest: &mut Guest<'_>, peer: u32) -> (UnixStream, u32) {
        let client = self.ask(peer);
        let request = guest.expect(guest::REQUEST);
        assert_eq!((request.cids, request.ports[1]), ([2, 3], peer));
        let local = request.ports[0];
        guest.send(&Packet::new(guest::RESPONSE, peer, local));
        assert_eq!(line(&client), format!("OK {local}\n"));
        (client, local)
    }

    /// A connection that the guest has made from port `peer` to a program that serves `local`.
    fn reach(
        &self,
        guest: &mut Guest<'_>,
        server: &UnixListener,
        peer: u32,
        local: u32,
    ) -> UnixStream {
        guest.send(&Packet::new(guest::REQUEST, peer, local));
        let (client, _) = server.accept().unwrap();
        let timeout = Some(std::time::Duration::from_secs(10));
        client.set_read_timeout(timeout).unwrap();
        client.set_write_timeout(timeout).unwrap();
        let response = guest.expect(guest::RESPONSE);
        assert_eq!(
            (response.cids, response.ports),
            ([2, guest::CID], [local, peer])
        );
        assert!(response.room >= 64 << 10);
        client
    }
}

/// A line, and nothing beyond it.
fn line(mut client: &UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// All that comes until the other side ends.
fn rest(client: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = BufReader::new(client);
    loop {
        match reader.fill_buf() {
            Ok([]) => return bytes,
            Ok(some) => {
                bytes.extend_from_slice(some);
                let count = some.len();
                reader.consume(count);
            }
            // It went without reading what it was sent.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Bytes that do not repeat soon.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len)
        .map(|at| {
            let [.., byte, _] = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            byte
        })
        .collect()
}
