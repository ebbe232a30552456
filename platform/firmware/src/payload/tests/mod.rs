//! Tests of payloads, on files that are built field by field here.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the values of these tests are small"
)]

mod handoff;
mod hostile;
mod images;
mod placement;

use std::fs::File;
use std::io::Write;

use memory::{GuestRam, RamOptions, RegionSpec};

use super::*;

const MIB: u64 = 1 << 20;

/// A file without a name that has `content`.
fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Guest RAM of this size, in the regions of the memory map.
fn ram(size: u64) -> GuestRam {
    let regions: Vec<RegionSpec> = layout::ram_regions(size)
        .into_iter()
        .map(|(start, size)| RegionSpec { start, size })
        .collect();
    GuestRam::new(&regions, &RamOptions::default()).unwrap()
}

fn bytes_at(ram: &GuestRam, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    ram.read(address, &mut bytes).unwrap();
    bytes
}

fn kernel(content: &[u8]) -> Request {
    Request {
        kernel: Some(file(content)),
        ..Request::default()
    }
}

/// One segment of an ELF file to build: where it goes, its content, and its size in memory.
struct Part {
    address: u64,
    content: Vec<u8>,
    memory_size: u64,
}

/// What an ELF file is built from.
struct ElfFile {
    parts: Vec<Part>,
    notes: Option<Vec<u8>>,
}

impl ElfFile {
    /// Code at `address`, entered there.
    fn at(address: u64, content: &[u8]) -> Self {
        let memory_size = content.len() as u64;
        let notes = note(b"Xen\0", 18, &(address as u32).to_le_bytes());
        Self {
            parts: vec![Part {
                address,
                content: content.to_vec(),
                memory_size,
            }],
            notes: Some(notes),
        }
    }

    fn build(&self) -> Vec<u8> {
        let count = self.parts.len() + usize::from(self.notes.is_some());
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(62u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        for field in [0, 64u64, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(0u32.to_le_bytes());
        for field in [64, 56, count as u16, 0, 0, 0] {
            bytes.extend(field.to_le_bytes());
        }
        let mut at = 64 + count * 56;
        let mut content = Vec::new();
        let mut put = |kind: u32, address: u64, data: &[u8], memory_size: u64, align: u64| {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(7u32.to_le_bytes());
            let high_half = address | 0xffff_ffff_8000_0000;
            for field in [
                at as u64,
                high_half,
                address,
                data.len() as u64,
                memory_size,
                align,
            ] {
                bytes.extend(field.to_le_bytes());
            }
            at += data.len();
            content.extend(data);
        };
        for part in &self.parts {
            put(1, part.address, &part.content, part.memory_size, 4096);
        }
        if let Some(notes) = &self.notes {
            put(4, 0, notes, notes.len() as u64, 4);
        }
        [bytes, content].concat()
    }
}

/// An ELF note, padded to 4 bytes.
fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [name.len() as u32, content.len() as u32, kind] {
        bytes.extend(field.to_le_bytes());
    }
    for data in [name, content] {
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// A bzImage to change field by field, with the values of a usual kernel.
struct BzImageFile(Vec<u8>);

impl BzImageFile {
    const SETUP_SECTORS: u8 = 2;
    /// Offset of the compressed kernel in the file.
    const CODE: usize = (Self::SETUP_SECTORS as usize + 1) * 512;

    fn new(code: &[u8]) -> Self {
        let mut image = Self(vec![0; Self::CODE]);
        image
            .set(0x1f1, &[Self::SETUP_SECTORS])
            .set(0x1f4, &(code.len() as u32 / 16).to_le_bytes())
            .set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a])
            .set(0x202, b"HdrS\x0f\x02")
            .set(0x211, &[1])
            .set(0x214, &0x10_0000u32.to_le_bytes())
            .set(0x22c, &0x7fff_ffffu32.to_le_bytes())
            .set(0x230, &0x20_0000u32.to_le_bytes())
            .set(0x234, &[1, 21, 0x3f, 0])
            .set(0x238, &2047u32.to_le_bytes())
            .set(0x250, &0x1122_3344_5566_7788u64.to_le_bytes())
            .set(0x258, &(16 * MIB).to_le_bytes())
            .set(0x260, &(32 * MIB as u32).to_le_bytes());
        image.0.extend(code);
        image
    }

    fn set(&mut self, offset: usize, value: &[u8]) -> &mut Self {
        self.0[offset..offset + value.len()].copy_from_slice(value);
        self
    }
}

/// Code of a bzImage, each byte telling its place.
fn code() -> Vec<u8> {
    (0..0x1000u32)
        .map(|index| (index * 7 + index / 256) as u8)
        .collect()
}
