//! What a disk is to whoever serves it to a guest.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use memory::IoVectors;
use schemars::JsonSchema;
use serde::Serialize;

/// What a request does. Offsets and lengths are in bytes and inside the disk: the caller has checked them against
/// [`Disk::capacity`].
#[derive(Debug)]
pub enum Operation {
    /// Fills the vectors from the disk.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Where the bytes go.
        vectors: IoVectors,
    },
    /// Writes the vectors to the disk.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Where the bytes come from.
        vectors: IoVectors,
    },
    /// What was written and completed before is durable when this completes.
    Flush,
    /// Forgets bytes: they read as anything until written; space may be given back.
    Discard {
        /// First byte on the disk.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Makes bytes read as zero.
    WriteZeroes {
        /// First byte on the disk.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Space may be given back.
        unmap: bool,
    },
}

/// An operation, and by what its completion will be known.
#[derive(Debug)]
pub struct Request {
    /// Any number that no other request on the lane has that is under way.
    pub tag: u64,
    /// What to do.
    pub operation: Operation,
}

/// What a lane was waiting for.
#[derive(Debug)]
pub enum Event {
    /// A request is done, in full or not at all: short transfers are continued by the lane, and end as an error.
    Done {
        /// The request's tag.
        tag: u64,
        /// Whether it worked.
        result: io::Result<()>,
        /// The vectors of a read or a write as they were pushed, to be used again.
        vectors: Option<IoVectors>,
    },
    /// A watched descriptor is readable. Told again and again while it is.
    Ready {
        /// The token that it was watched with.
        token: u64,
    },
}

/// One thread's way to a disk. Requests that are under way own what they work on.
///
/// Dropping a lane waits for what is under way. A lane that moves to another thread is drained before: the kernel
/// ties what it was given to the thread that gave it.
pub trait Lane: Send {
    /// Takes a request. It begins with the next [`Lane::wait`] at the latest. The caller keeps no more under way than
    /// the depth that the lane was opened with.
    fn push(&mut self, request: Request);

    /// Requests that were pushed and whose [`Event::Done`] was not told yet.
    fn in_flight(&self) -> usize;

    /// From now on [`Lane::wait`] also waits for `fd` to be readable, and tells it with `token`, any number but
    /// `u64::MAX`. The descriptor stays open as long as the lane is used.
    ///
    /// # Errors
    /// If nothing can wait for such a descriptor, or the system's limits are reached.
    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()>;

    /// Begins what was pushed, waits until there is at least one event, and adds all there are to `events`.
    ///
    /// # Errors
    /// If the lane cannot be used any more; or if there is nothing to wait for.
    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()>;

    /// Begins what was pushed and adds the events there are, if any, without waiting. Cheap when there is nothing: for
    /// those who look again and again instead of sleeping.
    ///
    /// # Errors
    /// If the lane cannot be used any more.
    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()>;

    /// Waits until nothing is under way, and adds what was done to `events`; watched descriptors are not looked at.
    ///
    /// # Errors
    /// If the lane cannot be used any more.
    fn drain(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
}

/// How requests reach the host's kernel, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// io_uring(7): submission and waiting in one system call.
    IoUring,
    /// Linux AIO (io_submit(2)).
    Aio,
    /// preadv(2) and its kin within [`Lane::wait`], one request after the other.
    Sync,
}

/// An engine that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The engine.
    pub engine: Engine,
    /// Why not, in words for a log.
    pub reason: String,
}

/// What a disk tells the guest about its sectors. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Smallest unit that can be addressed: 512, or more for block devices with larger sectors.
    pub logical_block: u32,
    /// Smallest unit that is written without being read first: a multiple of `logical_block`.
    pub physical_block: u32,
    /// Smallest I/O that is efficient, 0 if not known.
    pub minimum_io: u32,
    /// I/O size that performs best, 0 if not known.
    pub optimal_io: u32,
}

/// An opened image.
pub trait Disk: Send + Sync {
    /// Size in bytes, a multiple of 512.
    fn capacity(&self) -> u64;
    /// Its sectors.
    fn topology(&self) -> Topology;
    /// How its lanes work.
    fn engine(&self) -> Engine;
    /// The engines that would have been better than [`Disk::engine`], and why each is not used: for the log and
    /// `vm.info`.
    fn passed_over(&self) -> &[PassedOver] {
        &[]
    }
    /// It can only be read.
    fn is_read_only(&self) -> bool;
    /// Nobody said that the image is raw; it only looks like it. A guest that may write the first 512 bytes could make
    /// it look like another format, with names of files of the host in it, to be opened the next time. Whoever serves
    /// the guest refuses writes there.
    fn protects_first_sector(&self) -> bool {
        false
    }
    /// [`Operation::WriteZeroes`] works without zeros being sent. Where it does not, it works all the same.
    fn can_write_zeroes(&self) -> bool;
    /// [`Operation::Discard`] gives space back. Where it does not, it does nothing.
    fn can_discard(&self) -> bool;
    /// What the image was found to contradict itself in while it was used, if it was: nothing is written to it any more,
    /// and requests that would change it are errors. A format that has a mark for that has it in the file. Formats
    /// without tables have nothing that could be found.
    fn damage(&self) -> Option<String> {
        None
    }
    /// Opens a way for up to `depth` requests at a time.
    ///
    /// # Errors
    /// If the engine cannot be set up.
    fn lane(&self, depth: u16) -> io::Result<Box<dyn Lane>>;
    /// Changes the size, in bytes. Lanes that are open see it at once.
    ///
    /// # Errors
    /// If the image cannot have this size, or is not ours to change.
    fn resize(&self, capacity: u64) -> io::Result<()>;
    /// By what the kernel knows the image, for the default serial number: device, special device and inode number
    /// (stat(2)).
    ///
    /// # Errors
    /// If the kernel cannot say.
    fn identity(&self) -> io::Result<(u64, u64, u64)>;
}

impl fmt::Debug for dyn Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("capacity", &self.capacity())
            .field("engine", &self.engine())
            .field("read_only", &self.is_read_only())
            .finish_non_exhaustive()
    }
}
