//! Bytes as changes to a disk image that somebody made to do harm, and as what a guest then does with the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use disk::tools::{NewImage, check, create, info};
use disk::{Disk, Event, ImageType, Lane, OpenOptions, Operation, Request};
use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};

use crate::Bytes;

/// Bytes of the disk in the images that are changed.
const SIZE: u64 = 4 << 20;
/// The most changes to an image, and the most requests to its disk.
const MOST_CHANGES: u8 = 24;
const MOST_REQUESTS: u8 = 12;
/// The longest request, and the largest size that a disk gets.
const LONGEST: u64 = 256 << 10;
const LARGEST: u64 = 64 << 20;

/// Images before they are changed. Made once for the whole process.
struct Seeds {
    folder: PathBuf,
    vhd: Vec<Vec<u8>>,
    vhdx: Vec<Vec<u8>>,
    qcow2: Vec<Vec<u8>>,
}

fn seeds() -> &'static Seeds {
    static SEEDS: OnceLock<Seeds> = OnceLock::new();
    SEEDS.get_or_init(|| {
        // In memory if that is possible: every attack writes a file.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder").keep();
        let both = |image_type| {
            let mut all = seed(&folder, image_type, true).to_vec();
            all.extend(seed(&folder, image_type, false));
            all
        };
        let mut qcow2 = seed(&folder, ImageType::Qcow2, false).to_vec();
        qcow2.extend(SMALL.map(small));
        Seeds {
            vhd: both(ImageType::FixedVhd),
            vhdx: both(ImageType::Vhdx),
            qcow2,
            folder,
        }
    })
}

/// An image while it is written, with a log that counts if the format has one, and after it was closed.
fn seed(folder: &Path, image_type: ImageType, fixed: bool) -> [Vec<u8>; 2] {
    let path = folder.join("seed");
    let new = NewImage {
        image_type,
        size: SIZE,
        fixed,
        block: match image_type {
            ImageType::Qcow2 => Some(CLUSTER),
            // The default is 32 MiB, all of which would be written for each attack on a fixed image.
            ImageType::Vhdx => Some(1 << 20),
            _ => (!fixed).then_some(1 << 20),
        },
        sector: None,
        ..NewImage::default()
    };
    create(&path, &new).expect("an image");
    let disk = open(&path, image_type, false).expect("a disk");
    let mut lane = disk.lane(1).expect("a lane");
    let ram = ram();
    for (tag, offset) in (0..).zip([0, 2 << 20]) {
        let vectors = vectors(&ram, 4096);
        vectors.copy_from(&[0x5a; 4096]);
        request(&mut *lane, tag, Operation::Write { offset, vectors });
    }
    let open = std::fs::read(&path).expect("its bytes");
    drop(lane);
    drop(disk);
    let closed = std::fs::read(&path).expect("its bytes");
    std::fs::remove_file(&path).expect("a file");
    [open, closed]
}

fn open(
    path: &Path,
    image_type: ImageType,
    read_only: bool,
) -> Result<std::sync::Arc<dyn Disk>, disk::Error> {
    disk::open(&OpenOptions {
        image_type,
        read_only,
        // The engine is not what is attacked.
        disable_io_uring: true,
        disable_aio: true,
        ..OpenOptions::new(path)
    })
}

fn ram() -> GuestRam {
    let regions = [RegionSpec {
        start: 0,
        size: 1 << 20,
    }];
    GuestRam::new(&regions, &RamOptions::default()).expect("memory")
}

fn vectors(ram: &GuestRam, length: u64) -> IoVectors {
    let mut vectors = IoVectors::new(ram.clone());
    let length = u32::try_from(length).expect("a short request");
    vectors.push(0, length).expect("memory");
    vectors
}

/// Does one request. An error is as good as success.
fn request(lane: &mut dyn Lane, tag: u64, operation: Operation) {
    lane.push(Request { tag, operation });
    let mut events: Vec<Event> = Vec::new();
    lane.drain(&mut events).expect("the lane works");
    assert_eq!(events.len(), 1, "each request has one end");
}

/// A VHD.
pub fn on_vhd(data: &[u8]) {
    // The footer and its copy, the header, the table, the bitmaps.
    let areas = [(0, 512), (512, 1024), (1536, 64), (2048, 2048)];
    attack(data, ImageType::FixedVhd, &seeds().vhd, &areas, seal_vhd);
}

/// A VHDX.
pub fn on_vhdx(data: &[u8]) {
    // Both headers, both tables of regions, the log, the metadata, the table of blocks.
    let areas = [
        (64 << 10, 128),
        (128 << 10, 128),
        (192 << 10, 128),
        (256 << 10, 128),
        (1 << 20, 8192),
        (2 << 20, 256),
        ((2 << 20) + (64 << 10), 64),
        (3 << 20, 64),
    ];
    attack(data, ImageType::Vhdx, &seeds().vhdx, &areas, seal_vhdx);
}

