//! HTTP on a Unix socket, for the API.
//!
//! ```text
//!  bind (main thread)           Server::start                        other threads
//!  lock, socket  ------------>  thread http-server, its own filter
//!                               accept, at most 10 connections
//!                               read a request  ---------------->    Handler
//!                               write the answer  <--------------    respond
//! ```
//!
//! HTTP itself is hyper's, on a runtime of one thread. What is here is the socket (made under a lock, removed at the
//! end), the descriptors that come with a request, and the limits: the size of a body, the time a body may take, and
//! the number of connections. A connection on which nothing is being served (kept alive, or with half a request)
//! may stay for as long as there is room; if there is none, the one that has been idle for longest makes room.
#![forbid(unsafe_code)]

mod connection;
mod error;
#[cfg(any(test, feature = "testing"))]
mod exchange;
mod listen;
mod outgoing;
mod serve;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use api::Handler;
use sandbox::{Allow, Filter};
use tokio::sync::oneshot;

pub use error::{Error, Result};
#[cfg(any(test, feature = "testing"))]
pub use exchange::exchange;
pub use listen::{Cleanup, Listener, lock_path};

/// What the server's thread calls beyond [`sandbox::COMMON`].
pub const SYSCALLS: &[Allow] = &[
    Allow::call(libc::SYS_accept4),
    Allow::call(libc::SYS_recvmsg),
    Allow::call(libc::SYS_sendto),
    Allow::call(libc::SYS_recvfrom),
    Allow::call(libc::SYS_shutdown),
    Allow::arg32(libc::SYS_ioctl, 1, &[libc::FIONBIO]),
];

/// A running server. Dropping it without [`Server::stop`] leaves its thread to the end of the process.
#[derive(Debug)]
pub struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    // Removes the socket.
    _listener: listen::Cleanup,
}

impl Server {
    const THREAD: &str = "http-server";

    /// Serves what comes to `listener` on a thread of its own, under `filter`.
    ///
    /// # Errors
    /// If the thread or the runtime on it cannot be started or confined.
    pub fn start(listener: Listener, handler: Arc<dyn Handler>, filter: Filter) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let (socket, cleanup) = listener.into_parts();
        let thread = std::thread::Builder::new()
            .name(Self::THREAD.into())
            .spawn(move || {
                // What the runtime opens, it opens before the filter.
                let prepared = serve::Runtime::new(socket).and_then(|runtime| {
                    filter.apply()?;
                    Ok(runtime)
                });
                match prepared {
                    Ok(runtime) => {
                        let _ = ready.send(Ok(()));
                        runtime.run(&handler, stopped);
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })
            .map_err(Error::Thread)?;
        let died = |_| Error::Thread(std::io::Error::other("it ended at its start"));
        is_ready.recv().map_err(died)??;
        Ok(Self {
            stop,
            thread,
            _listener: cleanup,
        })
    }

    /// Takes no more requests, lets those that are being served get their answers, for half a second at most, and
    /// ends the thread. The socket is removed.
    pub fn stop(self) {
        let _ = self.stop.send(());
        // A panic of the thread ends the process, so that there is nothing to learn here.
        let _ = self.thread.join();
    }
}
