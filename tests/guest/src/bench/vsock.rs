//! A stream to port 1000 of the host: `send=1` writes, `send=0` reads, `send=2` sends a byte and waits for its echo.

use super::stream::Stream;
use super::{Work, measure, number};
use crate::boot::Boot;
use crate::virtio::{Device, kind};

/// The port of the host's program.
const PORT: u32 = 1000;
/// Bytes of data in a packet: as many as Linux puts in one.
const DATA: u32 = 65536;

/// Runs it.
pub(super) fn run(boot: &Boot) {
    let Some(device) = Device::find(kind::VSOCK) else {
        return fail!("there is no socket device");
    };
    let mut socket = Stream::start(&device, PORT);
    if !socket.connect() {
        return fail!("the host does not accept");
    }
    match number(boot, "send").unwrap_or(1) {
        0 => measure(boot, || receive(&mut socket)),
        1 => measure(boot, || {
            let before = socket.doorbells;
            let sent = socket.send(DATA);
            // Credit comes in packets.
            socket.take();
            Work {
                done: sent.into(),
                doorbells: socket.doorbells - before,
            }
        }),
        _ => measure(boot, || echo(&mut socket)),
    }
}

fn receive(socket: &mut Stream) -> Work {
    let before = socket.doorbells;
    let done = socket.take();
    Work {
        done,
        doorbells: socket.doorbells - before,
    }
}

/// One byte there and back.
fn echo(socket: &mut Stream) -> Work {
    let before = socket.doorbells;
    if socket.send(1) == 0 {
        return Work::default();
    }
    let back = crate::machine::wait_for(crate::machine::PATIENCE, || match socket.take() {
        0 => None,
        bytes => Some(bytes),
    });
    expect!(back.is_some(), "no echo");
    Work {
        done: 1,
        doorbells: socket.doorbells - before,
    }
}
