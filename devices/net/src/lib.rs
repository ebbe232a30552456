//! Network device over virtio (VIRTIO 1.3, 5.1), on a tap of the host.
//!
//! ```text
//!  guest                        <id>_qp0, one thread for each pair of queues            host
//!    receive queue  ◀─────────  Receive   readv  ◀──┐
//!                                                   ├── a queue of the tap  ◀──▶  interface
//!    transmit queue ─────────▶  Transmit  writes ──▶┘
//!    control queue  ─────────▶  Control (<id>_ctrl): number of pairs, offloads, announcement
//! ```
//!
//! Frames are not copied: the kernel reads and writes the driver's buffers. The header in front of each frame
//! is the same on both sides, so checksums and segmentation are left to whoever does them best. A thread works through
//! all there is, up to a limit, before it tells the driver, and while it does the driver need not ring.
//!
//! # Merged buffers
//!
//! `MRG_RXBUF` is offered. Without it a driver that receives uncut TCP has to keep a buffer of 64 KiB for each frame,
//! however small; with it a frame takes as many small ones as it needs.
//!
//! # What is lost and what waits
//!
//! A network may lose frames, so what the tap refuses (a header that makes no sense, a link that is down) is counted
//! and dropped, and the queue goes on. What the tap or a limit holds back waits in the queue, or in the tap.
#![forbid(unsafe_code)]

mod config;
mod control;
mod device;
mod feature;
mod mac;
mod pair;
mod receive;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod times;
mod transmit;
mod worker;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ::device::{
    Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Syscalls,
};
use sandbox::landlock::Access;
use tap::{Settings, Tap};
use virtio::{Environment, OverPci};

use config::OPTION;
pub use config::{NetConfig, VhostMode};
pub use device::Network;
pub use mac::MacAddress;
pub use shared::HostEnd;

/// The smallest MTU that can be told (VIRTIO 1.3, 5.1.4.1).
const LEAST_MTU: u16 = 68;

/// The kind.
#[derive(Debug)]
pub struct Net;

impl Kind for Net {
    const NAMES: Names = Names {
        kind: device::KIND,
        option: Some(OptionNames {
            flag: "net",
            field: "net",
            form: Form::Many,
        }),
        id: "_net",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const HOT_PLUG: bool = true;
    const DESCRIPTORS: Option<&'static str> = Some("fds");
    const EXAMPLES: &'static [&'static str] = &[
        "tap=,mac=12:34:56:78:90:ab,ip=192.168.249.1,mask=255.255.255.0",
        "num_queues=2,queue_size=512,mtu=1500,bw_size=100000000,bw_refill_time=1000",
    ];
    const SYSCALLS: Syscalls = Syscalls {
        owner: tap::OPEN_SYSCALLS,
        vcpu: &[],
        worker: tap::QUEUE_SYSCALLS,
    };
    type Config = NetConfig;
    type Device = OverPci<Network>;

    fn check(config: &NetConfig, facts: &Facts) -> std::result::Result<(), Problem> {
        config.check(facts)
    }

    fn paths(config: &NetConfig) -> Vec<(PathBuf, Access)> {
        match config.fds {
            Some(_) => Vec::new(),
            None => vec![(tap::node(config.tap_name()), Access::ReadWrite)],
        }
    }

    fn exclusive(config: &NetConfig) -> Vec<String> {
        match &config.fds {
            Some(fds) => vec![format!("the tap of fd={fds:?}")],
            // A template makes a new one.
            None if config.tap_name().contains('%') => Vec::new(),
            None => vec![format!("tap {}", config.tap_name())],
        }
    }

    fn build(config: NetConfig, host: &mut Host<'_>) -> Result<OverPci<Network>> {
        let environment = Environment::of(host, &config.pci)?;
        let end = match host.inherit() {
            Some(end) => end,
            None => Arc::new(open(&config, host.descriptors()?)?),
        };
        let network = network(&config, end, host.id(), &environment)?;
        Ok(OverPci::new(Self::NAMES.kind, network, environment)?)
    }
}

impl Net {
    /// A device on a tap that the caller has opened, outside of a machine.
    ///
    /// # Errors
    /// When the tap refuses what the configuration asks for, or its threads cannot start.
    pub fn on_tap(
        config: &NetConfig,
        tap: Tap,
        environment: Environment,
    ) -> Result<OverPci<Network>> {
        let end = Arc::new(set_up(config, tap)?);
        let network = network(config, end, "net", &environment)?;
        Ok(OverPci::new(Self::NAMES.kind, network, environment)?)
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Backend {
        what: OPTION.into(),
        source: source.into(),
    }
}

/// Opens the tap, or takes it over if its descriptors were given, and sets it up.
fn open(config: &NetConfig, descriptors: Option<Vec<OwnedFd>>) -> Result<HostEnd> {
    let tap = match (&config.fds, descriptors) {
        (Some(numbers), Some(given)) if numbers.len() == given.len() => Tap::adopt(given),
        (None, None) => Tap::open(config.tap_name(), config.pairs()),
        (numbers, given) => {
            let wanted = numbers.as_ref().map_or(0, Vec::len);
            let given = given.map_or(0, |given| given.len());
            let text = format!(
                "the configuration has {wanted} descriptors, {given} were given: give them as fd= on the command \
                 line, or with the request (ch-remote add-net fd=)"
            );
            return Err(Problem::new(OPTION, text).into());
        }
    }
    .map_err(failed)?;
    set_up(config, tap)
}

/// Gives an opened tap the properties that were asked for, and finds what was not.
fn set_up(config: &NetConfig, tap: Tap) -> Result<HostEnd> {
    tap.configure(&Settings {
        address: config.ip.zip(config.mask),
        mac: config.host_mac.map(|mac| mac.0),
        mtu: config.mtu,
    })
    .map_err(failed)?;
    let mac = match config.mac {
        Some(mac) => mac,
        // It receives only what is for its own address.
        None if tap.kind() == tap::Kind::Macvtap => MacAddress(tap.mac().map_err(failed)?),
        None => MacAddress::generate().map_err(failed)?,
    };
    let mtu = tap
        .mtu()
        .and_then(|mtu| u16::try_from(mtu).ok())
        .filter(|mtu| *mtu >= LEAST_MTU);
    telemetry::info!("{OPTION}: tap {}, guest {mac}", tap.name());
    Ok(HostEnd::new(tap, mac, mtu.or(config.mtu)))
}

/// The device on an opened tap.
fn network(
    config: &NetConfig,
    host: Arc<HostEnd>,
    id: &str,
    environment: &Environment,
) -> Result<Network> {
    let features = feature::offered(config, host.mtu.is_some());
    Network::new(device::Parts {
        host,
        ram: environment.ram.clone(),
        limits: config.rate_limiter_config.as_ref(),
        features,
        queue_size: config.queue_size,
        id,
        rules: &environment.rules,
    })
    .map_err(failed)
}
