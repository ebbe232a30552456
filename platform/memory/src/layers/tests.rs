use std::os::unix::fs::FileExt;

use super::*;
use crate::testing::{GIB, LAYOUT, MIB};
use crate::{Blocks, SavedFile};

const PAGE: u64 = 4096;

fn spans(list: &[(u64, u64)]) -> Vec<Range<u64>> {
    list.iter().map(|(start, end)| *start..*end).collect()
}

fn options() -> RamOptions {
    RamOptions::default()
}

fn file() -> Arc<File> {
    Arc::new(tempfile::tempfile().unwrap())
}

fn byte(ram: &GuestRam, address: u64) -> u8 {
    let mut byte = [0];
    ram.read(address, &mut byte).unwrap();
    byte[0]
}

/// RAM with a 1 in the first byte of some pages, in a file.
fn base(pages: &[u64]) -> Arc<File> {
    let ram = GuestRam::new(&LAYOUT, &options()).unwrap();
    for page in pages {
        ram.write(*page, &[1]).unwrap();
    }
    let file = file();
    ram.write_contents(&file).unwrap();
    file
}

fn layer(ram: &GuestRam) -> Layer {
    let (file, parts) = (file(), ram.changed().unwrap());
    ram.write_layer(&file, &parts).unwrap();
    Layer { file, parts }
}

fn blocks(base: &Arc<File>, layers: &[Layer]) -> Blocks {
    let saved = |file: &Arc<File>| SavedFile {
        file: Arc::clone(file),
        path: "/saved".into(),
        sums: None,
    };
    let layers = layers
        .iter()
        .map(|layer| (saved(&layer.file), layer.parts.clone()));
    Blocks::new(12 * MIB, saved(base), layers.collect()).unwrap()
}

#[test]
fn a_chain_of_layers_is_what_the_last_ram_was() {
    const PLACES: [u64; 5] = [0, 3 * PAGE, 8 * MIB - PAGE, 4 * GIB, 4 * GIB + MIB];
    let base = base(&PLACES);
    let mut layers: Vec<Layer> = Vec::new();
    let mut now = [1; 5];
    for round in 2..12u8 {
        let ram = GuestRam::over_layers(&LAYOUT, &options(), &base, &layers).unwrap();
        assert_eq!(PLACES.map(|place| byte(&ram, place)), now, "{round}");
        assert!(ram.changed().unwrap().is_empty(), "reading changes nothing");
        // One page is written, and another becomes empty, which must not show what is below.
        let (write, clear) = (usize::from(round) % 5, usize::from(round + 2) % 5);
        ram.write(PLACES[write], &[round]).unwrap();
        ram.discard(PLACES[clear], PAGE).unwrap();
        (now[write], now[clear]) = (round, 0);
        layers.push(layer(&ram));
        let top = &layers[layers.len() - 1];
        let bytes: u64 = top.parts.iter().map(|part| part.end - part.start).sum();
        assert_eq!(bytes, 2 * PAGE, "only what changed: {:?}", top.parts);
        assert_eq!(PLACES.map(|place| byte(&ram, place)), now);
    }
    let copy = GuestRam::new(&LAYOUT, &options()).unwrap();
    copy.read_blocks(&blocks(&base, &layers)).unwrap();
    assert_eq!(PLACES.map(|place| byte(&copy, place)), now);
    // All of it in one file again, without RAM and by it.
    let merged = file();
    blocks(&base, &layers).write_to(&merged).unwrap();
    let ram = GuestRam::over_file(&LAYOUT, &options(), &merged).unwrap();
    assert_eq!(PLACES.map(|place| byte(&ram, place)), now);
    let whole = file();
    let ram = GuestRam::over_layers(&LAYOUT, &options(), &base, &layers).unwrap();
    ram.write_contents(&whole).unwrap();
    let ram = GuestRam::over_file(&LAYOUT, &options(), &whole).unwrap();
    assert_eq!(PLACES.map(|place| byte(&ram, place)), now);
}

#[test]
fn what_is_written_again_after_it_was_given_back_counts_once() {
    let ram = GuestRam::over_file(&LAYOUT, &options(), &base(&[PAGE])).unwrap();
    ram.discard(PAGE, PAGE).unwrap();
    ram.write(PAGE, &[9]).unwrap();
    ram.write(2 * PAGE, &[9]).unwrap();
    assert_eq!(ram.changed().unwrap(), spans(&[(PAGE, 3 * PAGE)]));
    assert!(matches!(
        GuestRam::new(&LAYOUT, &options()).unwrap().changed(),
        Err(Error::NoBase)
    ));
}

