//! Requests and responses.

use std::io::{Read, Write};

use virtio::{Chain, Service};

use crate::clocks::{Clocks, Type};

/// Kinds of requests (`VIRTIO_RTC_REQ_*`).
mod request {
    pub(super) const READ: u16 = 0x0001;
    pub(super) const READ_CROSS: u16 = 0x0002;
    pub(super) const CFG: u16 = 0x1000;
    pub(super) const CLOCK_CAP: u16 = 0x1001;
    pub(super) const CROSS_CAP: u16 = 0x1002;
}

/// How a request ended (`VIRTIO_RTC_S_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    NotSupported = 2,
    NoDevice = 3,
    Invalid = 4,
    Io = 5,
}

/// Length of a header: kind or status, and reserved bytes.
const HEADER: usize = 8;
/// Length of the longest request: the header, then the clock's number, in cross requests a counter's, and reserved
/// bytes.
const REQUEST: usize = HEADER + 8;
/// Length of a response with a body: the header, then eight bytes.
const RESPONSE: u32 = 16;

/// Answers requests.
#[derive(Debug)]
pub(crate) struct Clerk(pub(crate) Clocks);

impl Clerk {
    /// The eight bytes after the header of the response, or why there are none. `request` is what there is of one,
    /// at most [`REQUEST`] bytes: what a later version of the protocol adds is not looked at.
    fn answer(&self, request: &[u8]) -> Result<[u8; 8], Status> {
        let &[k0, k1, ..] = request else {
            return Err(Status::Invalid);
        };
        match u16::from_le_bytes([k0, k1]) {
            request::CFG if request.len() >= HEADER => Ok(u64::from(self.0.count()).to_le_bytes()),
            request::READ => {
                let clock = self.clock(request)?;
                self.0.read(clock).map(u64::to_le_bytes).ok_or(Status::Io)
            }
            request::CLOCK_CAP => {
                // Type, then how leap seconds are smeared: unspecified is 0.
                Ok(u64::from(self.clock(request)? as u8).to_le_bytes())
            }
            // No flag: not with this counter, whichever it is.
            request::CROSS_CAP => self.clock(request).map(|_| [0; 8]),
            request::READ_CROSS => self.clock(request).and(Err(Status::NotSupported)),
            request::CFG => Err(Status::Invalid),
            _ => Err(Status::NotSupported),
        }
    }

    /// The clock that a request is about.
    fn clock(&self, request: &[u8]) -> Result<Type, Status> {
        let request: &[u8; REQUEST] = request.try_into().map_err(|_| Status::Invalid)?;
        let id = u16::from_le_bytes([request[HEADER], request[HEADER + 1]]);
        self.0.find(id).ok_or(Status::NoDevice)
    }
}

impl Service for Clerk {
    fn serve(&mut self, chain: &mut Chain) -> u32 {
        let mut request = [0; REQUEST];
        let mut len = 0;
        let mut reader = chain.reader();
        while len < REQUEST {
            match reader.read(&mut request[len..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => len += count,
            }
        }
        let answer = if chain.writable_len() < RESPONSE {
            Err(Status::Invalid)
        } else {
            self.answer(&request[..len])
        };
        let mut bytes = [0; RESPONSE as usize];
        let response = match answer {
            Ok(body) => {
                bytes[0] = Status::Ok as u8;
                bytes[HEADER..].copy_from_slice(&body);
                &bytes[..]
            }
            Err(status) => {
                bytes[0] = status as u8;
                &bytes[..HEADER]
            }
        };
        let mut writer = chain.writer();
        if let Err(error) = writer.write_all(response) {
            telemetry::warn!("rtc: a response does not fit: {error}");
        }
        writer.written()
    }
}
