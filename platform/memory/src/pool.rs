//! The host's pools of huge pages: there is one per page size, filled by the administrator.
//!
//! The kernel describes them in `/sys/kernel/mm/hugepages`
//! (Documentation/admin-guide/mm/hugetlbpage.rst). They are read only to explain a refusal, never
//! on the way to a guest that starts.

use std::fs;
use std::path::Path;

use crate::error::Size;

/// Where the kernel describes its pools.
pub(crate) const DIRECTORY: &str = "/sys/kernel/mm/hugepages";

/// How full the pool of one page size is, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    /// All pages of the pool.
    pub(crate) total: u64,
    /// Pages that are neither used nor promised to someone.
    pub(crate) free: u64,
}

impl Pool {
    /// Reads the pool of pages of `page_size` bytes. `None` if there is no such pool.
    pub(crate) fn read(directory: &Path, page_size: u64) -> Option<Self> {
        let pool = directory.join(format!("hugepages-{}kB", page_size >> 10));
        let number = |name| -> Option<u64> {
            fs::read_to_string(pool.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let (total, free, promised) = (
            number("nr_hugepages")?,
            number("free_hugepages")?,
            number("resv_hugepages")?,
        );
        Some(Self {
            total,
            free: free.saturating_sub(promised),
        })
    }
}

/// The page sizes that this host has pools for, in words, smallest first.
pub(crate) fn supported(directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            kib.checked_mul(1024)
        })
        .collect();
    sizes.sort_unstable();
    if sizes.is_empty() {
        return "none".to_owned();
    }
    sizes
        .iter()
        .map(|size| Size(*size).to_string())
        .collect::<Vec<_>>()
        .join(" or ")
}

#[cfg(test)]
mod tests;
