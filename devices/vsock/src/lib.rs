//! Sockets between the guest and the host (VIRTIO 1.3, 5.10).
//!
//! Programs in the guest use sockets of the family `AF_VSOCK`, programs of the host use Unix sockets. A program of the
//! host connects to the device's socket, sends `CONNECT <port>` and a newline, and reads `OK <local port>` when the
//! guest has accepted. A program of the guest that connects to the host's port 1234 reaches who listens at the socket's
//! path with `_1234` at its end.
//!
//! ```text
//!  guest                      Engine (one thread)                      host
//!    transmit queue ──▶ Switch::take_packets ──▶ writev ──▶ Unix sockets, or their backlogs
//!    receive queue  ◀── Switch::send_packets ◀── readv  ◀── Unix sockets, a turn each
//! ```
//!
//! Data goes between the guest's memory and the sockets without a copy. What a socket does not take at once is kept, up
//! to the room that the guest was told of (VIRTIO 1.3, 5.10.6.3); a guest that sends more loses the connection. What a
//! connection is to be told is a set of flags and not a list, so that no flood of packets takes memory.
//!
//! Connections live through a pause. They do not live through a reset or a restore: after a restore the guest is told
//! by an event that they are gone.
#![forbid(unsafe_code)]

mod backlog;
mod conn;
mod credit;
mod device_side;
mod engine;
mod error;
mod events;
mod from_guest;
mod from_host;
mod held;
mod listener;
mod packet;
mod payload;
mod state;
mod switch;
mod table;
#[cfg(test)]
mod tests;
mod to_guest;
mod watch;

use std::path::PathBuf;

use device::{Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Syscalls};
use sandbox::Allow;
use sandbox::landlock::Access;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::{Environment, OverPci, PciOptions};

pub use device_side::Sockets;
pub use error::Error;
pub use listener::Listener;
pub use switch::TICK;

/// Context ids that mean something else: the hypervisor, the machine itself, the host, anybody (VIRTIO 1.3, 5.10.4).
const RESERVED: [u32; 4] = [0, 1, 2, u32::MAX];

/// Sockets between the guest and the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id, its address for sockets: 3 or more.
    pub cid: u32,
    /// Unix socket for host programs, which begin with `CONNECT <port>` and a newline. When the guest connects to a
    /// port of the host, it reaches who listens at this path with `_<port>` at its end.
    pub socket: PathBuf,
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

/// The kind.
#[derive(Debug)]
pub struct Vsock;

impl Kind for Vsock {
    const NAMES: Names = Names {
        kind: "vsock",
        option: Some(OptionNames {
            flag: "vsock",
            field: "vsock",
            form: Form::One,
        }),
        id: "_vsock",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const HOT_PLUG: bool = true;
    const EXAMPLES: &'static [&'static str] = &["cid=3,socket=/vm/vsock.sock"];
    const SYSCALLS: Syscalls = Syscalls {
        // The socket, and whether the one that is there already is alive.
        owner: &[
            Allow::call(libc::SYS_statx),
            Allow::arg32(libc::SYS_socket, 0, &[libc::AF_UNIX as u64]),
            Allow::call(libc::SYS_connect),
            Allow::call(libc::SYS_unlinkat),
            Allow::call(libc::SYS_fchmod),
            Allow::call(libc::SYS_bind),
            Allow::call(libc::SYS_listen),
        ],
        vcpu: &[],
        worker: &[
            // Clients of the host, and servers of the host.
            Allow::call(libc::SYS_accept4),
            Allow::arg32(libc::SYS_socket, 0, &[libc::AF_UNIX as u64]),
            Allow::call(libc::SYS_connect),
            // Data, greetings and ends.
            Allow::call(libc::SYS_readv),
            Allow::call(libc::SYS_recvfrom),
            Allow::call(libc::SYS_shutdown),
        ],
    };
    type Config = VsockConfig;
    type Device = OverPci<Sockets>;

    fn check(config: &VsockConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        let cid = config.cid;
        if RESERVED.contains(&cid) {
            let text = format!("cid={cid} is not a guest's, use 3 to {}", u32::MAX - 1);
            return Err(Problem::new("--vsock", text));
        }
        config.pci.check("--vsock")
    }

    fn paths(config: &VsockConfig) -> Vec<(PathBuf, Access)> {
        vec![
            (config.socket.clone(), Access::Listen),
            // Who listens beside it for the guest; and whether an old socket is still in use.
            (config.socket.clone(), Access::Connect),
        ]
    }

    fn build(config: VsockConfig, host: &mut Host<'_>) -> Result<OverPci<Sockets>> {
        let environment = Environment::of(host, &config.pci)?;
        let listener = match host.inherit() {
            Some(listener) => listener,
            None => Listener::open(&config.socket)?,
        };
        let device = Sockets::new(
            config.cid,
            listener,
            environment.ram.clone(),
            host.id(),
            environment.rules.clone(),
            TICK,
        )?;
        Ok(OverPci::new(Self::NAMES.kind, device, environment)?)
    }
}
