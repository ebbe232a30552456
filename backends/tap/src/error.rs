//! What can go wrong with a tap.

use std::io;
use std::net::IpAddr;

/// Result of an operation on a tap.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a tap cannot be had or set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No interface can have this name.
    #[error("\"{name}\" cannot be the name of an interface: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The device node that makes taps does not open.
    #[error("cannot open {path}{hint}")]
    Node {
        /// The node.
        path: String,
        /// What may help, with its separator, or nothing.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The interface is there, or cannot be made, and does not give us a queue.
    #[error("cannot get a queue of tap {name}{hint}")]
    Attach {
        /// The interface, or the template for its name.
        name: String,
        /// What may help, with its separator, or nothing.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An open descriptor is not what it has to be.
    #[error("descriptor {position} of the list is no queue to use: {why}")]
    Descriptor {
        /// Position in the list, from 0.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A property of the interface cannot be set.
    #[error("{option}: cannot set it on {interface}{hint}")]
    Setting {
        /// The key that asks for it.
        option: &'static str,
        /// The interface.
        interface: String,
        /// What may help, with its separator, or nothing.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not take a property that the device needs.
    #[error("the kernel refuses {what} on tap {interface}")]
    Kernel {
        /// What was asked for.
        what: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// A mask with ones after zeros, or of the other address family.
    #[error(
        "{mask} is not a mask for {address}: it must be of the same family, ones and then zeros"
    )]
    Mask {
        /// The address.
        address: IpAddr,
        /// The mask.
        mask: IpAddr,
    },
}

/// What helps where the kernel wants a right that the process does not have.
pub(crate) fn privilege_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            ": it takes CAP_NET_ADMIN, or a tap that was prepared like this"
        }
        _ => "",
    }
}
