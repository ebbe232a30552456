//! HTTP as anybody would speak it: text over a Unix socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that any answer takes on a busy machine, also in an emulated host.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A connection that is kept.
pub(crate) struct Client(UnixStream);

/// Status and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

impl Client {
    /// Waits until somebody listens there.
    pub(crate) fn connect(socket: &Path) -> Self {
        let deadline = Instant::now() + LIMIT;
        loop {
            match Self::try_connect(socket) {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", socket.display()),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn try_connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self(stream))
    }

    pub(crate) fn get(&mut self, name: &str) -> Answer {
        self.ask("GET", name, "").unwrap()
    }

    pub(crate) fn put(&mut self, name: &str, body: &str) -> Answer {
        self.ask("PUT", name, body).unwrap()
    }

    /// `PUT` that has to work.
    pub(crate) fn act(&mut self, name: &str, body: &str) {
        let answer = self.put(name, body);
        assert!((200..300).contains(&answer.status), "{name}: {answer:?}");
    }

    /// `state` of `vm.info`.
    pub(crate) fn state(&mut self) -> String {
        let info = self.get("vm.info").json();
        info["state"].as_str().unwrap().to_owned()
    }

    /// Asks; an error if the connection ends instead of an answer.
    pub(crate) fn ask(&mut self, method: &str, name: &str, body: &str) -> io::Result<Answer> {
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let text = format!("{method} /api/v1/{name} HTTP/1.1\r\nHost: x\r\n{length}\r\n{body}");
        self.0.write_all(text.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body)?;
        let body = String::from_utf8(body).unwrap();
        Ok(Answer { status, body })
    }
}
