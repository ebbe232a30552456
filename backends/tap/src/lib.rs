//! Opens and sets up tap interfaces: the host's end of a virtual network device.
//!
//! A tap is a network interface of the host whose cable ends in a file: what the host sends on the interface is read
//! from the file, one frame per read, and what is written to the file the host receives. A [`Tap`] has one file, a
//! [`Queue`], for each pair of queues of the virtual device. Each frame has a header of 12 bytes before it, the same
//! as in a virtio queue (VIRTIO 1.3, 5.1.6), in which checksums and segmentation are left to the other side.
//!
//! A tap comes from one of three places:
//!
//! | From | How | Who sets it up |
//! |---|---|---|
//! | a name or a template (`vmtap%d`) | [`Tap::open`] | whoever prepared it, or we: it vanishes with us |
//! | the name of a macvtap | [`Tap::open`], its node `/dev/tap<index>` | whoever made it |
//! | descriptors that are open already | [`Tap::adopt`] | whoever opened them |
//!
//! [`Tap::configure`] changes only what was asked for and is different, so that a prepared tap needs no rights.

mod adopt;
mod batch;
mod error;
mod open;
mod settings;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use sandbox::Allow;

pub use batch::{Batch, MOST_FRAMES, Outcome};
pub use error::{Error, Result};
pub use open::{check_name, node};
pub use settings::{Settings, prefix_length};

/// Length in bytes of the header before each frame.
pub const HEADER: usize = 12;

/// The template for names of interfaces whose user gave none; the kernel puts a number in.
pub const DEFAULT_NAME: &str = "vmtap%d";

/// System calls of everything here, for whoever opens taps.
pub const OPEN_SYSCALLS: &[Allow] = &[
    Allow::call(libc::SYS_openat),
    Allow::arg32(
        libc::SYS_socket,
        0,
        &[libc::AF_INET as u64, libc::AF_INET6 as u64],
    ),
    Allow::call(libc::SYS_bind),
    // A ring for a `Batch`.
    Allow::call(libc::SYS_io_uring_setup),
    Allow::arg32(
        libc::SYS_fcntl,
        1,
        &[
            libc::F_GETFL as u64,
            libc::F_SETFL as u64,
            libc::F_SETFD as u64,
        ],
    ),
    Allow::ioctl(&[
        libc::TUNSETIFF,
        libc::TUNGETIFF,
        libc::TUNSETVNETHDRSZ,
        libc::SIOCGIFINDEX,
        libc::SIOCGIFFLAGS,
        libc::SIOCSIFFLAGS,
        libc::SIOCGIFMTU,
        libc::SIOCSIFMTU,
        libc::SIOCGIFHWADDR,
        libc::SIOCSIFHWADDR,
        libc::SIOCGIFADDR,
        libc::SIOCSIFADDR,
        libc::SIOCGIFNETMASK,
        libc::SIOCSIFNETMASK,
        libc::TUNSETOFFLOAD,
        libc::TUNSETQUEUE,
    ]),
];

/// System calls of whoever has a [`Queue`]: reading frames (writing one by one is in [`sandbox::COMMON`]), sending a
/// [`Batch`] that somebody else has made, [`Queue::set_offloads`] and [`Queue::set_attached`].
pub const QUEUE_SYSCALLS: &[Allow] = &[
    Allow::call(libc::SYS_readv),
    Allow::call(libc::SYS_io_uring_enter),
    Allow::ioctl(&[libc::TUNSETOFFLOAD, libc::TUNSETQUEUE]),
];

/// A tap with its queues. Dropping it closes them; a tap that we made is gone then.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<Arc<Queue>>,
    kind: Kind,
}

/// Where a tap comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opened by name.
    Named,
    /// A macvtap, opened by name: the host delivers only what is for its own address.
    Macvtap,
    /// Given as descriptors. The interface may be in another network namespace, and is its owner's.
    Given,
}

impl Tap {
    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its queues. All are attached in the beginning.
    #[must_use]
    pub fn queues(&self) -> &[Arc<Queue>] {
        &self.queues
    }

    /// Where it comes from.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// A file of a tap. Reads and writes never block.
#[derive(Debug)]
pub struct Queue(OwnedFd);

impl Queue {
    /// Says what frames to read may have: those that are not allowed the host finishes itself. Counts for all of the
    /// interface.
    ///
    /// # Errors
    /// If the kernel does not know one of them, or the combination is not possible.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        sys::set_offloads(&self.0, offloads.flags())
    }

    /// Lets the host send on this queue, or not. A queue that is detached reports an error to whoever waits for it;
    /// it must not be waited for. Only for taps with more than one queue, and only to change it.
    ///
    /// # Errors
    /// If it is so already, or the interface is gone.
    pub fn set_attached(&self, attached: bool) -> io::Result<()> {
        let flag = if attached {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        };
        let flag = c_short_flag(flag);
        let mut request = sys::InterfaceRequest::new("", &flag.to_ne_bytes());
        sys::interface(&self.0, libc::TUNSETQUEUE, &mut request)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What frames that are read may leave to the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums. All others need it.
    pub checksum: bool,
    /// TCP over IPv4 of more than the MTU.
    pub tso4: bool,
    /// TCP over IPv6 of more than the MTU.
    pub tso6: bool,
    /// The same with explicit congestion notification.
    pub ecn: bool,
    /// UDP of more than the MTU, to be fragmented.
    pub ufo: bool,
}

impl Offloads {
    /// The kernel's flags, without those whose conditions are not met: it refuses such.
    fn flags(self) -> libc::c_uint {
        if !self.checksum {
            return 0;
        }
        let segmentation = self.tso4 || self.tso6;
        let pick = |wanted, flag| if wanted { flag } else { 0 };
        libc::TUN_F_CSUM
            | pick(self.tso4, libc::TUN_F_TSO4)
            | pick(self.tso6, libc::TUN_F_TSO6)
            | pick(self.ecn && segmentation, libc::TUN_F_TSO_ECN)
            | pick(self.ufo, libc::TUN_F_UFO)
    }
}

/// `ifr_flags` is 16 bits wide, of which the kernel's constants use all.
fn c_short_flag(flags: libc::c_int) -> u16 {
    u16::try_from(flags).unwrap_or(0)
}
