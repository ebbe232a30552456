//! ELF files with a PVH entry point.
//!
//! The file says which parts go where by program headers (System V ABI, "Program Loading"). The PVH boot
//! protocol adds a note with the address to start at, in 32-bit mode and without paging (Xen,
//! `docs/misc/pvh.pandoc` and `xen/include/public/elfnote.h`).

use std::ops::Range;

use super::source::Source;
use crate::Error;
use crate::bytes::{align_up, u16_at, u32_at, u64_at};

/// First bytes of every ELF file.
pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";

/// Size of the file header of a 64-bit file.
const HEADER: usize = 64;
/// Size of a program header of a 64-bit file.
const PROGRAM_HEADER: usize = 56;
/// `e_ident[EI_CLASS]` and `e_ident[EI_DATA]`: 64-bit, little-endian.
const CLASS_64_LITTLE: [u8; 2] = [2, 1];
/// `e_machine` of x86-64, and of the 80386, which EDK2 puts into the header of its image. A PVH entry point is
/// 32-bit code in both.
const MACHINES: [u16; 2] = [62, 3];
/// `e_type` of an executable and of a position-independent one.
const EXECUTABLE: Range<u16> = 2..4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Name and type of the note with the entry point, `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_NAME: &[u8] = b"Xen\0";
const NOTE_PHYS32_ENTRY: u32 = 18;
/// The largest note segment that is looked at. A kernel's has a few hundred bytes.
const NOTES_MAX: u64 = 1 << 20;

/// An ELF file that can be started by the PVH protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Physical address of the entry point, inside one of the segments.
    pub entry: u32,
    /// What to load; sorted by address, not empty, not overlapping.
    pub segments: Vec<Segment>,
}

/// Part of an ELF file that goes to guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the file has it.
    pub file_offset: u64,
    /// Bytes in the file. The rest of `memory` is zero.
    pub file_size: u64,
    /// Guest physical addresses.
    pub memory: Range<u64>,
}

/// Reads the headers of a file that starts with [`MAGIC`].
pub(super) fn parse(source: &Source<'_>) -> Result<Elf, Error> {
    let role = source.role;
    let headers = program_headers(source)?;

    let mut segments = Vec::new();
    for header in headers
        .iter()
        .filter(|header| header.kind == PT_LOAD && header.memory_size > 0)
    {
        segments.push(segment(source, header)?);
    }
    segments.sort_by_key(|segment| segment.memory.start);
    if segments.is_empty() {
        return Err(Error::BadElf {
            role,
            what: "nothing to load (no PT_LOAD segment)",
        });
    }
    // Also bounds the work: what does not overlap is no more than the guest's RAM.
    if segments
        .windows(2)
        .any(|pair| pair[0].memory.end > pair[1].memory.start)
    {
        return Err(Error::BadElf {
            role,
            what: "segments that overlap in memory",
        });
    }

    let mut entry = None;
    for header in headers.iter().filter(|header| header.kind == PT_NOTE) {
        if header.file_size > NOTES_MAX {
            return Err(Error::BadElf {
                role,
                what: "a note segment of more than 1 MiB",
            });
        }
        let len = usize::try_from(header.file_size).unwrap_or(usize::MAX);
        let notes = source.read(header.file_offset, len)?;
        entry = entry.or(pvh_entry(&notes, header.alignment));
    }
    let entry = entry.ok_or(Error::NoPvhNote { role })?;
    let inside = |address| {
        segments
            .iter()
            .any(|segment| segment.memory.contains(&address))
    };
    match u32::try_from(entry) {
        Ok(entry) if inside(u64::from(entry)) => Ok(Elf { entry, segments }),
        _ => Err(Error::BadElf {
            role,
            what: "a PVH entry point outside of its segments",
        }),
    }
}

/// A program header.
struct ProgramHeader {
    kind: u32,
    file_offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

impl ProgramHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(bytes, 0)?,
            file_offset: u64_at(bytes, 8)?,
            // p_paddr; the virtual address before it means nothing without paging.
            address: u64_at(bytes, 24)?,
            file_size: u64_at(bytes, 32)?,
            memory_size: u64_at(bytes, 40)?,
            alignment: u64_at(bytes, 48)?,
        })
    }
}

/// Checks the file header and reads all program headers.
fn program_headers(source: &Source<'_>) -> Result<Vec<ProgramHeader>, Error> {
    let role = source.role;
    let bad = |what| Error::BadElf { role, what };
    let head = source.read(0, HEADER)?;
    if head[4..6] != CLASS_64_LITTLE {
        return Err(bad(
            "32-bit or big-endian code; a 64-bit little-endian file is needed",
        ));
    }
    if !u16_at(&head, 18).is_some_and(|machine| MACHINES.contains(&machine)) {
        return Err(bad("code for another processor; x86-64 or 80386 is needed"));
    }
    if !u16_at(&head, 16).is_some_and(|kind| EXECUTABLE.contains(&kind)) {
        return Err(bad(
            "no program in it (it is an object file, a library or a core dump)",
        ));
    }
    if u16_at(&head, 54).map(usize::from) != Some(PROGRAM_HEADER) {
        return Err(bad("program headers of an unknown size"));
    }
    let offset = u64_at(&head, 32).unwrap_or(0);
    let count = u16_at(&head, 56).map_or(0, usize::from);
    let table = source.read(offset, count * PROGRAM_HEADER)?;
    Ok(table
        .chunks_exact(PROGRAM_HEADER)
        .filter_map(ProgramHeader::parse)
        .collect())
}

/// Checks one loadable segment.
fn segment(source: &Source<'_>, header: &ProgramHeader) -> Result<Segment, Error> {
    let role = source.role;
    source.check_range(header.file_offset, header.file_size)?;
    if header.file_size > header.memory_size {
        return Err(Error::BadElf {
            role,
            what: "a segment that is larger in the file than loaded",
        });
    }
    let end = header
        .address
        .checked_add(header.memory_size)
        .ok_or(Error::BadElf {
            role,
            what: "a segment past the end of the address space",
        })?;
    Ok(Segment {
        file_offset: header.file_offset,
        file_size: header.file_size,
        memory: header.address..end,
    })
}

/// Finds the entry point among notes. A note is the sizes of its name and of its content, its type, and then
/// name and content, each padded.
fn pvh_entry(notes: &[u8], alignment: u64) -> Option<u64> {
    // Only segments that say 8 are padded to 8 bytes; anything else means 4.
    let padded = |size: u32| {
        let padding = if alignment == 8 { 8 } else { 4 };
        usize::try_from(align_up(u64::from(size), padding)?).ok()
    };
    let mut rest = notes;
    while let (Some(name_size), Some(size), Some(kind)) =
        (u32_at(rest, 0), u32_at(rest, 4), u32_at(rest, 8))
    {
        // With padding to 8 the name starts at 12, and its padding counts from the start of the note.
        let name = rest.get(12..)?.get(..usize::try_from(name_size).ok()?)?;
        let content_at = padded(name_size.checked_add(12)?)?;
        let content = rest.get(content_at..)?;
        if name == NOTE_NAME && kind == NOTE_PHYS32_ENTRY {
            return match size {
                4 => u32_at(content, 0).map(u64::from),
                8 => u64_at(content, 0),
                _ => None,
            };
        }
        rest = content.get(padded(size)?..)?;
    }
    None
}
