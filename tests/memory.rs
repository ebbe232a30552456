//! `--memory`: what the guest's RAM is made of, as the host's kernel shows it in `/proc`.
//!
//! The guests are payloads of a few instructions, so this runs on any KVM. The kernel marks
//! the monitor's RAM by itself: it is what is left out of core dumps (`dd` in `smaps`) and is not
//! a device. The letters are those of proc(5), "VmFlags".

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testkit::payload::Payload;
use testkit::{Exit, Vm};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A guest that says "ready" and then only waits.
fn start(memory: &str, options: &[&str]) -> Vm {
    let (vm, started) = spawn(memory, options);
    started.unwrap();
    vm
}

/// Whether the guest ran comes with it.
fn spawn(memory: &str, options: &[&str]) -> (Vm, testkit::Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("payload");
    Payload::new()
        .print_e9("ready\n")
        .elf()
        .write(&kernel)
        .unwrap();
    let builder = Vm::builder()
        .kernel(&kernel)
        .memory(memory)
        .arg("--debug-console", "tty");
    let builder = options.iter().fold(builder, |all, flag| all.flag(flag));
    let mut vm = builder.spawn().unwrap();
    // The file may go once it was read or the monitor ended.
    let started = vm.wait_for("ready", 60);
    (vm, started)
}

/// One range of the monitor's addresses.
#[derive(Debug)]
struct Area {
    first: u64,
    size: u64,
    name: String,
    /// Numbers in bytes, by the words of `smaps`.
    numbers: BTreeMap<String, u64>,
    flags: Vec<String>,
}

impl Area {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    fn number(&self, name: &str) -> u64 {
        self.numbers[name]
    }
}

/// Areas that are guest RAM, in the order of their addresses.
fn ram(vm: &Vm) -> Vec<Area> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps", vm.pid())).unwrap();
    let mut areas: Vec<Area> = Vec::new();
    for line in text.lines() {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key.strip_suffix(':') {
            None => areas.push(area(key, rest)),
            Some("VmFlags") => {
                areas.last_mut().unwrap().flags =
                    rest.split_whitespace().map(str::to_owned).collect();
            }
            Some(name) => {
                if let Some(kib) = rest.trim().strip_suffix(" kB") {
                    let bytes = kib.parse::<u64>().unwrap() * 1024;
                    let numbers = &mut areas.last_mut().unwrap().numbers;
                    numbers.insert(name.to_owned(), bytes);
                }
            }
        }
    }
    areas.retain(|area| area.has("dd") && !area.has("io"));
    areas
}

/// The line that begins an area: `first-end access offset device inode name`.
fn area(range: &str, rest: &str) -> Area {
    let (first, end) = range.split_once('-').unwrap();
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    Area {
        first: number(first),
        size: number(end) - number(first),
        name: rest
            .split_whitespace()
            .skip(4)
            .collect::<Vec<_>>()
            .join(" "),
        numbers: BTreeMap::new(),
        flags: Vec::new(),
    }
}

fn total(areas: &[Area]) -> u64 {
    areas.iter().map(|area| area.size).sum()
}

/// Starts a guest that cannot be, and returns what the monitor says about it.
fn refused(memory: &str) -> String {
    refused_with(memory, &[])
}

