//! Differencing images over parents of `qemu-img`. No tool of this system makes them, so they are written here, by hand from
//! the specifications: an independent writer, but not an independent judge.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::qemu_img;
use crate::mapped::put;
use crate::tests::{ram, read_bytes};
use crate::{ImageType, OpenOptions, behind, open};

const SIZE: usize = 8 << 20;
const SECTOR: usize = 512;
const MIB: usize = 1 << 20;

/// A block that a child has: its number, and the sectors that are there, or all of them.
type Block = (usize, Option<Vec<usize>>);

/// Where one image of a chain is, and by what its children know it.
struct Made {
    path: PathBuf,
    id: [u8; 16],
}

/// What makes an image over another one: its path, the parent's id and path, its blocks and what is in their sectors.
type Write = fn(&Path, [u8; 16], &str, &[Block], u8) -> Made;

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The complement of the sum of all bytes ("Checksum"), at `at`.
fn seal(bytes: &mut [u8], at: usize) {
    put(bytes, at, &[0; 4]);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    put(bytes, at, &(!sum).to_be_bytes());
}

/// A VHD: footer, header, path of the parent, table, blocks of 2 MiB with their bitmaps, footer.
fn vhd(path: &Path, parent: [u8; 16], name: &str, blocks: &[Block], fill: u8) -> Made {
    let id = [fill; 16];
    let mut footer = vec![0; 512];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 8, &[0, 0, 0, 2, 0, 1, 0, 0]);
    put(&mut footer, 16, &512_u64.to_be_bytes());
    put(&mut footer, 40, &(SIZE as u64).to_be_bytes());
    put(&mut footer, 48, &(SIZE as u64).to_be_bytes());
    put(&mut footer, 60, &[0, 0, 0, 4]);
    put(&mut footer, 68, &id);
    seal(&mut footer, 64);
    let (name, name_at, table_at) = (utf16(name), 1536_u64, 2048_u64);
    let length = u32::try_from(name.len()).unwrap();
    let mut header = vec![0; 1024];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &[0xff; 8]);
    put(&mut header, 16, &table_at.to_be_bytes());
    put(&mut header, 24, &[0, 1, 0, 0, 0, 0, 0, 4, 0, 0x20, 0, 0]);
    put(&mut header, 40, &parent);
    // The first locator is of a kind that nobody knows, the third is that which counts.
    put(&mut header, 576, b"Mac ");
    put(&mut header, 576 + 48, b"W2ru");
    put(&mut header, 576 + 52, &512_u32.to_be_bytes());
    put(&mut header, 576 + 56, &length.to_be_bytes());
    put(&mut header, 576 + 64, &name_at.to_be_bytes());
    seal(&mut header, 36);
    let mut bytes = [&footer[..], &header, &name].concat();
    bytes.resize(2048, 0);
    bytes.resize(2560, 0xff);
    for (number, sectors) in blocks {
        let start = bytes.len();
        let entry = u32::try_from(start / SECTOR).unwrap();
        put(&mut bytes, 2048 + 4 * number, &entry.to_be_bytes());
        bytes.resize(start + SECTOR + 2 * MIB, 0xee);
        put(&mut bytes, start, &[0; SECTOR]);
        for sector in sectors.clone().unwrap_or((0..4096).collect()) {
            // From the most significant bit of a byte on.
            bytes[start + sector / 8] |= 0x80 >> (sector % 8);
            put(&mut bytes, start + SECTOR * (1 + sector), &[fill; SECTOR]);
        }
    }
    bytes.extend(footer);
    std::fs::write(path, bytes).unwrap();
    let path = path.to_owned();
    Made { path, id }
}

/// Of both headers the one that counts: its `DataWriteGuid` ([MS-VHDX] 2.2.2).
fn data_write(bytes: &[u8]) -> [u8; 16] {
    let number = |at: usize| u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
    let at = [64 << 10, 128 << 10]
        .into_iter()
        .max_by_key(|at| number(*at));
    bytes[at.unwrap() + 32..][..16].try_into().unwrap()
}

fn guid_text(id: [u8; 16]) -> String {
    let part = |range: std::ops::Range<usize>, turned: bool| -> String {
        let digits = |byte: &u8| format!("{byte:02x}");
        match turned {
            true => id[range].iter().rev().map(digits).collect(),
            false => id[range].iter().map(digits).collect(),
        }
    };
    format!(
        "{{{}-{}-{}-{}-{}}}",
        part(0..4, true),
        part(4..6, true),
        part(6..8, true),
        part(8..10, false),
        part(10..16, false)
    )
}

