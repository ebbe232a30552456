//! vsock, both ways.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use testkit::Builder;

use crate::Debian;

pub(crate) fn options(builder: Builder, folder: &Path) -> Builder {
    let socket = folder.join("vsock");
    builder.arg("--vsock", format!("cid=3,socket={}", socket.display()))
}

/// Bytes that are not the same anywhere.
fn pattern(len: u32) -> Vec<u8> {
    (0..len / 4)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b1).to_le_bytes())
        .collect()
}

pub(crate) fn both_ways(debian: &mut Debian) {
    // The host connects: what it sends comes back, and then the end of it.
    debian.run("(socat VSOCK-LISTEN:1234,fork EXEC:cat) >/dev/null 2>&1 &");
    let sent = pattern(4 << 20);
    let mut stream = (0..60)
        .find_map(|_| {
            let answer = connect(&debian.path("vsock"), 1234);
            if answer.is_none() {
                thread::sleep(std::time::Duration::from_millis(500));
            }
            answer
        })
        .unwrap();
    let mut sink = stream.get_ref().try_clone().unwrap();
    let writer = thread::spawn({
        let sent = sent.clone();
        move || {
            sink.write_all(&sent).unwrap();
            sink.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(
        back == sent,
        "{} bytes came back of {}",
        back.len(),
        sent.len()
    );

    // The guest connects: the same the other way round.
    let listener = UnixListener::bind(debian.path("vsock_5678")).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream
            .write_all(format!("{} bytes\n", received.len()).as_bytes())
            .unwrap();
    });
    let answer = debian.run("head -c 3000000 /dev/zero | socat -t 30 - VSOCK-CONNECT:2:5678");
    assert_eq!(answer, "3000000 bytes\n");
    server.join().unwrap();
    // Nobody is there.
    debian.run("! socat - VSOCK-CONNECT:2:9999 </dev/null 2>/dev/null");
}

fn connect(socket: &Path, port: u32) -> Option<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.starts_with("OK ").then_some(reader)
}
