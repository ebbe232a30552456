//! A connection as hyper reads and writes it, which keeps the descriptors that come with the bytes.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most descriptors that one request can bring; the kernel sends no more with one message (`SCM_MAX_FD`).
const MAX_DESCRIPTORS: usize = 253;
/// Bytes read at once.
const CHUNK: usize = 8 << 10;

/// Descriptors that have come and that no request has taken yet.
pub(crate) type Descriptors = Rc<RefCell<Vec<OwnedFd>>>;

/// One connection.
pub(crate) struct Stream {
    socket: UnixStream,
    descriptors: Descriptors,
}

impl Stream {
    pub(crate) fn new(socket: UnixStream, descriptors: Descriptors) -> Self {
        Self {
            socket,
            descriptors,
        }
    }

    /// Reads bytes and whatever came with them.
    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = recvmsg(self.socket.as_fd(), &mut parts, &mut control, flags)?;
        let mut kept = self.descriptors.borrow_mut();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = part {
                let room = MAX_DESCRIPTORS.saturating_sub(kept.len());
                kept.extend(sent.take(room));
            }
        }
        Ok(message.bytes)
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; CHUNK];
        let room = buffer.remaining().min(CHUNK);
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            let read = self
                .socket
                .try_io(Interest::READABLE, || self.receive(&mut bytes[..room]));
            match read {
                Ok(count) => {
                    buffer.put_slice(&bytes[..count]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(&mut self.get_mut().socket);
        tokio::io::AsyncWrite::poll_write(socket, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Pin::new(&mut self.get_mut().socket);
        tokio::io::AsyncWrite::poll_shutdown(socket, context)
    }
}
