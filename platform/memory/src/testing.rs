//! What the tests look at the host with.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{GuestRam, Mapping, RamOptions, RegionSpec};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// RAM with a hole in it, as guests of more than 3 GiB have it.
pub(crate) const LAYOUT: [RegionSpec; 2] = [
    RegionSpec {
        start: 0,
        size: 8 * MIB,
    },
    RegionSpec {
        start: 4 * GIB,
        size: 4 * MIB,
    },
];

/// RAM of `size` bytes at guest address 0.
pub(crate) fn ram(size: u64, options: &RamOptions) -> GuestRam {
    GuestRam::new(&[RegionSpec { start: 0, size }], options).unwrap()
}

/// The mapping of a guest's first region.
pub(crate) fn first(ram: &GuestRam) -> std::sync::Arc<Mapping> {
    std::sync::Arc::clone(ram.regions().next().unwrap().mapping())
}

/// What `/proc/self/smaps` says of the mapping: the line of its range first.
pub(crate) fn smaps(mapping: &Mapping) -> Vec<String> {
    let address = mapping.address().addr();
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let range = line
            .split_once(' ')
            .and_then(|(range, _)| range.split_once('-'));
        if let Some((start, end)) = range {
            let start = usize::from_str_radix(start, 16).unwrap();
            let end = usize::from_str_radix(end, 16).unwrap();
            inside = (start..end).contains(&address);
        }
        if inside {
            found.push(line.to_owned());
        }
    }
    assert!(!found.is_empty(), "no mapping at {address:#x}");
    found
}

/// The kernel's two-letter flags of the mapping (proc_pid_smaps(5), `VmFlags`).
pub(crate) fn flags(mapping: &Mapping) -> Vec<String> {
    let smaps = smaps(mapping);
    let line = smaps
        .iter()
        .find_map(|line| line.strip_prefix("VmFlags:"))
        .unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn has(mapping: &Mapping, flag: &str) -> bool {
    flags(mapping).iter().any(|one| one == flag)
}

/// How many of the mapping's small pages are in memory.
pub(crate) fn resident_pages(mapping: &Mapping) -> usize {
    let size = usize::try_from(mapping.size()).unwrap();
    let mut pages = vec![0u8; size.div_ceil(4096)];
    // SAFETY: the range is mapped, and there is a byte per page of it.
    let result = unsafe { libc::mincore(mapping.address().cast(), size, pages.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    pages.iter().filter(|page| **page & 1 != 0).count()
}

/// The virtual size of this process in bytes.
pub(crate) fn virtual_size() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

/// Runs `body` in a process in which nothing else runs. `test` is the path of the calling test.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    const MARK: &str = "MEMORY_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Lets the host have 2 MiB huge pages beyond its pool for as long as it lives.
pub(crate) struct Surplus {
    before: String,
    _alone: MutexGuard<'static, ()>,
}

impl Surplus {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";

    /// `None`, with a note, if we may not change the host.
    pub(crate) fn of(pages: u64) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fs::read_to_string(Self::FILE).ok()?;
        if fs::write(Path::new(Self::FILE), pages.to_string()).is_err() {
            eprintln!("not run: may not write {}", Self::FILE);
            return None;
        }
        Some(Self {
            before,
            _alone: alone,
        })
    }
}

impl Drop for Surplus {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, self.before.trim());
    }
}
