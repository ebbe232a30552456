use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{assert_same, chain, pattern};
use crate::{Endpoint, Output, Stream};

fn file_output(path: &Path) -> Output {
    let (output, input) = Stream::open(&Endpoint::File(path.to_owned()))
        .unwrap()
        .split();
    assert!(input.is_none());
    output
}

#[test]
fn is_created_for_the_user_alone_and_gets_every_byte_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.log");
    let mut output = file_output(&path);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = pattern(3 << 20);
    output.write_all(&text[..1]).unwrap();
    assert_same(&fs::read(&path).unwrap(), &text[..1]);
    output.clone().write_all(&text[1..]).unwrap();
    assert_same(&fs::read(&path).unwrap(), &text);
}

#[test]
fn is_emptied_and_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.log");
    fs::write(&path, "of the last boot").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut output = file_output(&path);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    output.write_all(b"new").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

#[test]
fn says_which_option_named_a_file_that_cannot_be_written() {
    for path in ["/no/such/folder/log", "/proc/self/nothing", "/tmp"] {
        let text = chain(&Stream::open(&Endpoint::File(path.into())).unwrap_err());
        assert!(text.contains("file=") && text.contains(path), "{text}");
    }
}

#[test]
fn a_full_disk_is_an_error_for_the_device_to_report() {
    let mut output = file_output(Path::new("/dev/full"));
    let error = output.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
}

#[test]
fn a_fifo_whose_reader_stops_delays_the_guest_once_and_then_loses_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let status = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    let reader = std::thread::spawn({
        let path = path.clone();
        move || fs::File::open(path).unwrap()
    });
    let mut output = file_output(&path);
    let mut reader = reader.join().unwrap();

    let text = pattern(1 << 20);
    let start = Instant::now();
    for part in text.chunks(1000) {
        output.write_all(part).unwrap();
    }
    let taken = start.elapsed();
    assert!(
        taken >= Duration::from_millis(400) && taken < Duration::from_secs(3),
        "{taken:?}"
    );
    let dropped = usize::try_from(output.dropped()).unwrap();
    assert!(dropped > 0);

    let mut found = vec![0; text.len() - dropped];
    reader.read_exact(&mut found).unwrap();
    assert_same(&found[..60_000], &text[..60_000]);

    // It works again once somebody reads.
    output.write_all(b"back").unwrap();
    let mut end = [0; 4];
    reader.read_exact(&mut end).unwrap();
    assert_eq!(&end, b"back");
    drop(reader);
    assert_eq!(
        output.write_all(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
}
