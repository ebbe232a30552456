//! Guest memory as the kernel's system calls take it: lists of addresses and lengths.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vm_memory::{GuestMemoryBackend, VolatileSlice};

use crate::{Error, GuestAddress, GuestRam};

/// Parts of a guest's RAM, in order, for system calls that read or write files and sockets straight
/// from and into it (readv(2) and its kin, io_uring, Linux AIO).
///
/// It owns a handle to the memory: as long as it lives the addresses stay mapped, whatever becomes of who made it. Emptied
/// and filled again it allocates nothing in the long run.
///
/// ```
/// use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};
///
/// let ram = GuestRam::new(&[RegionSpec { start: 0, size: 2 << 20 }], &RamOptions::default())?;
/// let mut vectors = IoVectors::new(ram);
/// vectors.push(0x1000, 16)?;
/// vectors.push(0x8000, 4)?;
/// let zero = std::fs::File::open("/dev/zero").unwrap();
/// assert_eq!(vectors.read_from(&zero, None).unwrap(), 20);
/// # Ok::<(), memory::Error>(())
/// ```
pub struct IoVectors {
    ram: GuestRam,
    vectors: Vec<libc::iovec>,
    length: usize,
}

/// The most vectors that one system call takes (`IOV_MAX`, readv(2)).
pub const MOST_VECTORS: usize = 1024;

// SAFETY: the pointers are into mappings that the value itself keeps alive, and are not tied to a thread.
unsafe impl Send for IoVectors {}

impl IoVectors {
    /// No parts yet, of this memory.
    #[must_use]
    pub fn new(ram: GuestRam) -> Self {
        Self {
            ram,
            vectors: Vec::new(),
            length: 0,
        }
    }

    /// Forgets all parts.
    pub fn clear(&mut self) {
        self.vectors.clear();
        self.length = 0;
    }

    /// Adds the `length` bytes at guest address `address`. Where they run from one region into
    /// another this takes more than one vector; what follows the last part in its region takes none
    /// of its own, because system calls cost by the vector.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if not all of it is RAM; nothing is added then.
    pub fn push(&mut self, address: u64, length: u32) -> Result<(), Error> {
        let bytes = length as usize;
        // Nearly always it is in one region.
        if let Some((mapping, start)) = self.ram.region_at(address)
            && let Ok(offset) = usize::try_from(start)
            && (1..=mapping.size() - start).contains(&length.into())
        {
            let first = mapping.address().wrapping_byte_add(offset);
            match self.vectors.last_mut() {
                // Regions may adjoin by chance: only what is not at the start of one goes on in it.
                Some(last)
                    if start > 0
                        && last.iov_base.wrapping_byte_add(last.iov_len) == first.cast() =>
                {
                    last.iov_len += bytes;
                }
                _ => self.vectors.push(libc::iovec {
                    iov_base: first.cast(),
                    iov_len: bytes,
                }),
            }
            self.length += bytes;
            return Ok(());
        }
        let before = self.vectors.len();
        let mut reached = 0;
        let slices =
            GuestMemoryBackend::get_slices(self.ram.memory(), GuestAddress(address), bytes);
        for slice in slices.flatten() {
            reached += slice.len();
            self.vectors.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        if reached != bytes {
            self.vectors.truncate(before);
            return Err(Error::OutOfRange {
                address,
                length: length.into(),
            });
        }
        self.length += bytes;
        Ok(())
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    pub fn skip(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length -= left;
        let mut whole = 0;
        for vector in &mut self.vectors {
            if left < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(left);
                vector.iov_len -= left;
                break;
            }
            left -= vector.iov_len;
            whole += 1;
        }
        self.vectors.drain(..whole);
    }

    /// Keeps the first `count` bytes and drops the rest.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count;
        let mut kept = 0;
        for vector in &mut self.vectors {
            if left == 0 {
                break;
            }
            vector.iov_len = vector.iov_len.min(left);
            left -= vector.iov_len;
            kept += 1;
        }
        self.vectors.truncate(kept);
        self.length = self.length.min(count);
    }

