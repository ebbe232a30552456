use super::*;
use crate::RamOptions;
use crate::testing::{GIB, LAYOUT, MIB};

const PAGE: u64 = 4096;

fn options(shared: bool) -> RamOptions {
    RamOptions {
        shared,
        ..RamOptions::default()
    }
}

fn byte(ram: &GuestRam, address: u64) -> u8 {
    let mut byte = [0];
    ram.read(address, &mut byte).unwrap();
    byte[0]
}

/// RAM that was frozen, and its file. A kernel that cannot watch it ends the test.
fn frozen(places: &[u64]) -> Option<(GuestRam, Arc<File>)> {
    let ram = GuestRam::new(&LAYOUT, &options(true)).unwrap();
    for place in places {
        ram.write(*place, &[1]).unwrap();
    }
    let file = ram.freeze().unwrap();
    if let Err(Error::Watch { source }) = Watch::new(&ram) {
        eprintln!("not run: {source}");
        return None;
    }
    Some((ram, file))
}

fn child(file: &Arc<File>, layers: &[Layer]) -> GuestRam {
    GuestRam::over_sealed_files(&LAYOUT, &options(false), file, layers).unwrap()
}

fn layer(watch: &mut Watch) -> Layer {
    watch.look().unwrap();
    let mut draft = watch.draft().unwrap();
    watch.copy_to(&mut draft).unwrap();
    watch.finish(draft).unwrap()
}

const PLACES: [u64; 5] = [0, 3 * PAGE, 8 * MIB - PAGE, 4 * GIB, 4 * GIB + MIB];

#[test]
fn a_layer_has_what_was_written_since_the_one_before() {
    let Some((parent, file)) = frozen(&PLACES) else {
        return;
    };
    let mut watch = Watch::new(&parent).unwrap();
    let mut layers: Vec<Layer> = Vec::new();
    let mut now = [1; 5];
    for round in 2..8u8 {
        // What is only read is not private.
        assert_eq!(PLACES.map(|place| byte(&parent, place)), now);
        now[usize::from(round) % 5] = round;
        parent
            .write(PLACES[usize::from(round) % 5], &[round])
            .unwrap();
        layers.push(layer(&mut watch));
        let last = layers.last().unwrap();
        assert_eq!(length(&last.parts), PAGE, "{:?}", last.parts);
        let child = child(&file, &layers);
        assert_eq!(PLACES.map(|place| byte(&child, place)), now);
        child.write(PLACES[0], &[99]).unwrap();
        assert_eq!(byte(&parent, PLACES[0]), now[0]);
    }
    // One layer that replaces all.
    watch.look().unwrap();
    watch.find_all().unwrap();
    let mut draft = watch.draft().unwrap();
    watch.copy_to(&mut draft).unwrap();
    let whole = watch.finish(draft).unwrap();
    let child = child(&file, &[whole]);
    assert_eq!(PLACES.map(|place| byte(&child, place)), now);
}

#[test]
fn what_is_written_while_it_is_copied_is_copied_again() {
    let Some((parent, file)) = frozen(&PLACES) else {
        return;
    };
    for place in PLACES {
        parent.write(place, &[2]).unwrap();
    }
    let mut watch = Watch::new(&parent).unwrap();
    watch.look().unwrap();
    let mut draft = watch.draft().unwrap();
    watch.copy_to(&mut draft).unwrap();
    parent.write(PLACES[1], &[3]).unwrap();
    parent.write(5 * MIB, &[3]).unwrap();
    watch.look().unwrap();
    assert_eq!(watch.waiting(), 2 * PAGE);
    assert_eq!(watch.copy_to(&mut draft).unwrap(), 2 * PAGE);
    let layer = watch.finish(draft).unwrap();
    parent.write(PLACES[2], &[4]).unwrap();
    let child = child(&file, &[layer]);
    assert_eq!(PLACES.map(|place| byte(&child, place)), [2, 3, 2, 2, 2]);
    assert_eq!(byte(&child, 5 * MIB), 3);
}

#[test]
fn what_comes_to_nothing_is_in_the_next_one() {
    let Some((parent, file)) = frozen(&PLACES) else {
        return;
    };
    let mut watch = Watch::new(&parent).unwrap();
    parent.write(PLACES[3], &[2]).unwrap();
    watch.look().unwrap();
    let mut draft = watch.draft().unwrap();
    watch.copy_to(&mut draft).unwrap();
    watch.take_back(draft);
    let child = child(&file, &[layer(&mut watch)]);
    assert_eq!(byte(&child, PLACES[3]), 2);
}

