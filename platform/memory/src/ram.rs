//! The handle to all RAM of a guest.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::mapping::{self, Mapping, Wanted};
use crate::options::{check_layout, check_pages};
use crate::shared_file::SharedFile;
use crate::{Error, GuestMemoryMmap, Prefault, RamOptions, Region, RegionSpec};

/// All RAM of a guest. Cloning gives another handle to the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    memory: Arc<GuestMemoryMmap>,
}

impl GuestRam {
    /// Maps RAM at `regions`, in any order, backed as `options` say. Its bytes are 0.
    ///
    /// # Errors
    /// The options exclude each other, a region is empty, misaligned, too large or overlaps
    /// another, or the host cannot give what is asked for. Nothing stays mapped.
    pub fn new(regions: &[RegionSpec], options: &RamOptions) -> Result<Self, Error> {
        options.check()?;
        let (regions, total) = check_layout(regions)?;
        let host_page = host_page_size();
        // One file holds all regions, one after the other.
        let file = if options.in_file() {
            Some(SharedFile::new(options.hugepages, total, host_page)?)
        } else {
            None
        };
        let page_size = file.as_ref().map_or(host_page, |file| file.page_size);
        check_pages(&regions, page_size, host_page)?;
        let file = match file {
            None => None,
            Some(shared) => {
                shared.resize(total)?;
                Some(Arc::new(shared.file))
            }
        };
        // Whatever was mapped is gone when this returns an error.
        let backing = file.map_or(Backing::Anonymous, Backing::Shared);
        let mapped = map_all(&regions, page_size, &backing, options);
        let mapped = mapped.map_err(|error| match options.hugepages {
            Some(_) => mapping::explain_pool(error, page_size, total),
            None => error,
        })?;
        Self::of(mapped)
    }

    /// Maps RAM at `regions` whose bytes are those of `file`, one region after the other in the order of their
    /// addresses. What is written stays in private copies of its pages; the file need only be open for reading, and
    /// its pages are shared with everyone who does the same.
    ///
    /// Should the file become shorter while it is mapped, the monitor gets `SIGBUS` where it is missing.
    ///
    /// # Errors
    /// As [`GuestRam::new`]; [`Error::NotOverFile`] for shared memory and huge pages, which have no private copies;
    /// [`Error::ContentsSize`] if the file has not just the size of all regions.
    pub fn over_file(
        regions: &[RegionSpec],
        options: &RamOptions,
        file: &Arc<File>,
    ) -> Result<Self, Error> {
        options.check()?;
        if options.in_file() {
            return Err(Error::NotOverFile);
        }
        let (regions, total) = check_layout(regions)?;
        let host_page = host_page_size();
        check_pages(&regions, host_page, host_page)?;
        crate::contents::check_size(file, total)?;
        let backing = Backing::Base(Arc::clone(file));
        Self::of(map_all(&regions, host_page, &backing, options)?)
    }

    fn of(mapped: Vec<Region>) -> Result<Self, Error> {
        // The layout was checked, so the collection can refuse nothing but there being no regions.
        let memory = GuestMemoryMmap::from_regions(mapped).map_err(|_| Error::NoRegions)?;
        Ok(Self {
            memory: Arc::new(memory),
        })
    }

