//! Taps by name.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use rustix::fs::{Mode, OFlags};

use crate::error::privilege_hint;
use crate::sys::{self, InterfaceRequest};
use crate::{Error, HEADER, Kind, Queue, Result, Tap, c_short_flag};

/// The node that makes taps.
const TUN: &str = "/dev/net/tun";

/// Checks that an interface can have this name. A template has one `%d` in it.
///
/// # Errors
/// [`Error::Name`].
pub fn check_name(name: &str) -> Result<()> {
    let why = if name.is_empty() || name == "." || name == ".." {
        "it says nothing"
    } else if name.len() >= sys::NAME_SPACE {
        "it is longer than 15 bytes"
    } else if name
        .chars()
        .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    {
        "it has a slash, a colon or white space"
    } else if name.contains('%') && (name.matches('%').count() > 1 || !name.contains("%d")) {
        "a template has one %d, and no other percent sign"
    } else {
        return Ok(());
    };
    let name = name.to_owned();
    Err(Error::Name { name, why })
}

/// The device node that [`Tap::open`] opens for this name now.
#[must_use]
pub fn node(name: &str) -> PathBuf {
    let index = Path::new("/sys/class/net").join(name).join("ifindex");
    let macvtap = std::fs::read_to_string(index)
        .ok()
        .map(|index| PathBuf::from(format!("/dev/tap{}", index.trim())))
        .filter(|node| node.exists());
    macvtap.unwrap_or_else(|| TUN.into())
}

impl Tap {
    /// Opens `queues` queues (1 or more) of the tap `name`, which is made if there is none.
    ///
    /// # Errors
    /// [`Error::Name`]; [`Error::Node`] if the host has no taps; [`Error::Attach`] if there is an interface of this
    /// name that is no tap, is somebody else's or has not enough queues.
    pub fn open(name: &str, queues: usize) -> Result<Self> {
        check_name(name)?;
        let first = match attach(name, queues > 1) {
            // It may have been prepared for several.
            Err(error) if is_invalid(&error) && queues == 1 => {
                attach(name, true).or_else(|_| macvtap_or(name, error))?
            }
            Err(error) if is_invalid(&error) => macvtap_or(name, error)?,
            other => other?,
        };
        let mut tap = Self {
            name: first.name,
            queues: vec![Arc::new(first.queue)],
            kind: first.kind,
        };
        while tap.queues.len() < queues {
            let next = match tap.kind {
                Kind::Macvtap => macvtap(&tap.name)?,
                _ => attach(&tap.name, true)?,
            };
            tap.queues.push(Arc::new(next.queue));
        }
        tap.prepare()?;
        Ok(tap)
    }

    /// Sets on all queues what the device relies on.
    pub(crate) fn prepare(&self) -> Result<()> {
        let length = libc::c_int::try_from(HEADER).unwrap_or(libc::c_int::MAX);
        for queue in &self.queues {
            sys::set_header_length(queue, length).map_err(|source| Error::Kernel {
                what: "a header of 12 bytes",
                interface: self.name.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

struct Opened {
    name: String,
    queue: Queue,
    kind: Kind,
}

fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Attach { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
}

fn open_node(path: &str, hint: &'static str) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Not `open`, which is a system call of its own on some architectures.
    rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(|errno| Error::Node {
        path: path.to_owned(),
        hint,
        source: errno.into(),
    })
}

/// The flags of a queue, as `TUNSETIFF` takes them.
pub(crate) fn flags(several: bool) -> u16 {
    let several = if several { IFF_MULTI_QUEUE } else { 0 };
    c_short_flag(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several)
}

/// One queue of the tap `name`.
fn attach(name: &str, several: bool) -> Result<Opened> {
    let fd = open_node(TUN, ": the kernel's module \"tun\" makes taps")?;
    let mut request = InterfaceRequest::new(name, &flags(several).to_ne_bytes());
    sys::interface(&fd, libc::TUNSETIFF, &mut request).map_err(|source| Error::Attach {
        name: name.to_owned(),
        hint: attach_hint(&source, several),
        source,
    })?;
    Ok(Opened {
        name: request.name(),
        queue: Queue(fd),
        kind: Kind::Named,
    })
}

fn attach_hint(source: &io::Error, several: bool) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EINVAL) if several => {
            ": is it a tap, made with multi_queue? num_queues=2 needs no such"
        }
        Some(libc::EINVAL) => ": is it a tap?",
        Some(libc::EBUSY) => ": somebody else has it open",
        Some(libc::E2BIG) => ": it has no queue left, num_queues asks for fewer",
        _ => privilege_hint(source),
    }
}

/// One queue of the macvtap `name`; `otherwise` if it is none.
fn macvtap_or(name: &str, otherwise: Error) -> Result<Opened> {
    match macvtap(name) {
        Err(Error::Node { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
            Err(otherwise)
        }
        other => other,
    }
}

fn macvtap(name: &str) -> Result<Opened> {
    let failed = |source: io::Error| Error::Attach {
        name: name.to_owned(),
        hint: privilege_hint(&source),
        source,
    };
    let socket = crate::settings::socket(false).map_err(failed)?;
    let mut request = InterfaceRequest::new(name, &[]);
    sys::interface(&socket, libc::SIOCGIFINDEX, &mut request).map_err(failed)?;
    let fd = open_node(
        &format!("/dev/tap{}", request.i32()),
        ": the node of a macvtap has to be readable and writable",
    )?;
    let mut request = InterfaceRequest::new(name, &flags(true).to_ne_bytes());
    sys::interface(&fd, libc::TUNSETIFF, &mut request).map_err(failed)?;
    Ok(Opened {
        name: name.to_owned(),
        queue: Queue(fd),
        kind: Kind::Macvtap,
    })
}
