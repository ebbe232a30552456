//! A chain of buffers that a driver made available, all of it checked.

use std::fmt;
use std::io;

use memory::{GuestRam, IoVectors};

/// A part of a chain: this many bytes at this guest physical address, all of them RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub address: u64,
    /// Length in bytes, not 0.
    pub len: u32,
}

/// A chain of buffers: first those that the device reads, then those that it writes.
///
/// It owns what it needs to be worked on anywhere, for any time: the memory stays mapped while it exists. Give it
/// back with [`Ring::complete`](crate::Ring::complete).
#[must_use = "a chain that is not completed is lost to the driver"]
pub struct Chain {
    pub(crate) head: u16,
    pub(crate) buffers: Vec<Buffer>,
    /// How many of the buffers are read by the device.
    pub(crate) readable: usize,
    pub(crate) readable_len: u32,
    pub(crate) writable_len: u32,
    pub(crate) ram: GuestRam,
}

impl Chain {
    /// Index of its first descriptor, by which the driver knows it.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Buffers that the device reads.
    #[must_use]
    pub fn readable(&self) -> &[Buffer] {
        &self.buffers[..self.readable]
    }

    /// Buffers that the device writes.
    #[must_use]
    pub fn writable(&self) -> &[Buffer] {
        &self.buffers[self.readable..]
    }

    /// Bytes that the device can read.
    #[must_use]
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes that the device can write.
    #[must_use]
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// The memory that the buffers are in.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Adds the bytes that the device reads to `vectors`, for a system call that takes them from where they are.
    ///
    /// # Errors
    /// If `vectors` is of another memory, in which they are not RAM.
    pub fn add_readable(&self, vectors: &mut IoVectors) -> Result<(), memory::Error> {
        add(self.readable(), vectors)
    }

    /// Adds the bytes that the device writes to `vectors`, for a system call that puts them where they belong.
    ///
    /// # Errors
    /// If `vectors` is of another memory, in which they are not RAM.
    pub fn add_writable(&self, vectors: &mut IoVectors) -> Result<(), memory::Error> {
        add(self.writable(), vectors)
    }

    /// Reads from the first byte on. Ends after [`Chain::readable_len`] bytes.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader(Cursor {
            ram: &self.ram,
            buffers: self.readable(),
            offset: 0,
            done: 0,
        })
    }

    /// Writes from the first byte on. Ends after [`Chain::writable_len`] bytes.
    #[must_use]
    pub fn writer(&mut self) -> Writer<'_> {
        Writer(Cursor {
            ram: &self.ram,
            buffers: &self.buffers[self.readable..],
            offset: 0,
            done: 0,
        })
    }
}

fn add(buffers: &[Buffer], vectors: &mut IoVectors) -> Result<(), memory::Error> {
    for buffer in buffers {
        vectors.push(buffer.address, buffer.len)?;
    }
    Ok(())
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("head", &self.head)
            .field("readable", &self.readable())
            .field("writable", &self.writable())
            .finish_non_exhaustive()
    }
}

/// A position in some of a chain's buffers.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    ram: &'a GuestRam,
    /// Those that are not done yet.
    buffers: &'a [Buffer],
    /// Bytes of the first one that are done.
    offset: u32,
    /// Bytes that are done in all.
    done: u32,
}

impl Cursor<'_> {
    /// Goes on by up to `len` bytes, buffer by buffer. `act` gets an address and a range of `0..len`.
    fn advance(
        &mut self,
        len: usize,
        mut act: impl FnMut(&GuestRam, u64, std::ops::Range<usize>) -> Result<(), memory::Error>,
    ) -> io::Result<usize> {
        let mut moved = 0;
        while let Some(buffer) = self.buffers.first()
            && moved < len
        {
            let left = buffer.len - self.offset;
            let count = left.min(u32::try_from(len - moved).unwrap_or(u32::MAX));
            let range = moved..moved + count as usize;
            act(self.ram, buffer.address + u64::from(self.offset), range)
                .map_err(io::Error::other)?;
            moved += count as usize;
            self.done += count;
            self.offset += count;
            if self.offset == buffer.len {
                self.offset = 0;
                self.buffers = &self.buffers[1..];
            }
        }
        Ok(moved)
    }
}

/// Reads a chain's readable bytes in order.
#[derive(Clone, Debug)]
pub struct Reader<'a>(Cursor<'a>);

impl io::Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.advance(out.len(), |ram, address, range| {
            ram.read(address, &mut out[range])
        })
    }
}

/// Writes a chain's writable bytes in order.
#[derive(Debug)]
pub struct Writer<'a>(Cursor<'a>);

impl Writer<'_> {
    /// Bytes written so far: what [`Ring::complete`](crate::Ring::complete) is told.
    #[must_use]
    pub fn written(&self) -> u32 {
        self.0.done
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.advance(bytes.len(), |ram, address, range| {
            ram.write(address, &bytes[range])
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
