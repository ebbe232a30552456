//! Prepares the process and runs the machine.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::{Api, Ping};
use config::VmConfig;
use machine::{Debugger, Driver, First, Options, Restore};
use sandbox::landlock::{Access, Rules};
use sandbox::{COMMON, Filter, Mode};
use server::{Cleanup, Listener, Server};
use telemetry::{event, trace};

use crate::cli::{self, ApiSocket, EventMonitorConfig, Invocation};
use crate::error::Error;
use crate::signals;

/// How long the end waits for a slow reader of the events.
const EVENT_FLUSH: Duration = Duration::from_millis(500);

/// Runs the machine that the command line describes, to its end.
pub(crate) fn run(invocation: &Invocation) -> Result<(), Error> {
    // First, so that the log too is for the user alone.
    let step = trace::step("process");
    sandbox::prepare_process()?;
    #[cfg(feature = "tracing")]
    trace::write_to(create_trace()?);
    start_log(invocation)?;
    sandbox::crash::install_panic_hook();
    sandbox::crash::install()?;
    let events = invocation
        .event_monitor
        .as_ref()
        .map(open_sink)
        .transpose()?;
    let listener = invocation.api_socket.as_ref().map(listen).transpose()?;
    let gdb = invocation
        .gdb
        .as_ref()
        .map(|gdb| Listener::bind(&gdb.path))
        .transpose()?;
    step.end();
    let step = trace::step("configuration");
    let config = invocation.vm.clone().map(prepare).transpose()?;
    let saved = invocation
        .restore
        .as_ref()
        .map(Restore::config)
        .transpose()?;
    let first = match (&invocation.restore, &config) {
        (Some(wish), _) => Some(First::Restore(Box::new(wish.clone()))),
        (None, Some(config)) => Some(First::Boot(Box::new(config.clone()))),
        (None, None) => None,
    };
    let config = config.or(saved);
    let landlock =
        invocation.landlock || config.as_ref().is_some_and(|config| config.landlock_enable);
    step.end();
    let step = trace::step("hypervisor");
    request_amx(config.as_ref())?;
    let hypervisor = hypervisor::open()?;
    step.end();
    let step = trace::step("confinement");
    // Before the first thread of ours: none may stay outside the rules, nor be where signals end
    // the process.
    let signals = signals::block().map_err(Error::Signals)?;
    if landlock {
        confine(config.as_ref(), invocation)?;
    }
    let filter = Filter::compile(invocation.seccomp, &[COMMON, signals::SYSCALLS])?;
    if let Some(sink) = events {
        let filter = filter.clone();
        event::init_with(sink, move || filter.apply().map_err(io::Error::other))?;
    }
    step.end();
    let debugger = gdb.is_some().then(Debugger::new).transpose();
    let debugger = debugger.map_err(Error::Gdb)?;
    event!("vmm", "starting");
    let step = trace::step("driver");
    let driver = Driver::start(
        first,
        hypervisor,
        Options {
            seccomp: invocation.seccomp,
            stay_after_power_off: invocation.no_shutdown,
            landlock,
            debugger: debugger.clone(),
        },
    )?;
    step.end();
    let step = trace::step("services");
    let _gdb = gdb
        .zip(debugger)
        .map(|(gdb, debugger)| debug(gdb, debugger, &driver, invocation.seccomp))
        .transpose()?;
    signals.serve(driver.remote(), filter.clone())?;
    let api = Arc::new(api(&driver));
    let server = listener
        .map(|listener| serve(listener, Arc::clone(&api), invocation.seccomp))
        .transpose()?;
    #[cfg(feature = "dbus_api")]
    let dbus = invocation
        .dbus
        .clone()
        .map(|place| serve_dbus(place, api, invocation.seccomp))
        .transpose()?;
    // From here this thread waits, and at the end says what went wrong.
    filter.apply()?;
    step.end();
    let result = driver.join();
    if let Some(server) = server {
        server.stop();
    }
    #[cfg(feature = "dbus_api")]
    if let Some(dbus) = dbus {
        dbus.stop();
    }
    if !event::flush(EVENT_FLUSH) {
        telemetry::warn!("--event-monitor: the reader is too slow, the last events are lost");
    }
    Ok(result?)
}

fn start_log(invocation: &Invocation) -> Result<(), Error> {
    let file = invocation
        .log_file
        .as_deref()
        .map(|path| create("--log-file", path))
        .transpose()?;
    telemetry::log::init(telemetry::log::Options {
        level: invocation.log_level,
        format: invocation.log_format.clone(),
        file,
    })?;
    Ok(())
}

/// The file of the trace, in the working folder.
#[cfg(feature = "tracing")]
fn create_trace() -> Result<File, Error> {
    let name = format!("cloud-hypervisor-{}.trace", std::process::id());
    create("the working folder (feature tracing)", Path::new(&name))
}

