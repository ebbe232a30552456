//! VHD and VHDX against an independent program, a model, power cuts, and whoever made an image to do harm.

mod differencing;
mod hostile;
mod power;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::{Mapping, Place};
use crate::storage::Storage;
use crate::storage::simulator::Simulator;
use crate::tests::{open_for, options, perform, ram, read_bytes, write_bytes};
use crate::tools::Findings;
use crate::vhd::{self, DiskType, Vhd};
use crate::vhdx::{self, Parameters, Vhdx};
use crate::{Engine, ImageType, OpenOptions, Operation};

const SIZE: u64 = 20 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    FixedVhd,
    Vhd,
    FixedVhdx,
    Vhdx,
}

const ALL: [Format; 4] = [
    Format::FixedVhd,
    Format::Vhd,
    Format::FixedVhdx,
    Format::Vhdx,
];

impl Format {
    fn create(self, storage: &dyn Storage, size: u64) {
        let parameters = |fixed| Parameters {
            block: 1 << 20,
            ..Parameters::usual(size, fixed)
        };
        match self {
            Self::FixedVhd => vhd::create(storage, DiskType::Fixed, size, None),
            Self::Vhd => vhd::create(storage, DiskType::Dynamic, size, None),
            Self::FixedVhdx => vhdx::create(storage, parameters(true)),
            Self::Vhdx => vhdx::create(storage, parameters(false)),
        }
        .unwrap();
    }

    fn image_type(self) -> ImageType {
        match self {
            Self::FixedVhd | Self::Vhd => ImageType::FixedVhd,
            Self::FixedVhdx | Self::Vhdx => ImageType::Vhdx,
        }
    }

    fn open(self, storage: Arc<dyn Storage>, read_only: bool) -> Result<Arc<dyn Mapping>, String> {
        Ok(match self.image_type() {
            ImageType::FixedVhd => Arc::new(Vhd::open(storage, read_only)?),
            _ => Arc::new(Vhdx::open(storage, read_only)?),
        })
    }

    fn check(self, storage: &Arc<dyn Storage>, repair: bool) -> Result<Findings, String> {
        match self.image_type() {
            ImageType::FixedVhd => vhd::check(storage, repair),
            _ => vhdx::check(storage, repair),
        }
    }

    fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::FixedVhd => ("vpc", "subformat=fixed,force_size=on"),
            Self::Vhd => ("vpc", "subformat=dynamic,force_size=on"),
            Self::FixedVhdx => ("vhdx", "subformat=fixed"),
            Self::Vhdx => ("vhdx", "subformat=dynamic"),
        }
    }
}

fn qemu_img(arguments: &[&str]) -> bool {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("qemu-img {arguments:?}: {} {text}", output.status);
    // A difference in size alone is only a warning of "compare".
    output.status.success() && !text.contains("mismatch")
}

/// Writes here and there through lanes, and gives what the disk should hold.
fn write_some(path: &Path, format: Format, engine: Engine) -> Option<Vec<u8>> {
    let options = OpenOptions {
        image_type: format.image_type(),
        ..options(path, engine)
    };
    let disk = open_for(&options, engine)?;
    let mut model = vec![0; usize::try_from(disk.capacity()).unwrap()];
    let (mut lane, ram) = (disk.lane(4).unwrap(), ram());
    for (at, length, fill) in [
        (0_usize, 512_usize, 1_u8),
        (3 << 20, 70_000 / 512 * 512, 2),
        ((4 << 20) - 4096, 8192, 3),
        ((6 << 20) - 512, 3 << 20, 4),
        (model.len() - 1024, 1024, 5),
    ] {
        write_bytes(&mut *lane, &ram, at as u64, &vec![fill; length]).unwrap();
        model[at..at + length].fill(fill);
    }
    let (offset, length) = (7 << 20, 5 << 20);
    let unmap = true;
    let zeroes = Operation::WriteZeroes {
        offset,
        length,
        unmap,
    };
    perform(&mut *lane, zeroes).unwrap();
    model[7 << 20..12 << 20].fill(0);
    perform(&mut *lane, Operation::Flush).unwrap();
    for (at, piece) in model.chunks(1 << 20).enumerate() {
        let bytes = read_bytes(&mut *lane, &ram, (at as u64) << 20, piece.len()).unwrap();
        assert!(bytes == piece, "{format:?} MiB {at}");
    }
    Some(model)
}

