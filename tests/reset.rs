//! What a guest's reset leaves as it is: the host's ends of its consoles.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::payload::Payload;
use testkit::{Builder, Exit, Vm};

const COM1: u16 = 0x3f8;
/// Longest that anything here takes on a busy machine.
const SECONDS: u64 = 20;

/// Says hello on both consoles, waits for one typed byte, and then powers off for `q` or resets.
fn guest(folder: &TempDir) -> Builder {
    let payload = Payload::new()
        .print_e9("boot\n")
        .print(COM1, "hello\n")
        .raw(&[
            0x66, 0xba, 0xfd, 0x03, // 0: mov dx, line status
            0xec, 0xa8, 0x01, 0x74, 0xf7, // in al, dx; test al, 1; jz 0
            0x66, 0xba, 0xf8, 0x03, 0xec, // mov dx, data; in al, dx
            0x3c, b'q', 0x74, 0x09, // cmp al, 'q'; je 27
            0x66, 0xba, 0x64, 0x00, // mov dx, 0x64
            0xb0, 0xfe, 0xee, // mov al, 0xfe; out dx, al
            0xeb, 0xfe, // jmp here
        ])
        .power_off(); // 27
    let kernel = folder.path().join("kernel");
    payload.elf().write(&kernel).unwrap();
    Vm::builder().kernel(kernel).memory("size=32M")
}

fn read_until(stream: &mut UnixStream, text: &str) {
    let mut seen = Vec::new();
    let mut buffer = [0; 256];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let count = stream.read(&mut buffer).unwrap();
        let so_far = String::from_utf8_lossy(&seen).into_owned();
        assert!(count > 0, "the connection ended after {so_far:?}");
        seen.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn a_client_stays_connected_and_a_file_keeps_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("serial");
    let file = folder.path().join("debug");
    let mut vm = guest(&folder)
        .arg("--serial", format!("socket={}", socket.display()))
        .arg("--debug-console", format!("file={}", file.display()))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let mut client = loop {
        match UnixStream::connect(&socket) {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    client
        .set_read_timeout(Some(Duration::from_secs(SECONDS)))
        .unwrap();
    for _ in 0..3 {
        read_until(&mut client, "hello\n");
        client.write_all(b"r").unwrap();
    }
    read_until(&mut client, "hello\n");
    client.write_all(b"q").unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "boot\n".repeat(4));
    assert!(!socket.exists(), "the socket is left behind");
}