/// A QCOW2 image.
pub fn on_qcow2(data: &[u8]) {
    let cluster = CLUSTER as usize;
    // The header, and the first clusters, where tables are.
    let areas = [
        (0, 128),
        (cluster, 64),
        (2 * cluster, 64),
        (3 * cluster, 64),
        (4 * cluster, 64),
        (5 * cluster, 64),
        (6 * cluster, 64),
        (512, 6 * 512),
    ];
    attack(data, ImageType::Qcow2, &seeds().qcow2, &areas, |_| {});
}

/// Bytes of a cluster of the QCOW2 images that are made by our own tool.
const CLUSTER: u32 = 16 << 10;
/// What small images have: bits of a cluster, incompatible features, the byte that says the compression.
const SMALL: [(u32, u64, u8); 3] = [(9, 0, 0), (14, 1 << 4, 0), (9, 1 << 3, 1)];

/// A QCOW2 image with everything in few bytes: the header, an L1 and an L2 table, data, a compressed cluster, a table of
/// refcounts with its only block, each in a cluster of its own.
fn small((bits, features, compression): (u32, u64, u8)) -> Vec<u8> {
    let cluster = 1_usize << bits;
    let mut image = vec![0; 7 * cluster];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let at = |number: usize, flags: u64| ((number * cluster) as u64 | flags).to_be_bytes();
    let own = 1 << 63;
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &bits.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &64_u32.to_be_bytes());
    put(40, &at(1, 0));
    put(48, &at(5, 0));
    put(56, &1_u32.to_be_bytes());
    put(72, &features.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &112_u32.to_be_bytes());
    put(104, &[compression]);
    put(cluster, &at(2, own));
    put(2 * cluster, &at(3, own));
    let second = if features & 1 << 4 == 0 { 8 } else { 16 };
    // One sector behind the first, which is all of it.
    put(2 * cluster + second, &at(4, 1 << 62));
    if second == 16 {
        put(2 * cluster + 8, &0x0000_ff00_00ff_0055_u64.to_be_bytes());
    }
    // A byte that is repeated to a whole cluster: a frame of zstd (RFC 8878, 3.1.1), or deflate (RFC 1951).
    match (compression, bits) {
        (1, _) => put(4 * cluster, b"\x28\xb5\x2f\xfd\0\0\x03\x10\0\x07"),
        (_, 9) => put(4 * cluster, b"cg\x1f\x05#\x19\0\0"),
        _ => put(
            4 * cluster,
            b"\xed\xc1!\x01\0\0\0\xc3 \xb9\xfe\x8d\x1f\xe3\x06(",
        ),
    }
    put(5 * cluster, &at(6, 0));
    put(6 * cluster, &[0, 1].repeat(7));
    image
}

/// Changes an image, opens it, uses it as a guest does, gives it other sizes and checks it.
///
/// What is expected is that nothing panics and everything ends.
fn attack(
    data: &[u8],
    image_type: ImageType,
    seeds_of_it: &[Vec<u8>],
    areas: &[(usize, usize)],
    seal: fn(&mut [u8]),
) {
    let mut bytes = Bytes::new(data);
    let choice = bytes.u8();
    let mut image = seeds_of_it[usize::from(choice) % seeds_of_it.len()].clone();
    for _ in 0..bytes.u8() % MOST_CHANGES {
        let (start, length) = areas[usize::from(bytes.u8()) % areas.len()];
        let from = start + usize::from(bytes.u16()) % length;
        let field = bytes.u64().to_le_bytes();
        let count = 1 + usize::from(bytes.u8() % 8);
        // Also from the end: the last footer of a VHD.
        let at = match choice & 0x80 != 0 && start == 0 {
            true => image.len().saturating_sub(length) + from,
            false => from,
        };
        for (there, byte) in image.iter_mut().skip(at).zip(&field[..count]) {
            *there = *byte;
        }
    }
    if choice & 0x40 != 0 {
        seal(&mut image);
    }
    if choice & 0x20 != 0 {
        let length = bytes.u64() % (image.len() as u64 + 1);
        image.truncate(usize::try_from(length).expect("shorter than before"));
    }
    // Attacks run on several threads.
    let file = tempfile::NamedTempFile::new_in(&seeds().folder).expect("a file");
    let path = file.path();
    write_sparse(file.as_file(), &image);
    let _ = info(path, image_type);
    let _ = check(path, image_type, false);
    if let Ok(disk) = open(path, image_type, choice & 0x10 != 0) {
        use_disk(&*disk, &mut bytes);
    }
    let _ = check(path, image_type, true);
}

/// Writes what is not zero: images are mostly zeros, and what is not written costs nothing.
fn write_sparse(file: &File, image: &[u8]) {
    const ZEROS: [u8; PAGE] = [0; PAGE];
    const PAGE: usize = 4096;
    file.set_len(image.len() as u64).expect("a length");
    for (number, page) in image.chunks(PAGE).enumerate() {
        if *page != ZEROS[..page.len()] {
            let at = (number * PAGE) as u64;
            file.write_all_at(page, at).expect("a page");
        }
    }
}

