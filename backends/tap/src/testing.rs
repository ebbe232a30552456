//! For tests of what stands on a tap: a network of the test's own, and the host's side of an interface.
#![expect(
    clippy::missing_panics_doc,
    reason = "a test that goes wrong is to panic"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use libc::{c_int, c_void, socklen_t};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::Queue;
use crate::sys::{self, InterfaceRequest};

/// Puts the calling thread, and those it starts, into a network namespace of its own, without IPv6's chatter.
/// False, with a line that says so, where the process may not.
#[must_use]
pub fn own_network() -> bool {
    // SAFETY: takes numbers only, and changes this thread's view of the network.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    if !entered || !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: it takes root and /dev/net/tun");
        return false;
    }
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("own network");
    true
}

/// Runs `ip` in this thread's network. Gives what it says.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A queue whose other end is a socket of the test, which can be full: it takes about `bytes` bytes of frames, with
/// what the kernel needs for them. Each read of the socket is a frame with its header.
#[must_use]
pub fn narrow_queue(bytes: usize) -> (Queue, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).expect("a pair of sockets");
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, bytes).expect("a size");
    (Queue(ours), theirs)
}

/// A packet socket (packet(7)): sees and sends whole frames on one interface.
#[derive(Debug)]
pub struct Wire(OwnedFd);

/// Length of the header of offloads in front of the frames of [`Wire::with_header`].
pub const WIRE_HEADER: usize = 10;

impl Wire {
    /// The host's side of `interface`: frames as they are on a cable.
    #[must_use]
    pub fn new(interface: &str) -> Self {
        Self::open(interface, false)
    }

    /// The same, with [`WIRE_HEADER`] bytes of offloads before each frame, and neither done by the kernel.
    #[must_use]
    pub fn with_header(interface: &str) -> Self {
        Self::open(interface, true)
    }

    fn open(interface: &str, header: bool) -> Self {
        let everything = u16::try_from(libc::ETH_P_ALL).expect("small").to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: it was just opened, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&fd, libc::PACKET_VNET_HDR, c_int::from(header));
        set_option(&fd, libc::PACKET_IGNORE_OUTGOING, 1);
        let mut request = InterfaceRequest::new(interface, &[]);
        sys::interface(&fd, libc::SIOCGIFINDEX, &mut request).expect("an interface");
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).expect("small"),
            sll_protocol: everything,
            sll_ifindex: request.i32(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = socklen_t::try_from(size_of_val(&address)).expect("small");
        // SAFETY: the kernel reads so many bytes of the address.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        Self(fd)
    }

    /// Sends a frame. False if the interface's queue is full.
    pub fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: the kernel reads the frame's bytes.
        let sent = unsafe { libc::write(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            let full = [Some(libc::ENOBUFS), Some(libc::EAGAIN)];
            assert!(full.contains(&error.raw_os_error()), "send: {error}");
        }
        sent >= 0
    }

    /// The next frame that the host received, if there is one.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0u8; 70_000];
        let (start, room) = (frame.as_mut_ptr().cast::<c_void>(), frame.len());
        // SAFETY: the kernel writes no more than there is room for.
        let length = unsafe { libc::read(self.0.as_raw_fd(), start, room) };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }

    /// The next frame that the host receives, within two seconds.
    #[must_use]
    pub fn wait(&self) -> Vec<u8> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: there is one element.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 2000) };
        assert_eq!(ready, 1, "no frame in time");
        self.receive().expect("it is readable")
    }
}

fn set_option(fd: impl AsFd, option: c_int, value: c_int) {
    let length = socklen_t::try_from(size_of_val(&value)).expect("small");
    // SAFETY: the kernel reads an `int`.
    let set = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    assert_eq!(set, 0, "option {option}: {}", io::Error::last_os_error());
}