fn create(option: &'static str, path: &Path) -> Result<File, Error> {
    File::create(path).map_err(|source| Error::Sink {
        option,
        value: path.display().to_string(),
        source,
    })
}

fn open_sink(sink: &EventMonitorConfig) -> Result<File, Error> {
    match (sink.fd, &sink.path) {
        (Some(fd), _) => sandbox::adopt_descriptor(fd)
            .map(File::from)
            .map_err(|source| Error::Sink {
                option: "--event-monitor",
                value: format!("fd={fd}"),
                source,
            }),
        (None, Some(path)) => create("--event-monitor", path),
        (None, None) => Err(Error::Config(config::Problem::new(
            "--event-monitor",
            "needs path= or fd=",
        ))),
    }
}

/// Completes the configuration and checks it as a whole.
fn prepare(mut config: VmConfig) -> Result<VmConfig, Error> {
    machine::settle(&mut config);
    machine::check(&config)?;
    Ok(config)
}

/// Asks for the right to give guests AMX, before the hypervisor is asked how large a processor's state is and before
/// any filter.
fn request_amx(config: Option<&VmConfig>) -> Result<(), Error> {
    match config {
        Some(config) if config.cpus.features.amx => Ok(hypervisor::request_amx()?),
        Some(_) => Ok(()),
        // A machine that comes later may want it. One that does and cannot have it is told so at its boot.
        None => {
            if let Err(error) = hypervisor::request_amx() {
                telemetry::debug!("{error}");
            }
            Ok(())
        }
    }
}

fn listen(socket: &ApiSocket) -> Result<Listener, Error> {
    Ok(match socket {
        ApiSocket::Path(path) => Listener::bind(path)?,
        ApiSocket::Descriptor(fd) => Listener::inherit(*fd)?,
    })
}

/// Serves gdb on a thread of its own, which ends with the process.
fn debug(
    listener: Listener,
    debugger: Arc<Debugger>,
    driver: &Driver,
    seccomp: Mode,
) -> Result<Cleanup, Error> {
    let filter = Filter::compile(seccomp, &[COMMON, gdb::SYSCALLS])?;
    let (socket, cleanup) = listener.into_parts();
    gdb::start(socket, debugger, driver.remote(), filter).map_err(Error::Gdb)?;
    Ok(cleanup)
}

/// The API of the driver's machine.
fn api(driver: &Driver) -> Api {
    let version = env!("CARGO_PKG_VERSION");
    let ping = Ping {
        build_version: format!("v{version}"),
        version: version.to_owned(),
        pid: std::process::id().into(),
        features: cli::features(),
    };
    Api::new(driver.remote(), ping)
}

/// Serves the API on D-Bus, on a thread of its own.
#[cfg(feature = "dbus_api")]
fn serve_dbus(place: dbus::Place, api: Arc<Api>, seccomp: Mode) -> Result<dbus::Service, Error> {
    let filter = Filter::compile(seccomp, &[COMMON, dbus::SYSCALLS])?;
    Ok(dbus::Service::start(place, api, filter)?)
}

/// Serves the API on a thread of its own.
fn serve(listener: Listener, api: Arc<Api>, seccomp: Mode) -> Result<Server, Error> {
    let filter = Filter::compile(seccomp, &[COMMON, server::SYSCALLS])?;
    Ok(Server::start(listener, api, filter)?)
}

/// Limits the process's access to files to those that the configuration names. Before other threads start.
fn confine(config: Option<&VmConfig>, invocation: &Invocation) -> Result<(), Error> {
    let mut rules = Rules::new();
    if let Some(config) = config {
        for file in config.payload.iter().flat_map(config::PayloadConfig::files) {
            rules.allow(file, Access::Read);
        }
        for (path, access) in catalog::paths(&config.devices)? {
            rules.allow(&path, access);
        }
    }
    if let Some(wish) = &invocation.restore {
        for folder in wish.folders()? {
            rules.allow(&folder, Access::Read);
        }
        if let Some(device) = wish.device().filter(|device| device.exists()) {
            rules.allow(device, Access::ReadWrite);
        }
    }
    let saved = config.and_then(|config| config.landlock_rules.as_deref());
    let restored = saved.filter(|_| invocation.restore.is_some());
    let further = restored.unwrap_or_default().iter();
    for rule in invocation.landlock_rules.iter().chain(further) {
        rule.check()?;
        rules.allow(&rule.path, rule.rule()?);
    }
    if let Some(ApiSocket::Path(path)) = &invocation.api_socket {
        rules.allow(path, Access::Listen);
    }
    if let Some(gdb) = &invocation.gdb {
        rules.allow(&gdb.path, Access::Listen);
    }
    Ok(rules.apply()?)
}
