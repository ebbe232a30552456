//! Real images, with each engine.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use disk::tools::{NewImage, create};
use disk::{Engine, ImageType};
use serde_json::json;

use super::*;

/// An image of 1 MiB in a folder that goes away.
fn image() -> (tempfile::TempDir, OpenOptions) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let bytes: Vec<_> = (0..1 << 20).map(double::pattern).collect();
    std::fs::write(&path, bytes).unwrap();
    let mut options = OpenOptions::new(path);
    options.image_type = ImageType::Raw;
    (folder, options)
}

/// Opens with one engine, if the host has it.
fn with(engine: Engine, mut options: OpenOptions) -> Option<Parts> {
    options.disable_io_uring = engine != Engine::IoUring;
    options.disable_aio = engine == Engine::Sync;
    // Linux AIO waits for the disk anyway, unless the cache is avoided.
    options.direct = engine == Engine::Aio;
    let disk = disk::open(&options).unwrap();
    if disk.engine() != engine {
        println!("{engine:?} is not available here: {:?}", disk.passed_over());
        return None;
    }
    Some(Parts {
        options,
        ..parts(disk)
    })
}

const ENGINES: [Engine; 3] = [Engine::IoUring, Engine::Aio, Engine::Sync];

#[test]
fn every_kind_of_request_works_on_files() {
    for engine in ENGINES {
        let (_folder, options) = image();
        let path = options.path.clone();
        let Some(parts) = with(engine, options) else {
            continue;
        };
        let bench = Bench::new();
        let mut device = plug(&bench, parts);
        assert_eq!(device.decided().unwrap(), json!({ "engine": engine }));
        let mut guest = Guest::new(&bench, &mut device, u64::MAX);
        let (status, at) = guest.request(IN, 3, &[Part::Write(700), Part::Write(836)]);
        assert_eq!(status, OK, "{engine:?}");
        let got = [guest.bytes(at[0], 700), guest.bytes(at[1], 836)].concat();
        assert!(got == (1536..3072).map(double::pattern).collect::<Vec<_>>());
        assert_eq!(guest.request(OUT, 10, &[Part::Read(&[0x5a; 4096])]).0, OK);
        assert_eq!(guest.request(FLUSH, 0, &[]).0, OK);
        guest.driver.set_field(32, &[0]);
        assert_eq!(guest.request(OUT, 18, &[Part::Read(&[0x5b; 512])]).0, OK);
        let file = File::open(&path).unwrap();
        let mut bytes = [0; 4608];
        file.read_exact_at(&mut bytes, 5120).unwrap();
        assert_eq!(
            (bytes[..4096].to_vec(), bytes[4096]),
            (vec![0x5a; 4096], 0x5b)
        );
        let blocks = file.metadata().unwrap().blocks();
        let offered = guest.driver.offered();
        if offered & fields::feature::DISCARD != 0 {
            let range = range(1024, 1024, 0);
            assert_eq!(guest.request(DISCARD, 0, &[Part::Read(&range)]).0, OK);
            assert!(file.metadata().unwrap().blocks() <= blocks - 1024);
        }
        if offered & fields::feature::WRITE_ZEROES != 0 {
            let range = range(100, 8, 1);
            assert_eq!(guest.request(WRITE_ZEROES, 0, &[Part::Read(&range)]).0, OK);
            let mut bytes = [1; 4096];
            file.read_exact_at(&mut bytes, 51_200).unwrap();
            assert_eq!(bytes, [0; 4096]);
        }
        assert_eq!(guest.request(IN, 2048, &[Part::Write(512)]).0, IOERR);
    }
}

#[test]
fn stops_and_starts_under_load_lose_nothing() {
    for engine in ENGINES {
        let (_folder, options) = image();
        let path = options.path.clone();
        let Some(mut parts) = with(engine, options) else {
            continue;
        };
        parts.queues = vec![vec![], vec![]];
        let bench = Bench::new();
        let mut device = plug(&bench, parts);
        let mut guest = Guest::new(&bench, &mut device, u64::MAX);
        let mut expected = 0;
        for round in 0..30_u8 {
            for sector in 0..5 {
                guest.add(0, OUT, sector, &[Part::Read(&[round; 512])]);
                guest.add(1, OUT, 100 + sector, &[Part::Read(&[round; 512])]);
                if sector == 2 {
                    guest.kick(0);
                    guest.kick(1);
                }
            }
            expected += 5;
            device.stop().unwrap();
            guest.kick(0);
            device.start().unwrap();
            guest.wait(0, expected);
            guest.wait(1, expected);
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                bytes[..5 * 512].iter().all(|byte| *byte == round),
                "{engine:?} {round}"
            );
            assert!(
                bytes[100 * 512..105 * 512]
                    .iter()
                    .all(|byte| *byte == round)
            );
        }
    }
}

