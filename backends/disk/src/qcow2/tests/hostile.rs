//! Images that somebody changed: errors at most, within limits of time and memory.

use std::sync::Arc;

use proptest::prelude::*;

use crate::qcow2::header::Header;
use crate::qcow2::map::Map;
use crate::qcow2::owner::Writer;
use crate::qcow2::read::Qcow2;
use crate::qcow2::write::Clear;
use crate::storage::simulator::Simulator;

/// Reads the header and both ends of the disk.
fn look(bytes: Vec<u8>) {
    let length = bytes.len() as u64;
    let Ok(header) = Header::parse(&bytes, length) else {
        return;
    };
    let size = header.size;
    let storage = Simulator::new(vec![bytes]).file(0);
    let map = Map::new(header, Arc::clone(&storage));
    let mut image = Qcow2::new(map, Arc::clone(&storage), Arc::clone(&storage), None);
    let mut piece = vec![0; 256 << 10];
    for offset in [0, 100_000, size / 2, size.saturating_sub(1 << 17), size] {
        // Either is right; what counts is that it ends.
        let _ = image.read(offset, &mut piece);
    }
    let _ = crate::qcow2::check::check(&storage, false);
    let Ok(writer) = Writer::open(image.map(), &storage, true) else {
        return;
    };
    image.writer = Some(writer);
    let cluster = image.map().header().cluster();
    for round in 0..3 {
        for offset in [0, 100_000, size / 2, size.saturating_sub(1 << 17)] {
            let start = offset / cluster * cluster;
            if start >= size {
                continue;
            }
            let _ = image.write(start, &[7; 512]);
            let _ = image.clear(start, cluster, Clear::Zero { unmap: round == 1 });
            let _ = image.write(start + cluster - 512, &[8; 512]);
        }
        let _ = image.flush();
        let _ = image.settle();
    }
    let _ = crate::qcow2::check::check(&storage, true);
}

/// A small image with everything in few bytes: clusters of 512 bytes, the header, tables, and one compressed cluster.
fn small(extended: bool) -> Vec<u8> {
    let cluster_bits = if extended { 14_u32 } else { 9 };
    let cluster = 1_usize << cluster_bits;
    let mut image = vec![0; 7 * cluster];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &cluster_bits.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &64_u32.to_be_bytes());
    put(40, &(cluster as u64).to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    // Refcounts: the table is in the last cluster but one, with its only block behind it.
    put(48, &(5 * cluster as u64).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(5 * cluster, &(6 * cluster as u64).to_be_bytes());
    put(6 * cluster, &[0, 1].repeat(7));
    put(100, &104_u32.to_be_bytes());
    if extended {
        put(72, &16_u64.to_be_bytes());
    }
    put(cluster, &((2 * cluster as u64) | (1 << 63)).to_be_bytes());
    let second = if extended { 16 } else { 8 };
    put(
        2 * cluster,
        &((3 * cluster as u64) | (1 << 63)).to_be_bytes(),
    );
    put(
        2 * cluster + second,
        &((4 * cluster as u64) | (1 << 62)).to_be_bytes(),
    );
    if extended {
        put(2 * cluster + 8, &0x0000_ff00_00ff_0055_u64.to_be_bytes());
    }
    image
}

#[test]
fn the_small_image_is_one() {
    for extended in [false, true] {
        let image = small(extended);
        let header = Header::parse(&image, image.len() as u64).unwrap();
        assert_eq!((header.size, header.extended_l2), (1 << 20, extended));
    }
}

fn change_and_look(extended: bool, changes: &[(usize, usize, u8)]) {
    let mut image = small(extended);
    let cluster = image.len() / 7;
    for (number, within, byte) in changes {
        image[number * cluster + within] = *byte;
    }
    look(image);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bytes_changed_anywhere(
        extended in any::<bool>(),
        changes in prop::collection::vec((0_usize..7, 0_usize..128, any::<u8>()), 1..12),
    ) {
        change_and_look(extended, &changes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// The long form, with `cargo xtask test --full`.
    #[test]
    #[ignore = "takes minutes"]
    fn bytes_changed_anywhere_for_long(
        extended in any::<bool>(),
        changes in prop::collection::vec((0_usize..7, 0_usize..128, any::<u8>()), 1..12),
    ) {
        change_and_look(extended, &changes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_after_the_magic(rest in prop::collection::vec(any::<u8>(), 0..600), bits in 0_u8..32) {
        let mut image = b"QFI\xfb\0\0\0\x03".to_vec();
        image.extend(rest);
        if let Some(byte) = image.get_mut(20..24) {
            byte.copy_from_slice(&[0, 0, 0, bits]);
        }
        look(image);
    }
}