fn refused_with(memory: &str, options: &[&str]) -> String {
    let (mut vm, _) = spawn(memory, options);
    assert_eq!(vm.wait_exit(30).unwrap(), Exit::Code(1), "{memory}");
    assert_eq!(
        vm.console(),
        "",
        "{memory}: no instruction of the guest ran"
    );
    vm.stderr()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn ram_has_the_size_that_was_asked_for() {
    // Below the hole for devices, up to its edge, and on both sides of it.
    for (memory, expected) in [
        ("size=128M", 128 * MIB),
        ("size=3G", 3 * GIB),
        ("size=5G", 5 * GIB),
        ("size=5368709120", 5 * GIB),
    ] {
        assert_eq!(total(&ram(&start(memory, &[]))), expected, "{memory}");
    }
}

#[test]
fn private_ram_is_unreserved_wants_large_pages_and_stays_out_of_core_dumps() {
    let vm = start("size=256M", &[]);
    let areas = ram(&vm);
    assert_eq!(total(&areas), 256 * MIB);
    let area = &areas[0];
    assert_eq!(area.name, "", "anonymous");
    // (dd is how the areas were found.)
    for (flag, expected) in [("nr", true), ("hg", true), ("mg", false), ("sh", false)] {
        assert_eq!(area.has(flag), expected, "{flag}: {area:?}");
    }
    let rss = area.number("Rss");
    assert!(rss < 16 * MIB, "a guest that does nothing has {rss} bytes");
}

#[test]
fn the_options_are_flags_of_the_mapping() {
    let cases = [
        ("reserve=on", "nr", false),
        ("thp=off", "hg", false),
        ("thp=on", "hg", true),
        ("mergeable=on", "mg", true),
        ("shared=on", "sh", true),
        ("shared=on,thp=on", "hg", true),
        ("shared=on,thp=off", "hg", false),
    ];
    for (options, flag, expected) in cases {
        let vm = start(&format!("size=64M,{options}"), &[]);
        let areas = ram(&vm);
        assert_eq!(total(&areas), 64 * MIB, "{options}");
        assert_eq!(areas[0].has(flag), expected, "{options}: {:?}", areas[0]);
    }
}

#[test]
fn shared_ram_is_one_memory_file_that_nobody_can_resize() {
    let vm = start("size=5G,shared=on", &[]);
    let areas = ram(&vm);
    assert_eq!(total(&areas), 5 * GIB, "{areas:?}");
    for area in &areas {
        assert!(area.name.starts_with("/memfd:"), "{area:?}");
        assert!(area.has("sh"), "{area:?}");
    }
    let files = memory_files(&vm);
    assert_eq!(files.len(), 1, "{files:?}");
    // Somebody who has the descriptor, as a vhost-user backend will, sees all of it.
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&files[0])
        .unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5 * GIB);
    let error = file.set_len(GIB).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}

/// The monitor's descriptors of memory files, as paths that open them.
fn memory_files(vm: &Vm) -> Vec<PathBuf> {
    let folder = format!("/proc/{}/fd", vm.pid());
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| {
            std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
        })
        .collect()
}

#[test]
fn prefault_allocates_all_of_it_before_the_guest_runs() {
    let cases = [
        // Above the hole as well, so that every region is seen to.
        (3328, "prefault=on"),
        (256, "prefault=on,thp=off"),
        (256, "prefault=on,shared=on"),
        // Nothing else makes the kernel count shared memory.
        (256, "reserve=on,shared=on"),
    ];
    for (mib, options) in cases {
        let vm = start(&format!("size={mib}M,{options}"), &[]);
        let rss: u64 = ram(&vm).iter().map(|area| area.number("Rss")).sum();
        assert_eq!(rss, mib * MIB, "{options}");
    }
}

#[test]
fn several_threads_prefault_at_once() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("payload");
    Payload::new().elf().write(&kernel).unwrap();
    let vm = Vm::builder()
        .kernel(&kernel)
        .memory("size=2G,prefault=on,thp=off")
        .spawn()
        .unwrap();
    let mut most = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while most < cpus.min(2) && Instant::now() < deadline {
        let names = thread_names(vm.pid());
        let workers = names.iter().filter(|name| name.starts_with("prefault_"));
        most = most.max(workers.count());
    }
    assert!(most >= cpus.min(2), "{most} threads on {cpus} processors");
}

fn thread_names(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    // Threads may end between listing and reading.
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect()
}

/// What the host has in its pool of 2 MiB pages.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Gives the host's pool this many pages for as long as it lives.
struct Pool {
    before: String,
}

impl Pool {
    /// `None`, and why on standard error, on a host that does not have or give them.
    fn of(pages: u64) -> Option<Self> {
        let file = Path::new(POOL).join("nr_hugepages");
        let before = std::fs::read_to_string(&file).ok()?;
        let pool = Self { before };
        let wanted = pool.before.trim().parse::<u64>().ok()? + pages;
        if let Err(error) = std::fs::write(&file, wanted.to_string()) {
            eprintln!("skipped: cannot grow the pool of huge pages: {error}");
            return None;
        }
        let now = free_pages("nr_hugepages");
        if now < wanted {
            eprintln!("skipped: the host gives {now} of {wanted} huge pages");
            return None;
        }
        Some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(Path::new(POOL).join("nr_hugepages"), self.before.trim());
    }
}

fn free_pages(which: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new(POOL).join(which)).unwrap();
    text.trim().parse().unwrap()
}

