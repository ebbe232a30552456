//! As much of HTTP/1.1 (RFC 9112) as a client of a monitor needs: requests with a length, answers with a length, in
//! chunks or up to the end of the connection.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::{Error, Result};
use crate::request::{Method, Request};

/// Longest line of an answer's head.
const MAX_LINE: u64 = 16 << 10;
/// Most lines of an answer's head.
const MAX_HEADERS: usize = 100;
/// Largest body of an answer: no honest monitor has as much to tell.
const MAX_BODY: u64 = 64 << 20;
/// The most descriptors that the kernel sends with one message (`SCM_MAX_FD`).
const MAX_DESCRIPTORS: usize = 253;

/// A connection to a monitor.
#[derive(Debug)]
pub(crate) struct Connection(BufReader<UnixStream>);

/// What a monitor answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Status of HTTP.
    pub(crate) status: u16,
    /// The body; empty if there is none.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The answer, or the error that it tells of.
    pub(crate) fn success(self) -> Result<Self> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        let chain = match serde_json::from_slice::<Vec<String>>(&self.body) {
            Ok(chain) => chain,
            Err(_) if self.body.is_empty() => Vec::new(),
            Err(_) => vec![text()],
        };
        Err(Error::Server {
            status: self.status,
            chain,
        })
    }
}

/// How far a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunks,
    ToTheEnd,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).map_err(|source| Error::Connect {
            path: socket.to_owned(),
            source,
        })?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks and waits for the answer, for as long as it takes: a migration lasts.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Answer> {
        self.send(request).map_err(Error::Connection)?;
        let (status, length) = self.head()?;
        let body = match length {
            Length::Known(length) => self.bytes(length)?,
            Length::Chunks => self.chunks()?,
            Length::ToTheEnd => {
                let mut body = Vec::new();
                let limited = &mut self.0.by_ref().take(MAX_BODY);
                limited.read_to_end(&mut body).map_err(Error::Connection)?;
                body
            }
        };
        Ok(Answer { status, body })
    }

    fn send(&mut self, request: Request) -> io::Result<()> {
        let method = match request.method {
            Method::Get => "GET",
            Method::Put => "PUT",
        };
        let mut bytes = format!(
            "{method} /api/v1/{} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n",
            request.endpoint
        )
        .into_bytes();
        if let Some(body) = &request.body {
            let head = format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
            bytes.extend_from_slice(head.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend(request.body.unwrap_or_default());
        let sent = self.send_with(&bytes, &request.descriptors)?;
        self.0.get_mut().write_all(&bytes[sent..])
    }

    /// Sends the first bytes, and the descriptors with them. How many bytes were sent.
    fn send_with(&self, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
        if descriptors.is_empty() {
            return Ok(0);
        }
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other(format!(
                "no more than {MAX_DESCRIPTORS} descriptors go with one request"
            )));
        }
        let parts = [IoSlice::new(bytes)];
        let socket = self.0.get_ref();
        Ok(sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?)
    }

    /// Reads status and headers.
    fn head(&mut self) -> Result<(u16, Length)> {
        loop {
            let status = self.status()?;
            let length = self.headers()?;
            match status {
                // Not the answer yet (RFC 9110, 15.2).
                100..200 => {}
                204 | 304 => return Ok((status, Length::Known(0))),
                _ => return Ok((status, length)),
            }
        }
    }

    fn status(&mut self) -> Result<u16> {
        let line = self.line()?;
        let rest = line.strip_prefix("HTTP/1.").ok_or(Error::Malformed(
            "it does not begin with a version of HTTP/1",
        ))?;
        rest.split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .filter(|status| (100..600).contains(status))
            .ok_or(Error::Malformed("it has no status"))
    }

    fn headers(&mut self) -> Result<Length> {
        let mut length = Length::ToTheEnd;
        for _ in 0..MAX_HEADERS {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(length);
            }
            let (name, value) = line
                .split_once(':')
                .ok_or(Error::Malformed("a header has no colon"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") && length != Length::Chunks {
                let number = value
                    .parse()
                    .map_err(|_| Error::Malformed("its length is not a number"))?;
                length = Length::Known(number);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err(Error::Malformed("its transfer encoding is not known"));
                }
                length = Length::Chunks;
            }
        }
        Err(Error::Malformed("it has too many headers"))
    }

    /// A line without its end.
    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let limited = &mut self.0.by_ref().take(MAX_LINE);
        limited
            .read_until(b'\n', &mut line)
            .map_err(Error::Connection)?;
        if line.pop() != Some(b'\n') {
            return Err(Error::Malformed("it ends early, or a line is too long"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| Error::Malformed("its head is not text"))
    }

    /// Reads that many bytes. Memory is taken as they come.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        if length > MAX_BODY {
            return Err(Error::Malformed("its body is too large"));
        }
        let mut body = Vec::new();
        let limited = &mut self.0.by_ref().take(length);
        let count = limited.read_to_end(&mut body).map_err(Error::Connection)?;
        if u64::try_from(count) != Ok(length) {
            return Err(Error::Malformed("its body ends early"));
        }
        Ok(body)
    }

    /// A body in chunks (RFC 9112, 7.1).
    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend(chunk);
            if u64::try_from(body.len()).is_ok_and(|length| length > MAX_BODY) {
                return Err(Error::Malformed("its body is too large"));
            }
        }
        Ok(body)
    }

    /// The next chunk; none at the end.
    fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = u64::from_str_radix(digits, 16)
            .map_err(|_| Error::Malformed("a chunk has no length"))?;
        if length == 0 {
            self.headers()?;
            return Ok(None);
        }
        let chunk = self.bytes(length)?;
        if self.line()?.is_empty() {
            Ok(Some(chunk))
        } else {
            Err(Error::Malformed("a chunk is longer than it says"))
        }
    }

    /// Asks for a stream, and gives what comes, as it comes, to `take`, until the stream ends or `take` says so by
    /// `false`.
    pub(crate) fn follow(
        &mut self,
        request: Request,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<()> {
        self.send(request).map_err(Error::Connection)?;
        let (status, length) = self.head()?;
        if status >= 300 {
            let body = match length {
                Length::Known(length) => self.bytes(length)?,
                Length::Chunks => self.chunks()?,
                Length::ToTheEnd => Vec::new(),
            };
            return Answer { status, body }.success().map(drop);
        }
        match length {
            Length::Known(length) => drop(take(&self.bytes(length)?)),
            Length::Chunks => {
                while let Some(chunk) = self.chunk()? {
                    if !take(&chunk) {
                        break;
                    }
                }
            }
            Length::ToTheEnd => loop {
                let piece = self.0.fill_buf().map_err(Error::Connection)?;
                let count = piece.len();
                if count == 0 || !take(piece) {
                    break;
                }
                self.0.consume(count);
            },
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