#[test]
fn images_made_by_either_side_are_the_same_to_the_other() {
    interoperate(&[Engine::IoUring]);
}

#[test]
#[ignore = "ordinary runs have one engine of these three"]
fn images_made_by_either_side_are_the_same_to_the_other_with_every_engine() {
    interoperate(&[Engine::IoUring, Engine::Aio, Engine::Sync]);
}

fn interoperate(engines: &[Engine]) {
    let target = env!("CARGO_MANIFEST_DIR").to_owned() + "/../../target";
    let folder = tempfile::tempdir_in(target).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (path, raw) = (folder.path().join("image"), folder.path().join("raw"));
    let (image, raw_name) = (text(&path), text(&raw));
    for format in ALL {
        let (name, create) = format.qemu();
        for ours in [false, true] {
            for engine in engines.iter().copied() {
                let _ = std::fs::remove_file(&path);
                if ours {
                    std::fs::write(&path, []).unwrap();
                    let file = super::open_file(&options(&path, engine)).unwrap();
                    format.create(&*file, SIZE);
                } else {
                    let size = SIZE.to_string();
                    let made = ["create", "-q", "-f", name, "-o", create, &image, &size];
                    assert!(qemu_img(&made));
                }
                let Some(model) = write_some(&path, format, engine) else {
                    continue;
                };
                std::fs::write(&raw, &model).unwrap();
                let source = match name {
                    "vpc" => {
                        format!("driver=vpc,file.filename={image},force_size_calc=current_size")
                    }
                    _ => format!("driver=vhdx,file.filename={image}"),
                };
                let raw_source = format!("driver=raw,file.filename={raw_name}");
                let same = ["compare", "--image-opts", &source, &raw_source];
                assert!(qemu_img(&same), "{format:?} ours={ours} {engine:?}");
                if name == "vhdx" {
                    assert!(qemu_img(&["check", "-f", "vhdx", &image]));
                }
            }
        }
    }
}

/// The whole disk, through the mapping.
fn contents(image: &dyn Mapping, storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(image.capacity()).unwrap()];
    let mut at = 0;
    while at < bytes.len() {
        let left = (bytes.len() - at) as u64;
        let (place, count) = image.find(at as u64, left).unwrap();
        let count = usize::try_from(count).unwrap();
        if let Place::Data(start) = place {
            super::read_all(storage, start, &mut bytes[at..at + count]).unwrap();
        }
        at += count;
    }
    bytes
}

#[test]
fn disks_grow_with_zeros_and_forget_what_was_cut_off() {
    for format in ALL {
        let simulator = Simulator::new(vec![Vec::new()]);
        format.create(&*simulator.file(0), 4 << 20);
        let file = simulator.file(0);
        let image = format.open(Arc::clone(&file), false).unwrap();
        image.begin_change().unwrap();
        image.allocate(0, 4 << 20).unwrap();
        for at in [0_u64, 1 << 20, 2 << 20, 3 << 20] {
            let (Place::Data(start), _) = image.find(at, 1 << 20).unwrap() else {
                panic!("{format:?}: no room");
            };
            file.write(start, &[9; 1 << 20]).unwrap();
        }
        image.resize((1 << 20) + 512).unwrap();
        // Enough for the table of a VHD to move, and for that of a VHDX.
        let far = match format {
            Format::FixedVhd | Format::FixedVhdx => 24 << 20,
            Format::Vhd => 700 << 20,
            Format::Vhdx => 140 << 30,
        };
        image
            .resize(far)
            .unwrap_or_else(|error| panic!("{format:?}: {error}"));
        image.resize(16 << 20).unwrap();
        let end = (1 << 20) + 512;
        let mut expected = vec![0; 16 << 20];
        expected[..end].fill(9);
        assert!(contents(&*image, &*file) == expected, "{format:?}");
        drop(image);
        let again = format.open(Arc::clone(&file), true).unwrap();
        assert!(contents(&*again, &*file) == expected, "{format:?} again");
        drop(again);
        let found = format.check(&file, false).unwrap();
        assert_eq!(found.errors, 0, "{format:?}: {found:?}");
    }
}