/// One test for all that needs the pool: the host has only one.
#[test]
fn huge_pages_come_from_the_hosts_pool_or_the_guest_does_not_start() {
    if Path::new(POOL).exists() && free_pages("free_hugepages") < 1000 {
        let text = refused("size=2G,hugepages=on,hugepage_size=2M");
        assert_says(
            &text,
            &["too few free 2 MiB huge pages", "need 1024", "nr_hugepages"],
        );
    }
    let Some(_pool) = Pool::of(64) else { return };
    let free = free_pages("free_hugepages");
    for options in [
        "hugepages=on,hugepage_size=2M",
        "hugepages=on,hugepage_size=2M,shared=on",
    ] {
        let vm = start(&format!("size=64M,{options}"), &[]);
        let areas = ram(&vm);
        assert_eq!(total(&areas), 64 * MIB, "{options}");
        let area = &areas[0];
        assert_eq!(area.number("KernelPageSize"), 2 * MIB, "{options}");
        // Shared, so that a vhost-user backend can have it, and set aside at start.
        assert!(area.has("ht") && area.has("sh"), "{options}: {area:?}");
        let taken = free_pages("free_hugepages") - free_pages("resv_hugepages");
        assert_eq!(free - taken, 32, "{options}");
    }
    let vm = start("size=64M,hugepages=on,hugepage_size=2M,prefault=on", &[]);
    let area = &ram(&vm)[0];
    assert_eq!(
        area.number("Shared_Hugetlb") + area.number("Private_Hugetlb"),
        64 * MIB
    );
    drop(vm);
    let text = refused("size=1G,hugepages=on,hugepage_size=2M");
    assert_says(&text, &["too few free 2 MiB huge pages", "need 512"]);
}

#[test]
fn memory_that_the_host_does_not_have_is_mapped_unreserved() {
    for options in ["", ",shared=on"] {
        let vm = start(&format!("size=100G{options}"), &[]);
        let areas = ram(&vm);
        assert_eq!(total(&areas), 100 * GIB, "{areas:?}");
    }
}

#[test]
fn the_largest_guest_pages_fit_the_largest_host_pages() {
    // KVM maps 2 MiB at once only where guest and host addresses agree modulo 2 MiB; both regions
    // of the guest start at such an address.
    for memory in ["size=4G", "size=4G,shared=on"] {
        let vm = start(memory, &[]);
        for area in ram(&vm) {
            assert_eq!(area.first % (2 * MIB), 0, "{memory}: {area:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_before_the_guest_runs() {
    let cases: &[(&str, &[&str])] = &[
        ("size=0", &["--memory", "size=0"]),
        (
            "size=64M,shared=on,mergeable=on",
            &["shared=on", "mergeable=on"],
        ),
        (
            "size=64M,hugepages=on,mergeable=on",
            &["huge pages", "merge"],
        ),
        ("size=64M,hugepage_size=2M", &["hugepages=on"]),
        ("size=64M,hugepages=on,hugepage_size=3M", &["power of two"]),
        (
            "size=64M,hugepages=on,hugepage_size=64K",
            &["64 KiB", "hugepage_size"],
        ),
        (
            "size=63M,hugepages=on,hugepage_size=2M",
            &["2 MiB pages", "--memory size"],
        ),
        ("size=10MM", &["10MM"]),
        ("size=64M,hotplug_size=64M", &["hot-plug"]),
        ("size=64M,merge=on", &["merge", "mergeable"]),
    ];
    for (memory, parts) in cases {
        assert_says(&refused(memory), parts);
    }
}

#[test]
fn memory_beyond_the_processors_address_width_is_refused() {
    let options = ["--cpus", "boot=1,max_phys_bits=36"];
    let text = refused_with("size=100G", &options);
    assert_says(
        &text,
        &["36 address bits", "--memory size", "max_phys_bits"],
    );
    start("size=50G", &options);
}

#[test]
fn reserved_memory_must_be_there_when_the_host_counts() {
    // With heuristic overcommit the kernel refuses what is obviously too much, if it may count it.
    let policy = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
    if policy.trim() != "0" {
        eprintln!("skipped: vm.overcommit_memory is {}", policy.trim());
        return;
    }
    let text = refused("size=200G,reserve=on");
    assert_says(&text, &["cannot set aside", "reserve=off"]);
}
