//! Finds out whether this machine's KVM runs a stock kernel.
//!
//! Some machines have no `/dev/kvm`. Others, cloud sandboxes above all, have one that emulates the
//! guest's ring 0 in software: a payload of a few instructions runs on it, a distribution's kernel
//! stops at the first instruction that the emulator does not know. A tiny guest tells them apart in
//! a few milliseconds: it prints a letter, goes to 64-bit mode, prints another, executes
//! `cmpxchg16b` as every stock kernel does, and prints the last one.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::payload::Payload;

use crate::error::{Context as _, Result};
use crate::run;

/// A healthy probe takes a few milliseconds; a monitor whose guest hangs never ends.
const LIMIT: Duration = Duration::from_millis(900);

/// Where the monitor can run a stock kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine.
    Here,
    /// In the emulated host, for this reason.
    Nested(String),
}

/// Decides with the monitor itself, because what counts is what it can do here.
pub(crate) fn place(monitor: &Path) -> Result<Place> {
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        return Ok(Place::Nested(format!(
            "/dev/kvm cannot be opened ({error})"
        )));
    }
    let folder = tempfile::tempdir().context(|| "no temporary folder".to_owned())?;
    let payload = folder.path().join("probe");
    run::write(&payload, &probe())?;
    let output = folder.path().join("output");
    let said = folder.path().join("said");
    let file = std::fs::File::create(&said).context(|| "cannot create a file".to_owned())?;
    let mut child = Command::new(monitor)
        .arg("--kernel")
        .arg(&payload)
        .args([
            "--cpus",
            "boot=1",
            "--memory",
            "size=64M",
            "--serial",
            "off",
            "--console",
            "off",
        ])
        .arg("--debug-console")
        .arg(format!("file={}", output.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .context(|| format!("cannot start {}", monitor.display()))?;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    let letters = std::fs::read_to_string(&output).unwrap_or_default();
    Ok(judge(&letters, &run::read_text(&said).unwrap_or_default()))
}

fn judge(letters: &str, log: &str) -> Place {
    match letters {
        "abc" => Place::Here,
        "a" | "ab" => Place::Nested(
            "this machine's /dev/kvm emulates ring 0 and cannot run a stock kernel".to_owned(),
        ),
        _ => {
            let last = log
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("nothing");
            Place::Nested(format!(
                "a probe on this machine's /dev/kvm did not start; the monitor said: {}",
                last.trim()
            ))
        }
    }
}

fn probe() -> Vec<u8> {
    let payload = Payload::new().print_e9("a").long_mode().print_e9("b");
    payload
        .compare_exchange_16()
        .print_e9("c")
        .power_off()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn letters_tell_how_far_the_guest_came() {
        assert_eq!(judge("abc", ""), Place::Here);
        assert!(matches!(judge("ab", ""), Place::Nested(why) if why.contains("emulates ring 0")));
        let broken = judge("", "Error: x\n  1: no permission\n\n");
        assert!(matches!(broken, Place::Nested(why) if why.ends_with("said: 1: no permission")));
    }

    #[test]
    fn a_monitor_that_hangs_is_ended_in_time() {
        if !Path::new("/dev/kvm").exists() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let monitor = folder.path().join("monitor");
        std::fs::write(&monitor, "#!/bin/sh\nexec sleep 100\n").unwrap();
        std::fs::set_permissions(&monitor, std::fs::Permissions::from_mode(0o755)).unwrap();
        let started = Instant::now();
        // Another test's fork may hold the file open for writing for a moment.
        let place = (0..50).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            place(&monitor).ok()
        });
        assert!(matches!(place, Some(Place::Nested(_))));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
