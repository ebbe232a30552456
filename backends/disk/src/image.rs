//! An opened file or block device: what is known of it, and what all lanes share.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};
use rustix::fs::{
    AtFlags, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, fstatfs, ftruncate, statx,
};
use sandbox::{HostFile, ReadOnly, ReadWrite};

use crate::claim::Claims;
use crate::detect::detect;
use crate::{Error, ImageType, LockGranularity, OpenOptions, Topology, sys};

/// Disks are counted in sectors of this size (VIRTIO 1.3, 5.2.5).
pub(crate) const SECTOR: u64 = 512;
/// What is asked of direct I/O where the file system does not say: no sector is larger.
const CAUTIOUS_ALIGNMENT: u32 = 4096;

/// What a file asks of I/O around the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Of addresses in memory.
    pub(crate) memory: u32,
    /// Of offsets and lengths.
    pub(crate) offset: u32,
}

impl Alignment {
    /// Page cache: anything goes.
    pub(crate) const NONE: Self = Self {
        memory: 1,
        offset: 1,
    };
}

#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    capacity: AtomicU64,
    /// Held while the file's length changes, with the length of the file in bytes.
    length: Mutex<u64>,
    lock_granularity: LockGranularity,
    pub(crate) is_block_device: bool,
    pub(crate) read_only: bool,
    pub(crate) direct: bool,
    /// On a file system that is memory: reading and writing are copies and wait for nothing.
    pub(crate) in_memory: bool,
    pub(crate) sparse: bool,
    pub(crate) alignment: Alignment,
    pub(crate) topology: Topology,
    pub(crate) first_sector_protected: bool,
    /// Holes can be made in it.
    pub(crate) can_punch: bool,
    /// A block device that knows discard.
    can_discard_blocks: bool,
    pub(crate) claims: Arc<Claims>,
}

