//! Taps that somebody else has opened.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::sys::{self, InterfaceRequest};
use crate::{Error, Kind, Queue, Result, Tap, c_short_flag, open};

impl Tap {
    /// Takes over open descriptors, each of them a queue of one tap or macvtap.
    ///
    /// # Errors
    /// [`Error::Descriptor`] if one of them is something else, or not as the device needs it.
    pub fn adopt(descriptors: Vec<OwnedFd>) -> Result<Self> {
        let several = descriptors.len() > 1;
        let mut name: Option<String> = None;
        let mut queues = Vec::with_capacity(descriptors.len());
        for (position, fd) in descriptors.into_iter().enumerate() {
            let refuse = |why: String| Error::Descriptor { position, why };
            let own = check(&fd, several).map_err(refuse)?;
            match &name {
                Some(first) if *first != own => {
                    return Err(refuse(format!(
                        "it is of {own}, the first one is of {first}"
                    )));
                }
                Some(_) => {}
                None => name = Some(own),
            }
            let flags = fcntl_getfl(&fd).map_err(|errno| refuse(errno.to_string()))?;
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
                .map_err(|errno| refuse(errno.to_string()))?;
            queues.push(Arc::new(Queue(fd)));
        }
        let tap = Self {
            name: name.unwrap_or_default(),
            queues,
            kind: Kind::Given,
        };
        tap.prepare()?;
        Ok(tap)
    }
}

/// Checks that a descriptor is a queue as the device needs it; gives the name of its interface.
fn check(fd: &OwnedFd, several: bool) -> std::result::Result<String, String> {
    let mut request = InterfaceRequest::default();
    sys::interface(fd, libc::TUNGETIFF, &mut request)
        .map_err(|error| format!("it is not of a tap ({error})"))?;
    let name = request.name();
    let mut flags = request.u16();
    let lacks = |flags: u16, flag| flags & c_short_flag(flag) == 0;
    if lacks(flags, IFF_VNET_HDR) || lacks(flags, IFF_NO_PI) {
        // A macvtap's flags can be set at any time, a tap's only when it is opened.
        let wanted = open::flags(!lacks(flags, IFF_MULTI_QUEUE));
        let mut request = InterfaceRequest::new(&name, &wanted.to_ne_bytes());
        if sys::interface(fd, libc::TUNSETIFF, &mut request).is_ok() {
            flags = wanted;
        }
    }
    if lacks(flags, IFF_TAP) {
        return Err(format!("{name} is a tun, not a tap"));
    }
    if lacks(flags, IFF_VNET_HDR) || lacks(flags, IFF_NO_PI) {
        return Err(format!(
            "{name} was opened without IFF_VNET_HDR or without IFF_NO_PI"
        ));
    }
    if several && lacks(flags, IFF_MULTI_QUEUE) {
        return Err(format!("{name} was opened without IFF_MULTI_QUEUE"));
    }
    Ok(name)
}