    /// The `count` bytes after the first `skipped` ones, or as many of them as there are, as vectors of their own: for
    /// requests that are carried out in pieces.
    #[must_use]
    pub fn part(&self, skipped: usize, count: usize) -> Self {
        let mut part = Self::new(self.ram.clone());
        let mut before = skipped;
        let mut left = count;
        for vector in &self.vectors {
            let here = before.min(vector.iov_len);
            before -= here;
            let length = (vector.iov_len - here).min(left);
            if length > 0 {
                part.vectors.push(libc::iovec {
                    iov_base: vector.iov_base.wrapping_byte_add(here),
                    iov_len: length,
                });
                part.length += length;
                left -= length;
            }
        }
        part
    }

    /// Moves the parts of `other` behind these and leaves it empty. False, and nothing is moved, if it holds another
    /// handle to memory than this: its parts would outlive what keeps them mapped.
    pub fn append(&mut self, other: &mut Self) -> bool {
        if !self.ram.is(&other.ram) {
            return false;
        }
        self.vectors.append(&mut other.vectors);
        self.length += std::mem::take(&mut other.length);
        true
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// There are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The memory that the parts are in.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The vectors, for I/O engines that hand them to the kernel. What they point to stays mapped as
    /// long as this value lives, and may only be accessed by the kernel or by volatile copies.
    #[must_use]
    pub fn as_raw(&self) -> &[libc::iovec] {
        &self.vectors
    }

    /// Each part starts at an address and has a length that are multiples of `alignment`, a power of
    /// two: what a file opened with `O_DIRECT` asks for.
    #[must_use]
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let bits = self.vectors.iter().fold(0, |bits, vector| {
            bits | vector.iov_base.addr() | vector.iov_len
        });
        bits & alignment.wrapping_sub(1) == 0
    }

    /// Fills the parts from `file`: at `offset`, or where it stands, which is the only way for sockets
    /// and pipes. One system call (read(2), readv(2) or preadv(2)), repeated only if a signal interrupts it. Gives the number of bytes:
    /// 0 at the end, and possibly fewer than there is room for.
    ///
    /// # Errors
    /// The system call's. `EINVAL` also if there are more than [`MOST_VECTORS`] vectors.
    pub fn read_from(&self, file: impl AsFd, offset: Option<u64>) -> io::Result<usize> {
        let (fd, count) = (file.as_fd().as_raw_fd(), self.count()?);
        let position = offset.map(position).transpose()?;
        retry(|| match (position, self.vectors.as_slice()) {
            // SAFETY: the vectors point into mappings that `self` keeps, writable and never borrowed.
            (None, [one]) => unsafe { libc::read(fd, one.iov_base, one.iov_len) },
            // SAFETY: as above.
            (None, _) => unsafe { libc::readv(fd, self.vectors.as_ptr(), count) },
            // SAFETY: as above.
            (Some(at), _) => unsafe { libc::preadv(fd, self.vectors.as_ptr(), count, at) },
        })
    }

    /// Writes the parts to `file`, as [`IoVectors::read_from`] reads. Gives the number of bytes that
    /// were taken.
    ///
    /// # Errors
    /// The system call's. `EINVAL` also if there are more than [`MOST_VECTORS`] vectors.
    pub fn write_to(&self, file: impl AsFd, offset: Option<u64>) -> io::Result<usize> {
        let (fd, count) = (file.as_fd().as_raw_fd(), self.count()?);
        let position = offset.map(position).transpose()?;
        retry(|| match (position, self.vectors.as_slice()) {
            // SAFETY: the vectors point into mappings that `self` keeps; the kernel only reads them.
            (None, [one]) => unsafe { libc::write(fd, one.iov_base, one.iov_len) },
            // SAFETY: as above.
            (None, _) => unsafe { libc::writev(fd, self.vectors.as_ptr(), count) },
            // SAFETY: as above.
            (Some(at), _) => unsafe { libc::pwritev(fd, self.vectors.as_ptr(), count, at) },
        })
    }

