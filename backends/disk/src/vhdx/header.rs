//! The two headers, of which one is current ([MS-VHDX] 2.2.2).

use std::io;

use super::MIB;
use super::crc::checksum;
use super::guid::Guid;
use crate::mapped::{le16, le32, le64, put};
use crate::storage::Storage;

/// Where the headers are.
const PLACES: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes of a header that the checksum is of.
const HEADER: usize = 4096;
/// The end of the headers: nothing that the log changes is before it.
pub(crate) const HEADERS_END: u64 = 192 << 10;
const SIGNATURE: &[u8] = b"head";
/// Where the checksum is.
const CHECKSUM: usize = 4;
const VERSION: u16 = 1;
const LOG_VERSION: u16 = 0;
/// The longest log that is kept in memory for its replay; the usual one has 1 MiB.
const LONGEST_LOG: u32 = 64 << 20;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    sequence: u64,
    /// Which of both it is.
    place: usize,
    /// Changes with the file.
    pub(crate) file_write: Guid,
    /// Changes with the disk's bytes.
    pub(crate) data_write: Guid,
    /// Of the log's entries; zero if none counts.
    pub(crate) log: Guid,
    pub(crate) log_offset: u64,
    pub(crate) log_length: u32,
}

impl Header {
    /// The one of a new image. It has to be written twice.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn new(log_offset: u64, log_length: u32) -> io::Result<Self> {
        Ok(Self {
            sequence: 0,
            place: 1,
            file_write: Guid::random()?,
            data_write: Guid::random()?,
            log: Guid::ZERO,
            log_offset,
            log_length,
        })
    }

    /// Reads the current header.
    ///
    /// # Errors
    /// Why there is none that can be used, in words.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, String> {
        let mut headers = Vec::new();
        for (place, offset) in PLACES.into_iter().enumerate() {
            let mut bytes = vec![0; HEADER];
            let count = storage
                .read(offset, &mut bytes)
                .map_err(|error| format!("its header cannot be read: {error}"))?;
            if count == HEADER
                && bytes.starts_with(SIGNATURE)
                && checksum(&bytes, CHECKSUM) == le32(&bytes, CHECKSUM)
            {
                headers.push((le64(&bytes, 8), place, bytes));
            }
        }
        let Some((sequence, place, bytes)) = headers.iter().max_by_key(|header| header.0) else {
            return Err("neither of its headers is in order".into());
        };
        if let [one, other] = headers.as_slice()
            && one.0 == other.0
            && one.2 != other.2
        {
            return Err("its headers have the same number and are not the same".into());
        }
        let header = Self {
            sequence: *sequence,
            place: *place,
            file_write: Guid::at(bytes, 16),
            data_write: Guid::at(bytes, 32),
            log: Guid::at(bytes, 48),
            log_length: le32(bytes, 68),
            log_offset: le64(bytes, 72),
        };
        header.check(le16(bytes, 66), le16(bytes, 64))?;
        Ok(header)
    }

    fn check(&self, version: u16, log_version: u16) -> Result<(), String> {
        if version != VERSION {
            return Err(format!("its version {version} is not known"));
        }
        if log_version != LOG_VERSION && self.log != Guid::ZERO {
            return Err(format!("the version {log_version} of its log is not known"));
        }
        let length = u64::from(self.log_length);
        let end = self.log_offset.checked_add(length);
        if length == 0
            || !length.is_multiple_of(MIB)
            || !self.log_offset.is_multiple_of(MIB)
            || self.log_offset < MIB
            || end.is_none()
        {
            return Err(format!(
                "its log of {length} bytes at {:#x} is not where one can be",
                self.log_offset
            ));
        }
        if self.log_length > LONGEST_LOG {
            return Err(format!(
                "its log has {length} bytes, and {LONGEST_LOG} are the most that can be served"
            ));
        }
        Ok(())
    }

    /// Makes this the current header, in both places one after the other: whenever the power fails, one is in order.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&mut self, storage: &dyn Storage) -> io::Result<()> {
        for _ in PLACES {
            let place = 1 - self.place;
            let sequence = self.sequence.wrapping_add(1);
            storage.write(PLACES[place], &self.bytes(sequence))?;
            storage.flush()?;
            (self.place, self.sequence) = (place, sequence);
        }
        Ok(())
    }

    fn bytes(&self, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        put(&mut bytes, 0, SIGNATURE);
        put(&mut bytes, 8, &sequence.to_le_bytes());
        put(&mut bytes, 16, &self.file_write.0);
        put(&mut bytes, 32, &self.data_write.0);
        put(&mut bytes, 48, &self.log.0);
        put(&mut bytes, 64, &LOG_VERSION.to_le_bytes());
        put(&mut bytes, 66, &VERSION.to_le_bytes());
        put(&mut bytes, 68, &self.log_length.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        let sum = checksum(&bytes, CHECKSUM);
        put(&mut bytes, CHECKSUM, &sum.to_le_bytes());
        bytes
    }
}