impl Image {
    pub(crate) fn open(options: &OpenOptions) -> Result<Self, Error> {
        if !matches!(options.image_type, ImageType::Raw | ImageType::Unknown) {
            return Err(Error::NotYet {
                path: options.path.clone(),
                image_type: options.image_type,
            });
        }
        let file = if options.read_only {
            HostFile::<ReadOnly>::new(&options.path).open()?
        } else {
            HostFile::<ReadWrite>::new(&options.path).open()?
        };
        let ask = |what| {
            let path = options.path.clone();
            move |source| Error::Ask { path, what, source }
        };
        let metadata = file.metadata().map_err(ask("the kind"))?;
        let is_block_device = metadata.file_type().is_block_device();
        if !is_block_device && !metadata.is_file() {
            return Err(Error::NotAnImage(options.path.clone()));
        }
        let size = if is_block_device {
            sys::block_size(&file).map_err(ask("the size"))?
        } else {
            metadata.len()
        };
        lock(&file, options, size)?;
        if options.image_type == ImageType::Unknown {
            let seen = detect(&file, size).map_err(ask("the format"))?;
            if seen != ImageType::Raw {
                return Err(Error::LooksLike {
                    path: options.path.clone(),
                    image_type: seen,
                });
            }
        }
        let alignment = if options.direct {
            set_direct(&file, options)?;
            direct_alignment(&file, options, is_block_device)?
        } else {
            Alignment::NONE
        };
        let topology = if is_block_device {
            block_topology(&file).map_err(ask("the sectors"))?
        } else {
            file_topology(alignment, metadata.blksize())
        };
        let writable = !options.read_only;
        Ok(Self {
            capacity: AtomicU64::new(size / SECTOR * SECTOR),
            length: Mutex::new(size),
            lock_granularity: options.lock_granularity,
            is_block_device,
            read_only: options.read_only,
            direct: options.direct,
            in_memory: !is_block_device && is_in_memory(&file).map_err(ask("the file system"))?,
            sparse: options.sparse,
            alignment,
            topology,
            first_sector_protected: options.image_type == ImageType::Unknown,
            can_punch: writable && !is_block_device && can_punch(&file, size),
            can_discard_blocks: writable && is_block_device && can_discard_blocks(&file),
            claims: Arc::default(),
            file,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Number of bytes, whole sectors or not.
    pub(crate) fn file_length(&self) -> u64 {
        *self.length.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    pub(crate) fn can_discard(&self) -> bool {
        self.sparse && (self.can_punch || self.can_discard_blocks)
    }

    /// A block device's kernel writes zeros itself if the device cannot.
    pub(crate) fn can_write_zeroes(&self) -> bool {
        self.can_punch || (self.is_block_device && !self.read_only)
    }

    /// Takes back what a write of whole blocks added to a file whose last block is not whole.
    pub(crate) fn trim(&self, written: u64) -> io::Result<()> {
        if self.is_block_device {
            return Ok(());
        }
        let length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        if written > *length {
            ftruncate(&self.file, *length)?;
        }
        Ok(())
    }

    /// Changes the length of the file, in bytes. For formats: lanes reach what is within it, in whole sectors.
    pub(crate) fn set_length(&self, new: u64) -> io::Result<()> {
        if self.is_block_device {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "the image has no more room on its block device, of which it would need {new} bytes"
                ),
            ));
        }
        let mut length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        // The lock first: nothing has changed if somebody else holds the new bytes.
        if self.lock_granularity == LockGranularity::ByteRange && new > *length {
            sys::lock(&self.file, !self.read_only, new)?;
        }
        let capacity = new / SECTOR * SECTOR;
        self.capacity.fetch_min(capacity, Ordering::AcqRel);
        if let Err(error) = ftruncate(&self.file, new) {
            self.capacity
                .store(*length / SECTOR * SECTOR, Ordering::Release);
            return Err(error.into());
        }
        *length = new;
        self.capacity.store(capacity, Ordering::Release);
        Ok(())
    }

    pub(crate) fn resize(&self, capacity: u64) -> io::Result<()> {
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if capacity == 0 || !capacity.is_multiple_of(SECTOR) || i64::try_from(capacity).is_err() {
            return refuse(format!(
                "{capacity} bytes are not a number of sectors of 512 bytes"
            ));
        }
        let mut length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_block_device {
            let real = sys::block_size(&self.file)?;
            if capacity != real / SECTOR * SECTOR {
                return refuse(format!(
                    "the size of a block device is changed on the host: it has {real} bytes now, \
                     and {capacity} were asked for"
                ));
            }
        } else if self.read_only {
            return Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "the image was opened with readonly=on",
            ));
        }
        // The lock first: nothing has changed if somebody else holds the new bytes.
        if self.lock_granularity == LockGranularity::ByteRange && capacity > *length {
            sys::lock(&self.file, !self.read_only, capacity)?;
        }
        if !self.is_block_device {
            // The guest must not reach what is about to go.
            self.capacity.fetch_min(capacity, Ordering::AcqRel);
            if let Err(error) = ftruncate(&self.file, capacity) {
                self.capacity
                    .store(*length / SECTOR * SECTOR, Ordering::Release);
                return Err(error.into());
            }
        }
        *length = capacity;
        self.capacity.store(capacity, Ordering::Release);
        Ok(())
    }

    pub(crate) fn identity(&self) -> io::Result<(u64, u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.rdev(), metadata.ino()))
    }
}

impl Drop for Image {
    /// The kernel takes a ring apart after its descriptor was closed, and until then has the file open, with its lock.
    fn drop(&mut self) {
        // Fails only where locking had failed, and then there is no image.
        let _ = sys::unlock(&self.file);
    }
}

/// Whether it is on tmpfs or ramfs, by their numbers (statfs(2)).
fn is_in_memory(file: &File) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    Ok([TMPFS, RAMFS].contains(&fstatfs(file)?.f_type))
}

