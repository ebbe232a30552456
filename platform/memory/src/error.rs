//! Why guest RAM could not be had or used.

use std::fmt;
use std::io;

/// Why guest RAM could not be had or used. Each message says which option changes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No region was given.
    #[error("the guest has no RAM: set --memory size")]
    NoRegions,
    /// A region has no bytes.
    #[error("the RAM region at guest address {start:#x} is empty: set --memory size")]
    EmptyRegion {
        /// First guest address.
        start: u64,
    },
    /// A region's size is not a multiple of the page that backs it.
    #[error(
        "the RAM region at guest address {start:#x} has {size} bytes, which is not a multiple of its {} \
         pages: change --memory size{}", Size(*.page_size), huge_hint(*.huge)
    )]
    UnalignedSize {
        /// First guest address.
        start: u64,
        /// Length in bytes.
        size: u64,
        /// Size of the backing page in bytes.
        page_size: u64,
        /// The pages are huge pages that were asked for.
        huge: bool,
    },
    /// A region does not start at the start of a page.
    #[error(
        "the RAM region at guest address {start:#x} does not start at a multiple of the {} page",
        Size(*.page_size)
    )]
    UnalignedStart {
        /// First guest address.
        start: u64,
        /// Size of the host's page in bytes.
        page_size: u64,
    },
    /// A region ends beyond what the guest or this host can address.
    #[error(
        "{} of RAM at guest address {start:#x} do not fit in the address space: lower --memory size",
        Size(*.size)
    )]
    TooLarge {
        /// First guest address.
        start: u64,
        /// Length in bytes.
        size: u64,
    },
    /// Two regions share addresses.
    #[error("the RAM regions at guest addresses {first:#x} and {second:#x} overlap")]
    Overlap {
        /// Start of the lower region.
        first: u64,
        /// Start of the higher region.
        second: u64,
    },
    /// `shared=on` with `mergeable=on`.
    #[error(
        "shared RAM cannot be merged, since the kernel merges private pages only: shared=off or mergeable=off"
    )]
    SharedMergeable,
    /// `hugepages=on` with `mergeable=on`.
    #[error(
        "huge pages cannot be merged, since the kernel merges small pages only: hugepages=off or mergeable=off"
    )]
    HugePagesMergeable,
    /// The huge page size is not a power of two.
    #[error("a huge page of {size} bytes cannot be: hugepage_size must be a power of two")]
    HugePageSize {
        /// What was asked for, in bytes.
        size: u64,
    },
    /// This host has no huge pages, or none of that size.
    #[error(
        "this host has no huge pages{} (it has {supported}): change hugepage_size, or hugepages=off",
        of_size(*.size)
    )]
    HugePagesUnsupported {
        /// What was asked for, in bytes; nothing for the host's default.
        size: Option<u64>,
        /// The sizes there are, in words.
        supported: String,
    },
    /// The pool of huge pages has too few of them.
    #[error(
        "too few free {page} huge pages on this host (need {needed}, free {free}): \
         echo {enough} > /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages, or hugepages=off",
        page = Size(*.page_size), kib = .page_size >> 10, enough = .total.saturating_add(needed.saturating_sub(*.free))
    )]
    HugePagePool {
        /// Size of one page in bytes.
        page_size: u64,
        /// How many pages the guest's RAM takes.
        needed: u64,
        /// How many the pool can still give.
        free: u64,
        /// How many the pool has, used or not.
        total: u64,
    },
    /// The host does not map that much.
    #[error(
        "the host cannot map {} of guest RAM: lower --memory size, or raise what limits it (ulimit -v, \
         vm.overcommit_memory)", Size(*.size)
    )]
    Map {
        /// Length in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host cannot promise that much memory.
    #[error(
        "the host cannot set aside {} for guest RAM: lower --memory size, or reserve=off to take memory as the \
         guest uses it", Size(*.size)
    )]
    Reserve {
        /// Length in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory file of shared RAM or huge pages could not be made.
    #[error("cannot make a memory file of {} for guest RAM ({step})", Size(*.size))]
    SharedFile {
        /// The system call that failed.
        step: &'static str,
        /// Length in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// This host's kernel does not merge pages.
    #[error("this host's kernel cannot merge pages (it has no KSM): mergeable=off")]
    NoMerging,
    /// The kernel refused a property of the mapping.
    #[error("the host's kernel refused {advice} for guest RAM ({option})")]
    Advise {
        /// The advice of `madvise(2)`.
        advice: &'static str,
        /// The option it is for, and how to do without.
        option: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A range is not within RAM, or only in part. Nothing was read or written.
    #[error("{length} bytes at guest address {address:#x} are not all RAM")]
    OutOfRange {
        /// First guest address.
        address: u64,
        /// Length in bytes.
        length: u64,
    },
    /// A file ended before the bytes that were asked for.
    #[error(
        "the file ends {missing} bytes short of the {length} bytes at offset {offset} to load at guest address {address:#x}"
    )]
    FileEnd {
        /// First byte in the file.
        offset: u64,
        /// How many bytes were asked for.
        length: u64,
        /// How many of them the file does not have.
        missing: u64,
        /// Where they were to go.
        address: u64,
    },
    /// A file could not be read into RAM.
    #[error("cannot read {length} bytes at file offset {offset} to guest address {address:#x}")]
    File {
        /// First byte in the file.
        offset: u64,
        /// How many bytes were asked for.
        length: u64,
        /// Where they were to go.
        address: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host did not take back memory that the guest does not need.
    #[error("the host's kernel did not take back {} of guest RAM", Size(*.size))]
    Discard {
        /// Length in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Private copies of a file's pages were asked for, of memory that has none.
    #[error(
        "memory with shared=on or hugepages=on cannot be private copies of a file's pages: restore it with \
         memory_restore_mode=copy"
    )]
    NotOverFile,
    /// A file of RAM's contents has another size than RAM.
    #[error("the file with the contents of guest RAM has {found} bytes instead of {wanted}")]
    ContentsSize {
        /// Length of the file in bytes.
        found: u64,
        /// Size of RAM in bytes.
        wanted: u64,
    },
    /// The contents of RAM could not be written to a file, or what is in a file be found out.
    #[error("cannot {act} the file with the contents of guest RAM")]
    Contents {
        /// What failed: `write`, `look through`.
        act: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Memory that lies over no file has no changes to it.
    #[error(
        "guest RAM does not lie over a file of its contents, so that nothing says what was changed"
    )]
    NoBase,
    /// Which pages were changed is not known.
    #[error(
        "cannot tell which pages of guest RAM were changed: /proc/self/pagemap cannot be read (with Landlock it cannot)"
    )]
    Changes {
        /// What the kernel said.
        source: io::Error,
    },
    /// What is written to RAM cannot be watched.
    #[error("cannot watch what is written to guest RAM (it needs Linux 6.7)")]
    Watch {
        /// What the kernel said.
        source: io::Error,
    },
    /// A part of a layer is not whole pages of RAM, or not behind the one before.
    #[error("a layer of guest RAM has bytes {start:#x} to {end:#x}, which are no pages of it")]
    LayerPart {
        /// First byte.
        start: u64,
        /// One behind the last byte.
        end: u64,
    },
    /// What RAM is to have from a file cannot be read.
    #[error("cannot read bytes {start:#x} to {end:#x} of {}", .path.display())]
    SavedBlock {
        /// The file.
        path: std::path::PathBuf,
        /// First byte.
        start: u64,
        /// One behind the last byte.
        end: u64,
        /// Why.
        source: io::Error,
    },
    /// What RAM is to have from a file is not what was written there.
    #[error("bytes {start:#x} to {end:#x} of {} are not what was saved: the file is damaged", .path.display())]
    SavedSum {
        /// The file.
        path: std::path::PathBuf,
        /// First byte.
        start: u64,
        /// One behind the last byte.
        end: u64,
    },
    /// The kernel does not let this process serve faults of its memory.
    #[error(
        "the host's kernel does not let the monitor serve page faults: give it read and write access to \
         /dev/userfaultfd (Linux 6.1) or CAP_SYS_PTRACE, or set the sysctl vm.unprivileged_userfaultfd=1; \
         memory_restore_mode=copy or mapped does without"
    )]
    UserFault(#[source] io::Error),
    /// Memory that was to come page by page cannot.
    #[error("guest RAM cannot come page by page any more: the kernel refused a page")]
    Install(#[source] io::Error),
    /// Memory of huge pages cannot come page by page.
    #[error(
        "memory with hugepages=on cannot be restored with memory_restore_mode=ondemand, because a huge page would \
         have to be read as a whole when a byte of it is touched: use copy"
    )]
    HugePagesOnDemand,
    /// Layers have too many pieces.
    #[error("guest RAM would consist of more than {most} pieces of files")]
    Pieces {
        /// The most that there can be.
        most: usize,
    },
    /// Memory that is not shared, or has huge pages, cannot be frozen.
    #[error(
        "only memory with shared=on, and without hugepages=on, can be frozen for others to go on from"
    )]
    NotShared,
    /// The kernel does not let memory be frozen.
    #[error("the memory file of the guest cannot be frozen for others to go on from")]
    Freeze {
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of RAM's contents can be changed by others.
    #[error(
        "the file with the contents of guest RAM is not sealed: others could change or shorten it"
    )]
    NotSealed,
    /// A file cannot be mapped as memory of the guest.
    #[error("the host cannot map {} of a file as guest memory", Size(*.size))]
    MapFile {
        /// Length in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host has no memory to put behind all of RAM before the guest runs.
    #[error(
        "cannot allocate {} of guest RAM ahead of use: lower --memory size, or prefault=off",
        Size(*.size)
    )]
    Prefault {
        /// Length of the part that failed, in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel is too old to allocate guest RAM ahead of use.
    #[error("allocating guest RAM ahead of use needs Linux 5.14 on this host: prefault=off")]
    PrefaultUnsupported,
    /// No thread to allocate guest RAM ahead of use.
    #[error(
        "cannot start a thread that allocates guest RAM ahead of use (prefault=off does without)"
    )]
    PrefaultThread(#[source] io::Error),
}

/// A number of bytes, in the largest unit that divides it.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let exact = units
            .iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

fn huge_hint(huge: bool) -> &'static str {
    if huge { " or hugepage_size" } else { "" }
}

fn of_size(size: Option<u64>) -> String {
    size.map_or(String::new(), |size| format!(" of {}", Size(size)))
}