#[test]
fn what_was_given_back_is_empty_for_children() {
    let Some((parent, file)) = frozen(&PLACES) else {
        return;
    };
    let mut watch = Watch::new(&parent).unwrap();
    let mut layers = vec![layer(&mut watch)];
    parent.discard(PLACES[1], PAGE).unwrap();
    parent.discard(0, PAGE).unwrap();
    parent.write(0, &[5]).unwrap();
    layers.push(layer(&mut watch));
    let one = child(&file, &layers);
    assert_eq!(PLACES.map(|place| byte(&one, place)), [5, 0, 1, 1, 1]);
    // Memory that was given back is watched again.
    parent.write(PLACES[1], &[6]).unwrap();
    layers.push(layer(&mut watch));
    parent.write(PLACES[1], &[7]).unwrap();
    layers.push(layer(&mut watch));
    let other = child(&file, &layers);
    assert_eq!(PLACES.map(|place| byte(&other, place)), [5, 7, 1, 1, 1]);
}

#[test]
fn a_child_of_a_child_has_all() {
    let Some((parent, file)) = frozen(&PLACES) else {
        return;
    };
    let mut watch = Watch::new(&parent).unwrap();
    parent.write(PLACES[3], &[2]).unwrap();
    let mut layers = vec![layer(&mut watch)];
    let one = child(&file, &layers);
    one.write(PLACES[4], &[3]).unwrap();
    let mut watch = Watch::new(&one).unwrap();
    layers.push(layer(&mut watch));
    assert_eq!(length(&layers[1].parts), PAGE);
    let other = child(&file, &layers);
    assert_eq!(PLACES.map(|place| byte(&other, place)), [1, 1, 1, 2, 3]);
    // And in one layer, which has what only the layer below had.
    let mut draft = watch.draft().unwrap();
    watch.find_all().unwrap();
    watch.copy_to(&mut draft).unwrap();
    let whole = [watch.finish(draft).unwrap()];
    let other = child(&file, &whole);
    assert_eq!(PLACES.map(|place| byte(&other, place)), [1, 1, 1, 2, 3]);
}

#[test]
fn many_places_become_few_parts() {
    let Some((parent, file)) = frozen(&[]) else {
        return;
    };
    let mut watch = Watch::new(&parent).unwrap();
    let pages: Vec<u64> = (0..8 * MIB / PAGE)
        .step_by(2)
        .map(|page| page * PAGE)
        .collect();
    for place in &pages {
        parent.write(*place, &[2]).unwrap();
    }
    let layer = layer(&mut watch);
    assert!((1..=MOST_DRAFT_PARTS).contains(&layer.parts.len()));
    let child = child(&file, &[layer]);
    assert!(pages.iter().all(|place| byte(&child, *place) == 2));
}

#[test]
fn memory_that_lies_over_nothing_has_nothing_to_be_found() {
    let ram = GuestRam::new(&LAYOUT, &options(false)).unwrap();
    assert!(matches!(Watch::new(&ram), Err(Error::NoBase)));
}

fn spans(list: &[(u64, u64)]) -> Vec<Range<u64>> {
    list.iter().map(|(start, end)| *start..*end).collect()
}

#[test]
fn sets_of_parts() {
    let some = spans(&[(0, 10), (20, 30), (40, 50)]);
    for (others, both, rest) in [
        (vec![], vec![], vec![(0, 10), (20, 30), (40, 50)]),
        (
            vec![(5, 25), (28, 45)],
            vec![(5, 10), (20, 25), (28, 30), (40, 45)],
            vec![(0, 5), (25, 28), (45, 50)],
        ),
        (vec![(0, 60)], vec![(0, 10), (20, 30), (40, 50)], vec![]),
        (
            vec![(2, 4), (6, 8), (10, 20), (49, 50)],
            vec![(2, 4), (6, 8), (49, 50)],
            vec![(0, 2), (4, 6), (8, 10), (20, 30), (40, 49)],
        ),
    ] {
        assert_eq!(meet(&some, &spans(&others)), spans(&both), "{others:?}");
        assert_eq!(without(&some, &spans(&others)), spans(&rest), "{others:?}");
    }
}
