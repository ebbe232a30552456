//! Hands a machine over to another monitor of this host, through that one's API socket.
//!
//! One request of HTTP/1.1 (RFC 9112) goes there, and the [`Parts`](crate::Parts) of the machine with it as descriptors
//! (unix(7), `SCM_RIGHTS`). The other monitor may be anybody: what it answers is read up to a limit and a deadline.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};

use crate::{Error, Result};

/// Where the API takes a machine that is handed over.
pub const ENDPOINT: &str = "vm.receive-fork";
/// Most layers of memory that are handed over.
pub const MOST_LAYERS: usize = 16;
/// Configuration, state, memory; which parts of memory are in layers, and these.
const MOST_PARTS: usize = 4 + MOST_LAYERS;
/// How long the other monitor may take to accept, and to take a request. It does so at once, unless it hangs.
const ACCEPT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read: what is wrong is said in fewer.
const MOST_ANSWER: u64 = 64 << 10;

/// A monitor that waits for a machine.
#[derive(Debug)]
pub struct Receiver {
    path: PathBuf,
    stream: UnixStream,
}

impl Receiver {
    /// Reaches the monitor at an API socket.
    ///
    /// # Errors
    /// [`Error::Receiver`] if nobody listens there, or does not accept in time.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = open(path).map_err(|error| failed(path, error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            stream,
        })
    }

    /// Its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends it configuration, state and memory, in this order; where memory is in layers also the text that says which
    /// parts are, and these. `body` is the rest of the request.
    ///
    /// # Errors
    /// [`Error::Receiver`] if it does not take them, or they are too many.
    pub fn send(&mut self, body: &str, parts: &[BorrowedFd<'_>]) -> Result<()> {
        let request = format!(
            "PUT /api/v1/{ENDPOINT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = self.send_all(request.as_bytes(), parts);
        sent.map_err(|error| failed(&self.path, error))
    }

    fn send_all(&mut self, bytes: &[u8], parts: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PARTS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let right = parts.len() <= MOST_PARTS;
        if !right || !control.push(SendAncillaryMessage::ScmRights(parts)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let first = [IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &first, &mut control, SendFlags::NOSIGNAL)?;
        self.stream.write_all(&bytes[sent..])
    }

    /// Waits until it has made the machine.
    ///
    /// # Errors
    /// [`Error::Receiver`] if it does not answer before `deadline`, [`Error::NotReceived`] if it refuses.
    pub fn wait(self, deadline: Instant) -> Result<()> {
        let Self { path, mut stream } = self;
        let answer = read_answer(&mut stream, deadline).map_err(|error| failed(&path, error))?;
        match why_not(&answer) {
            None => Ok(()),
            Some(why) => Err(Error::NotReceived { path, why }),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Receiver {
        path: path.to_owned(),
        source,
    }
}

fn open(path: &Path) -> rustix::io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // A listener whose queue is full lets those who connect wait.
    set_socket_timeout(&socket, Timeout::Send, Some(ACCEPT))?;
    connect(&socket, &address)?;
    Ok(socket.into())
}

fn read_answer(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while answer.len() as u64 <= MOST_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_socket_timeout(stream.as_fd(), Timeout::Recv, Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// What an answer says that is not one of success.
fn why_not(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    let Some(status) = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
    else {
        return Some("its answer is none of HTTP/1.1".into());
    };
    if status.starts_with('2') {
        return None;
    }
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some(match serde_json::from_str::<Vec<String>>(body) {
        Ok(chain) => chain.join(": "),
        Err(_) => format!("status {status}"),
    })
}

/// Puts a text into a memory file that nobody can change any more.
///
/// # Errors
/// If the host has no memory for it.
pub fn sealed(name: &str, text: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(text)?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, all)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What a receiver that answers like this makes of it.
    fn answered(answer: &'static [u8]) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        let other = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let count = client.read(&mut request).unwrap();
            client.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let mut receiver = Receiver::connect(&path).unwrap();
        let file = sealed("part", b"{}").unwrap();
        receiver
            .send("{\"resume\":true}", &[file.as_fd(); MOST_PARTS])
            .unwrap();
        assert!(receiver.send("", &[file.as_fd(); MOST_PARTS + 1]).is_err());
        let answer = receiver.wait(Instant::now() + Duration::from_secs(10));
        let request = other.join().unwrap();
        assert!(request.starts_with("PUT /api/v1/vm.receive-fork HTTP/1.1\r\n"));
        assert!(request.ends_with("\r\n\r\n{\"resume\":true}"), "{request}");
        answer
    }

    #[test]
    fn answers_are_success_or_say_why_not() {
        answered(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        for (answer, part) in [
            (&b""[..], "none of HTTP"),
            (b"HTTP/1.1 2", "none of HTTP"),
            (b"HTTP/1.1 500 x\r\n\r\n[\"a\",\"b\"]", "a: b"),
            (b"HTTP/1.1 404 x\r\n\r\n<html>", "status 404"),
        ] {
            let error = answered(answer).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        assert!(Receiver::connect(&path).is_err());
        let _silent = UnixListener::bind(&path).unwrap();
        let receiver = Receiver::connect(&path).unwrap();
        let begin = Instant::now();
        let error = receiver
            .wait(begin + Duration::from_millis(20))
            .unwrap_err();
        assert!(matches!(error, Error::Receiver { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_is_handed_over_cannot_be_changed() {
        let mut file = sealed("part", b"text").unwrap();
        assert!(file.write_all(b"more").is_err() && file.set_len(0).is_err());
    }
}
