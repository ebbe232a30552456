use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::channel;
use std::thread;

use super::*;
use crate::testing::{GIB, LAYOUT, MIB};
use crate::{RamOptions, SavedFile};

const PAGE: u64 = 4096;

fn saved(file: File) -> SavedFile {
    SavedFile {
        file: Arc::new(file),
        path: "/saved".into(),
        sums: None,
    }
}

/// A file whose pages have their numbers in them, but for the first MiB of each region, which is empty.
fn contents() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(12 * MIB).unwrap();
    for page in (0..12 * MIB / PAGE).filter(|page| ![0, 8].contains(&(page * PAGE / MIB))) {
        file.write_all_at(&page.to_le_bytes(), page * PAGE + 8)
            .unwrap();
    }
    file
}

/// The number in the page at this place of the file.
fn number(ram: &GuestRam, at: u64) -> u64 {
    let address = if at < 8 * MIB {
        at
    } else {
        4 * GIB + at - 8 * MIB
    };
    let mut bytes = [0; 8];
    ram.read(address + 8, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn wanted(at: u64) -> u64 {
    if [0, 8].contains(&(at / MIB)) {
        0
    } else {
        at / PAGE
    }
}

fn blocks(file: File, layers: Vec<(SavedFile, Vec<std::ops::Range<u64>>)>) -> Blocks {
    Blocks::new(12 * MIB, saved(file), layers).unwrap()
}

fn ram(shared: bool) -> GuestRam {
    let options = RamOptions {
        shared,
        ..RamOptions::default()
    };
    GuestRam::new(&LAYOUT, &options).unwrap()
}

/// A pager whose faults are served while `body` runs.
fn with_pager(ram: &GuestRam, blocks: Blocks, body: impl FnOnce(&Arc<Pager>)) {
    let pager = Arc::new(Pager::new(ram, blocks, Box::new(|_| {})).unwrap());
    let server = Arc::clone(&pager);
    let thread = thread::spawn(move || server.serve_faults());
    body(&pager);
    pager.stop();
    thread.join().unwrap();
}

#[test]
fn pages_come_when_they_are_touched_and_all_in_the_end() {
    for shared in [false, true] {
        let ram = ram(shared);
        with_pager(&ram, blocks(contents(), Vec::new()), |pager| {
            assert_eq!(pager.left(), 10 * MIB);
            for at in [3 * MIB, 9 * MIB + 5 * PAGE, 12 * MIB - PAGE, 8 * MIB, PAGE] {
                assert_eq!(number(&ram, at), wanted(at), "{at:#x}, shared: {shared}");
            }
            // The kernel's own access, as that of a hypervisor or of I/O.
            let copy = tempfile::tempfile().unwrap();
            let slice = crate::testing::first(&ram);
            let part = slice.slice(5 * MIB, 4096).unwrap();
            let guard = part.ptr_guard();
            // SAFETY: the page is mapped; the kernel reads it.
            let written = unsafe { libc::pwrite(copy.as_raw_fd(), guard.as_ptr().cast(), 4096, 0) };
            assert_eq!(written, 4096);
            let mut bytes = [0; 8];
            copy.read_exact_at(&mut bytes, 8).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), wanted(5 * MIB));
            ram.write(6 * MIB + 8, &[0xff; 8]).unwrap();
            pager.fill();
            assert!(pager.wait().unwrap());
            assert_eq!((pager.left(), number(&ram, 6 * MIB)), (0, u64::MAX));
            for at in (0..12 * MIB).step_by(4096).filter(|at| *at != 6 * MIB) {
                assert_eq!(number(&ram, at), wanted(at), "{at:#x}, shared: {shared}");
            }
        });
    }
}

