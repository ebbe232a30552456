//! Block devices: loop devices over files, where this may make them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;

struct Loop {
    device: PathBuf,
    file: PathBuf,
    _folder: TempDir,
}

impl Loop {
    fn new(size: usize, sector: u32) -> Option<Self> {
        let (folder, file) = image(size);
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &sector.to_string()]);
        match command.arg(&file).output() {
            Ok(output) if output.status.success() => Some(Self {
                device: String::from_utf8(output.stdout).unwrap().trim().into(),
                file,
                _folder: folder,
            }),
            other => {
                println!("SKIPPED: cannot make a loop device: {other:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

#[test]
fn a_device_tells_its_size_and_sectors() {
    for sector in [512, 4096] {
        let Some(device) = Loop::new(1 << 20, sector) else {
            return;
        };
        let disk = open(&options(&device.device, Engine::IoUring)).unwrap();
        let topology = disk.topology();
        assert_eq!((disk.capacity(), topology.logical_block), (1 << 20, sector));
        assert!(topology.physical_block >= sector && topology.minimum_io >= sector);
        assert!(disk.can_discard() && disk.can_write_zeroes());
        let metadata = std::fs::metadata(&device.device).unwrap();
        let numbers = (metadata.dev(), metadata.rdev(), metadata.ino());
        assert_eq!(disk.identity().unwrap(), numbers);
        assert!(open(&options(&device.device, Engine::IoUring)).is_err());
    }
}

/// Requests of 512 bytes on sectors of 4096, from several lanes.
#[test]
fn random_operations_on_a_device() {
    for engine in ENGINES {
        for (direct, sector) in [(false, 4096), (true, 512), (true, 4096)] {
            let Some(device) = Loop::new(1 << 20, sector) else {
                return;
            };
            let options = OpenOptions {
                direct,
                ..options(&device.device, engine)
            };
            let Some(disk) = open_for(&options, engine) else {
                continue;
            };
            super::model::exercise(&disk, &device.device, &pattern(1 << 20), 99);
        }
    }
}

#[test]
fn a_discard_reaches_the_file_below() {
    for engine in ENGINES {
        let Some(device) = Loop::new(1 << 20, 512) else {
            return;
        };
        File::open(&device.file).unwrap().sync_all().unwrap();
        let Some(disk) = open_for(&options(&device.device, engine), engine) else {
            continue;
        };
        let mut lane = disk.lane(4).unwrap();
        let blocks = || std::fs::metadata(&device.file).unwrap().blocks();
        let full = blocks();
        let (offset, length) = (1 << 18, 1 << 18);
        perform(&mut *lane, Operation::Discard { offset, length }).unwrap();
        assert!(blocks() <= full - 512);
        let offset = 1 << 19;
        let zeroes = Operation::WriteZeroes {
            offset,
            length,
            unmap: true,
        };
        perform(&mut *lane, zeroes).unwrap();
        let bytes = read_bytes(&mut *lane, &ram(), 1 << 19, 1 << 18).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert!(blocks() <= full - 1024);
    }
}

#[test]
fn a_device_is_resized_on_the_host_and_then_here() {
    let Some(device) = Loop::new(1 << 20, 512) else {
        return;
    };
    let disk = open(&options(&device.device, Engine::IoUring)).unwrap();
    let error = disk.resize(2 << 20).unwrap_err();
    assert!(error.to_string().contains("1048576 bytes now"), "{error}");
    let file = File::options().write(true).open(&device.file).unwrap();
    file.set_len(2 << 20).unwrap();
    let status = Command::new("losetup")
        .arg("-c")
        .arg(&device.device)
        .status();
    assert!(status.unwrap().success());
    disk.resize(2 << 20).unwrap();
    assert_eq!(disk.capacity(), 2 << 20);
}

/// The file below became shorter: the device's I/O fails there, as that of a disk with bad sectors does.
#[test]
fn errors_of_a_device_are_told() {
    for engine in ENGINES {
        let Some(device) = Loop::new(1 << 20, 512) else {
            return;
        };
        let options = OpenOptions {
            direct: true,
            ..options(&device.device, engine)
        };
        let Some(disk) = open_for(&options, engine) else {
            continue;
        };
        let (mut lane, ram) = (disk.lane(4).unwrap(), ram());
        let file = File::options().write(true).open(&device.file).unwrap();
        file.set_len(1 << 19).unwrap();
        let error = read_bytes(&mut *lane, &ram, 3 << 18, 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(
            read_bytes(&mut *lane, &ram, 512, 512).unwrap(),
            pattern(1024)[512..]
        );
    }
}
