//! What a driver asks for in a chain, checked in full before anything is done (VIRTIO 1.3, 5.2.6).

use std::io::{Read, Write};

use virtio::Chain;

/// Bytes per sector, whatever the disk's blocks are.
pub(crate) const SECTOR: u64 = 512;
/// Length of the answer to "get id".
pub(crate) const ID_LEN: usize = 20;
/// The most sectors of a range that is discarded or filled with zeros: 2 GiB, so that one request does not keep a
/// queue from being stopped for long.
pub(crate) const MOST_SECTORS: u32 = 4 << 20;
/// The most such ranges in a request.
pub(crate) const MOST_SEGMENTS: u32 = 64;

/// Type, reserved and sector, before the data.
const HEADER: u32 = 16;
/// One byte, after the data.
const STATUS: u32 = 1;
/// Sector, number of sectors and flags of a range.
const SEGMENT: u32 = 16;

/// Types of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Flag of a range: space may be given back.
const UNMAP: u32 = 1;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok = 0,
    /// It did not work, or cannot.
    IoError = 1,
    /// The device does not know such requests.
    Unsupported = 2,
}

/// A range of bytes to forget or to fill with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Zeros may give space back.
    pub(crate) unmap: bool,
}

/// What is to be done. Everything is within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Fills the writable bytes but the last.
    Read {
        offset: u64,
        length: u32,
    },
    /// Takes the readable bytes after the header.
    Write {
        offset: u64,
        length: u32,
    },
    Flush,
    /// Tells the serial number.
    GetId,
    /// Forgets ranges.
    Discard,
    /// Fills ranges with zeros.
    WriteZeroes,
}

/// Why nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The driver gets this status.
    Status(Status),
    /// The same as an I/O error; the user is to know why.
    FirstSector,
    /// The chain has no room for a status: the driver does not follow the protocol.
    NoStatus,
}

/// The same as [`Refusal::Status`] of an I/O error.
const BAD: Refusal = Refusal::Status(Status::IoError);
const UNKNOWN: Refusal = Refusal::Status(Status::Unsupported);

/// What a request has to fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of the disk.
    pub(crate) capacity: u64,
    pub(crate) read_only: bool,
    /// The first sector cannot be written.
    pub(crate) protects_first_sector: bool,
    /// Discards were negotiated.
    pub(crate) discard: bool,
    /// Write zeroes requests were negotiated.
    pub(crate) write_zeroes: bool,
}

/// Reads what `chain` asks for. For [`Plan::Discard`] and [`Plan::WriteZeroes`] the ranges are put into `segments`,
/// the last one first.
pub(crate) fn plan(
    chain: &Chain,
    bounds: &Bounds,
    segments: &mut Vec<Segment>,
) -> Result<Plan, Refusal> {
    segments.clear();
    let room = chain
        .writable_len()
        .checked_sub(STATUS)
        .ok_or(Refusal::NoStatus)?;
    let data = chain.readable_len().checked_sub(HEADER).ok_or(BAD)?;
    let mut reader = chain.reader();
    let mut header = [0; HEADER as usize];
    reader.read_exact(&mut header).map_err(|_| BAD)?;
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        IN => {
            let (offset, _) = bounds.bytes(sector, room.into())?;
            let length = room;
            Ok(Plan::Read { offset, length })
        }
        OUT => {
            let (offset, _) = bounds.bytes_to_change(sector, data.into())?;
            let length = data;
            Ok(Plan::Write { offset, length })
        }
        FLUSH => Ok(Plan::Flush),
        GET_ID if room as usize >= ID_LEN => Ok(Plan::GetId),
        GET_ID => Err(BAD),
        DISCARD if bounds.discard => {
            read_segments(&mut reader, data, bounds, 0, segments)?;
            Ok(Plan::Discard)
        }
        WRITE_ZEROES if bounds.write_zeroes => {
            read_segments(&mut reader, data, bounds, UNMAP, segments)?;
            Ok(Plan::WriteZeroes)
        }
        _ => Err(UNKNOWN),
    }
}

/// Reads ranges, with no other flags than `known`.
fn read_segments(
    reader: &mut impl Read,
    data: u32,
    bounds: &Bounds,
    known: u32,
    segments: &mut Vec<Segment>,
) -> Result<(), Refusal> {
    let count = data / SEGMENT;
    if !data.is_multiple_of(SEGMENT) || count == 0 || count > MOST_SEGMENTS {
        return Err(BAD);
    }
    for _ in 0..count {
        let mut bytes = [0; SEGMENT as usize];
        reader.read_exact(&mut bytes).map_err(|_| BAD)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes(flags);
        if flags & !known != 0 {
            return Err(UNKNOWN);
        }
        if sectors > MOST_SECTORS {
            return Err(BAD);
        }
        let (offset, length) = bounds.bytes_to_change(sector, u64::from(sectors) * SECTOR)?;
        if length > 0 {
            segments.push(Segment {
                offset,
                length,
                unmap: flags & UNMAP != 0,
            });
        }
    }
    segments.reverse();
    Ok(())
}

impl Bounds {
    /// Checks that `length` bytes from `sector` on are whole sectors of the disk.
    fn bytes(&self, sector: u64, length: u64) -> Result<(u64, u64), Refusal> {
        let offset = sector.checked_mul(SECTOR).ok_or(BAD)?;
        let end = offset.checked_add(length).ok_or(BAD)?;
        if !length.is_multiple_of(SECTOR) || end > self.capacity {
            return Err(BAD);
        }
        Ok((offset, length))
    }

    /// The same for bytes that will not be what they were.
    fn bytes_to_change(&self, sector: u64, length: u64) -> Result<(u64, u64), Refusal> {
        if self.read_only {
            return Err(BAD);
        }
        let (offset, length) = self.bytes(sector, length)?;
        if self.protects_first_sector && offset < SECTOR && length > 0 {
            return Err(Refusal::FirstSector);
        }
        Ok((offset, length))
    }
}

/// Puts the status into the last byte that the device writes.
pub(crate) fn put_status(chain: &Chain, status: Status) {
    if let Some(last) = chain.writable().last() {
        let address = last.address + u64::from(last.len - 1);
        // The chain was RAM when it was popped, and its memory cannot go away while it exists.
        let _ = chain.ram().write(address, &[status as u8]);
    }
}

/// Answers "get id". Gives the number of bytes.
pub(crate) fn put_id(chain: &mut Chain, id: &[u8; ID_LEN]) -> std::io::Result<()> {
    chain.writer().write_all(id)
}