/// A VHDX: one of ours without blocks, made a differencing one by its metadata; bitmap and blocks of 1 MiB at its end.
fn vhdx(path: &Path, parent: [u8; 16], name: &str, blocks: &[Block], fill: u8) -> Made {
    let simulator = super::Simulator::new(vec![Vec::new()]);
    super::Format::Vhdx.create(&*simulator.file(0), SIZE as u64);
    let mut bytes = simulator.contents().remove(0);
    let (metadata, bat) = (2 * MIB, 3 * MIB);
    // Has a parent (2.6.2.1), and one item more, its locator (2.6.2.6).
    let items = metadata + (64 << 10);
    put(&mut bytes, items + 4, &2_u32.to_le_bytes());
    let texts = [
        ("parent_linkage", guid_text(parent)),
        ("volume_path", r"\\?\Volume{0}\x".to_owned()),
        ("relative_path", name.to_owned()),
    ];
    let mut locator = vec![
        0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59,
        0x13, 0, 0, 3, 0,
    ];
    let mut tail = Vec::new();
    for (key, value) in &texts {
        let mut place = |text: &str| {
            let at = 20 + 3 * 12 + tail.len();
            tail.extend(utf16(text));
            (
                u32::try_from(at).unwrap(),
                u16::try_from(2 * text.len()).unwrap(),
            )
        };
        let (key, value) = (place(key), place(value));
        locator.extend(key.0.to_le_bytes());
        locator.extend(value.0.to_le_bytes());
        locator.extend(key.1.to_le_bytes());
        locator.extend(value.1.to_le_bytes());
    }
    locator.extend(tail);
    put(&mut bytes, items + 128, &locator);
    put(&mut bytes, metadata + 10, &6_u16.to_le_bytes());
    let entry = metadata + 32 * 6;
    let guid = [
        0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab,
        0x0c,
    ];
    put(&mut bytes, entry, &guid);
    put(
        &mut bytes,
        entry + 16,
        &((64_u32 << 10) + 128).to_le_bytes(),
    );
    let length = u32::try_from(locator.len()).unwrap();
    put(&mut bytes, entry + 20, &length.to_le_bytes());
    put(&mut bytes, entry + 24, &4_u32.to_le_bytes());
    // The bitmap's entry is behind those of the 4096 blocks of its chunk.
    let bitmap = bytes.len().next_multiple_of(MIB);
    put(
        &mut bytes,
        bat + 8 * 4096,
        &(bitmap as u64 | 6).to_le_bytes(),
    );
    bytes.resize(bitmap + MIB, 0);
    for (number, sectors) in blocks {
        let start = bytes.len();
        let state = if sectors.is_some() { 7 } else { 6 };
        put(
            &mut bytes,
            bat + 8 * number,
            &(start as u64 | state).to_le_bytes(),
        );
        bytes.resize(start + MIB, 0xee);
        for sector in sectors.clone().unwrap_or((0..2048).collect()) {
            if state == 7 {
                let bit = number * 2048 + sector;
                bytes[bitmap + bit / 8] |= 1 << (bit % 8);
            }
            put(&mut bytes, start + SECTOR * sector, &[fill; SECTOR]);
        }
    }
    let id = data_write(&bytes);
    std::fs::write(path, bytes).unwrap();
    let path = path.to_owned();
    Made { path, id }
}

fn options(path: &Path, image_type: ImageType) -> OpenOptions {
    OpenOptions {
        image_type,
        read_only: true,
        backing_files: true,
        ..OpenOptions::new(path)
    }
}

/// A format's kind of image: how `qemu-img` makes a parent, and what makes a child, whose blocks have so many bytes.
const KINDS: [(ImageType, &str, &str, Write, usize); 2] = [
    (
        ImageType::FixedVhd,
        "vpc",
        "subformat=dynamic,force_size=on",
        vhd,
        2 * MIB,
    ),
    (ImageType::Vhdx, "vhdx", "block_size=1048576", vhdx, MIB),
];

/// The parent of `qemu-img` in a folder, and the bytes of its disk.
fn parent(folder: &Path, kind: usize) -> (Made, Vec<u8>) {
    let (_, format, create, ..) = KINDS[kind];
    let byte = |at: usize| (at / SECTOR).to_le_bytes()[0] | 1;
    let mut disk: Vec<u8> = (0..SIZE).map(byte).collect();
    disk[5 * MIB..6 * MIB].fill(0);
    let (raw, path) = (folder.join("raw"), folder.join("base"));
    std::fs::write(&raw, &disk).unwrap();
    let words = [raw.to_str().unwrap(), path.to_str().unwrap()];
    let convert = ["convert", "-f", "raw", "-O", format, "-o", create];
    assert!(qemu_img(&[&convert[..], &words].concat()));
    let bytes = std::fs::read(&path).unwrap();
    let id = match format {
        "vpc" => bytes[bytes.len() - 512 + 68..][..16].try_into().unwrap(),
        _ => data_write(&bytes),
    };
    (Made { path, id }, disk)
}

fn lay_over(disk: &mut [u8], blocks: &[Block], block: usize, fill: u8) {
    for (number, sectors) in blocks {
        for sector in sectors.clone().unwrap_or((0..block / SECTOR).collect()) {
            let at = number * block + sector * SECTOR;
            disk[at..at + SECTOR].fill(fill);
        }
    }
}

