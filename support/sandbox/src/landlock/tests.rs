use std::fs;
use std::os::unix::net::UnixListener;

use super::*;
use crate::testing::{on_the_only_thread, part, rerun_with, word};
use crate::{CreateTruncate, HostFile, ReadOnly, ReadWrite};

const TEST: &str = "landlock::tests::parts_in_their_own_process";

#[test]
fn letters() {
    for (letters, access) in [
        ("r", Access::Read),
        ("w", Access::Write),
        ("rw", Access::ReadWrite),
        ("wr", Access::ReadWrite),
    ] {
        assert_eq!(letters.parse::<Access>().unwrap(), access);
    }
    for wrong in ["", "x", "rx", "R", "rww"] {
        let error = wrong.parse::<Access>().unwrap_err();
        assert!(error.to_string().contains("r, w or rw"), "{error}");
    }
}

#[test]
fn the_folder_of_a_path() {
    assert_eq!(folder(Path::new("/run/vm.sock")), Path::new("/run"));
    assert_eq!(folder(Path::new("vm.sock")), Path::new("."));
    assert_eq!(folder(Path::new("/")), Path::new("/"));
}

/// A folder with files for the parts below, which run in it one by one.
fn run(part: &str) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["read", "write", "both", "outside"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/deep"), "deep").unwrap();
    rerun_with(TEST, part, folder.path()).well();
}

macro_rules! parts {
    ($($part:ident),+ $(,)?) => {
        mod apart {
            $(#[test] fn $part() { super::run(stringify!($part)); })+
        }

        /// Does nothing by itself.
        #[test]
        fn parts_in_their_own_process() {
            let Some(part) = part() else { return };
            std::env::set_current_dir(word()).unwrap();
            match part.as_str() {
                $(stringify!($part) => on_the_only_thread($part),)+
                other => panic!("no part is named {other}"),
            }
        }
    };
}

parts!(
    files_by_access,
    folders_cover_what_is_below,
    a_file_to_create,
    a_socket_to_make,
    an_open_file_stays_usable,
    a_missing_path,
    other_threads,
    host_files_ask_for_what_they_open,
    no_rule_is_no_file,
);

fn denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn apply(rules: &[(&str, Access)]) {
    let mut all = Rules::new();
    for (path, access) in rules {
        all.allow(Path::new(path), *access);
    }
    all.apply().unwrap();
}

fn files_by_access() {
    apply(&[
        ("read", Access::Read),
        ("write", Access::Write),
        ("both", Access::ReadWrite),
    ]);
    assert_eq!(fs::read_to_string("read").unwrap(), "read");
    assert!(denied(fs::write("read", "x")));
    assert!(denied(fs::read_to_string("write")));
    fs::write("write", "x").unwrap();
    fs::write("both", "x").unwrap();
    assert_eq!(fs::read_to_string("both").unwrap(), "x");
    assert!(denied(fs::read_to_string("outside")));
    assert!(
        denied(fs::remove_file("both")),
        "its folder is not within reach"
    );
    assert!(denied(std::process::Command::new("/bin/true").status()));
}

fn folders_cover_what_is_below() {
    apply(&[("sub", Access::ReadWrite)]);
    assert_eq!(fs::read_to_string("sub/deep").unwrap(), "deep");
    fs::write("sub/new", "x").unwrap();
    fs::remove_file("sub/new").unwrap();
    assert_eq!(fs::read_dir("sub").unwrap().count(), 1);
    assert!(denied(fs::read_to_string("sub/../read")));
}

fn a_file_to_create() {
    apply(&[("sub/log", Access::Create), ("write", Access::Create)]);
    fs::write("sub/log", "x").unwrap();
    fs::write("write", "x").unwrap();
    assert!(denied(fs::read_to_string("sub/deep")));
    assert!(denied(fs::remove_file("sub/deep")));
    assert!(denied(fs::write("outside", "x")));
}

fn a_socket_to_make() {
    apply(&[("sub/api.sock", Access::Listen)]);
    drop(UnixListener::bind("sub/api.sock").unwrap());
    fs::remove_file("sub/api.sock").unwrap();
    assert!(denied(UnixListener::bind("api.sock")));
    assert!(denied(fs::write("sub/file", "x")));
}

fn an_open_file_stays_usable() {
    let mut file = fs::File::open("outside").unwrap();
    apply(&[]);
    assert_eq!(io::read_to_string(&mut file).unwrap(), "outside");
}

fn a_missing_path() {
    let mut rules = Rules::new();
    rules.allow(Path::new("nowhere"), Access::Read);
    let error = rules.apply().unwrap_err();
    assert!(matches!(&error, Error::LandlockPath { path, .. } if path == Path::new("nowhere")));
    assert!(error.to_string().contains("--landlock-rules"), "{error}");
    // Nothing was restricted.
    fs::read_to_string("read").unwrap();
}

fn other_threads() {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    assert!(matches!(Rules::new().apply(), Err(Error::LandlockThreads)));
    drop(end);
    thread.join().unwrap().unwrap_err();
}

fn host_files_ask_for_what_they_open() {
    let mut rules = Rules::new();
    let kernel = HostFile::<ReadOnly>::from("read");
    let disk = HostFile::<ReadWrite>::from("both");
    let log = HostFile::<CreateTruncate>::from("sub/log");
    kernel.rules(&mut rules);
    disk.rules(&mut rules);
    log.rules(&mut rules);
    rules.apply().unwrap();
    kernel.open().unwrap();
    disk.open().unwrap();
    log.open().unwrap();
    assert!(HostFile::<ReadWrite>::from("read").open().is_err());
}

fn no_rule_is_no_file() {
    Rules::new().apply().unwrap();
    assert!(denied(fs::read_to_string("/etc/passwd")));
}