    /// Whether both are handles to the same memory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    /// The memory as `vm-memory`'s traits see it: for descriptor chains and for atomic accesses.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Sum of the sizes of all regions, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.regions().map(|region| region.size()).sum()
    }

    /// The regions, lowest address first.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.memory.iter().cloned()
    }

    /// All `length` bytes at `address` are RAM. True for no bytes.
    #[must_use]
    pub fn contains(&self, address: u64, length: u64) -> bool {
        // Nearly always it is in one region.
        if let Some((mapping, start)) = self.region_at(address)
            && length <= mapping.size() - start
        {
            return true;
        }
        self.slices(address, length).is_ok()
    }

    /// Copies `bytes` to guest address `address`. The range may run from one region into an
    /// adjoining one.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if not all of it is RAM; nothing is written then.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        for slice in self.slices(address, bytes.len() as u64)? {
            let (now, later) = rest.split_at(slice.len());
            slice.copy_from(now);
            rest = later;
        }
        Ok(())
    }

    /// Fills `bytes` from guest address `address`. The range may run from one region into an
    /// adjoining one.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if not all of it is RAM; `bytes` stays as it is then.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let mut rest = bytes;
        for slice in self.slices(address, rest.len() as u64)? {
            let (now, later) = rest.split_at_mut(slice.len());
            slice.copy_to(now);
            rest = later;
        }
        Ok(())
    }

    /// Writes `length` bytes of 0 at guest address `address`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if not all of it is RAM; nothing is written then.
    pub fn write_zeros(&self, address: u64, length: u64) -> Result<(), Error> {
        const ZEROS: [u8; 4096] = [0; 4096];
        for slice in self.slices(address, length)? {
            let mut rest = slice;
            while !rest.is_empty() {
                let count = rest.len().min(ZEROS.len());
                rest.copy_from(&ZEROS[..count]);
                rest = rest
                    .offset(count)
                    .map_err(|_| Error::OutOfRange { address, length })?;
            }
        }
        Ok(())
    }

    /// Reads `length` bytes at `file_offset` of `file` to guest address `address`, straight into
    /// the mapping. The file's own position is neither used nor moved.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if not all of the range is RAM; nothing is written then.
    /// [`Error::FileEnd`] if the file is too short, [`Error::File`] if it cannot be read; a part
    /// may have been written then.
    pub fn read_from_file(
        &self,
        file: &File,
        file_offset: u64,
        address: u64,
        length: u64,
    ) -> Result<(), Error> {
        let mut done = 0;
        for slice in self.slices(address, length)? {
            let mut slice = slice;
            while !slice.is_empty() {
                let failed = |source| Error::File {
                    offset: file_offset,
                    length,
                    address,
                    source,
                };
                let position = file_offset
                    .checked_add(done)
                    .ok_or_else(|| failed(beyond_any_file()))?;
                let count = read_at(file, position, &slice).map_err(failed)?;
                if count == 0 {
                    return Err(Error::FileEnd {
                        offset: file_offset,
                        length,
                        missing: length - done,
                        address,
                    });
                }
                done += count as u64;
                slice = slice
                    .offset(count)
                    .map_err(|_| Error::OutOfRange { address, length })?;
            }
        }
        Ok(())
    }

    /// Gives the memory behind the `length` bytes at guest address `address` back to the host: backing pages that
    /// are wholly within the range take no memory and read as 0 until they are written again. Pages that are within
    /// only in part stay as they are. The range may run from one region into an adjoining one.
    ///
    /// Others may read and write the range meanwhile; they find old bytes or zeros. With huge pages only whole ones
    /// are given back, and the pool does not keep them for this guest: if others took them when it needs them again,
    /// the processor or the device that touches one ends the machine. Costs one `madvise` per region that the range touches, so larger ranges are cheaper.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if not all of the range is RAM; nothing is dropped then. [`Error::Discard`] if the
    /// kernel refuses, as it does for locked memory; a part may have been dropped then.
    pub fn discard(&self, address: u64, length: u64) -> Result<(), Error> {
        if !self.contains(address, length) {
            return Err(Error::OutOfRange { address, length });
        }
        // It is RAM, so its end does not overflow.
        let end = address.saturating_add(length);
        for region in self.memory.iter() {
            let first = address.max(region.start());
            let last = end.min(region.start() + region.size());
            if first < last {
                let offset = first - region.start();
                region.mapping().discard(offset, last - first)?;
            }
        }
        Ok(())
    }

    /// Starts to allocate all memory that is to be there before the guest runs, on threads of its
    /// own, so that kernel load and device construction go on meanwhile. Contents do not change.
    /// Nothing is to be done and nothing started unless [`prefault`](RamOptions::prefault) is set,
    /// or [`reserve`](RamOptions::reserve) for shared memory.
    ///
    /// # Errors
    /// [`Error::PrefaultThread`] if a thread cannot be started. What goes wrong on them is told by
    /// [`Prefault::join`].
    pub fn prefault(&self) -> Result<Prefault, Error> {
        let wanted = self.regions().filter(|region| region.mapping().populate());
        Prefault::start(wanted.map(|region| Arc::clone(region.mapping())).collect())
    }

    /// The mapping that guest address `address` is in, and how many bytes after its start.
    pub(crate) fn region_at(&self, address: u64) -> Option<(&Arc<Mapping>, u64)> {
        self.memory.iter().find_map(|region| {
            let offset = address.checked_sub(region.start())?;
            (offset < region.size()).then(|| (region.mapping(), offset))
        })
    }

    /// The parts of the mappings that are the `length` bytes at guest address `address`.
    fn slices(
        &self,
        address: u64,
        length: u64,
    ) -> Result<impl Iterator<Item = VolatileSlice<'_>>, Error> {
        let out_of_range = Error::OutOfRange { address, length };
        let Ok(count) = usize::try_from(length) else {
            return Err(out_of_range);
        };
        let start = GuestAddress(address);
        // The whole range before the first access, so that one that is RAM only in part is left
        // alone.
        if !GuestMemoryBackend::check_range(&*self.memory, start, count) {
            return Err(out_of_range);
        }
        Ok(GuestMemoryBackend::get_slices(&*self.memory, start, count).flatten())
    }
}

/// What is behind all regions, one after the other.
enum Backing {
    Anonymous,
    Shared(Arc<File>),
    /// Private copies of this file's pages.
    Base(Arc<File>),
}

fn map_all(
    regions: &[RegionSpec],
    page_size: u64,
    backing: &Backing,
    options: &RamOptions,
) -> Result<Vec<Region>, Error> {
    let mut offset = 0;
    let mut mapped = Vec::with_capacity(regions.len());
    for &RegionSpec { start, size } in regions {
        let length = usize::try_from(size).map_err(|_| Error::TooLarge { start, size })?;
        let part = |file| FileOffset::from_arc(Arc::clone(file), offset);
        let (file, base) = match backing {
            Backing::Anonymous => (None, None),
            Backing::Shared(file) => (Some(part(file)), None),
            Backing::Base(file) => (None, Some(part(file))),
        };
        let mapping = Mapping::new(Wanted {
            start,
            size: length,
            page_size,
            file,
            base,
            options,
        })?;
        mapped.push(Region::new(start, mapping));
        offset += size;
    }
    Ok(mapped)
}

/// `pread(2)` into guest memory, repeated if a signal interrupts it. Returns how many bytes; 0 at
/// the end.
fn read_at(file: &File, position: u64, slice: &VolatileSlice<'_>) -> io::Result<usize> {
    let position = i64::try_from(position).map_err(|_| beyond_any_file())?;
    let target = slice.ptr_guard_mut();
    loop {
        // SAFETY: the slice's bytes are mapped and writable as long as it lives, and are not
        // borrowed.
        let count = unsafe {
            libc::pread(
                file.as_raw_fd(),
                target.as_ptr().cast(),
                slice.len(),
                position,
            )
        };
        if let Ok(count) = usize::try_from(count) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn beyond_any_file() -> io::Error {
    io::Error::from_raw_os_error(libc::EOVERFLOW)
}

pub(crate) fn host_page_size() -> u64 {
    // SAFETY: sysconf touches no memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It is a constant that every Linux has; 4096 is the smallest there is.
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests;
