//! What the user asks for, and whether it can be at all.

use crate::Error;

/// How RAM is backed: the keys of `--memory` and `--memory-zone` of the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamOptions {
    /// Other processes can map it (vhost-user backends, local migration). Default: off.
    pub shared: bool,
    /// Take it from the host's pool of huge pages. They are shared whatever
    /// [`shared`](Self::shared) says. Default: off.
    pub hugepages: Option<HugePages>,
    /// [`GuestRam::prefault`](crate::GuestRam::prefault) allocates all of it before the guest runs.
    /// Default: off.
    pub prefault: bool,
    /// Ask for transparent huge pages, for private and shared memory alike. Without meaning for
    /// [`hugepages`](Self::hugepages). Default: on. Off leaves the host's own setting.
    pub thp: bool,
    /// Let the kernel merge pages that are equal (KSM). Private memory of small pages only.
    /// Default: off.
    pub mergeable: bool,
    /// The host promises the memory at start, or the start fails. For private memory the kernel
    /// counts it against its limit. A memory file is never counted before it is filled, so shared
    /// memory is allocated by [`GuestRam::prefault`](crate::GuestRam::prefault). Huge pages are
    /// always set aside at start. Default: off.
    pub reserve: bool,
}

impl Default for RamOptions {
    fn default() -> Self {
        Self {
            shared: false,
            hugepages: None,
            prefault: false,
            thp: true,
            mergeable: false,
            reserve: false,
        }
    }
}

/// Huge pages of the host's pool (`hugepages=on`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Size of one in bytes, a power of two; the host's default size if not given.
    pub size: Option<u64>,
}

/// A range of guest physical addresses that is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// First guest address; a multiple of the host's page size.
    pub start: u64,
    /// Length in bytes; a multiple of the size of the page that backs it, and not 0.
    pub size: u64,
}

impl RamOptions {
    /// Refuses what cannot be combined.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.mergeable && self.shared {
            return Err(Error::SharedMergeable);
        }
        if self.mergeable && self.hugepages.is_some() {
            return Err(Error::HugePagesMergeable);
        }
        if let Some(HugePages { size: Some(size) }) = self.hugepages
            && !size.is_power_of_two()
        {
            return Err(Error::HugePageSize { size });
        }
        Ok(())
    }

    /// RAM is a memory file, mapped shared.
    pub(crate) fn in_file(&self) -> bool {
        self.shared || self.hugepages.is_some()
    }

    /// All of it is to be allocated before the guest runs.
    pub(crate) fn populate(&self) -> bool {
        // Nothing but its pages makes the kernel count a memory file, so they are what reserving
        // means there. Huge pages are set aside when they are mapped.
        self.prefault || (self.reserve && self.shared && self.hugepages.is_none())
    }
}

/// Checks the layout of `regions` apart from page sizes, and returns it sorted by address together
/// with the sum of its sizes.
pub(crate) fn check_layout(regions: &[RegionSpec]) -> Result<(Vec<RegionSpec>, u64), Error> {
    let mut sorted = regions.to_vec();
    sorted.sort_by_key(|region| region.start);
    if sorted.is_empty() {
        return Err(Error::NoRegions);
    }
    let mut total = 0u64;
    let mut previous: Option<RegionSpec> = None;
    for region in &sorted {
        let RegionSpec { start, size } = *region;
        let too_large = Error::TooLarge { start, size };
        if size == 0 {
            return Err(Error::EmptyRegion { start });
        }
        // The host's offsets are signed: nothing above i64::MAX can be mapped from a file.
        if start.checked_add(size).is_none() || i64::try_from(size).is_err() {
            return Err(too_large);
        }
        if let Some(lower) = previous
            && lower.start + lower.size > start
        {
            return Err(Error::Overlap {
                first: lower.start,
                second: start,
            });
        }
        total = total
            .checked_add(size)
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or(too_large)?;
        previous = Some(*region);
    }
    Ok((sorted, total))
}

/// Checks that `regions` consist of whole pages. `page_size` backs them, `host_page` is the host's
/// small page.
pub(crate) fn check_pages(
    regions: &[RegionSpec],
    page_size: u64,
    host_page: u64,
) -> Result<(), Error> {
    for &RegionSpec { start, size } in regions {
        if !start.is_multiple_of(host_page) {
            return Err(Error::UnalignedStart {
                start,
                page_size: host_page,
            });
        }
        if !size.is_multiple_of(page_size) {
            return Err(Error::UnalignedSize {
                start,
                size,
                page_size,
                huge: page_size != host_page,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
