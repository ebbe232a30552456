//! The build that says what it allocates.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kernel;

use std::process::Command;

/// mov al, 0x34 (S5 and `SLP_EN`); mov dx, 0x600 (the sleep control register); out dx, al; hlt.
const POWER_OFF: &[u8] = &[0xb0, 0x34, 0x66, 0xba, 0x00, 0x06, 0xee, 0xf4];

#[test]
fn a_profile_is_written_at_the_end_and_needs_its_system_calls() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel::write(folder.path(), POWER_OFF);
    let run = |words: &[&str]| {
        let mut monitor = Command::new(env!("CARGO_BIN_EXE_cloud-hypervisor"));
        monitor
            .arg("--kernel")
            .arg(&kernel)
            .args(["--console", "off"]);
        monitor.args(["--memory", "size=64M"]).args(words);
        monitor.current_dir(&folder).output().unwrap()
    };
    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("give --seccomp false"), "{why}");
    let profile = folder.path().join("dhat-heap.json");
    assert!(!profile.exists());
    let done = run(&["--seccomp", "false"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let text = std::fs::read_to_string(profile).unwrap();
    let profile: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["dhatFileVersion"], 2);
    assert!(text.contains("cloud_hypervisor::run"), "places have names");
}
