//! Disks over virtio (VIRTIO 1.3, 5.2).
//!
//! The guest reads and writes sectors; the image is [`disk`]'s, which knows formats and how to reach the host's
//! kernel. Each queue has a thread and a [lane](disk::Lane) of its own, and nothing is shared between queues but the
//! image, the limiter and the driver's choice of a cache.
//!
//! ```text
//!  Ring ──pop──▶ plan(): checked in full ──▶ Limiter ──▶ slot ──push──▶ Lane ──▶ kernel
//!   ▲               │ refused                   │ wait                   │
//!   │               ▼                           ▼                        ▼
//!   └──complete── status byte              put back, timer          Event::Done: next step, or complete
//! ```
//!
//! # Durability
//!
//! With `writeback` set (the default) a write completes when the host has it, and is durable when a later flush
//! completes. A driver that clears it, or does not know flushes, gets each write with a flush behind it.
//!
//! # Errors
//!
//! Whatever goes wrong with the image ends in the status of the guest's request, and a line in the log. The machine
//! goes on.
#![forbid(unsafe_code)]

mod config;
mod counters;
mod device;
mod fields;
mod request;
mod run;
mod slot;
mod state;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ::device::{
    Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Syscalls,
};
use disk::{Disk, OpenOptions};
use limiter::{Groups, Limiter, RateLimiterConfig};
use sandbox::Allow;
use sandbox::landlock::Access;
use virtio::{Environment, OverPci};

use crate::config::OPTION;
use crate::device::Kept;
use crate::request::ID_LEN;

pub use crate::config::{DiskConfig, VirtQueueAffinity};
pub use crate::device::{BlockDevice, Parts};

/// The kind.
#[derive(Debug)]
pub struct Block;

impl Block {
    pub(crate) const KIND: &'static str = "block";
}

const OWNER: &[Allow] = &owner();
const WORKER: &[Allow] = &worker();
/// Which CPUs a thread runs on, of the thread itself only.
const AFFINITY: [Allow; 2] = [
    Allow::arg32(libc::SYS_sched_setaffinity, 0, &[0]),
    Allow::arg32(libc::SYS_sched_getaffinity, 0, &[0]),
];

/// The image's calls and those for affinity.
const fn with_affinity<const N: usize>(calls: &[Allow]) -> [Allow; N] {
    let mut all = [AFFINITY[0]; N];
    all[1] = AFFINITY[1];
    let mut next = 0;
    while next < calls.len() {
        all[2 + next] = calls[next];
        next += 1;
    }
    all
}

const fn owner() -> [Allow; disk::syscalls::OWNER.len() + 2] {
    with_affinity(disk::syscalls::OWNER)
}

const fn worker() -> [Allow; disk::syscalls::WORKER.len() + 2] {
    with_affinity(disk::syscalls::WORKER)
}

impl Kind for Block {
    const NAMES: Names = Names {
        kind: Self::KIND,
        option: Some(OptionNames {
            flag: "disk",
            field: "disks",
            form: Form::Many,
        }),
        id: "_disk",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const HOT_PLUG: bool = true;
    const EXAMPLES: &'static [&'static str] = &[
        "path=/vm/root.raw",
        "path=/vm/root.raw,image_type=raw,id=root",
        "path=/vm/seed.raw,readonly=on,serial=seed",
        "path=/vm/data.raw,image_type=raw,direct=on,queue_size=256,sparse=off,lock_granularity=full",
        "path=/vm/data.raw,bw_size=100000000,bw_refill_time=1000,ops_size=1000,ops_refill_time=1000",
        "path=/vm/data.raw,queue_affinity=[0@[0]]",
    ];
    const SYSCALLS: Syscalls = Syscalls {
        owner: OWNER,
        vcpu: &[],
        worker: WORKER,
    };
    type Config = DiskConfig;
    type Device = OverPci<BlockDevice>;

    fn check(config: &DiskConfig, facts: &Facts) -> std::result::Result<(), Problem> {
        config.check(facts)
    }

    fn paths(config: &DiskConfig) -> Vec<(PathBuf, Access)> {
        let access = if config.readonly {
            Access::Read
        } else {
            Access::ReadWrite
        };
        let own = config.path.iter().map(|path| (path.clone(), access));
        let options = config.open_options();
        let behind = options.iter().flat_map(disk::behind);
        own.chain(behind.map(|(path, is_written)| match is_written {
            true => (path, Access::ReadWrite),
            false => (path, Access::Read),
        }))
        .collect()
    }

