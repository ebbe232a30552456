//! What a Linux guest says of itself to debuggers: release, sizes of its types, and where it has put itself.
//!
//! A kernel that can be dumped (`CONFIG_CRASH_CORE`) keeps the note `VMCOREINFO` ready in pages of its own (Linux,
//! `Documentation/admin-guide/kdump/vmcoreinfo.rst`). Where these are it tells hypervisors through a device that this
//! machine does not have. So all pages are looked at for one that begins as the note does, which is a heuristic: it may
//! be an old copy, and a guest can forge it as all else in its memory.

use memory::GuestRam;

use super::elf::Note;
use crate::Result;

const NAME: &str = "VMCOREINFO";
const KIND: u32 = 0;
/// Lengths of name and content and the type, 4 bytes each; then the name, padded.
const HEAD: usize = 12 + 12;
/// What the content begins with.
const FIRST: &[u8; 10] = b"OSRELEASE=";
/// Largest content: the kernel has a page for it.
const MOST: usize = 4096;
/// Most notes that are looked at.
const CANDIDATES: usize = 64;

/// The first such note in the guest's memory.
///
/// # Errors
/// If memory cannot be looked through.
pub(super) fn find(ram: &GuestRam) -> Result<Option<Note>> {
    let begins = |bytes: &[u8; HEAD + FIRST.len()]| content_size(bytes).is_some();
    let pages = ram.pages_with(begins, CANDIDATES)?;
    let mut notes = pages.iter().filter_map(|page| {
        let mut head = [0; HEAD + FIRST.len()];
        ram.read(*page, &mut head).ok()?;
        let mut content = vec![0; content_size(&head)?];
        ram.read(page + HEAD as u64, &mut content).ok()?;
        is_text(&content).then_some((*page, content))
    });
    let Some((page, content)) = notes.next() else {
        telemetry::info!(
            "the guest's memory has no note VMCOREINFO: crash will want to be told where the kernel is"
        );
        return Ok(None);
    };
    telemetry::info!("the guest's note VMCOREINFO is taken from {page:#x}");
    Ok(Some(Note {
        name: NAME,
        kind: KIND,
        content,
    }))
}

/// The length of the note's content, if these bytes begin one.
fn content_size(bytes: &[u8; HEAD + FIRST.len()]) -> Option<usize> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let size = usize::try_from(word(4)?).ok()?;
    let name_size = u32::try_from(NAME.len() + 1).ok()?;
    let fits = word(0)? == name_size && word(8)? == KIND && (FIRST.len()..=MOST).contains(&size);
    let named = bytes[12..].starts_with(NAME.as_bytes()) && bytes[22..HEAD] == [0, 0];
    (fits && named && bytes[HEAD..] == *FIRST).then_some(size)
}

/// Lines of `NAME=value`, possibly with the zeros of the rest of the page.
fn is_text(content: &[u8]) -> bool {
    let end = content.iter().position(|byte| *byte == 0);
    let (text, rest) = content.split_at(end.unwrap_or(content.len()));
    let is_ascii = |byte: &u8| matches!(byte, b'\n' | b' '..=b'~');
    text.iter().all(is_ascii) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use memory::{RamOptions, RegionSpec};

    use super::*;

    const SIZE: u64 = 1 << 20;

    fn ram() -> GuestRam {
        let region = RegionSpec {
            start: 0,
            size: SIZE,
        };
        GuestRam::new(&[region], &RamOptions::default()).unwrap()
    }

    fn note(name_size: u32, size: u32, name: &[u8; 12], content: &[u8]) -> Vec<u8> {
        let head = [name_size, size, 0].map(u32::to_le_bytes).concat();
        [&head, name.as_slice(), content].concat()
    }

    const TEXT: &[u8] = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n";
    const NAMED: &[u8; 12] = b"VMCOREINFO\0\0";

    #[test]
    fn the_note_is_found_at_the_begin_of_a_page() {
        let ram = ram();
        assert!(find(&ram).unwrap().is_none());
        let bytes = note(11, 30, NAMED, TEXT);
        ram.write(0x5008, &bytes).unwrap();
        assert!(find(&ram).unwrap().is_none());
        ram.write(0x7000, &bytes).unwrap();
        let found = find(&ram).unwrap().unwrap();
        assert_eq!((found.name, found.kind), ("VMCOREINFO", 0));
        assert_eq!(found.content, TEXT);
    }

    #[test]
    fn what_only_looks_like_it_is_none_and_does_not_hide_the_true_one() {
        let ram = ram();
        let wrong = [
            note(10, 30, NAMED, TEXT),
            note(11, 4097, NAMED, TEXT),
            note(11, 9, NAMED, TEXT),
            note(11, 30, b"VMCOREINFO\0x", TEXT),
            note(11, 30, NAMED, b"RELEASE=6.1.0\nPAGESIZE=4096\n\n\n"),
            note(11, 30, NAMED, b"OSRELEASE=6.1.0\nPAGESIZE=\x1b[2J\n"),
            note(11, 30, NAMED, b"OSRELEASE=6.1.0\n\0PAGESIZE=4096\n"),
        ];
        for (page, bytes) in (1..).zip(&wrong) {
            ram.write(page * 0x1000, bytes).unwrap();
        }
        // The content would go beyond the end of memory.
        ram.write(SIZE - 0x1000, &note(11, 4096, NAMED, TEXT))
            .unwrap();
        assert!(find(&ram).unwrap().is_none());
        ram.write(0x20_000, &note(11, 31, NAMED, &[TEXT, b"\0"].concat()))
            .unwrap();
        let found = find(&ram).unwrap().unwrap();
        assert_eq!(found.content, [TEXT, b"\0"].concat());
    }
}
