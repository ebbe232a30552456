use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use super::*;

const SIZE: u64 = 1 << 20;

fn write(folder: &std::path::Path) {
    let destination = Destination::create(folder).unwrap();
    destination.memory().set_len(SIZE).unwrap();
    destination.memory().write_all_at(&[7], 4096).unwrap();
    destination
        .commit(
            &json!({"memory": 1}),
            &json!({"clock": 3}),
            &[(0, 5), (15, 6)],
        )
        .unwrap();
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    assert_eq!(names(folder.path()), [CONFIG, CHECKSUMS, MEMORY, STATE]);
    let source = Source::open(folder.path()).unwrap();
    assert_eq!(source.config::<Value>().unwrap(), json!({"memory": 1}));
    assert_eq!(source.state::<Value>().unwrap(), json!({"clock": 3}));
    assert_eq!(source.memory_bytes(), SIZE);
    let mut byte = [0];
    source.memory().read_exact_at(&mut byte, 4096).unwrap();
    assert_eq!(byte, [7]);
    assert!(source.state::<Vec<u8>>().is_err());
}

#[test]
fn checksums_are_those_that_were_written_or_none() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let source = || Source::open(folder.path()).unwrap();
    assert_eq!(source().checksums().unwrap(), [Some(vec![(0, 5), (15, 6)])]);
    let path = folder.path().join(CHECKSUMS);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        let error = source().checksums().unwrap_err().to_string();
        assert!(error.contains("memory-checksums is no part"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert!(source().checksums().is_err());
    // What is written by somebody who means no good.
    for sums in [&[(1, 0), (0, 0)][..], &[(16, 0)], &[(3, 0), (3, 0)]] {
        let folder = tempfile::tempdir().unwrap();
        let destination = Destination::create(folder.path()).unwrap();
        destination.memory().set_len(SIZE).unwrap();
        destination.commit(&1, &1, sums).unwrap();
        let source = Source::open(folder.path()).unwrap();
        assert!(source.checksums().is_err(), "{sums:?}");
    }
    // Of monitors that wrote none.
    let state = folder.path().join(STATE);
    let text = fs::read_to_string(&state).unwrap();
    let (before, rest) = text.split_once("\"memory_checksums\":{").unwrap();
    let (_, after) = rest.split_once("},").unwrap();
    fs::write(&state, format!("{before}{after}")).unwrap();
    assert_eq!(source().checksums().unwrap(), [None]);
}

#[test]
fn nothing_is_replaced_and_nothing_stays_of_what_came_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop(Destination::create(folder.path()).unwrap());
    assert!(names(folder.path()).is_empty());
    // Of a monitor that was killed.
    fs::write(folder.path().join("memory-ranges.partial"), "x").unwrap();
    // A name that is taken after the start is not replaced, and the rest goes.
    let late = Destination::create(folder.path()).unwrap();
    fs::write(folder.path().join(STATE), "x").unwrap();
    let error = late.commit(&json!({}), &1, &[]).unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    assert_eq!(names(folder.path()), [STATE]);
    for name in [CONFIG, MEMORY, STATE] {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.path().join(name)).unwrap();
        let error = Destination::create(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Exists(_)), "{name}: {error}");
    }
    let error = Destination::create(&folder.path().join("none")).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
}

