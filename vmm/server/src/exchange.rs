//! One connection without a listener, for tests and fuzzing.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use api::Handler;
use rustix::net::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::serve;

/// What a client reads that sends these bytes and nothing more. The connection is served as any other is.
///
/// # Errors
/// If this process can have no more descriptors.
pub fn exchange(handler: &Arc<dyn Handler>, request: &[u8]) -> io::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let (client, server) = UnixStream::pair()?;
        // Held, as its end would be that of the server.
        let (_end, ended) = watch::channel(());
        let mut tasks = JoinSet::new();
        serve::start(&mut tasks, server, handler, ended);
        talk(&client, request).await
    })
}

/// Writes all of the request, as far as it is taken, and reads all that comes.
async fn talk(client: &UnixStream, mut request: &[u8]) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    let mut writes = true;
    loop {
        if writes && request.is_empty() {
            writes = false;
            // The server may have closed it already.
            let _ = shutdown(client, Shutdown::Write);
        }
        let interest = match writes {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let ready = client.ready(interest).await?;
        if ready.is_readable() {
            match client.try_read(&mut chunk) {
                Ok(0) => return Ok(answer),
                Ok(count) => answer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The server closed a connection with something unread in it.
                Err(_) => return Ok(answer),
            }
        }
        if writes && ready.is_writable() {
            match client.try_write(request) {
                Ok(count) => request = &request[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => request = &[],
            }
        }
    }
}