/// How long an image may be in use before it is refused. The kernel takes the rings of a process that was killed apart
/// only after its end was told, and until then has its files open: who starts a machine again at once would be refused.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Locks the image, or says who is in the way.
fn lock(file: &File, options: &OpenOptions, size: u64) -> Result<(), Error> {
    let length = match options.lock_granularity {
        // A length of 0 would mean all bytes.
        LockGranularity::ByteRange => size.max(1),
        LockGranularity::Full => 0,
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let Err(source) = sys::lock(file, !options.read_only, length) else {
            return Ok(());
        };
        let in_use = matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EACCES));
        if in_use && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let path = options.path.clone();
        return Err(match in_use {
            true => Error::InUse(path),
            false => Error::Lock { path, source },
        });
    }
}

/// Turns direct I/O on, after the signature was read without it.
fn set_direct(file: &File, options: &OpenOptions) -> Result<(), Error> {
    let set = || fcntl_setfl(file, fcntl_getfl(file)? | OFlags::DIRECT);
    set().map_err(|source| Error::NoDirect {
        path: options.path.clone(),
        source: Some(source.into()),
    })
}

fn direct_alignment(
    file: &File,
    options: &OpenOptions,
    is_block_device: bool,
) -> Result<Alignment, Error> {
    let ask = |what| {
        let path = options.path.clone();
        move |source: io::Error| Error::Ask { path, what, source }
    };
    let told = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .map_err(|source| ask("the alignment")(source.into()))?;
    if told.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && told.stx_dio_offset_align != 0 {
        return Ok(Alignment {
            memory: sane(told.stx_dio_mem_align),
            offset: sane(told.stx_dio_offset_align),
        });
    }
    if is_block_device {
        let sector = sys::block_number(file, sys::BLKSSZGET).map_err(ask("the sectors"))?;
        return Ok(Alignment {
            memory: sane(sector),
            offset: sane(sector),
        });
    }
    if told.stx_mask & StatxFlags::DIOALIGN.bits() != 0 {
        // The file system knows the question, and its answer is "not for this file" (statx(2)).
        return Err(Error::NoDirect {
            path: options.path.clone(),
            source: None,
        });
    }
    Ok(Alignment {
        memory: CAUTIOUS_ALIGNMENT,
        offset: CAUTIOUS_ALIGNMENT,
    })
}

/// A power of two that buffers of ours can have.
fn sane(alignment: u32) -> u32 {
    if alignment.is_power_of_two() && alignment <= 1 << 16 {
        alignment
    } else {
        CAUTIOUS_ALIGNMENT
    }
}

fn block_topology(file: &File) -> io::Result<Topology> {
    let logical_block = sys::block_number(file, sys::BLKSSZGET)?;
    Ok(Topology {
        logical_block,
        physical_block: sys::block_number(file, sys::BLKPBSZGET)?.max(logical_block),
        minimum_io: sys::block_number(file, sys::BLKIOMIN)?,
        optimal_io: sys::block_number(file, sys::BLKIOOPT)?,
    })
}

/// Sectors of 512 bytes, because the partitions in the image may have been made for them. What is smaller than a block
/// of the file is read before it is written: by us with direct I/O, else by the page cache.
fn file_topology(alignment: Alignment, block: u64) -> Topology {
    let cached = match u32::try_from(block) {
        Ok(block) if block.is_power_of_two() && block <= 1 << 16 => block,
        _ => CAUTIOUS_ALIGNMENT,
    };
    let physical = match alignment {
        Alignment::NONE => cached,
        direct => direct.offset,
    };
    Topology {
        logical_block: 512,
        physical_block: physical.max(512),
        minimum_io: 0,
        optimal_io: 0,
    }
}

/// Asks by making a hole behind the end of the file, where there is nothing.
fn can_punch(file: &File, size: u64) -> bool {
    let behind = size.next_multiple_of(1 << 16);
    let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    sys::allocate(file.as_raw_fd(), mode, behind, 4096).is_ok()
}

/// Asks with a range that no device takes: one that knows discard complains of the range (`EINVAL`), one that does not
/// says so first (`EOPNOTSUPP`).
fn can_discard_blocks(file: &File) -> bool {
    let answer = sys::block_discard(file.as_raw_fd(), 1, 1);
    answer.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}
