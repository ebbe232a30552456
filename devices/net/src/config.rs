//! What a user can say about a network device.

use std::net::IpAddr;
use std::path::PathBuf;

use device::{Facts, Problem};
use limiter::RateLimiterConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::PciOptions;

use crate::MacAddress;

/// The flag, for messages.
pub(crate) const OPTION: &str = "--net";

/// The most pairs of queues: what a tap has (Documentation/networking/tuntap.rst: `MAX_TAP_QUEUES`).
const MOST_PAIRS: u64 = 256;
/// The smallest MTU that IPv6 works with (RFC 8200, section 5).
const SMALLEST_MTU: u16 = 1280;

/// A network device, on a tap interface of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// Name of the tap or macvtap. A tap is made if there is none, with a number for `%d`. Without a name, and without
    /// fd, it is vmtap0, vmtap1 and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Address of the host on the tap, IPv4 or IPv6. Needs a mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Mask of the address, of the same family: 255.255.255.0 or ffff:ffff:ffff:ffff::.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<IpAddr>,
    /// Hardware address of the guest. A random one if it is not given, that of the interface for a macvtap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Hardware address of the host on the tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<MacAddress>,
    /// Most bytes in a packet, for the tap and for the guest. From 1280; what the tap has if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Number of queues: two for each pair, which has a thread of its own. Not more pairs than processors.
    #[serde(default = "two")]
    pub num_queues: u64,
    /// Most buffers in a queue, a power of two.
    #[serde(default = "queue_size")]
    pub queue_size: u16,
    /// Let another process serve the device. Not in this version.
    #[serde(default)]
    pub vhost_user: bool,
    /// Socket of the process that serves the device. Not in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag" = "socket"))]
    pub vhost_socket: Option<PathBuf>,
    /// Which end of the socket the monitor is. Not in this version.
    #[serde(default)]
    pub vhost_mode: VhostMode,
    /// Open descriptors of the tap or macvtap, one for each pair of queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag" = "fd"))]
    pub fds: Option<Vec<i32>>,
    /// Limits on what is received, and the same on what is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// Let the host cut TCP into packets, and the guest receive it uncut.
    #[serde(default = "yes")]
    pub offload_tso: bool,
    /// Let the host cut UDP into fragments, and the guest receive it uncut.
    #[serde(default = "yes")]
    pub offload_ufo: bool,
    /// Let the host compute checksums, and the guest receive packets without. The other offloads need it.
    #[serde(default = "yes")]
    pub offload_csum: bool,
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

/// Which end of a vhost-user socket the monitor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VhostMode {
    /// It connects.
    #[default]
    Client,
    /// It listens.
    Server,
}

fn two() -> u64 {
    2
}

fn queue_size() -> u16 {
    256
}

fn yes() -> bool {
    true
}

impl NetConfig {
    /// Number of pairs of queues.
    pub(crate) fn pairs(&self) -> usize {
        usize::try_from(self.num_queues / 2).unwrap_or(usize::MAX)
    }

    /// The tap's name, or the template for it.
    pub(crate) fn tap_name(&self) -> &str {
        match self.tap.as_deref() {
            None | Some("") => tap::DEFAULT_NAME,
            Some(name) => name,
        }
    }

    pub(crate) fn check(&self, facts: &Facts) -> Result<(), Problem> {
        let checks = [
            self.check_backend(),
            self.check_queues(facts),
            self.check_addresses(),
            self.check_offloads(),
        ];
        if let Some(text) = checks.into_iter().find_map(Result::err) {
            return Err(Problem::new(OPTION, text));
        }
        self.pci.check(OPTION)
    }

    fn check_backend(&self) -> Result<(), String> {
        if self.vhost_user || self.vhost_socket.is_some() || self.vhost_mode != VhostMode::Client {
            return Err(
                "vhost_user, socket and vhost_mode are not in this version: \
                        use a tap, with tap= or fd="
                    .into(),
            );
        }
        let Some(fds) = &self.fds else {
            return tap::check_name(self.tap_name()).map_err(|error| format!("tap: {error}"));
        };
        if self.tap.as_deref().is_some_and(|name| !name.is_empty()) {
            return Err("tap and fd exclude each other: descriptors know their tap".into());
        }
        if fds.len() != self.pairs() {
            return Err(format!(
                "fd has {} descriptors, num_queues={} needs {}: one for two queues",
                fds.len(),
                self.num_queues,
                self.pairs()
            ));
        }
        if let Some(fd) = fds.iter().find(|fd| **fd <= 2) {
            return Err(format!(
                "fd={fd} is not possible: 0 to 2 are standard input, output and error"
            ));
        }
        Ok(())
    }

    fn check_queues(&self, facts: &Facts) -> Result<(), String> {
        let number = self.num_queues;
        if number < 2 || !number.is_multiple_of(2) {
            return Err(format!(
                "num_queues={number} is not possible: there are two queues in each pair"
            ));
        }
        let most = match facts.boot_vcpus {
            0 => MOST_PAIRS,
            processors => MOST_PAIRS.min(processors.into()),
        };
        if number / 2 > most {
            return Err(format!(
                "num_queues={number} is {} pairs, at most {most} are possible: \
                 one for each processor (--cpus boot), and up to {MOST_PAIRS}",
                number / 2
            ));
        }
        let size = self.queue_size;
        if !size.is_power_of_two() || !(2..=32768).contains(&size) {
            return Err(format!(
                "queue_size={size} is not possible: use a power of two from 2 to 32768"
            ));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), String> {
        match (self.ip, self.mask) {
            (Some(ip), Some(mask)) => {
                tap::prefix_length(ip, mask).map_err(|error| format!("mask: {error}"))?;
            }
            (Some(_), None) => return Err("ip needs a mask: add mask=".into()),
            (None, Some(_)) => return Err("mask is of an address: add ip=".into()),
            (None, None) => {}
        }
        for (key, mac) in [("mac", self.mac), ("host_mac", self.host_mac)] {
            if let Some(mac) = mac.filter(|mac| !mac.is_station()) {
                return Err(format!(
                    "{key}={mac} is no address of one station: the first byte is to be even, \
                     and not all are zero"
                ));
            }
        }
        match self.mtu {
            Some(mtu) if mtu < SMALLEST_MTU => Err(format!(
                "mtu={mtu} is too small: use {SMALLEST_MTU} or more"
            )),
            _ => Ok(()),
        }
    }

    fn check_offloads(&self) -> Result<(), String> {
        if !self.offload_csum && (self.offload_tso || self.offload_ufo) {
            return Err(
                "offload_csum=off needs offload_tso=off and offload_ufo=off: \
                        cut packets need checksums"
                    .into(),
            );
        }
        Ok(())
    }
}
