//! What Linux guests are asked, and the kernels that they run.

use std::path::PathBuf;

use testkit::{Vm, env};

const MIB: u64 = 1 << 20;

/// Runs a script in the guest that has to succeed.
pub(crate) fn run(vm: &mut Vm, script: &str) -> String {
    let output = vm.run(script).unwrap();
    assert_eq!(output.status, 0, "{script}: {}", output.stdout);
    output.stdout
}

/// Checks what the guest says about its RAM: the ranges above 1 MiB, and that all but what the kernel itself
/// takes can be used.
pub(crate) fn assert_memory(vm: &mut Vm, size: u64, ranges: &[&str]) {
    let map = run(vm, "grep 'System RAM' /proc/iomem");
    let above = map
        .lines()
        .filter_map(|line| line.split(" : ").next())
        .skip(1);
    assert_eq!(above.collect::<Vec<_>>(), ranges, "{map}");
    let total = run(vm, "awk '/^MemTotal/ { print $2 }' /proc/meminfo");
    let total = total.trim().parse::<u64>().unwrap() << 10;
    // Kernel, its page structures (64 bytes for each 4 KiB), and its decompression.
    let least = size - size / 40 - 64 * MIB;
    assert!(
        (least..size).contains(&total),
        "MemTotal {} MiB",
        total / MIB
    );
}

/// A stock kernel that was built with this option, if `xtask` has fetched one.
pub(crate) fn kernel_with(option: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir(env::cache().unwrap().join("kernels")).ok()?;
    let boots = folders.filter_map(|folder| Some(folder.ok()?.path().join("boot")));
    let mut files = boots
        .filter_map(|boot| std::fs::read_dir(boot).ok())
        .flatten()
        .flatten();
    let config = files.find(|file| {
        let is_config = file.file_name().to_string_lossy().starts_with("config-");
        let text = || std::fs::read_to_string(file.path()).unwrap_or_default();
        is_config && text().lines().any(|line| line == option)
    })?;
    let name = config
        .file_name()
        .to_string_lossy()
        .replacen("config-", "vmlinuz-", 1);
    Some(config.path().with_file_name(name))
}
