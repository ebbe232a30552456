//! Images that somebody changed: what they are refused with, and where reading them ends.

use std::sync::Arc;

use super::crc::checksum;
use super::guid::Guid;
use super::header::Header;
use super::journal::Journal;
use super::region::PLACES;
use super::replay::{Change, Replay, SECTOR};
use super::{MIB, Parameters, Vhdx, check, create};
use crate::mapped::{Mapping, put};
use crate::storage::Storage;
use crate::storage::simulator::Simulator;

const MIB_USIZE: usize = 1 << 20;
/// Where things are in images of ours.
const LOG: usize = MIB_USIZE;
const METADATA: usize = 2 * MIB_USIZE;
const BAT: usize = 3 * MIB_USIZE;
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
/// Items of the metadata, from its region's begin.
const ITEMS: usize = METADATA + (64 << 10);

/// A dynamic image of 8 MiB, blocks of 1 MiB, with its first two blocks.
fn image() -> Vec<u8> {
    let simulator = Simulator::new(vec![Vec::new()]);
    let file = simulator.file(0);
    let parameters = Parameters {
        block: 1 << 20,
        ..Parameters::usual(8 << 20, false)
    };
    create(&*file, parameters).unwrap();
    let image = Vhdx::open(Arc::clone(&file), false).unwrap();
    image.begin_change().unwrap();
    image.allocate(0, 2 << 20).unwrap();
    drop(image);
    simulator.contents().remove(0)
}

fn seal_at(bytes: &mut [u8], start: usize, length: usize) {
    let sum = checksum(&bytes[start..start + length], 4);
    put(&mut bytes[start..], 4, &sum.to_le_bytes());
}

/// Makes the checksums of headers and tables of regions right.
fn seal(bytes: &mut [u8]) {
    for start in HEADERS {
        seal_at(bytes, start, 4096);
    }
    for start in PLACES {
        seal_at(bytes, usize::try_from(start).unwrap(), 64 << 10);
    }
}

/// [`image`] with these changes, each at every one of its places.
fn changed(places: &[usize], field: &[u8]) -> Vec<u8> {
    let mut bytes = image();
    for at in places {
        put(&mut bytes, *at, field);
    }
    seal(&mut bytes);
    bytes
}

fn file(bytes: Vec<u8>) -> Arc<dyn Storage> {
    Simulator::new(vec![bytes]).file(0)
}

