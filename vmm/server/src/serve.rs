//! Accepts connections and keeps their number within bounds.

use std::io;
use std::os::unix::net::UnixListener as Socket;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use api::Handler;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use crate::connection::{Activity, Service};
use crate::stream::Stream;
use crate::{Error, Result};

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 10;
/// How long requests that are being served may take when the server ends.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Largest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// How long to wait when the process has no descriptor left for a connection.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);
/// The answer to a connection that there is no room for.
const FULL: &[u8] = b"HTTP/1.1 503 \r\nServer: Cloud Hypervisor API\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The runtime, and the socket on it.
pub(crate) struct Runtime {
    runtime: tokio::runtime::Runtime,
    listener: UnixListener,
}

impl Runtime {
    pub(crate) fn new(socket: Socket) -> Result<Self> {
        Self::with(socket).map_err(Error::Thread)
    }

    fn with(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::from_std(socket)?
        };
        Ok(Self { runtime, listener })
    }

    /// Serves until it is told to stop, or nobody can tell it any more.
    pub(crate) fn run(self, handler: &Arc<dyn Handler>, stopped: oneshot::Receiver<()>) {
        let Self { runtime, listener } = self;
        LocalSet::new().block_on(&runtime, serve(listener, handler, stopped));
    }
}

/// A connection that is open.
pub(crate) struct Open {
    activity: Rc<Activity>,
    task: AbortHandle,
}

async fn serve(
    listener: UnixListener,
    handler: &Arc<dyn Handler>,
    mut stopped: oneshot::Receiver<()>,
) {
    let (end, ended) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut open: Vec<Open> = Vec::with_capacity(MAX_CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                open.retain(|one| !one.task.is_finished());
                if make_room(&mut open) {
                    open.push(start(&mut tasks, socket, handler, ended.clone()));
                } else {
                    // Best effort: whoever finds it full tries again.
                    let _ = socket.try_write(FULL);
                }
            }
            Err(error) => {
                telemetry::warn!("--api-socket: cannot accept a connection: {error}");
                sleep(NO_DESCRIPTOR).await;
            }
        }
    }
    drop(listener);
    drop(end);
    let all = async { while tasks.join_next().await.is_some() {} };
    // Who has not taken the answer by then does not get it.
    let _ = timeout(LAST_ANSWERS, all).await;
}

/// Sees to it that there is room for one more connection. `false`: all of them are being served.
fn make_room(open: &mut Vec<Open>) -> bool {
    if open.len() < MAX_CONNECTIONS {
        return true;
    }
    let idle = open.iter().enumerate();
    let longest = idle
        .filter_map(|(index, one)| Some((one.activity.idle_since()?, index)))
        .min();
    let Some((_, index)) = longest else {
        return false;
    };
    open.swap_remove(index).task.abort();
    true
}

/// Serves a connection as a task of its own.
pub(crate) fn start(
    tasks: &mut JoinSet<()>,
    socket: UnixStream,
    handler: &Arc<dyn Handler>,
    mut ended: watch::Receiver<()>,
) -> Open {
    let activity = Activity::new();
    let service = Service {
        handler: Arc::clone(handler),
        activity: Rc::clone(&activity),
        descriptors: Rc::default(),
        ended: ended.clone(),
    };
    let stream = Stream::new(socket, Rc::clone(&service.descriptors));
    let task = tasks.spawn_local(async move {
        let served = http1::Builder::new()
            .half_close(true)
            .auto_date_header(false)
            .title_case_headers(true)
            .max_buf_size(MAX_HEAD)
            .serve_connection(
                stream,
                service_fn(move |request| service.clone().serve(request)),
            );
        let mut served = std::pin::pin!(served);
        // How a client ends its connection is its own business.
        tokio::select! {
            _ = served.as_mut() => return,
            _ = ended.changed() => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
    });
    Open { activity, task }
}
