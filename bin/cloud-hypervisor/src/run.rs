//! Prepares the process and runs the machine.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use config::VmConfig;
use device::Facts;
use machine::{Driver, Options};
use sandbox::landlock::{Access, Rules};
use sandbox::{COMMON, Filter};
use telemetry::event;

use crate::cli::{EventMonitorConfig, Invocation};
use crate::error::Error;
use crate::signals;

/// How long the end waits for a slow reader of the events.
const EVENT_FLUSH: Duration = Duration::from_millis(500);

/// Runs the machine that the command line describes, to its end.
pub(crate) fn run(invocation: Invocation) -> Result<(), Error> {
    // First, so that the log too is for the user alone.
    sandbox::prepare_process()?;
    start_log(&invocation)?;
    sandbox::crash::install_panic_hook();
    sandbox::crash::install()?;
    let events = invocation
        .event_monitor
        .as_ref()
        .map(open_sink)
        .transpose()?;
    let config = settle(invocation.vm)?;
    if config.cpus.features.amx {
        // Before the hypervisor is asked how large a processor's state is, and before any filter.
        hypervisor::request_amx()?;
    }
    let hypervisor = hypervisor::open()?;
    // Before the first thread of ours: none may stay outside the rules, nor be where signals end
    // the process.
    let signals = signals::block().map_err(Error::Signals)?;
    if config.landlock_enable {
        confine(&config)?;
    }
    let filter = Filter::compile(invocation.seccomp, &[COMMON, signals::SYSCALLS])?;
    if let Some(sink) = events {
        let filter = filter.clone();
        event::init_with(sink, move || filter.apply().map_err(io::Error::other))?;
    }
    event!("vmm", "starting");
    let driver = Driver::start(
        config,
        hypervisor,
        Options {
            seccomp: invocation.seccomp,
            stay_after_power_off: invocation.no_shutdown,
        },
    )?;
    signals.serve(driver.remote(), filter.clone())?;
    // From here this thread waits, and at the end says what went wrong.
    filter.apply()?;
    let result = driver.join();
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
fn settle(mut config: VmConfig) -> Result<VmConfig, Error> {
    if let Some(payload) = &mut config.payload {
        for option in payload.settle() {
            telemetry::warn!("{option} has no effect together with --firmware");
        }
        payload.check()?;
    }
    config.settle();
    catalog::settle(&mut config.devices);
    config.check()?;
    let facts = Facts {
        boot_vcpus: config.cpus.boot_vcpus,
        ..Facts::default()
    };
    catalog::check(&config.devices, &facts, VmConfig::FIXED_MEMBERS)?;
    Ok(config)
}

/// Limits the process's access to files to those that the configuration names. Before other threads start.
fn confine(config: &VmConfig) -> Result<(), Error> {
    let mut rules = Rules::new();
    for file in config.payload.iter().flat_map(config::PayloadConfig::files) {
        rules.allow(file, Access::Read);
    }
    for (path, access) in catalog::paths(&config.devices)? {
        rules.allow(&path, access);
    }
    for rule in config.landlock_rules.iter().flatten() {
        rules.allow(&rule.path, rule.rule()?);
    }
    Ok(rules.apply()?)
}
