use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::testing::{part, rerun_with, word};

/// The CPUs the calling thread may run on.
fn allowed() -> Vec<usize> {
    let mask = affinity().unwrap();
    (0..mask.len() * 64)
        .filter(|&cpu| mask[cpu / 64] & bit(cpu) != 0)
        .collect()
}

/// Runs on a thread of its own, whose place is not that of others.
fn apart<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(act).join().unwrap())
}

#[test]
fn pins_to_each_cpu_and_only_there() {
    for cpu in allowed() {
        apart(|| {
            pin_current_thread(&[cpu]).unwrap();
            assert_eq!(allowed(), [cpu]);
        });
    }
}

#[test]
fn a_cpu_that_is_absent_is_an_error_and_moves_nothing() {
    apart(|| {
        let before = allowed();
        // Alone and beside one that is there; within the C library's 1024 bits and beyond.
        for cpus in [
            &[1023][..],
            &[before[0], 1023],
            &[8000],
            &[before[0], 8000],
            &[1 << 40],
        ] {
            let error = pin_current_thread(cpus).unwrap_err();
            let absent = *cpus.last().unwrap();
            assert!(
                matches!(error, Error::CpuUnavailable { cpu } if cpu == absent),
                "{error}"
            );
            assert_eq!(allowed(), before);
        }
        assert!(matches!(pin_current_thread(&[]), Err(Error::NoCpus)));
    });
}

#[test]
fn core_scheduling_works_or_is_reported_as_unavailable() {
    let scopes = [CoreScope::CreateThread, CoreScope::CreateProcess];
    for scope in scopes {
        match apart(|| core_scheduling(scope)) {
            Ok(()) => {}
            Err(error) => {
                assert!(matches!(error, Error::CoreSchedulingUnavailable), "{error}");
                assert!(error.to_string().contains("core_scheduling=off"), "{error}");
            }
        }
    }
}

#[test]
fn new_files_are_for_their_owner() {
    match part() {
        None => {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            rerun_with(
                "process::tests::new_files_are_for_their_owner",
                "umask",
                path,
            )
            .well();
        }
        Some(_) => {
            prepare_process().unwrap();
            std::fs::write(word(), "").unwrap();
            let mode = std::fs::metadata(word()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status
                .lines()
                .find_map(|line| line.strip_prefix("FDSize:"))
                .unwrap();
            let size: u64 = size.trim().parse().unwrap();
            let limit = std::fs::read_to_string("/proc/self/limits").unwrap();
            let limit = limit
                .lines()
                .find(|line| line.starts_with("Max open files"))
                .unwrap();
            let limit = limit
                .split_whitespace()
                .nth(3)
                .unwrap()
                .parse()
                .unwrap_or(4096);
            assert!(size >= limit.min(4096), "{size} of {limit}");
        }
    }
}
