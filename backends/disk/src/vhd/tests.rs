//! Images that somebody changed: what they are refused with, and where reading them ends.

use std::sync::Arc;

use super::footer::{FOOTER, checksum};
use super::header::HEADER;
use super::{DiskType, Vhd, check, create};
use crate::mapped::{Mapping, Place, put};
use crate::storage::Storage;
use crate::storage::simulator::Simulator;

/// A dynamic image of 8 MiB with its first two blocks.
fn image() -> Vec<u8> {
    let simulator = Simulator::new(vec![Vec::new()]);
    let file = simulator.file(0);
    create(&*file, DiskType::Dynamic, 8 << 20, None).unwrap();
    let image = Vhd::open(Arc::clone(&file), false).unwrap();
    image.allocate(0, 4 << 20).unwrap();
    drop(image);
    simulator.contents().remove(0)
}

/// Where the table of [`image`] is.
const TABLE: usize = FOOTER + HEADER;

/// Makes the checksums of both footers and of the header right.
fn seal(bytes: &mut [u8]) {
    let last = bytes.len() - FOOTER;
    for (start, length, at) in [(0, FOOTER, 64), (last, FOOTER, 64), (FOOTER, HEADER, 36)] {
        let sum = checksum(&bytes[start..start + length], at);
        put(&mut bytes[start..], at, &sum.to_be_bytes());
    }
}

/// [`image`] with a field changed, in both footers if it is in one of them.
fn changed(at: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = image();
    put(&mut bytes, at, field);
    if at < FOOTER {
        let last = bytes.len() - FOOTER;
        put(&mut bytes[last..], at, field);
    }
    seal(&mut bytes);
    bytes
}

fn file(bytes: Vec<u8>) -> Arc<dyn Storage> {
    Simulator::new(vec![bytes]).file(0)
}

fn refusal(bytes: Vec<u8>) -> String {
    match Vhd::open(file(bytes), true) {
        Ok(_) => "none".into(),
        Err(reason) => reason,
    }
}

#[test]
fn fields_that_cannot_be_are_refused_by_name() {
    let high = !511_u64;
    for (at, field, reason) in [
        // Of the footer: version, header, size, type, saved state.
        (12, &0x0002_0000_u32.to_be_bytes()[..], "version 0x20000"),
        (16, &high.to_be_bytes(), "header"),
        (16, &0_u64.to_be_bytes(), "header at 0x0"),
        (16, &513_u64.to_be_bytes(), "header at 0x201"),
        (48, &0_u64.to_be_bytes(), "size of 0"),
        (48, &u64::MAX.to_be_bytes(), "size of"),
        (48, &(2041_u64 << 30).to_be_bytes(), "size of"),
        (48, &(10_u64 << 20).to_be_bytes(), "5 blocks"),
        // A parent that has no name: that is said when it is looked for.
        (60, &4_u32.to_be_bytes(), "none"),
        (60, &7_u32.to_be_bytes(), "disk type 7"),
        (84, &[1], "saved"),
        // Of the header: table, version, entries, block.
        (FOOTER, b"cxsparsf", "no header"),
        (FOOTER + 16, &high.to_be_bytes(), "not within the file"),
        (FOOTER + 16, &1_u64.to_be_bytes(), "begin with a sector"),
        (
            FOOTER + 16,
            &0_u64.to_be_bytes(),
            "its header or its footer",
        ),
        (
            FOOTER + 16,
            &1024_u64.to_be_bytes(),
            "its header or its footer",
        ),
        (
            FOOTER + 24,
            &0x0003_0000_u32.to_be_bytes(),
            "version 0x30000",
        ),
        (FOOTER + 28, &3_u32.to_be_bytes(), "4 blocks"),
        (FOOTER + 32, &0_u32.to_be_bytes(), "blocks have 0 bytes"),
        (FOOTER + 32, &(3_u32 << 20).to_be_bytes(), "power of two"),
    ] {
        let found = refusal(changed(at, field));
        assert!(found.contains(reason), "{at} {field:x?}: {found}");
    }
    // Blocks of 4 KiB would make a table of 2 GiB.
    let mut bytes = changed(48, &(2040_u64 << 30).to_be_bytes());
    put(&mut bytes, FOOTER + 28, &u32::MAX.to_be_bytes());
    put(&mut bytes, FOOTER + 32, &4096_u32.to_be_bytes());
    seal(&mut bytes);
    let found = refusal(bytes);
    assert!(found.contains("the most that can be served"), "{found}");
}

