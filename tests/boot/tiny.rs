//! Guests of a few instructions that print to the debug console.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::payload::Payload;
use testkit::{Builder, Exit, SerialLink, Vm};

/// Longest that anything of a tiny guest takes, also in an emulated host.
pub(crate) const SECONDS: u64 = 30;

/// `hvm_start_info` of PVH.
pub(crate) const START_INFO: u32 = 0x6000;
/// Memory map of PVH.
const MEMORY_MAP: u32 = 0x7000;

/// A monitor with its debug console in a file.
pub(crate) struct Tiny {
    pub(crate) vm: Vm,
    folder: TempDir,
}

impl Tiny {
    /// Starts `payload` with further words on the command line.
    pub(crate) fn start(payload: Payload, words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        payload.elf().write(&kernel).unwrap();
        let words = words.iter().copied();
        let builder = words.fold(Vm::builder().kernel(kernel), Builder::flag);
        let vm = builder
            .serial(SerialLink::Stdio)
            .arg("--debug-console", debug_console(folder.path()))
            .spawn()
            .unwrap();
        Self { vm, folder }
    }

    /// Runs a payload that powers off, and returns what it printed to the debug console.
    pub(crate) fn run(payload: Payload, words: &[&str]) -> Vec<u8> {
        let mut tiny = Self::start(payload.power_off(), words);
        let exit = tiny.vm.wait_exit(SECONDS).unwrap();
        assert_eq!(exit, Exit::Code(0), "{words:?}: {}", tiny.vm.stderr());
        tiny.printed()
    }

    /// Everything on the debug console so far.
    pub(crate) fn printed(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("debug")).unwrap_or_default()
    }

    /// Waits until there are this many bytes on the debug console.
    pub(crate) fn wait_printed(&self, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(SECONDS);
        loop {
            let printed = self.printed();
            if printed.len() >= count {
                return printed;
            }
            assert!(
                Instant::now() < deadline,
                "{printed:x?}, {count} bytes expected"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The value of `--debug-console` for a file in this folder.
pub(crate) fn debug_console(folder: &Path) -> String {
    format!("file={}", folder.join("debug").display())
}

/// Copies guest memory to the debug console.
pub(crate) fn copy(payload: Payload, from: u32, size: u32) -> Payload {
    // mov esi, from; mov ecx, size; mov dx, 0xe9; cld; rep outsb
    let payload = payload.raw(&[0xbe]).raw(&from.to_le_bytes());
    let payload = payload.raw(&[0xb9]).raw(&size.to_le_bytes());
    payload.raw(&[0x66, 0xba, 0xe9, 0, 0xfc, 0xf3, 0x6e])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The log of a monitor that refuses to start: a chain of errors, exit status 1.
pub(crate) fn refusal(files: &[(&str, &Path)]) -> String {
    let builder = Vm::builder().memory("size=64M");
    let builder = files.iter().fold(builder, |builder, (option, path)| {
        builder.arg(option, *path)
    });
    let mut vm = builder.spawn().unwrap();
    let exit = vm.wait_exit(SECONDS).unwrap();
    let log = vm.stderr();
    assert_eq!(exit, Exit::Code(1), "{files:?}: {log}");
    let chain = "Error: Cloud Hypervisor exited with the following chain of errors:\n  0: ";
    assert!(
        log.contains(chain) && !log.contains("panicked"),
        "{files:?}: {log}"
    );
    log
}

/// The memory map that PVH shows a guest with this `--memory`: start, size, type.
pub(crate) fn memory_map(memory: &str) -> Vec<(u64, u64, u32)> {
    let payload = copy(Payload::new(), START_INFO, 56);
    let printed = Tiny::run(copy(payload, MEMORY_MAP, 24 * 8), &["--memory", memory]);
    let (info, map) = printed.split_at(56);
    assert_eq!(u32_at(info, 0), 0x336e_c578, "magic number of PVH");
    assert_eq!(u64_at(info, 32), 0xa_0000, "ACPI root pointer");
    assert_eq!(u64_at(info, 40), MEMORY_MAP.into());
    let count = usize::try_from(u32_at(info, 48)).unwrap();
    let entries = map.chunks_exact(24).take(count);
    entries
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 16)))
        .collect()
}