    fn build(config: DiskConfig, host: &mut Host<'_>) -> Result<OverPci<BlockDevice>> {
        config.check(host.facts())?;
        let mut environment = Environment::of(host, &config.pci)?;
        // Firmware boots from it, and may not reach above 4 GiB.
        environment.below_4g = config.pci.pci_segment == 0;
        let limiter = limiter(&config, host)?;
        let queues: Vec<_> = (0..config.num_queues)
            .map(|queue| config.cpus(queue).to_vec())
            .collect();
        check_affinity(&queues)?;
        let options = config
            .open_options()
            .ok_or_else(|| Problem::new(OPTION, "path is missing"))?;
        let disk = open(&options, host)?;
        let parts = Parts {
            id: host.id().to_owned(),
            rules: environment.rules.clone(),
            serial: serial(config.serial.as_deref(), &*disk)?,
            disk,
            options,
            queue_size: config.queue_size,
            queues,
            limiter,
        };
        let device = BlockDevice::new(parts);
        Ok(OverPci::new(Self::KIND, device, environment)?)
    }
}

/// The image: the one that was open before the guest's reset, or opened now.
fn open(options: &OpenOptions, host: &mut Host<'_>) -> Result<Arc<dyn Disk>> {
    if let Some(kept) = host.inherit::<Kept>()
        && kept.options == *options
    {
        return Ok(kept.disk);
    }
    let disk = disk::open(options).map_err(|error| Error::Backend {
        what: format!("{OPTION} path={}", options.path.display()),
        source: error.into(),
    })?;
    for passed in disk.passed_over() {
        telemetry::info!(
            "{}: {:?} rather than {:?}: {}",
            host.id(),
            disk.engine(),
            passed.engine,
            passed.reason
        );
    }
    Ok(disk)
}

/// The limiter of the disk, or of its group.
fn limiter(config: &DiskConfig, host: &Host<'_>) -> Result<Option<Limiter>> {
    let Some(group) = &config.rate_limit_group else {
        let own = config
            .rate_limiter_config
            .filter(RateLimiterConfig::is_limit);
        return Ok(own.map(|own| Limiter::new(&own, Instant::now())));
    };
    Ok(Some(of_group(group, &host.shared::<Groups>())?))
}

/// The limiter of a group.
fn of_group(group: &str, groups: &Groups) -> std::result::Result<Limiter, Problem> {
    groups.get(group).ok_or_else(|| {
        let known = match groups.names() {
            names if names.is_empty() => "there are none (--rate-limit-group id=…)".to_owned(),
            names => format!("there are {}", names.join(", ")),
        };
        Problem::new(
            OPTION,
            format!("rate_limit_group={group} is not known: {known}"),
        )
    })
}

/// Finds out on a thread of its own whether the CPUs can be used, to say so before the guest runs.
fn check_affinity(queues: &[Vec<usize>]) -> Result<()> {
    if queues.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let pin = || {
        let lists = queues.iter().filter(|cpus| !cpus.is_empty());
        lists
            .map(Vec::as_slice)
            .try_for_each(sandbox::pin_current_thread)
    };
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Backend {
        what: format!("{OPTION} queue_affinity"),
        source,
    };
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, pin)?;
        let ended = thread.join();
        ended.map_err(|_| std::io::Error::other("the thread that tries it ended early"))
    });
    result
        .map_err(|error| failed(error.into()))?
        .map_err(|error| failed(error.into()))
}

/// What the guest reads as serial number: the user's, or made of what the host knows the image by.
fn serial(user: Option<&str>, disk: &dyn Disk) -> Result<[u8; ID_LEN]> {
    let text = match user {
        Some(text) => text.to_owned(),
        None => {
            let (device, special, inode) = disk.identity().map_err(|error| Error::Backend {
                what: format!("{OPTION}: there is no serial number (give one with serial)"),
                source: error.into(),
            })?;
            format!("{device}{special}{inode}")
        }
    };
    let mut serial = [0; ID_LEN];
    for (place, byte) in serial.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    Ok(serial)
}
