//! The power fails at every step there is.

use super::*;

/// Bytes that are written in each round.
const PIECE: usize = 1024;

/// Where the round of this number writes, and what.
fn place(round: u8) -> (u64, [u8; PIECE]) {
    (u64::from(round) * (2 << 20) + 4096, [round + 1; PIECE])
}

/// What was done to an image, and after how many steps each round was flushed.
struct History {
    simulator: Arc<Simulator>,
    flushed: Vec<usize>,
}

fn write_in_rounds(format: Format, rounds: u8) -> History {
    let empty = Simulator::new(vec![Vec::new()]);
    format.create(&*empty.file(0), u64::from(rounds) * (2 << 20));
    let simulator = Simulator::new(empty.contents());
    let file = simulator.file(0);
    let image = format.open(Arc::clone(&file), false).unwrap();
    let mut flushed = Vec::new();
    for round in 0..rounds {
        let (at, bytes) = place(round);
        image.begin_change().unwrap();
        image.allocate(at, PIECE as u64).unwrap();
        let (Place::Data(start), count) = image.find(at, PIECE as u64).unwrap() else {
            panic!("{format:?}: no room");
        };
        assert_eq!(count, PIECE as u64);
        file.write(start, &bytes).unwrap();
        file.flush().unwrap();
        flushed.push(simulator.steps());
    }
    drop(image);
    History { simulator, flushed }
}

/// The image opens, has all that was flushed, and contradicts itself nowhere.
fn look(format: Format, history: &History, steps: usize, files: Vec<Vec<u8>>, what: &str) {
    let after = Simulator::new(files);
    let file = after.file(0);
    let image = format
        .open(Arc::clone(&file), false)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let sure = history.flushed.iter().take_while(|at| **at <= steps);
    for (round, _) in (0..).zip(sure) {
        let (at, expected) = place(round);
        let mut bytes = [0; PIECE];
        match image.find(at, PIECE as u64).unwrap() {
            (Place::Data(start), count) if count == PIECE as u64 => {
                crate::mapped::read_all(&*file, start, &mut bytes).unwrap();
            }
            other => panic!("{what}: round {round} is at {other:?}"),
        }
        assert!(bytes == expected, "{what}: round {round} is lost");
    }
    drop(image);
    let found = format.check(&file, false).unwrap();
    assert_eq!((found.errors, found.repairs), (0, 0), "{what}: {found:?}");
}

fn cut_everywhere(rounds: u8, variants: u64) {
    for format in [Format::Vhd, Format::Vhdx] {
        let history = write_in_rounds(format, rounds);
        let mut seed = 1_u64;
        for steps in 0..=history.simulator.steps() {
            for variant in 0..variants {
                let files = history.simulator.cut(steps, || {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    match variant {
                        0 => false,
                        1 => true,
                        _ => seed >> 40 & 1 == 0,
                    }
                });
                let what = format!("{format:?} step {steps}.{variant}");
                look(format, &history, steps, files, &what);
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_step_leaves_an_image_with_all_that_was_flushed() {
    cut_everywhere(3, 3);
}

#[test]
#[ignore = "takes minutes: the ordinary run has fewer rounds, and fewer ways to lose sectors"]
fn a_power_cut_at_any_step_of_many() {
    cut_everywhere(12, 40);
}
