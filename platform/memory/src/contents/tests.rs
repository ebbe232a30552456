use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::*;
use crate::blocks::BLOCK;
use crate::testing::{GIB, LAYOUT, MIB, first, resident_pages};
use crate::{RamOptions, SavedFile};

fn options(shared: bool) -> RamOptions {
    RamOptions {
        shared,
        thp: false,
        ..RamOptions::default()
    }
}

fn new(shared: bool) -> GuestRam {
    GuestRam::new(&LAYOUT, &options(shared)).unwrap()
}

fn byte(ram: &GuestRam, address: u64) -> u8 {
    let mut byte = [0];
    ram.read(address, &mut byte).unwrap();
    byte[0]
}

/// Three pages with a byte each, one that was touched and is empty again.
fn fill(ram: &GuestRam) {
    ram.write(0x1000, &[1]).unwrap();
    ram.write(0x2fff, &[2]).unwrap();
    ram.write(4 * GIB + 3 * MIB, &[3]).unwrap();
    ram.write(MIB, &[0]).unwrap();
}

fn check(ram: &GuestRam) {
    let at = [0x1000, 0x2fff, 4 * GIB + 3 * MIB, MIB, 0x3000];
    assert_eq!(at.map(|address| byte(ram, address)), [1, 2, 3, 0, 0]);
}

fn written(ram: &GuestRam) -> (Arc<File>, Written) {
    let file = tempfile::tempfile().unwrap();
    let written = ram.write_contents(&file).unwrap();
    (Arc::new(file), written)
}

fn saved(file: &Arc<File>, sums: Option<&Written>) -> SavedFile {
    SavedFile {
        file: Arc::clone(file),
        path: "/saved".into(),
        sums: sums.map(|written| written.sums.as_slice().into()),
    }
}

fn blocks(file: &Arc<File>, written: &Written) -> Blocks {
    Blocks::new(12 * MIB, saved(file, Some(written)), Vec::new()).unwrap()
}

#[test]
fn damage_is_found_wherever_it_is() {
    let ram = new(false);
    fill(&ram);
    let (file, written) = written(&ram);
    assert_eq!(written.sums.len(), 2, "{:?}", written.sums);
    blocks(&file, &written).check().unwrap();
    // Of a page with something, of one beside it, and where nothing is.
    for (at, in_copies) in [(0x1000, true), (0x8000, true), (2 * MIB, false)] {
        let mut before = [0];
        file.read_exact_at(&mut before, at).unwrap();
        file.write_all_at(&[0xff], at).unwrap();
        let place = format!("bytes {:#x} to", at / BLOCK * BLOCK);
        let error = blocks(&file, &written).check().unwrap_err().to_string();
        assert!(
            error.contains(&place) && error.contains("/saved"),
            "{error}"
        );
        let copy = new(false);
        match copy.read_blocks(&blocks(&file, &written)) {
            Err(error) if in_copies => assert!(error.to_string().contains(&place), "{error}"),
            // Nothing comes from where nothing was.
            Ok(()) if !in_copies => check(&copy),
            other => panic!("{at:#x}: {other:?}"),
        }
        let unchecked = Blocks::new(12 * MIB, saved(&file, None), Vec::new()).unwrap();
        unchecked.check().unwrap();
        file.write_all_at(&before, at).unwrap();
    }
    // A hole where something was.
    file.set_len(0).unwrap();
    file.set_len(12 * MIB).unwrap();
    assert!(blocks(&file, &written).check().is_err());
}

#[test]
fn what_is_written_is_read_and_mapped_again() {
    for shared in [false, true] {
        let ram = new(shared);
        fill(&ram);
        let (file, written) = written(&ram);
        let about = file.metadata().unwrap();
        assert_eq!((written.size, written.data), (12 * MIB, 3 * 4096));
        assert_eq!(about.len(), 12 * MIB);
        assert_eq!(about.blocks() * 512, 3 * 4096, "empty pages are holes");
        // The second region follows the first.
        let mut byte = [0];
        file.read_exact_at(&mut byte, 11 * MIB).unwrap();
        assert_eq!(byte, [3]);
        let copy = new(shared);
        copy.read_blocks(&blocks(&file, &written)).unwrap();
        assert_eq!(resident_pages(&first(&copy)), 2, "holes take no memory");
        check(&copy);
        let over = GuestRam::over_file(&LAYOUT, &options(false), &file).unwrap();
        check(&over);
        assert!(first(&over).base().is_some() && first(&over).file().is_none());
    }
}

#[test]
fn writes_over_a_file_are_private_and_are_in_the_next_file() {
    let ram = new(false);
    fill(&ram);
    let (file, _) = written(&ram);
    let [one, two] = [0, 1].map(|_| GuestRam::over_file(&LAYOUT, &options(false), &file).unwrap());
    one.write(0x1000, &[7]).unwrap();
    one.write(2 * MIB, &[8]).unwrap();
    check(&two);
    // What is given up reads as zeros, although the file has something else.
    one.discard(0x2000, 0x1000).unwrap();
    assert_eq!(byte(&one, 0x2fff), 0);
    let (second, about) = written(&one);
    assert_eq!(about.data, 3 * 4096);
    let third = GuestRam::over_file(&LAYOUT, &options(false), &second).unwrap();
    let at = [0x1000, 0x2fff, 2 * MIB, 4 * GIB + 3 * MIB];
    assert_eq!(at.map(|address| byte(&third, address)), [7, 0, 8, 3]);
    third.write(0x2fff, &[9]).unwrap();
    assert_eq!((byte(&third, 0x2fff), byte(&one, 0x2fff)), (9, 0));
}

#[test]
fn files_of_other_sizes_and_memory_that_is_shared_are_refused() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(12 * MIB - 4096).unwrap();
    for error in [
        Blocks::new(12 * MIB, saved(&file, None), Vec::new()).unwrap_err(),
        GuestRam::over_file(&LAYOUT, &options(false), &file).unwrap_err(),
    ] {
        let text = "has 12578816 bytes instead of 12582912";
        assert!(error.to_string().contains(text), "{error}");
    }
    file.set_len(12 * MIB).unwrap();
    let error = GuestRam::over_file(&LAYOUT, &options(true), &file).unwrap_err();
    assert!(
        error.to_string().contains("memory_restore_mode=copy"),
        "{error}"
    );
}

#[test]
fn a_full_file_system_is_an_error() {
    let ram = new(false);
    fill(&ram);
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    assert!(matches!(
        ram.write_contents(&full),
        Err(Error::Contents { act: "write", .. })
    ));
}

#[test]
fn pages_are_found_by_how_they_begin() {
    for shared in [false, true] {
        let ram = new(shared);
        for address in [0x3000, 0x5000, 0x6001, 4 * GIB + 0x2000] {
            ram.write(address, b"mark").unwrap();
        }
        let found = |most| ram.pages_with(|bytes| bytes == b"mark", most).unwrap();
        assert_eq!(found(9), [0x3000, 0x5000, 4 * GIB + 0x2000]);
        assert_eq!(found(2), [0x3000, 0x5000]);
        // The last page ends before so many bytes are there.
        let end = 4 * GIB + 4 * MIB - 0x1000;
        ram.write(end, b"mark").unwrap();
        let long = |bytes: &[u8; 0x1001]| bytes.starts_with(b"mark");
        assert_eq!(ram.pages_with(long, 9).unwrap().len(), 3);
    }
}