fn use_disk(disk: &dyn Disk, bytes: &mut Bytes<'_>) {
    let (ram, mut lane) = (ram(), disk.lane(1).expect("a lane"));
    for tag in 0..u64::from(bytes.u8() % MOST_REQUESTS) {
        let kind = bytes.u8();
        let offset = bytes.u64() % disk.capacity().max(1) / 512 * 512;
        let length = (512 + bytes.u64() % LONGEST / 512 * 512).min(disk.capacity() - offset);
        if length == 0 {
            continue;
        }
        let vectors = |length| vectors(&ram, length);
        let operation = match kind % 6 {
            0 => Operation::Read {
                offset,
                vectors: vectors(length),
            },
            1 => Operation::Write {
                offset,
                vectors: vectors(length),
            },
            2 => Operation::Discard { offset, length },
            3 => Operation::WriteZeroes {
                offset,
                length,
                unmap: kind & 0x80 != 0,
            },
            4 => Operation::Flush,
            _ => {
                let _ = disk.resize(bytes.u64() % LARGEST / 512 * 512);
                continue;
            }
        };
        request(&mut *lane, tag, operation);
    }
}

/// Makes the checksums of a VHD right: the complement of the sum of the other bytes.
fn seal_vhd(image: &mut [u8]) {
    let last = image.len() - 512;
    for (start, length, at) in [(0, 512, 64), (512, 1024, 36), (last, 512, 64)] {
        let Some(part) = image.get_mut(start..start + length) else {
            continue;
        };
        part[at..at + 4].fill(0);
        let sum = part.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
        part[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
    }
}

/// Makes the checksums of a VHDX right: headers, tables of regions, and the first entry of the log.
fn seal_vhdx(image: &mut [u8]) {
    let log = 1 << 20;
    let entry = image.get(log + 8..log + 12).map_or(0, |field| {
        u32::from_le_bytes(field.try_into().expect("four bytes"))
    });
    let entry = usize::try_from(entry)
        .expect("an address")
        .clamp(64, 1 << 20);
    for (start, length) in [
        (64 << 10, 4096),
        (128 << 10, 4096),
        (192 << 10, 64 << 10),
        (256 << 10, 64 << 10),
        (log, entry),
    ] {
        if let Some(part) = image.get_mut(start..start + length) {
            part[4..8].fill(0);
            let sum = crc32c(part);
            part[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// CRC-32C (RFC 3720, appendix B.4), by itself and not by what is attacked.
fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: OnceLock<Vec<u32>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let rest = |byte: u32| {
            (0..8).fold(byte, |rest, _| match rest & 1 {
                0 => rest >> 1,
                _ => (rest >> 1) ^ 0x82f6_3b78,
            })
        };
        (0..256).map(rest).collect()
    });
    !bytes.iter().fold(!0, |sum: u32, byte| {
        table[usize::from(sum.to_le_bytes()[0] ^ byte)] ^ (sum >> 8)
    })
}

#[test]
fn images_that_are_not_changed_are_in_order_and_stay_so_when_they_are_sealed() {
    for (image_type, all, seal) in [
        (ImageType::FixedVhd, &seeds().vhd, seal_vhd as fn(&mut [u8])),
        (ImageType::Vhdx, &seeds().vhdx, seal_vhdx),
    ] {
        for (number, image) in all.iter().enumerate() {
            let path = seeds().folder.join(format!("{image_type:?}-{number}"));
            let mut sealed = image.clone();
            seal(&mut sealed);
            // Behind its headers a VHDX without a log has nothing that could be sealed.
            let end = if image_type == ImageType::Vhdx {
                1 << 20
            } else {
                0
            };
            assert!(sealed[..end] == image[..end], "{image_type:?} {number}");
            std::fs::write(&path, image).expect("an image");
            let found = check(&path, image_type, true).expect("an image in order");
            assert_eq!(found.errors, 0, "{image_type:?} {number}: {found:?}");
            assert_eq!(info(&path, image_type).expect("an image").size, SIZE);
        }
    }
    for (number, image) in seeds().qcow2.iter().enumerate() {
        let path = seeds().folder.join(format!("qcow2-{number}"));
        std::fs::write(&path, image).expect("an image");
        let found = check(&path, ImageType::Qcow2, true).expect("an image in order");
        assert_eq!(found.errors, 0, "QCOW2 {number}: {found:?}");
    }
    // The log of the dynamic VHDX that was not closed counts, and sealing leaves it as it is.
    let open = &seeds().vhdx[2];
    let mut sealed = open.clone();
    seal_vhdx(&mut sealed);
    assert!(sealed == *open && open[1 << 20..].starts_with(b"loge"));
    // The dynamic VHD has all three structures.
    let dynamic = &seeds().vhd[2];
    let mut sealed = dynamic.clone();
    seal_vhd(&mut sealed);
    assert!(sealed == *dynamic);
}
