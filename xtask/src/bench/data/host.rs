//! The host's side of a load: a tap in a network of its own, who sends to it, who speaks on sockets.

use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

use super::cell::{Cell, Vsock};
use crate::error::{Context as _, Result};
use crate::run;

/// The interface.
pub(super) const TAP: &str = "bench0";
/// Addresses of the host and of the guest, which says nothing: the host is told where it is.
const HOST: &str = "10.99.0.1/24";
const GUEST: &str = "10.99.0.2";
const GUEST_MAC: &str = "02:00:00:00:00:03";
/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: u32 = 14 + 20 + 8;
/// The port that the guest connects to.
const PORT: &str = "1000";

/// What the host does while a guest is measured. Ends when dropped.
#[derive(Debug)]
pub(super) struct Host {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Puts this thread and the processes it starts into a network of its own with the tap in it.
pub(super) fn make_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context(|| "cannot make a network of its own for the tap (it takes root)".to_owned())?;
    for words in [
        format!("tuntap add {TAP} mode tap vnet_hdr"),
        format!("link set {TAP} up"),
        format!("address add {HOST} dev {TAP}"),
        format!("neighbour add {GUEST} lladdr {GUEST_MAC} dev {TAP} nud permanent"),
    ] {
        run::check(Command::new("ip").args(words.split(' ')))?;
    }
    Ok(())
}

impl Host {
    /// Begins what the cell needs. `socket` is the path of the socket device.
    pub(super) fn start(cell: Cell, socket: &Path) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let work: Box<dyn FnOnce() + Send> = match cell {
            Cell::Net { send: false, size } => flood(size, Arc::clone(&stop))?,
            Cell::Vsock(load) => stream(load, socket)?,
            _ => Box::new(|| {}),
        };
        let thread = std::thread::Builder::new()
            .name("bench-host".to_owned())
            .spawn(work)
            .context(|| "cannot start a thread".to_owned())?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Datagrams for the guest. The socket's buffer is the limit of what waits in the tap, so nothing gets lost.
fn flood(size: u32, stop: Arc<AtomicBool>) -> Result<Box<dyn FnOnce() + Send>> {
    let socket = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect((GUEST, 9)).map(|()| socket))
        .and_then(|socket| {
            // A monitor that has gone takes nothing any more.
            socket.set_write_timeout(Some(std::time::Duration::from_millis(50)))?;
            Ok(socket)
        })
        .context(|| "cannot make a socket".to_owned())?;
    let bytes = vec![0; usize::try_from(size - HEADERS).unwrap_or(0)];
    Ok(Box::new(move || {
        while !stop.load(Ordering::Relaxed) {
            let _ = socket.send(&bytes);
        }
    }))
}

/// Listens where the guest connects. Ends with the connection.
fn stream(load: Vsock, socket: &Path) -> Result<Box<dyn FnOnce() + Send>> {
    let path = format!("{}_{PORT}", socket.display());
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).context(|| format!("cannot listen at {path}"))?;
    Ok(Box::new(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut bytes = vec![0; 1 << 16];
        loop {
            let goes_on = match load {
                Vsock::ToHost => matches!(stream.read(&mut bytes), Ok(1..)),
                Vsock::FromHost => stream.write_all(&bytes).is_ok(),
                Vsock::Echo => match stream.read(&mut bytes) {
                    Ok(len @ 1..) => stream.write_all(&bytes[..len]).is_ok(),
                    _ => false,
                },
            };
            if !goes_on {
                return;
            }
        }
    }))
}