    /// Copies bytes from the parts, from the first one on. Gives how many there were.
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        self.copy_to_at(0, bytes)
    }

    /// Copies bytes to the parts, from the first one on. Gives how many there was room for.
    pub fn copy_from(&self, bytes: &[u8]) -> usize {
        self.copy_from_at(0, bytes)
    }

    /// Copies bytes from the parts, without the first `skipped` ones. Gives how many there were.
    pub fn copy_to_at(&self, skipped: usize, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices_after(skipped) {
            done += slice.copy_to(&mut bytes[done..]);
        }
        done
    }

    /// Copies bytes to the parts, after the first `skipped` ones. Gives how many there was room for.
    pub fn copy_from_at(&self, skipped: usize, bytes: &[u8]) -> usize {
        let mut done = 0;
        for slice in self.slices_after(skipped) {
            let count = slice.len().min(bytes.len() - done);
            slice.copy_from(&bytes[done..done + count]);
            done += count;
        }
        done
    }

    /// Makes `count` bytes of the parts zeros, after the first `skipped` ones. Gives how many there was room for.
    pub fn clear_at(&self, skipped: usize, count: usize) -> usize {
        let mut done = 0;
        for slice in self.slices_after(skipped) {
            let here = slice.len().min(count - done);
            // SAFETY: the slice is within a mapping that is kept alive; the guest may write there, as always.
            unsafe { slice.ptr_guard_mut().as_ptr().write_bytes(0, here) };
            done += here;
        }
        done
    }

    fn slices_after(&self, skipped: usize) -> impl Iterator<Item = VolatileSlice<'_>> {
        let mut left = skipped;
        self.vectors.iter().filter_map(move |vector| {
            let here = left.min(vector.iov_len);
            left -= here;
            volatile(vector).offset(here).ok()
        })
    }

    fn count(&self) -> io::Result<libc::c_int> {
        match libc::c_int::try_from(self.vectors.len()) {
            Ok(count) if self.vectors.len() <= MOST_VECTORS => Ok(count),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

fn volatile(vector: &libc::iovec) -> VolatileSlice<'_> {
    // SAFETY: every vector of an `IoVectors` is within a mapping that it keeps alive, and is never
    // borrowed as a reference.
    unsafe { VolatileSlice::new(vector.iov_base.cast(), vector.iov_len) }
}

fn position(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl fmt::Debug for IoVectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoVectors")
            .field("vectors", &self.vectors.len())
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{RamOptions, RegionSpec};

    fn vectors(parts: &[(u64, u32)]) -> IoVectors {
        let regions = [
            RegionSpec {
                start: 0,
                size: 1 << 20,
            },
            RegionSpec {
                start: 1 << 20,
                size: 1 << 20,
            },
        ];
        let mut vectors = IoVectors::new(GuestRam::new(&regions, &RamOptions::default()).unwrap());
        for (address, length) in parts {
            vectors.push(*address, *length).unwrap();
        }
        vectors
    }

    #[test]
    fn bytes_go_through_sockets_in_order_of_the_parts() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let vectors = vectors(&[(0x5000, 3), ((1 << 20) - 2, 4), (7, 1)]);
        here.write_all(b"abcdefgh").unwrap();
        assert_eq!(vectors.read_from(&there, None).unwrap(), 8);
        let mut seen = [0; 4];
        vectors.ram().read((1 << 20) - 2, &mut seen).unwrap();
        assert_eq!(&seen, b"defg");
        assert_eq!(vectors.write_to(&there, None).unwrap(), 8);
        let mut back = [0; 8];
        here.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"abcdefgh");
    }

    #[test]
    fn files_are_read_and_written_at_an_offset() {
        let file = tempfile::tempfile().unwrap();
        let vectors = vectors(&[(0, 4), (0x1000, 4)]);
        vectors.copy_from(b"12345678");
        assert_eq!(vectors.write_to(&file, Some(100)).unwrap(), 8);
        vectors.copy_from(b"........");
        assert_eq!(vectors.read_from(&file, Some(102)).unwrap(), 6);
        let mut seen = [0; 8];
        assert_eq!(vectors.copy_to(&mut seen), 8);
        assert_eq!(&seen, b"345678..");
        assert!(vectors.read_from(&file, Some(u64::MAX)).is_err());
    }

    #[test]
    fn the_front_and_the_end_can_be_cut_off() {
        let mut vectors = vectors(&[(0, 4), (0x1000, 4), (0x2000, 4)]);
        vectors.copy_from(b"abcdefghijkl");
        vectors.skip(5);
        vectors.truncate(6);
        let mut seen = [0; 6];
        assert_eq!((vectors.len(), vectors.copy_to(&mut seen)), (6, 6));
        assert_eq!(&seen, b"fghijk");
        assert_eq!(vectors.copy_from(b"0123456789"), 6);
        vectors.skip(100);
        assert!(vectors.is_empty() && vectors.as_raw().is_empty());
        vectors.push(0, 1).unwrap();
        vectors.truncate(0);
        assert_eq!((vectors.len(), vectors.as_raw().len()), (0, 0));
    }

    #[test]
    fn a_part_of_the_middle_is_the_same_memory() {
        let whole = vectors(&[(0, 4), (0x1000, 4), (0x2000, 4)]);
        whole.copy_from(b"abcdefghijkl");
        let part = whole.part(3, 6);
        let mut seen = [0; 6];
        assert_eq!((part.len(), part.copy_to(&mut seen)), (6, 6));
        assert_eq!(&seen, b"defghi");
        part.copy_from(b"012345");
        let mut all = [0; 12];
        whole.copy_to(&mut all);
        assert_eq!(&all, b"abc012345jkl");
        assert_eq!((whole.part(10, 100).len(), whole.part(12, 1).len()), (2, 0));
        assert!(whole.part(0, 0).is_empty());
    }

    #[test]
    fn parts_of_the_same_memory_can_be_put_together() {
        let mut all = vectors(&[(0, 4)]);
        let mut more = IoVectors::new(all.ram().clone());
        more.push(0x1000, 2).unwrap();
        assert!(all.append(&mut more));
        assert!(more.is_empty() && more.as_raw().is_empty());
        all.copy_from(b"abcdef");
        let mut seen = [0; 2];
        all.ram().read(0x1000, &mut seen).unwrap();
        assert_eq!((all.len(), &seen), (6, b"ef"));
        let mut elsewhere = vectors(&[(0, 4)]);
        assert!(!all.append(&mut elsewhere), "nothing keeps it mapped");
        assert_eq!((all.len(), elsewhere.len()), (6, 4));
    }

    #[test]
    fn bytes_can_be_copied_from_and_to_the_middle() {
        let vectors = vectors(&[(0, 4), (0x1000, 4), (0x2000, 4)]);
        vectors.copy_from(b"abcdefghijkl");
        assert_eq!(vectors.copy_from_at(3, b"012345"), 6);
        let mut seen = [0; 9];
        assert_eq!(vectors.copy_to_at(2, &mut seen), 9);
        assert_eq!(&seen, b"c012345jk");
        assert_eq!(vectors.copy_to_at(10, &mut seen), 2);
        assert_eq!(vectors.copy_from_at(11, b"xyz"), 1);
        assert_eq!(vectors.copy_from_at(12, b"x"), 0);
        assert_eq!(vectors.copy_to_at(usize::MAX, &mut seen), 0);
        assert_eq!((vectors.clear_at(3, 6), vectors.clear_at(99, 1)), (6, 0));
        assert_eq!(vectors.copy_to_at(2, &mut seen), 9);
        assert_eq!(&seen, b"c\0\0\0\0\0\0jk");
    }

    #[test]
    fn what_follows_in_the_same_region_takes_no_vector_of_its_own() {
        let vectors = vectors(&[
            (0x1000, 100),
            (0x1064, 28),
            (0x1000, 128),
            ((1 << 20) - 8, 8),
            (1 << 20, 8),
            ((1 << 20) + 8, 8),
        ]);
        let lengths: Vec<usize> = vectors.as_raw().iter().map(|part| part.iov_len).collect();
        assert_eq!(lengths, [128, 128, 8, 16]);
        assert_eq!(vectors.len(), 280);
    }

    #[test]
    fn what_is_not_ram_is_refused_and_leaves_no_trace() {
        let mut vectors = vectors(&[(0, 4)]);
        assert!(vectors.push((2 << 20) - 1, 2).is_err());
        assert!(vectors.push(u64::MAX, 2).is_err());
        assert_eq!((vectors.len(), vectors.as_raw().len()), (4, 1));
    }

    #[test]
    fn alignment_counts_addresses_and_lengths() {
        assert!(vectors(&[(512, 512), (4096, 1024)]).is_aligned(512));
        assert!(!vectors(&[(512, 512), (4096, 100)]).is_aligned(512));
        assert!(!vectors(&[(513, 511)]).is_aligned(512));
        assert!(vectors(&[(1, 1)]).is_aligned(1));
    }

    #[test]
    fn more_vectors_than_the_kernel_takes_are_an_error() {
        let vectors = vectors(&vec![(0, 1); MOST_VECTORS + 1]);
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let error = vectors.read_from(&zero, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
