//! Errors of the host reach whoever asked, and nobody else.

use std::fs::File;
use std::process::Command;

use super::*;

/// A small file system in memory, for as long as this lives.
struct Mounted(TempDir);

impl Mounted {
    fn new(size: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        match command.arg(folder.path()).output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                println!("SKIPPED: cannot mount tmpfs: {other:?}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_file_system_is_an_error_of_the_write_and_of_nothing_else() {
    for engine in ENGINES {
        let Some(mounted) = Mounted::new(1 << 20) else {
            return;
        };
        let path = mounted.0.path().join("disk.raw");
        File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let Some(disk) = open_for(&options(&path, engine), engine) else {
            continue;
        };
        let (mut lane, ram) = (disk.lane(8).unwrap(), ram());
        for part in 0..3 {
            write_bytes(&mut *lane, &ram, part << 18, &[5; 1 << 18]).unwrap();
        }
        // Half of it fits: not in full is not at all.
        let error = write_bytes(&mut *lane, &ram, 2 << 20, &[5; 1 << 19]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(read_bytes(&mut *lane, &ram, 0, 512).unwrap(), [5; 512]);
        let (offset, length) = (0, 1 << 20);
        perform(&mut *lane, Operation::Discard { offset, length }).unwrap();
        perform(
            &mut *lane,
            Operation::Discard {
                offset: 2 << 20,
                length,
            },
        )
        .unwrap();
        write_bytes(&mut *lane, &ram, 3 << 20, &[6; 1 << 19]).unwrap();
        perform(&mut *lane, Operation::Flush).unwrap();
    }
}

#[test]
fn what_is_gone_from_the_file_is_an_error_and_not_zeros() {
    for engine in ENGINES {
        for direct in [false, true] {
            let (_folder, path) = image(1 << 16);
            let options = OpenOptions {
                direct,
                ..options(&path, engine)
            };
            let Some(disk) = open_for(&options, engine) else {
                continue;
            };
            let (mut lane, ram) = (disk.lane(8).unwrap(), ram());
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(10_000).unwrap();
            // In full there; half of it; nothing; the same through a buffer.
            read_bytes(&mut *lane, &ram, 4096, 4096).unwrap();
            for offset in [8192, 1 << 15] {
                let error = read_bytes(&mut *lane, &ram, offset, 8192).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                let odd = read(offset, vectors(&ram, &[(1, 4096)]));
                let error = perform(&mut *lane, odd).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
            let odd = read(8192, vectors(&ram, &[(1, 1024)]));
            perform(&mut *lane, odd).unwrap();
        }
    }
}
