//! Who may have an image open at the same time.

use std::process::Command;

use super::*;
use crate::{Error, LockGranularity};

/// Tells a process of this test what to open.
const VARIABLE: &str = "DISK_TEST_LOCK";

fn sharing(path: &Path, read_only: bool, lock_granularity: LockGranularity) -> OpenOptions {
    OpenOptions {
        read_only,
        lock_granularity,
        ..OpenOptions::new(path)
    }
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let all = [LockGranularity::ByteRange, LockGranularity::Full];
    for (mine, others) in all.into_iter().flat_map(|a| all.map(|b| (a, b))) {
        let (_folder, path) = image(8192);
        let reader = open(&sharing(&path, true, mine)).unwrap();
        let second = open(&sharing(&path, true, others)).unwrap();
        let refused = |options: &OpenOptions| {
            let error = open(options).unwrap_err();
            assert!(matches!(error, Error::InUse(_)), "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()));
        };
        refused(&sharing(&path, false, others));
        drop((reader, second));
        let writer = open(&sharing(&path, false, mine)).unwrap();
        refused(&sharing(&path, true, others));
        refused(&sharing(&path, false, others));
        // The lock lives as long as a lane does.
        let lane = writer.lane(1).unwrap();
        drop(writer);
        refused(&sharing(&path, true, others));
        drop(lane);
        open(&sharing(&path, false, others)).unwrap();
    }
}

#[test]
fn an_image_whose_last_user_is_about_to_be_gone_is_waited_for() {
    let (_folder, path) = image(8192);
    let before = open(&OpenOptions::new(&path)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(before);
        });
        open(&OpenOptions::new(&path)).unwrap();
    });
}

#[test]
fn an_empty_image_is_locked_too_and_one_that_grew_in_its_new_size() {
    let (_folder, path) = image(0);
    let writer = open(&OpenOptions::new(&path)).unwrap();
    assert!(open(&OpenOptions::new(&path)).is_err());
    writer.resize(1 << 20).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    // A lock on the whole file is in the way of any part.
    let error = crate::sys::lock(&file, false, 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

/// Not a test of its own: what `processes_exclude_each_other` runs as another process.
#[test]
fn opens_what_the_other_process_says() {
    let Ok(path) = std::env::var(VARIABLE) else {
        return;
    };
    match open(&OpenOptions::new(path)) {
        Err(Error::InUse(_)) => {}
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn processes_exclude_each_other() {
    let (_folder, path) = image(8192);
    let other = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "tests::locks::opens_what_the_other_process_says"]);
        let output = command.env(VARIABLE, &path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("running 1 test"), "{text}");
        output.status.success()
    };
    let disk = open(&OpenOptions::new(&path)).unwrap();
    assert!(other());
    drop(disk);
    assert!(!other());
}