/// What a change of a snapshot's files leads to.
fn refusal(change: impl FnOnce(&std::path::Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    change(folder.path());
    Source::open(folder.path()).unwrap_err().to_string()
}

fn edit(name: &'static str, from: &'static str, to: &'static str) -> String {
    refusal(|folder| {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    })
}

#[test]
fn damage_is_named_by_its_place() {
    for (error, part) in [
        (edit(CONFIG, "1", "2"), "config.json is no part"),
        (edit(STATE, r#""clock":3"#, r#""clock":4"#), "checksum"),
        (edit(STATE, r#""version":1"#, r#""version":9"#), "version 9"),
        (edit(STATE, "hypervisor", "x"), "its format"),
        (
            edit(STATE, "1048576", "4096"),
            "1048576 bytes instead of 4096",
        ),
        (edit(STATE, "{", "["), "state.json is no part"),
    ] {
        assert!(error.contains(part), "{error}");
    }
    for name in [CONFIG, MEMORY, STATE] {
        let gone = refusal(|folder| fs::remove_file(folder.join(name)).unwrap());
        assert!(gone.contains(name) && gone.contains("open"), "{gone}");
        let another = refusal(|folder| {
            fs::remove_file(folder.join(name)).unwrap();
            fs::create_dir(folder.join(name)).unwrap();
        });
        assert!(another.contains("not a file"), "{another}");
    }
    let long = refusal(|folder| {
        let file = fs::File::create(folder.join(CONFIG)).unwrap();
        file.set_len(2 << 20).unwrap();
    });
    assert!(long.contains("more than 1048576 bytes"), "{long}");
}

#[test]
fn every_truncation_of_the_state_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join(STATE);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Source::open(folder.path()).is_err(), "{length}");
    }
}

/// An increment in `folder` to what is in `base`.
fn write_above(folder: &std::path::Path, base: &std::path::Path) {
    fs::create_dir_all(folder).unwrap();
    let source = Source::open(base).unwrap();
    let destination = Destination::create(folder).unwrap();
    destination.memory().set_len(SIZE).unwrap();
    let part = source.below().len() as u64 * 4096;
    let increment = Increment {
        base: base.to_owned(),
        state: source.mark(),
        changed: std::iter::once(part..part + 4096).collect(),
    };
    let state = json!({"clock": part});
    destination
        .commit_above(&json!({}), &state, &[], Some(&increment))
        .unwrap();
}

#[test]
fn increments_lie_above_each_other_and_their_folders_move_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: usize| folder.path().join("chain").join(number.to_string());
    fs::create_dir_all(path(0)).unwrap();
    write(&path(0));
    for number in 1..=MOST_LAYERS {
        write_above(&path(number), &path(number - 1));
    }
    let moved = folder.path().join("moved");
    fs::rename(folder.path().join("chain"), &moved).unwrap();
    let path = |number: usize| moved.join(number.to_string());
    let source = Source::open(&path(3)).unwrap();
    assert_eq!(source.state::<Value>().unwrap(), json!({"clock": 8192}));
    let starts = source.changes().iter().map(|one| one.parts[0].start);
    assert_eq!(starts.collect::<Vec<_>>(), [0, 4096, 8192]);
    let below = source
        .below()
        .iter()
        .map(|folder| folder.canonicalize().unwrap());
    let real = |number| path(number).canonicalize().unwrap();
    assert_eq!(below.collect::<Vec<_>>(), [real(2), real(1), real(0)]);
    let mut byte = [0];
    source.memory().read_exact_at(&mut byte, 4096).unwrap();
    assert_eq!(byte, [7], "the lowest one's");
    assert_eq!(
        Source::open(&path(MOST_LAYERS)).unwrap().below().len(),
        MOST_LAYERS
    );
    let above = path(MOST_LAYERS + 1);
    write_above(&above, &path(MOST_LAYERS));
    let error = Source::open(&above).unwrap_err().to_string();
    assert!(error.contains("lie above each other"), "{error}");
}

#[test]
fn bases_that_are_missing_or_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (base, top) = (folder.path().join("base"), folder.path().join("top"));
    fs::create_dir(&base).unwrap();
    write(&base);
    write_above(&top, &base);
    let refused = || Source::open(&top).unwrap_err().to_string();
    // A damaged base, one that is whole and another, and none.
    let state = fs::read_to_string(base.join(STATE)).unwrap();
    fs::write(
        base.join(STATE),
        state.replace("\"clock\":3", "\"clock\":4"),
    )
    .unwrap();
    assert!(refused().contains("checksum"), "{}", refused());
    fs::remove_dir_all(&base).unwrap();
    assert!(refused().contains("cannot open"), "{}", refused());
    fs::create_dir(&base).unwrap();
    let destination = Destination::create(&base).unwrap();
    destination.memory().set_len(SIZE).unwrap();
    destination.commit(&json!({}), &json!({}), &[]).unwrap();
    assert!(refused().contains("changed or replaced"), "{}", refused());
    // One that says to be its own base, which no checksum can be right for.
    let text = fs::read_to_string(top.join(STATE)).unwrap();
    fs::write(top.join(STATE), text.replace("../base", "../top")).unwrap();
    assert!(refused().contains("changed or replaced"), "{}", refused());
    // Older monitors know no increments: those have a version of their own.
    fs::write(
        top.join(STATE),
        text.replace("\"version\":2", "\"version\":1"),
    )
    .unwrap();
    assert!(refused().contains("version 2"), "{}", refused());
}

#[test]
fn urls_name_folders() {
    assert_eq!(folder("file:///a/b").unwrap(), PathBuf::from("/a/b"));
    for url in ["/a", "file://a", "tcp://h:1", ""] {
        assert!(folder(url).is_err(), "{url}");
    }
}