#[test]
fn the_image_grows_and_the_first_sector_is_kept() {
    let (_folder, mut options) = image();
    options.image_type = ImageType::Unknown;
    let path = options.path.clone();
    let bench = Bench::new();
    let disk = disk::open(&options).unwrap();
    let mut device = plug(
        &bench,
        Parts {
            options,
            ..parts(disk)
        },
    );
    let mut guest = Guest::new(&bench, &mut device, u64::MAX);
    assert_eq!(guest.request(OUT, 0, &[Part::Read(&[1; 512])]).0, IOERR);
    assert_eq!(guest.request(OUT, 1, &[Part::Read(&[1; 512])]).0, OK);
    device.update(json!({ "size": 2 << 20 })).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 2 << 20);
    assert_eq!(guest.request(OUT, 4095, &[Part::Read(&[3; 512])]).0, OK);
}

#[test]
fn an_image_can_be_open_once_for_writing() {
    let (_folder, options) = image();
    let first = disk::open(&options).unwrap();
    assert!(disk::open(&options).is_err());
    let bench = Bench::new();
    let mut device = plug(
        &bench,
        Parts {
            options: options.clone(),
            ..parts(first)
        },
    );
    device.stop().unwrap();
    // What is left keeps the lock.
    let left = Box::new(device).leave();
    assert!(disk::open(&options).is_err());
    drop(left);
    disk::open(&options).unwrap();
}

#[test]
fn images_of_microsoft_are_written_resized_and_there_again() {
    let folder = tempfile::tempdir().unwrap();
    for (image_type, fixed) in [
        (ImageType::FixedVhd, true),
        (ImageType::FixedVhd, false),
        (ImageType::Vhdx, true),
        (ImageType::Vhdx, false),
    ] {
        let path = folder.path().join(format!("{image_type:?}-{fixed}"));
        let new = NewImage {
            image_type,
            size: 4 << 20,
            fixed,
            block: None,
            sector: None,
            ..NewImage::default()
        };
        create(&path, &new).unwrap();
        let options = OpenOptions {
            image_type,
            ..OpenOptions::new(&path)
        };
        let bench = Bench::new();
        for again in [false, true] {
            let disk = disk::open(&options).unwrap();
            let parts = Parts {
                options: options.clone(),
                ..parts(disk)
            };
            let mut device = plug(&bench, parts);
            let mut guest = Guest::new(&bench, &mut device, u64::MAX);
            if !again {
                // The size of the disk is not that of the file.
                assert_eq!(guest.driver.field(0, 8), 8192, "{image_type:?}");
                let data = [7; 4096];
                assert_eq!(guest.request(OUT, 8184, &[Part::Read(&data)]).0, OK);
                assert_eq!(guest.request(OUT, 8192, &[Part::Read(&data)]).0, IOERR);
                device.update(json!({ "size": 40 << 20 })).unwrap();
                assert_eq!(guest.request(OUT, 81_912, &[Part::Read(&data)]).0, OK);
                assert_eq!(guest.request(FLUSH, 0, &[]).0, OK);
            }
            for (sector, byte) in [(0, 0), (8184, 7), (8192, 0), (81_904, 0), (81_912, 7)] {
                let (status, at) = guest.request(IN, sector, &[Part::Write(4096)]);
                assert_eq!(status, OK, "{image_type:?} {fixed} {sector}");
                assert!(guest.bytes(at[0], 4096) == [byte; 4096], "{sector}");
            }
        }
        let found = disk::tools::check(&path, image_type, false).unwrap();
        assert_eq!((found.errors, found.repairs), (0, 0), "{found:?}");
    }
}
