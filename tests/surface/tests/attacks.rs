//! Attacks on the guest-visible surface: the corpus that the fuzz targets found, and some that are made up here.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use surface::{abort_on_panic, attack};

/// Does the attacks in a folder of the corpus. Each is a file.
fn replay(target: &str, attack: fn(&[u8])) {
    abort_on_panic();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        // If this one ends the process, it was this one.
        eprintln!("{}", path.display());
        attack(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn corpus_of_any_kind() {
    replay("any_kind", attack::on_any_kind);
}

#[test]
fn corpus_of_the_api() {
    replay("api", surface::requests::on_api);
}

#[test]
fn corpus_of_configuration_space() {
    replay("config_space", attack::on_config_space);
}

#[test]
fn corpus_of_msix() {
    replay("msix", attack::on_msix);
}

#[test]
fn corpus_of_the_transport() {
    replay("transport", attack::on_transport);
}

#[test]
fn corpus_of_qcow2() {
    replay("qcow2", surface::images::on_qcow2);
}

#[test]
fn corpus_of_vhd() {
    replay("vhd", surface::images::on_vhd);
}

#[test]
fn corpus_of_vhdx() {
    replay("vhdx", surface::images::on_vhdx);
}

/// A sequence that looks random and is always the same (xorshift64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[4]
        })
        .collect()
}

#[test]
fn noise_harms_no_kind() {
    abort_on_panic();
    for choice in 0..attack::count() {
        let choice = u8::try_from(choice).unwrap();
        for seed in 0..4 {
            let mut data = noise(seed, 2000);
            data[0] = choice;
            eprintln!("{} with seed {seed}", attack::label(choice));
            attack::on_any_kind(&data);
        }
    }
}

#[test]
fn noise_harms_no_registers() {
    abort_on_panic();
    for seed in 0..40 {
        let data = noise(seed, 2000);
        attack::on_config_space(&data);
        attack::on_transport(&data);
        attack::on_msix(&data);
    }
}

#[test]
fn noise_harms_no_image() {
    abort_on_panic();
    for seed in 0..200 {
        let data = noise(seed, 600);
        eprintln!("seed {seed}");
        surface::images::on_vhd(&data);
        surface::images::on_vhdx(&data);
    }
}