#[test]
fn layers_lie_above_the_file() {
    let (low, high) = (contents(), tempfile::tempfile().unwrap());
    high.set_len(12 * MIB).unwrap();
    high.write_all_at(&7u64.to_le_bytes(), 4 * MIB + 8).unwrap();
    // The second page of the layer is empty, and hides the one below.
    let layers = vec![(
        saved(high),
        std::iter::once(4 * MIB..4 * MIB + 2 * PAGE).collect(),
    )];
    let ram = ram(false);
    with_pager(&ram, blocks(low, layers), |pager| {
        let seen = [0, 1, 2].map(|page| number(&ram, 4 * MIB + page * PAGE));
        assert_eq!(seen, [7, 0, wanted(4 * MIB + 2 * PAGE)]);
        pager.fill();
        assert_eq!(number(&ram, 2 * MIB), wanted(2 * MIB));
    });
}

#[test]
fn what_the_guest_gave_back_does_not_come_afterwards() {
    for shared in [false, true] {
        let ram = ram(shared);
        with_pager(&ram, blocks(contents(), Vec::new()), |pager| {
            // Before it has come, and after.
            assert_eq!(number(&ram, 3 * MIB), wanted(3 * MIB));
            ram.discard(3 * MIB, 2 * PAGE).unwrap();
            ram.discard(5 * MIB, PAGE).unwrap();
            for at in [3 * MIB, 3 * MIB + PAGE, 5 * MIB] {
                assert_eq!(number(&ram, at), 0, "{at:#x}, shared: {shared}");
            }
            let next = 5 * MIB + PAGE;
            assert_eq!(number(&ram, next), wanted(next));
            ram.discard(7 * MIB, PAGE).unwrap();
            pager.fill();
            assert_eq!(number(&ram, 7 * MIB), 0, "shared: {shared}");
        });
    }
}

#[test]
fn nobody_takes_what_cannot_be_read_for_zeros() {
    let file = contents();
    let shorter = file.try_clone().unwrap();
    let ram = ram(false);
    let (sender, lost) = channel();
    let blocks = blocks(file, Vec::new());
    let told = Box::new(move |error: &Error| sender.send(error.to_string()).unwrap());
    let pager = Arc::new(Pager::new(&ram, blocks, told).unwrap());
    let server = Arc::clone(&pager);
    let thread = thread::spawn(move || server.serve_faults());
    assert_eq!(number(&ram, 2 * MIB), wanted(2 * MIB));
    pager.guest_runs().unwrap();
    shorter.set_len(5 * MIB).unwrap();
    let mapping = crate::testing::first(&ram);
    let write = |at: u64| {
        let sink = tempfile::tempfile().unwrap();
        let part = mapping.slice(at, 8).unwrap();
        let guard = part.ptr_guard();
        // SAFETY: the page is mapped; the kernel reads it, or says that it cannot.
        let count = unsafe { libc::pwrite(sink.as_raw_fd(), guard.as_ptr().cast(), 8, 0) };
        (count < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap())
    };
    assert_eq!(write(6 * MIB), Some(libc::EFAULT));
    let text = lost.recv().unwrap();
    assert!(
        text.contains("/saved") && text.contains("0x600000"),
        "{text}"
    );
    assert_eq!(write(2 * MIB), None, "what has come stays");
    assert_eq!(write(3 * MIB), Some(libc::EFAULT), "nothing comes any more");
    assert!(pager.wait().is_err() && pager.failed().is_some());
    pager.fill();
    assert!(lost.try_recv().is_err(), "it is told once");
    thread.join().unwrap();
}

#[test]
fn what_fails_before_the_guest_runs_keeps_it_from_running() {
    let file = contents();
    let shorter = file.try_clone().unwrap();
    let ram = ram(false);
    let pager = Pager::new(&ram, blocks(file, Vec::new()), Box::new(|_| {})).unwrap();
    shorter.set_len(5 * MIB).unwrap();
    pager.fill();
    // Nobody who looks at it while the machine is taken apart is harmed.
    assert_eq!(number(&ram, 11 * MIB), 0);
    assert!(pager.guest_runs().is_err());
}

#[test]
fn files_of_another_size_and_huge_pages_are_refused() {
    let small = tempfile::tempfile().unwrap();
    small.set_len(4 * MIB).unwrap();
    let blocks = Blocks::new(4 * MIB, saved(small), Vec::new()).unwrap();
    let error = Pager::new(&ram(false), blocks, Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, Error::ContentsSize { .. }), "{error}");
}
