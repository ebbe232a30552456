//! Reads that the thread waits for, through all images of a chain.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::entry::{Packed, Place};
use super::map::Map;
use super::narrow;
use super::owner::Writer;
use crate::damage::Damage;
use crate::error::lost;
use crate::storage::Storage;

/// Bytes of clusters that are kept decompressed, and the most that they are.
const KEPT: usize = 4 << 20;
const MOST_KEPT: usize = 64;

/// Clusters that were decompressed, by their offset on the disk; what was used last is last. All lanes share them: a
/// guest that reads from a few places, or in parts, has each cluster decompressed once.
type Kept = Vec<(u64, Arc<Vec<u8>>)>;

/// One image of a chain.
pub(crate) enum Layer {
    /// Its bytes as they are.
    Raw(Arc<dyn Storage>),
    Qcow2(Box<Qcow2>),
}

/// An image and what lies behind it.
pub(crate) struct Qcow2 {
    map: Map,
    /// The image.
    pub(crate) file: Arc<dyn Storage>,
    /// Where clusters are that are not compressed: the image or another file.
    pub(crate) data: Arc<dyn Storage>,
    backing: Option<Layer>,
    /// Only of an image that is written.
    pub(crate) writer: Option<Writer>,
    pub(crate) damage: Damage,
    kept: Mutex<Kept>,
}

impl Layer {
    /// Fills `bytes` from `offset` on; with zeros behind the end.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            // What is wrong with another image is not wrong with the one before it.
            Self::Qcow2(image) => image.read(offset, bytes).map_err(io::Error::other),
            Self::Raw(file) => {
                let there = there(file.length(), offset, bytes.len());
                let count = file.read(offset, &mut bytes[..there])?;
                if count < there {
                    return Err(lost("a backing file became shorter"));
                }
                bytes[there..].fill(0);
                Ok(())
            }
        }
    }
}

/// How many of `wanted` bytes from `offset` on are before the end.
fn there(length: u64, offset: u64, wanted: usize) -> usize {
    usize::try_from(length.saturating_sub(offset)).map_or(wanted, |there| there.min(wanted))
}

impl Qcow2 {
    pub(crate) fn new(
        map: Map,
        file: Arc<dyn Storage>,
        data: Arc<dyn Storage>,
        backing: Option<Layer>,
    ) -> Self {
        Self {
            map,
            file,
            data,
            backing,
            writer: None,
            damage: Damage::default(),
            kept: Mutex::default(),
        }
    }

    /// What is not allocated from here on is zero, because nothing is behind it.
    pub(crate) fn backing_ends_before(&self, at: u64) -> bool {
        match &self.backing {
            None => true,
            Some(Layer::Raw(file)) => file.length() <= at,
            Some(Layer::Qcow2(image)) => image.map.size() <= at,
        }
    }

    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// Fills `bytes` from `offset` on; with zeros behind the end.
    ///
    /// # Errors
    /// If something cannot be read, or the image contradicts itself.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let there = there(self.map.size(), offset, bytes.len());
        let (mut left, behind) = bytes.split_at_mut(there);
        behind.fill(0);
        let mut at = offset;
        while !left.is_empty() {
            let (place, count) = self.map.find(at, left.len() as u64)?;
            let count = usize::try_from(count).map_or(left.len(), |count| count.min(left.len()));
            let (part, rest) = left.split_at_mut(count);
            match (place, &self.backing) {
                (Place::Unallocated, Some(backing)) => backing.read(at, part)?,
                (Place::Unallocated | Place::Zero, _) => part.fill(0),
                (Place::Data(start), _) => self.read_data(start, part)?,
                (Place::Compressed(packed), _) => self.read_compressed(at, packed, part)?,
            }
            left = rest;
            at += count as u64;
        }
        Ok(())
    }

    /// The last cluster of a file may be there in part, the rest of it is zeros. One that is not there at all is lost.
    fn read_data(&self, start: u64, part: &mut [u8]) -> io::Result<()> {
        let last = start + (part.len() as u64).saturating_sub(1);
        let cluster = self.map.header().cluster();
        if last / cluster * cluster >= self.data.length() {
            return Err(lost(format!(
                "data at {last:#x} is behind the end of the file"
            )));
        }
        let count = self.data.read(start, part)?;
        if count < there(self.data.length(), start, part.len()) {
            return Err(lost("the file of the data became shorter"));
        }
        part[count..].fill(0);
        Ok(())
    }

    fn read_compressed(&self, at: u64, packed: Packed, part: &mut [u8]) -> io::Result<()> {
        let Packed { offset, length } = packed;
        let cluster = self.map.header().cluster();
        let (start, within) = (at / cluster * cluster, narrow(at % cluster));
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |kept: &mut Kept| {
            let place = kept.iter().rposition(|(here, _)| *here == start)?;
            kept[place..].rotate_left(1);
            kept.last().map(|(_, bytes)| Arc::clone(bytes))
        };
        let found = find(&mut kept());
        // At first as much as somebody wants, and all of it when more is wanted.
        let mut needed = within + part.len();
        if found.is_some() {
            needed = narrow(cluster);
        }
        let bytes = match found.filter(|bytes| bytes.len() >= within + part.len()) {
            Some(bytes) => bytes,
            None => {
                let mut packed = vec![0; length];
                let count = self.file.read(offset, &mut packed)?;
                let compression = self.map.header().compression;
                let bytes = compression.unpack(&packed[..count], narrow(cluster), needed);
                let bytes = Arc::new(bytes.map_err(|why| {
                    lost(format!(
                        "the compressed cluster at {offset:#x} cannot be read: {why}"
                    ))
                })?);
                let most = (KEPT / narrow(cluster)).clamp(1, MOST_KEPT);
                let mut kept = kept();
                kept.retain(|(here, _)| *here != start);
                if kept.len() >= most {
                    kept.remove(0);
                }
                kept.push((start, Arc::clone(&bytes)));
                bytes
            }
        };
        let from = bytes.get(within..within + part.len());
        part.copy_from_slice(from.ok_or_else(|| lost("a compressed cluster is too short"))?);
        Ok(())
    }
}
