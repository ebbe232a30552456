//! Addresses and other properties of the interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::privilege_hint;
use crate::sys::{self, AddressRequest, InterfaceRequest};
use crate::{Error, Kind, Result, Tap};

/// What the interface is to have. Nothing is changed that is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Address and mask.
    pub address: Option<(IpAddr, IpAddr)>,
    /// The host's own hardware address.
    pub mac: Option<[u8; 6]>,
    /// The most bytes in a packet.
    pub mtu: Option<u16>,
}

/// Number of ones that a mask begins with.
///
/// # Errors
/// [`Error::Mask`] if ones follow zeros, or it is not of the address's family.
pub fn prefix_length(address: IpAddr, mask: IpAddr) -> Result<u32> {
    let (ones, fits) = match (address, mask) {
        (IpAddr::V4(_), IpAddr::V4(mask)) => {
            let ones = mask.to_bits().leading_ones();
            (ones, mask.to_bits().count_ones() == ones)
        }
        (IpAddr::V6(_), IpAddr::V6(mask)) => {
            let ones = mask.to_bits().leading_ones();
            (ones, mask.to_bits().count_ones() == ones)
        }
        _ => (0, false),
    };
    fits.then_some(ones).ok_or(Error::Mask { address, mask })
}

/// A socket to make requests on.
pub(crate) fn socket(six: bool) -> io::Result<OwnedFd> {
    let family = if six {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::DGRAM,
        flags,
        None,
    )?)
}

impl Tap {
    /// Gives the interface these properties, as far as it does not have them, and sets it up. One that was given as
    /// descriptors is not set up: that is its owner's.
    ///
    /// # Errors
    /// [`Error::Setting`] with the key that asked for what the kernel refuses; [`Error::Mask`].
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        if let Some(mac) = settings.mac {
            self.set("host_mac", || self.set_mac(mac))?;
        }
        if let Some(mtu) = settings.mtu {
            self.set("mtu", || self.set_mtu(mtu))?;
        }
        if let Some((address, mask)) = settings.address {
            let prefix = prefix_length(address, mask)?;
            match (address, mask) {
                (IpAddr::V4(address), IpAddr::V4(mask)) => {
                    self.set("ip", || self.set_ipv4(address, mask))?;
                }
                (IpAddr::V6(address), _) => self.set("ip", || self.add_ipv6(address, prefix))?,
                _ => return Err(Error::Mask { address, mask }),
            }
        }
        if self.kind != Kind::Given {
            self.set("tap", || self.set_up())?;
        }
        Ok(())
    }

    /// The most bytes in a packet; `None` if the interface is not in our network namespace.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        let request = self.get(libc::SIOCGIFMTU).ok()?;
        request.i32().try_into().ok()
    }

    /// The host's own hardware address.
    ///
    /// # Errors
    /// If the interface is gone.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let mut request = InterfaceRequest::new(&self.name, &[]);
        match self.queues.first() {
            // The file knows its interface, wherever that is.
            Some(queue) => sys::interface(queue, libc::SIOCGIFHWADDR, &mut request)?,
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(request.bytes(2))
    }

    fn set(&self, option: &'static str, act: impl FnOnce() -> io::Result<()>) -> Result<()> {
        act().map_err(|source| Error::Setting {
            option,
            interface: self.name.clone(),
            hint: privilege_hint(&source),
            source,
        })
    }

    fn get(&self, request: libc::Ioctl) -> io::Result<InterfaceRequest> {
        let mut answer = InterfaceRequest::new(&self.name, &[]);
        sys::interface(socket(false)?, request, &mut answer)?;
        Ok(answer)
    }

    fn put(&self, request: libc::Ioctl, value: &[u8]) -> io::Result<()> {
        let mut argument = InterfaceRequest::new(&self.name, value);
        sys::interface(socket(false)?, request, &mut argument)
    }

    fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        if self.mac()? == mac {
            return Ok(());
        }
        let mut value = [0; 8];
        value[..2].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        value[2..].copy_from_slice(&mac);
        let mut request = InterfaceRequest::new(&self.name, &value);
        let Some(queue) = self.queues.first() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        sys::interface(queue, libc::SIOCSIFHWADDR, &mut request)
    }

    fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        if self.get(libc::SIOCGIFMTU)?.i32() == i32::from(mtu) {
            return Ok(());
        }
        self.put(libc::SIOCSIFMTU, &i32::from(mtu).to_ne_bytes())
    }

    fn set_ipv4(&self, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        let value = |address: Ipv4Addr| {
            let mut value = [0; 16];
            value[..2].copy_from_slice(&2u16.to_ne_bytes());
            value[4..8].copy_from_slice(&address.octets());
            value
        };
        let has = |request: libc::Ioctl, address: Ipv4Addr| {
            self.get(request)
                .is_ok_and(|answer| answer.bytes(4) == address.octets())
        };
        if !has(libc::SIOCGIFADDR, address) {
            self.put(libc::SIOCSIFADDR, &value(address))?;
        }
        if !has(libc::SIOCGIFNETMASK, mask) {
            self.put(libc::SIOCSIFNETMASK, &value(mask))?;
        }
        Ok(())
    }

    fn add_ipv6(&self, address: Ipv6Addr, prefix: u32) -> io::Result<()> {
        let index = self.get(libc::SIOCGIFINDEX)?.i32();
        let request = AddressRequest {
            address: address.octets(),
            prefix,
            index,
        };
        let socket = socket(true)?;
        match sys::add_address(&socket, &request) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            // Somebody may have prepared it: one can bind only to addresses that are there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let scope = u32::try_from(index).unwrap_or(0);
                let there = SocketAddrV6::new(address, 0, 0, scope);
                rustix::net::bind(&socket, &there).map_err(|_| error)
            }
            other => other,
        }
    }

    fn set_up(&self) -> io::Result<()> {
        let flags = self.get(libc::SIOCGIFFLAGS)?.u16();
        let up = crate::c_short_flag(libc::IFF_UP);
        if flags & up != 0 {
            return Ok(());
        }
        self.put(libc::SIOCSIFFLAGS, &(flags | up).to_ne_bytes())
    }
}
