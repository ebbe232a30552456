//! The monitor's API on D-Bus: the same requests and answers as over HTTP, as methods with texts of JSON, and events as
//! a signal.
//!
//! The thread `dbus-thread` has a connection to the session's bus or the system's, on a runtime of its own. Nothing of
//! this exists while nobody asks for it.
#![forbid(unsafe_code)]

mod interface;

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use api::Handler;
use sandbox::{Allow, Filter};
use telemetry::event::{self, Subscription};
use tokio::sync::oneshot;
use tokio::time::timeout;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::RequestNameFlags;
use zbus::object_server::InterfaceRef;

use interface::Monitor;

/// Name of the thread.
const THREAD: &str = "dbus-thread";
/// How long requests that are being served may take when the monitor ends.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How long the bus may take to greet the monitor and to give it its name.
const CONNECT: Duration = Duration::from_secs(5);

/// What the thread calls beyond [`sandbox::COMMON`].
pub const SYSCALLS: &[Allow] = &[
    Allow::call(libc::SYS_recvmsg),
    Allow::call(libc::SYS_sendmsg),
    Allow::call(libc::SYS_shutdown),
];

/// Why the API is not on the bus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bus, or it does not answer.
    #[error(
        "cannot reach the {bus} bus; DBUS_SESSION_BUS_ADDRESS and --dbus-system-bus say which one it is"
    )]
    Bus {
        /// `session` or `system`.
        bus: &'static str,
        /// What went wrong.
        #[source]
        source: Box<zbus::Error>,
    },
    /// The bus does not answer in time.
    #[error("the {0} bus did not answer within 5 s")]
    Slow(&'static str),
    /// A name is none, or somebody else's.
    #[error(
        "cannot be --dbus-service-name {service} with --dbus-object-path {path} on the {bus} bus"
    )]
    Name {
        /// Name of the service.
        service: String,
        /// Path of the object.
        path: String,
        /// `session` or `system`.
        bus: &'static str,
        /// What went wrong.
        #[source]
        source: Box<zbus::Error>,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread {THREAD}")]
    Thread(#[source] io::Error),
    /// The thread cannot be confined.
    #[error(transparent)]
    Confine(#[from] sandbox::Error),
}

/// Where the API is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the service: `org.example.vm1`.
    pub service: String,
    /// Path of the object: `/org/example/vm1`.
    pub path: String,
    /// On which bus.
    pub bus: Bus,
}

/// A bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// That of the user's session, which `DBUS_SESSION_BUS_ADDRESS` names.
    Session,
    /// That of the system.
    System,
    /// The one with this address, in the form of the D-Bus specification, "Server Addresses".
    Address(String),
}

impl Bus {
    fn name(&self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::System => "system",
            Self::Address(_) => "given",
        }
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        match self {
            Self::Session => Builder::session()?,
            Self::System => Builder::system()?,
            Self::Address(address) => Builder::address(address.as_str())?,
        }
        .build()
        .await
    }
}

/// The API on a bus. Dropping it without [`Service::stop`] leaves its thread to the end of the process.
#[derive(Debug)]
pub struct Service {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Service {
    /// Connects to the bus and serves what comes, on a thread of its own and under `filter`.
    ///
    /// # Errors
    /// If the bus cannot be reached or refuses the name, or the thread cannot be started or confined.
    pub fn start(place: Place, handler: Arc<dyn Handler>, filter: Filter) -> Result<Self, Error> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(Error::Thread(error)))),
            };
            runtime.block_on(async {
                let connected = connect(&place, handler).await;
                let served = connected.and_then(|served| {
                    // What the connection opens, it opened before the filter.
                    filter.apply()?;
                    Ok(served)
                });
                match served {
                    Ok(served) => {
                        let _ = ready.send(Ok(()));
                        run(served, stopped).await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name(THREAD.into())
            .spawn(serve)
            .map_err(Error::Thread)?;
        let died = |_| Error::Thread(io::Error::other("it ended at its start"));
        is_ready.recv().map_err(died)??;
        Ok(Self { stop, thread })
    }

    /// Takes no more requests, lets those that are being served get their answers, for half a second at most, and ends
    /// the thread. The name is given back.
    pub fn stop(self) {
        let _ = self.stop.send(());
        // A panic of the thread ends the process, so that there is nothing to learn here.
        let _ = self.thread.join();
    }
}

/// What is on the bus.
struct Served {
    connection: Connection,
    monitor: InterfaceRef<Monitor>,
}

async fn connect(place: &Place, handler: Arc<dyn Handler>) -> Result<Served, Error> {
    match timeout(CONNECT, connect_for_long(place, handler)).await {
        Ok(connected) => connected,
        Err(_) => Err(Error::Slow(place.bus.name())),
    }
}

async fn connect_for_long(place: &Place, handler: Arc<dyn Handler>) -> Result<Served, Error> {
    let bus = place.bus.name();
    let connection = place.bus.connect().await;
    let connection = connection.map_err(|source| Error::Bus {
        bus,
        source: Box::new(source),
    })?;
    let name = |source| Error::Name {
        service: place.service.clone(),
        path: place.path.clone(),
        bus,
        source: Box::new(source),
    };
    // The object is there before anybody can find it.
    let server = connection.object_server();
    let added = server.at(place.path.as_str(), Monitor { handler }).await;
    added.map_err(name)?;
    let monitor = server.interface(place.path.as_str()).await.map_err(name)?;
    // Nobody is robbed of the name, or waited for.
    let flags = RequestNameFlags::DoNotQueue.into();
    let named = connection.request_name_with_flags(place.service.as_str(), flags);
    named.await.map_err(name)?;
    Ok(Served {
        connection,
        monitor,
    })
}

async fn run(served: Served, stopped: oneshot::Receiver<()>) {
    let events = event::subscribe();
    if events.is_none() {
        telemetry::warn!(
            "D-Bus: as many clients as can be listen to events already: none are sent here"
        );
    }
    tokio::select! {
        _ = stopped => {}
        () = tell(events.as_ref(), &served.monitor) => {}
    }
    // What happened last.
    if let Some(events) = &events {
        let lines = poll_fn(|context| match events.poll_lines(context) {
            std::task::Poll::Ready(lines) => std::task::Poll::Ready(lines),
            std::task::Poll::Pending => std::task::Poll::Ready(String::new()),
        });
        send(&lines.await, &served.monitor).await;
    }
    drop(served.monitor);
    let _ = timeout(LAST_ANSWERS, served.connection.graceful_shutdown()).await;
}

/// Sends events as they happen, and never ends.
async fn tell(events: Option<&Subscription>, monitor: &InterfaceRef<Monitor>) {
    let Some(events) = events else {
        return std::future::pending().await;
    };
    loop {
        let lines = poll_fn(|context| events.poll_lines(context)).await;
        send(&lines, monitor).await;
    }
}

async fn send(lines: &str, monitor: &InterfaceRef<Monitor>) {
    for line in lines.lines() {
        if let Err(error) = Monitor::event(monitor.signal_emitter(), line).await {
            telemetry::warn!("D-Bus: an event was lost: {error}");
        }
    }
}
