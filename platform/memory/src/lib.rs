//! Guest RAM.
//!
//! To a guest, RAM is bytes at physical addresses. To the host it is memory of the monitor's own
//! process: each [`Region`] of guest addresses is one [`Mapping`], obtained with `mmap(2)`. A read
//! of guest address `region.start() + n` is a read of byte `n` of the mapping. The hypervisor is
//! told of the same mappings, so the guest reads and writes them without the monitor taking part.
//! Two things follow:
//!
//! - The bytes can change at any moment. No reference into guest memory is ever made; everything
//!   goes through [`VolatileSlice`] and copies.
//! - A mapping must outlive everyone who uses it. Regions, the guest memory of devices and the
//!   hypervisor's memory slots each hold the mapping by reference count; the last one to go unmaps
//!   it.
//!
//! [`GuestRam`] is the handle: build it with the [`RegionSpec`]s of the memory map and the
//! [`RamOptions`] of `--memory`, clone it freely, read and write through it. Devices that work on
//! descriptor chains take [`GuestRam::memory`], which implements the traits of the `vm-memory`
//! crate.
//!
//! ```
//! use memory::{GuestRam, RamOptions, RegionSpec};
//!
//! let ram = GuestRam::new(&[RegionSpec { start: 0, size: 64 << 20 }], &RamOptions::default())?;
//! let prefault = ram.prefault()?; // touches pages on other threads, if that was asked for
//! ram.write(0x2_0000, b"console=ttyS0\0")?;
//! prefault.join()?;
//! # Ok::<(), memory::Error>(())
//! ```
//!
//! # What backs it
//!
//! | Options | Mapping | Backing page |
//! |---|---|---|
//! | none | private, anonymous | the host's page; 2 MiB if `thp` finds one |
//! | `shared` | shared, of an unnamed memory file (`memfd_create(2)`) | the same |
//! | `hugepages` | shared, of a memory file of huge pages | the huge page, set aside at start |
//!
//! Huge pages are always a shared file, so that a vhost-user backend can be given it: "shared or
//! hugepages" is what such devices ask for, and [`Mapping::file`] is how they get it. The files are
//! sealed against change of size, because a peer that shortened one would kill the monitor with
//! `SIGBUS`.
//!
//! What was asked for is had or refused ([`Error`]); nothing is replaced silently. The one option
//! that is a wish is `thp`, on unless turned off: a kernel without transparent huge pages still
//! runs the guest, and [`Mapping::transparent_huge_pages`] says so.
//!
//! A file of the host's can be mapped for the guest as well ([`Mapping::of_file`]): persistent memory. It is not
//! RAM, and not part of [`GuestRam`].
//!
//! # Contents in a file
//!
//! [`GuestRam::write_contents`] writes all of RAM to a file, one region after the other, and leaves holes where pages
//! are empty. Such a file becomes RAM again by [`GuestRam::over_file`], where the kernel reads pages when they are
//! touched and shares them among all who map the file, or is copied by [`GuestRam::read_blocks`]. What was changed
//! since can be written alone ([`GuestRam::changed`], [`GuestRam::write_layer`]), and lie above the file later
//! ([`GuestRam::over_layers`]).
//!
//! # Giving memory back
//!
//! [`GuestRam::discard`] drops the contents of pages that the guest does not need (a balloon, reported free
//! pages). It goes by whole backing pages: nothing smaller than a huge page comes back to the pool of huge pages.
//!
//! # System calls
//!
//! A private region costs `mmap` and two `madvise`; where the kernel does not align it, at most four
//! more. A memory file adds `memfd_create`, `ftruncate` and `fcntl`, once for all regions. Beyond
//! those and `munmap`, `pread` and `madvise` (with threads) are called only by
//! [`GuestRam::read_from_file`] and [`GuestRam::prefault`], `madvise` by [`GuestRam::discard`], and `/sys/kernel/mm/hugepages` is read
//! only to explain a refusal.

mod blocks;
mod contents;
mod error;
mod fork;
mod layers;
mod mapping;
mod ondemand;
mod options;
mod pool;
mod prefault;
mod ram;
mod region;
mod shared_file;
#[cfg(test)]
mod testing;
mod userfault;
mod vectors;
mod watch;
mod window;

pub use blocks::{Blocks, SavedFile};
pub use contents::{RangeInFile, Written};
pub use error::Error;
pub use layers::Layer;
pub use mapping::{FileWrites, Mapping, WATCH_IOCTLS};
pub use ondemand::Pager;
pub use options::{HugePages, RamOptions, RegionSpec};
pub use prefault::Prefault;
pub use ram::GuestRam;
pub use region::{GuestMemoryMmap, Region};
pub use userfault::{USERFAULT_DEVICE, USERFAULT_IOCTLS};
pub use vectors::{IoVectors, MOST_VECTORS};
pub use watch::{Draft, Watch};
pub use window::{View, Window};

pub use vm_memory;
pub use vm_memory::{Bytes, GuestAddress, GuestMemory, VolatileSlice};