fn message(options: &OpenOptions) -> String {
    open(options).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_a_child_does_not_have_is_in_its_parents() {
    for (kind, (image_type, _, _, write, block)) in KINDS.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (base, mut disk) = parent(folder.path(), kind);
        let some = Some(vec![0, 1, 2, 9, 1000, block / SECTOR - 1]);
        let blocks = [(0, some), (2, None)];
        let child = write(
            &folder.path().join("child"),
            base.id,
            r".\base",
            &blocks,
            0x70,
        );
        lay_over(&mut disk, &blocks, block, 0x70);
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let blocks = [
            (2, Some(vec![5, 6])),
            (3, Some(vec![8])),
            (1, Some(vec![0])),
        ];
        let path = folder.path().join("sub").join("grandchild");
        let last = write(&path, child.id, r"..\child", &blocks, 0x71);
        lay_over(&mut disk, &blocks, block, 0x71);
        let options = options(&last.path, image_type);
        let opened = open(&options).unwrap();
        let (mut lane, ram) = (opened.lane(4).unwrap(), ram());
        for (at, piece) in disk.chunks(300 * SECTOR).enumerate() {
            let offset = (at * 300 * SECTOR) as u64;
            let bytes = read_bytes(&mut *lane, &ram, offset, piece.len()).unwrap();
            let differ = bytes.iter().zip(piece).position(|(a, b)| a != b);
            assert_eq!(differ, None, "{image_type:?} at {offset:#x}");
        }
        // A sandbox lets in exactly what is opened.
        let named: Vec<_> = behind(&options).into_iter().map(|(path, _)| path).collect();
        let folder = folder.path().join("sub").join("..");
        assert_eq!(named, [folder.join("child"), folder.join("./base")]);
    }
}

#[test]
fn parents_that_are_not_those_of_their_children_are_refused() {
    for (kind, (image_type, _, _, write, _)) in KINDS.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (base, _) = parent(folder.path(), kind);
        let path = folder.path().join("child");
        let of = |id, name: &str| {
            let child = write(&path, id, name, &[(0, None)], 1);
            options(&child.path, image_type)
        };
        let good = of(base.id, "base");
        assert!(open(&good).is_ok());
        let unsaid = OpenOptions {
            backing_files: false,
            ..good.clone()
        };
        assert!(message(&unsaid).contains("backing_files=on"));
        assert!(behind(&unsaid).is_empty());
        let written = OpenOptions {
            read_only: false,
            ..good.clone()
        };
        assert!(message(&written).contains("readonly=on"));
        assert!(message(&of([7; 16], "base")).contains("id is another one"));
        assert!(message(&of(base.id, r"C:\images\base")).contains("what can be followed"));
        assert!(open(&of(base.id, "nothing")).is_err());
        // Its own parent, by its name and by another one.
        assert!(message(&of(base.id, "child")).contains("lies behind itself"));
        let mut last = base.id;
        let mut name = "base".to_owned();
        for number in 0..32 {
            let next = write(
                &folder.path().join(format!("{number}")),
                last,
                &name,
                &[],
                2,
            );
            (last, name) = (next.id, format!("{number}"));
        }
        let deep = options(&folder.path().join("31"), image_type);
        assert!(
            message(&deep).contains("more than 32"),
            "{}",
            message(&deep)
        );
    }
}

#[test]
fn locators_that_lead_astray_end_in_errors() {
    for (kind, (image_type, _, _, write, _)) in KINDS.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (base, _) = parent(folder.path(), kind);
        let child = write(
            &folder.path().join("child"),
            base.id,
            "base",
            &[(0, None)],
            1,
        );
        let good = std::fs::read(&child.path).unwrap();
        let places: Vec<usize> = match image_type {
            // Locators, and the path that they lead to.
            ImageType::FixedVhd => (512 + 576..512 + 768).chain(1536..1544).collect(),
            // The locator's entry in the table of metadata, and the locator.
            _ => {
                let item = 2 * MIB + (64 << 10) + 128;
                (2 * MIB + 192..2 * MIB + 224)
                    .chain(item..item + 64)
                    .collect()
            }
        };
        let file = File::options().write(true).open(&child.path).unwrap();
        // What is written anew each time.
        let (first, end) = match image_type {
            ImageType::FixedVhd => (0, 2048),
            _ => (2 * MIB, 2 * MIB + (68 << 10)),
        };
        for at in places {
            for byte in [0, 0xff, good[at] ^ 1] {
                let mut bytes = good[first..end].to_vec();
                bytes[at - first] = byte;
                if image_type == ImageType::FixedVhd {
                    seal(&mut bytes[512..1536], 36);
                }
                file.write_all_at(&bytes, first as u64).unwrap();
                // Either is right; what counts is that it ends, and that no other file is opened.
                let options = options(&child.path, image_type);
                for (path, _) in behind(&options) {
                    assert!(path.starts_with(folder.path()), "{at}: {path:?}");
                }
                let _ = open(&options);
            }
        }
    }
}