fn refusal(bytes: Vec<u8>) -> String {
    match Vhdx::open(file(bytes), true) {
        Ok(_) => "none".into(),
        Err(reason) => reason,
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let both = |at| HEADERS.map(|start| start + at);
    for (at, field, reason) in [
        (0, &b"hea"[..], "none"),
        (0, b"heaD", "neither of its headers"),
        (66, &9_u16.to_le_bytes(), "version 9"),
        (68, &0_u32.to_le_bytes(), "log of 0 bytes"),
        (68, &4096_u32.to_le_bytes(), "log of 4096 bytes"),
        (68, &(u32::MAX << 20).to_le_bytes(), "are the most"),
        (72, &0_u64.to_le_bytes(), "at 0x0"),
        (72, &(!(MIB - 1)).to_le_bytes(), "not where one can be"),
        (72, &(2 * MIB).to_le_bytes(), "log overlaps"),
    ] {
        let found = refusal(changed(&both(at), field));
        assert!(found.contains(reason), "{at} {field:x?}: {found}");
    }
    // A log that counts has to be in the file, and of a version that is known.
    let mut bytes = changed(&both(48), &[1; 16]);
    for start in HEADERS {
        put(&mut bytes, start + 72, &(100 * MIB).to_le_bytes());
    }
    seal(&mut bytes);
    assert!(refusal(bytes).contains("log is not within the file"));
    let mut bytes = changed(&both(48), &[1; 16]);
    for start in HEADERS {
        put(&mut bytes, start + 64, &1_u16.to_le_bytes());
    }
    seal(&mut bytes);
    assert!(refusal(bytes).contains("version 1 of its log"));
}

#[test]
fn one_header_and_one_table_of_regions_are_enough() {
    let mut bytes = image();
    bytes[HEADERS[0] + 200] ^= 1;
    bytes[(192 << 10) + 200] ^= 1;
    assert_eq!(refusal(bytes.clone()), "none");
    let mut other = bytes.clone();
    other[HEADERS[1] + 200] ^= 1;
    assert!(refusal(other).contains("neither of its headers"));
    bytes[(256 << 10) + 200] ^= 1;
    assert!(refusal(bytes).contains("neither of its tables of regions"));
    // Two that say the same of themselves and are not the same.
    let mut bytes = image();
    let number: [u8; 8] = bytes[HEADERS[0] + 8..][..8].try_into().unwrap();
    put(&mut bytes, HEADERS[1] + 8, &number);
    bytes[HEADERS[1] + 32] ^= 1;
    seal(&mut bytes);
    assert!(refusal(bytes).contains("the same number"));
}

#[test]
fn regions_that_cannot_be_are_refused() {
    let entry =
        |number: usize, at: usize| [192, 256].map(|kib| (kib << 10) + 16 + 32 * number + at);
    for (places, field, reason) in [
        (
            [192, 256].map(|kib| (kib << 10) + 8),
            &2048_u32.to_le_bytes()[..],
            "2048 entries",
        ),
        (
            [192, 256].map(|kib| (kib << 10) + 8),
            &1_u32.to_le_bytes(),
            "no metadata",
        ),
        (
            entry(0, 0),
            &[7; 16],
            "07070707-0707-0707-0707-070707070707",
        ),
        (
            entry(0, 16),
            &(!(MIB - 1)).to_le_bytes(),
            "not where one can be",
        ),
        (
            entry(0, 16),
            &(1_u64 << 40).to_le_bytes(),
            "not where one can be",
        ),
        (
            entry(0, 16),
            &(MIB + 512).to_le_bytes(),
            "not where one can be",
        ),
        (entry(0, 16), &0_u64.to_le_bytes(), "not where one can be"),
        (entry(0, 24), &0_u32.to_le_bytes(), "of 0 bytes"),
        (
            entry(0, 24),
            &(u32::MAX << 20).to_le_bytes(),
            "not where one can be",
        ),
        (entry(1, 16), &(3 * MIB).to_le_bytes(), "overlaps"),
    ] {
        let found = refusal(changed(&places, field));
        assert!(found.contains(reason), "{places:x?} {field:x?}: {found}");
    }
}

#[test]
fn metadata_that_cannot_be_is_refused() {
    let entry = |number: usize, at: usize| METADATA + 32 * (number + 1) + at;
    for (at, field, reason) in [
        (METADATA, &b"metadatb"[..], "no table of metadata"),
        (METADATA + 10, &2048_u16.to_le_bytes(), "2048 entries"),
        (
            METADATA + 10,
            &4_u16.to_le_bytes(),
            "no physical sector size",
        ),
        (entry(0, 0), &[7; 16], "required and not known"),
        (entry(0, 16), &0_u32.to_le_bytes(), "not where it can be"),
        (entry(0, 16), &u32::MAX.to_le_bytes(), "not where it can be"),
        (entry(0, 20), &u32::MAX.to_le_bytes(), "not where it can be"),
        (entry(0, 20), &4_u32.to_le_bytes(), "4 bytes, not 8"),
        (ITEMS, &(3_u32 << 20).to_le_bytes(), "power of two"),
        (ITEMS, &(512_u32 << 20).to_le_bytes(), "power of two"),
        (ITEMS, &0_u32.to_le_bytes(), "blocks have 0 bytes"),
        (ITEMS + 4, &2_u32.to_le_bytes(), "does not say which"),
        (ITEMS + 8, &0_u64.to_le_bytes(), "size of 0"),
        (ITEMS + 8, &u64::MAX.to_le_bytes(), "size of"),
        (ITEMS + 8, &(64_u64 << 40).to_le_bytes(), "too short"),
        (ITEMS + 8, &513_u64.to_le_bytes(), "size of 513"),
        (ITEMS + 32, &1024_u32.to_le_bytes(), "1024 bytes, not 512"),
    ] {
        let found = refusal(changed(&[at], field));
        assert!(found.contains(reason), "{at:#x} {field:x?}: {found}");
    }
}

#[test]
fn blocks_that_are_where_none_can_be_are_errors_of_their_own() {
    for (entry, reason) in [
        (6, "not where a block"),
        (MIB | 6, "not where a block"),
        ((2 * MIB) | 6, "not where a block"),
        ((3 * MIB) | 6, "not where a block"),
        ((100 * MIB) | 6, "not where a block"),
        ((!(MIB - 1)) | 6, "not where a block"),
        ((4 * MIB) | 7, "in part in a parent"),
        ((4 * MIB) | 4, "state 4"),
        ((4 * MIB) | 5, "state 5"),
    ] {
        let storage = file(changed(&[BAT + 8], &entry.to_le_bytes()));
        let image = Vhdx::open(Arc::clone(&storage), false).unwrap();
        image.find(0, 512).unwrap();
        for error in [
            image.find(MIB, 512).unwrap_err(),
            image.allocate(MIB, 512).unwrap_err(),
        ] {
            assert!(error.to_string().contains(reason), "{entry:#x}: {error}");
        }
        assert_eq!(check(&storage, false).unwrap().errors, 1);
    }
}

#[test]
fn blocks_that_share_bytes_are_found() {
    let mut bytes = image();
    let first: [u8; 8] = bytes[BAT..BAT + 8].try_into().unwrap();
    put(&mut bytes, BAT + 8, &first);
    let found = check(&file(bytes), false).unwrap();
    assert_eq!(found.errors, 1);
    assert!(found.notes[0].contains("another one has too"), "{found:?}");
}

/// An image whose log has one entry that counts, which changes the first page of the table of blocks to `0x55`.
fn with_log() -> Vec<u8> {
    let simulator = Simulator::new(vec![image()]);
    let file = simulator.file(0);
    let mut header = Header::read(&*file).unwrap();
    let mut journal = Journal::new(&header, &*file).unwrap();
    let page = vec![0x55; SECTOR];
    let pages: [(u64, &[u8]); 1] = [(3 * MIB, &page)];
    journal.commit(&*file, &mut header, &pages).unwrap();
    assert!(header.log != Guid::ZERO);
    simulator.contents().remove(0)
}

/// The entry takes two sectors: head and data.
fn with_bad_log(at: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = with_log();
    put(&mut bytes, LOG + at, field);
    seal_at(&mut bytes, LOG, 2 * SECTOR);
    bytes
}

#[test]
fn a_log_is_replayed_in_memory_or_in_the_file() {
    let simulator = Simulator::new(vec![with_log()]);
    let before = simulator.contents().remove(0);
    let image = Vhdx::open(simulator.file(0), true).unwrap();
    // The page that the log has is no table of blocks: state 5.
    let error = image.find(0, 512).unwrap_err();
    assert!(error.to_string().contains("state 5"), "{error}");
    drop(image);
    assert!(simulator.contents()[0] == before);
    let image = Vhdx::open(simulator.file(0), false).unwrap();
    drop(image);
    let after = simulator.contents().remove(0);
    assert!(after[BAT..BAT + SECTOR] == [0x55; SECTOR]);
    assert!(Header::read(&*file(after)).unwrap().log == Guid::ZERO);
}

#[test]
fn logs_that_lead_astray_are_refused_and_change_nothing() {
    let (descriptor, data) = (64, SECTOR);
    for (at, field, reason) in [
        // The entry: length, tail, sequence, descriptors, id, flushed and last length of the file.
        (0, &b"logf"[..], "nothing that is in order"),
        (8, &u32::MAX.to_le_bytes(), "nothing that is in order"),
        (8, &0_u32.to_le_bytes(), "nothing that is in order"),
        (12, &u32::MAX.to_le_bytes(), "nothing that is in order"),
        (12, &8192_u32.to_le_bytes(), "nothing that is in order"),
        (16, &0_u64.to_le_bytes(), "nothing that is in order"),
        (24, &u32::MAX.to_le_bytes(), "nothing that is in order"),
        (24, &2_u32.to_le_bytes(), "contradicts itself"),
        (32, &[1; 16], "nothing that is in order"),
        (48, &u64::MAX.to_le_bytes(), "was cut off"),
        (56, &u64::MAX.to_le_bytes(), "wants the file to have"),
        // Its descriptor: kind, place, sequence.
        (descriptor, b"Desc", "contradicts itself"),
        (
            descriptor + 16,
            &512_u64.to_le_bytes(),
            "contradicts itself",
        ),
        (descriptor + 16, &0_u64.to_le_bytes(), "which it cannot"),
        (
            descriptor + 16,
            &(64_u64 << 10).to_le_bytes(),
            "which it cannot",
        ),
        (
            descriptor + 16,
            &(1_u64 << 50).to_le_bytes(),
            "which it cannot",
        ),
        (
            descriptor + 16,
            &(!4095_u64).to_le_bytes(),
            "which it cannot",
        ),
        (descriptor + 16, &MIB.to_le_bytes(), "changes itself"),
        (descriptor + 24, &9_u64.to_le_bytes(), "contradicts itself"),
        // Its data.
        (data, b"Data", "contradicts itself"),
        (data + 4, &9_u32.to_le_bytes(), "contradicts itself"),
        (2 * SECTOR - 4, &9_u32.to_le_bytes(), "contradicts itself"),
    ] {
        let simulator = Simulator::new(vec![with_bad_log(at, field)]);
        let before = simulator.contents().remove(0);
        for read_only in [true, false] {
            let Err(found) = Vhdx::open(simulator.file(0), read_only) else {
                panic!("{at} {field:x?} is opened");
            };
            assert!(found.contains(reason), "{at} {field:x?}: {found}");
        }
        assert!(simulator.contents()[0] == before, "{at} {field:x?}");
    }
    // Zeros without end, and a checksum that is wrong.
    let mut bytes = with_bad_log(descriptor, b"zero");
    put(&mut bytes, LOG + descriptor + 8, &(!4095_u64).to_le_bytes());
    seal_at(&mut bytes, LOG, 2 * SECTOR);
    assert!(refusal(bytes).contains("which it cannot"));
    let mut bytes = with_log();
    bytes[LOG + 70] ^= 1;
    assert!(refusal(bytes).contains("nothing that is in order"));
}

#[test]
fn a_log_makes_no_more_zeros_than_the_file_has_bytes_for() {
    let zeros = |count: usize, length: u64, last: u64| {
        let mut bytes = with_log();
        let sequence: [u8; 8] = bytes[LOG + 16..LOG + 24].try_into().unwrap();
        put(
            &mut bytes,
            LOG + 24,
            &[u8::try_from(count).unwrap(), 0, 0, 0],
        );
        put(&mut bytes, LOG + 56, &last.to_le_bytes());
        for descriptor in 0..count {
            let at = LOG + 64 + 32 * descriptor;
            put(&mut bytes, at, b"zero\0\0\0\0");
            put(&mut bytes, at + 8, &length.to_le_bytes());
            put(&mut bytes, at + 16, &(3 * MIB).to_le_bytes());
            put(&mut bytes, at + 24, &sequence);
        }
        seal_at(&mut bytes, LOG, 2 * SECTOR);
        bytes
    };
    // A file that is to have 64 TiB, and zeros in half of them: those that are not there yet come by themselves.
    let bytes = zeros(1, 1 << 45, 1 << 46);
    let length = bytes.len() as u64 - 3 * MIB;
    let storage = file(bytes);
    let header = Header::read(&*storage).unwrap();
    let replay = Replay::read(&*storage, &header).unwrap().unwrap();
    let offset = 3 * MIB;
    assert_eq!(replay.changes, [Change::Zero { offset, length }]);
    // As many as are in a sector.
    let refused = refusal(zeros(126, 1 << 45, 1 << 46));
    assert!(refused.contains("4 times the length"), "{refused}");
    assert!(Vhdx::open(file(zeros(4, 1 << 20, 16 << 20)), false).is_ok());
}

#[test]
fn files_that_were_cut_off_are_errors_or_images() {
    for whole in [image(), with_log()] {
        let lengths = (0..512 << 10).step_by(9973);
        for length in lengths.chain((0..whole.len()).step_by(100_003)) {
            for read_only in [true, false] {
                let Ok(image) = Vhdx::open(file(whole[..length].to_vec()), read_only) else {
                    continue;
                };
                for at in (0..8 << 20).step_by(1 << 20) {
                    // Either is right; what counts is that it ends.
                    let _ = image.find(at, MIB);
                }
            }
        }
    }
}

#[test]
fn a_last_block_that_is_cut_off_in_the_file_is_whole_when_the_disk_grows() {
    // A disk of one block and a half, whose file ends with it, with something behind the half of another image.
    let size = MIB + MIB / 2;
    for rest in [None, Some(9)] {
        let mut bytes = changed(&[ITEMS + 8], &size.to_le_bytes());
        let second: [u8; 8] = bytes[BAT + 8..BAT + 16].try_into().unwrap();
        let start = usize::try_from(u64::from_le_bytes(second) & !(MIB - 1)).unwrap();
        bytes.truncate(start + MIB_USIZE / 2);
        if let Some(byte) = rest {
            bytes.resize(start + MIB_USIZE, byte);
        }
        bytes[start] = 7;
        let simulator = Simulator::new(vec![bytes]);
        let image = Vhdx::open(simulator.file(0), false).unwrap();
        image.resize(4 * MIB).unwrap();
        let expected = (crate::mapped::Place::Data(start as u64), MIB);
        assert_eq!(image.find(MIB, MIB).unwrap(), expected);
        drop(image);
        let after = simulator.contents().remove(0);
        assert_eq!(after[start], 7);
        let half = &after[start + MIB_USIZE / 2..start + MIB_USIZE];
        assert!(half == vec![0; MIB_USIZE / 2], "{rest:?}");
    }
}