#[test]
fn layers_that_are_none_are_refused() {
    let base = base(&[0]);
    let good = base.clone();
    let refused = |file: &Arc<File>, parts: &[(u64, u64)]| {
        let layer = Layer {
            file: Arc::clone(file),
            parts: spans(parts),
        };
        GuestRam::over_layers(&LAYOUT, &options(), &base, &[layer]).unwrap_err()
    };
    let end = 12 * MIB;
    for parts in [
        &[(1, PAGE)][..],
        &[(0, PAGE + 1)],
        &[(0, 0)],
        &[(PAGE, 0)],
        &[(0, 2 * PAGE), (PAGE, 3 * PAGE)],
        &[(2 * PAGE, 3 * PAGE), (0, PAGE)],
        &[(end - PAGE, end + PAGE)],
        &[(0, u64::MAX - (PAGE - 1))],
    ] {
        let error = refused(&good, parts);
        assert!(
            matches!(error, Error::LayerPart { .. }),
            "{parts:?}: {error}"
        );
    }
    let short = file();
    short.write_all_at(&[1], 0).unwrap();
    let error = refused(&short, &[(0, PAGE)]);
    assert!(matches!(error, Error::ContentsSize { .. }), "{error}");
}

#[test]
fn too_many_pieces_are_refused() {
    let size = 200 * MIB;
    let regions = [RegionSpec { start: 0, size }];
    let large = file();
    large.set_len(size).unwrap();
    let layer = Layer {
        file: Arc::clone(&large),
        parts: (0..size / PAGE / 2)
            .map(|index| index * 2 * PAGE..(index * 2 + 1) * PAGE)
            .collect(),
    };
    let error = GuestRam::over_layers(&regions, &options(), &large, &[layer]).unwrap_err();
    assert!(matches!(error, Error::Pieces { .. }), "{error}");
}

#[test]
fn the_upper_layer_wins() {
    let below = [(0..4, 0), (6..8, 0), (8..20, 0)];
    let got = above(&below, &[2..3, 3..7, 10..12, 19..30, 40..41], 1);
    let expected = [
        (0..2, 0),
        (2..3, 1),
        (3..7, 1),
        (7..8, 0),
        (8..10, 0),
        (10..12, 1),
        (12..19, 0),
        (19..30, 1),
        (40..41, 1),
    ];
    assert_eq!(got, expected);
    // Against a table of which layer each place has, for all small cases.
    for seed in 0u32..1 << 12 {
        let bits = |mask: u32| -> Vec<Range<u64>> {
            let mut parts: Vec<Range<u64>> = Vec::new();
            for place in (0..6u64).filter(|place| mask >> place & 1 == 1) {
                match parts.last_mut() {
                    // Neighbours stay apart at odd places, as the parts of hostile layers may.
                    Some(last) if last.end == place && place % 2 == 0 => last.end += 1,
                    _ => parts.push(place..place + 1),
                }
            }
            parts
        };
        let (lower, upper) = (seed & 63, seed >> 6);
        let first = above(&[], &bits(lower), 0);
        let both = above(&first, &bits(upper), 1);
        let mut end = 0;
        let mut table = [None; 6];
        for (piece, layer) in both {
            assert!(piece.start >= end && piece.end > piece.start, "{seed:#x}");
            end = piece.end;
            for place in piece {
                table[usize::try_from(place).unwrap()] = Some(layer);
            }
        }
        for (place, layer) in table.iter().enumerate() {
            let wanted = if upper >> place & 1 == 1 {
                Some(1)
            } else {
                (lower >> place & 1 == 1).then_some(0)
            };
            assert_eq!(*layer, wanted, "{seed:#x} at {place}");
        }
    }
}

#[test]
fn many_parts_become_fewer_that_have_all() {
    let page = host_page_size();
    let parts: Vec<_> = (0..100)
        .map(|index| index * 4 * page..(index * 4 + 1) * page)
        .collect();
    assert_eq!(coarse(parts.clone(), 100), parts);
    assert_eq!(coarse(parts, 99), spans(&[(0, 397 * page)]));
}
