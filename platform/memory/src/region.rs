//! One range of guest addresses and the mapping behind it, as `vm-memory` wants to see it.

use std::sync::Arc;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::Result;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

use crate::Mapping;

/// All RAM of a guest, for `vm-memory`'s traits and for the crates that build on them.
///
/// What `vm-memory` itself calls by this name cannot place a mapping at an address of our choice
/// and own it at the same time; this is the same collection over [`Region`]s, which do. Cloning
/// copies one reference count per region.
pub type GuestMemoryMmap = GuestRegionCollection<Region>;

/// A range of guest addresses that is RAM, and the host memory behind it. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Region {
    /// `start + mapping.size()` does not overflow; [`crate::GuestRam::new`] is the only maker.
    start: u64,
    mapping: Arc<Mapping>,
}

impl Region {
    pub(crate) fn new(start: u64, mapping: Mapping) -> Self {
        debug_assert!(
            start.checked_add(mapping.size()).is_some(),
            "the layout was checked"
        );
        Self {
            start,
            mapping: Arc::new(mapping),
        }
    }

    /// First guest address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.mapping.size()
    }

    /// The host memory behind it.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl GuestMemoryRegion for Region {
    // Pages written by devices are not tracked yet; the bitmap of `DirtyPages` will be this type.
    type B = ();

    fn len(&self) -> GuestUsize {
        self.mapping.size()
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start)
    }

    fn bitmap(&self) -> BS<'_, Self::B> {}

    fn get_host_address(&self, address: MemoryRegionAddress) -> Result<*mut u8> {
        let offset = self
            .check_address(address)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        Ok(self
            .mapping
            .slice(offset.0, 0)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?
            .ptr_guard_mut()
            .as_ptr())
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.mapping.file_offset()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, Self::B>>> {
        self.mapping
            .slice(offset.0, count)
            .ok_or(GuestMemoryError::InvalidBackendAddress)
    }

    fn is_hugetlbfs(&self) -> Option<bool> {
        Some(self.mapping.huge_pages())
    }
}

impl GuestMemoryRegionBytes for Region {}