#[test]
fn wrong_checksums_are_refused_and_one_good_footer_is_enough() {
    let mut bytes = image();
    let last = bytes.len() - FOOTER;
    bytes[FOOTER + 5] ^= 1;
    assert!(refusal(bytes).contains("no header"));
    let mut bytes = image();
    bytes[FOOTER + 100] ^= 1;
    assert!(refusal(bytes).contains("checksum of its header"));
    let mut bytes = image();
    bytes[last + 100] ^= 1;
    let damaged = Simulator::new(vec![bytes.clone()]);
    assert_eq!(refusal(bytes.clone()), "none");
    bytes[100] ^= 1;
    assert!(refusal(bytes).contains("no footer"));
    // What is opened for writing has both again.
    let found = check(&damaged.file(0), false).unwrap();
    assert_eq!((found.errors, found.repairs), (1, 0));
    let found = check(&damaged.file(0), true).unwrap();
    assert_eq!((found.errors, found.repairs), (0, 1));
    let found = check(&damaged.file(0), false).unwrap();
    assert_eq!((found.errors, found.repairs), (0, 0));
}

#[test]
fn blocks_that_are_where_none_can_be_are_errors_of_their_own() {
    let table = u32::try_from(TABLE / 512).unwrap();
    for entry in [0, 1, table, u32::MAX - 1, 0x8000_0000] {
        let bytes = changed(TABLE + 4, &entry.to_be_bytes());
        let storage = file(bytes);
        let image = Vhd::open(Arc::clone(&storage), false).unwrap();
        image.find(0, 512).unwrap();
        let error = image.find(2 << 20, 512).unwrap_err();
        assert!(error.to_string().contains("block 1 at"), "{error}");
        let error = image.allocate(2 << 20, 512).unwrap_err();
        assert!(error.to_string().contains("block 1 at"), "{error}");
        assert_eq!(check(&storage, false).unwrap().errors, 1);
    }
}

#[test]
fn blocks_that_share_bytes_are_found() {
    let mut bytes = image();
    let (table, first) = (
        TABLE,
        u32::from_be_bytes(*bytes[TABLE..].first_chunk().unwrap()),
    );
    put(&mut bytes, table + 4, &(first + 1).to_be_bytes());
    let found = check(&file(bytes), false).unwrap();
    assert_eq!(found.errors, 1);
    assert!(found.notes[0].contains("blocks 0 and 1"), "{found:?}");
}

#[test]
fn files_that_were_cut_off_are_errors_or_images() {
    let whole = image();
    let lengths = (0..4096).step_by(37).chain([1536, 2047, 2048, 2049]);
    for length in lengths.chain((0..whole.len()).step_by(100_003)) {
        for read_only in [true, false] {
            let Ok(image) = Vhd::open(file(whole[..length].to_vec()), read_only) else {
                continue;
            };
            for at in (0..8 << 20).step_by(1 << 20) {
                // Either is right; what counts is that it ends.
                let _ = image.find(at, 1 << 20);
            }
        }
    }
}

#[test]
fn what_is_behind_the_end_of_the_disk_is_zero_when_it_grows() {
    let size = (2_u64 << 20) + 512;
    let simulator = Simulator::new(vec![changed(48, &size.to_be_bytes())]);
    let storage = simulator.file(0);
    let image = Vhd::open(Arc::clone(&storage), false).unwrap();
    let place = |at| match image.find(at, 512).unwrap() {
        (Place::Data(start), 512) => start,
        other => panic!("{at}: {other:?}"),
    };
    let last = place(2 << 20);
    storage.write(last, &[7; 1024]).unwrap();
    image.resize(8 << 20).unwrap();
    assert_eq!(place((2 << 20) + 512), last + 512);
    let mut bytes = [1; 1024];
    storage.read(last, &mut bytes).unwrap();
    assert!(bytes[..512] == [7; 512] && bytes[512..] == [0; 512]);
}
