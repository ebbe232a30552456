use std::sync::mpsc;
use std::thread;

use super::*;

/// A byte in place of a processor's page. It is leaked: a target may point to it until the process ends.
fn processor() -> (KvmKicker, &'static AtomicU8) {
    let byte = Box::leak(Box::new(AtomicU8::new(0)));
    (KvmKicker::new(NonNull::new(byte.as_ptr()).unwrap()), byte)
}

fn thread_of(kicker: &KvmKicker) -> Option<pid_t> {
    lock(&kicker.0).as_ref().and_then(|target| target.thread)
}

#[test]
fn a_thread_that_ends_is_forgotten() {
    install().unwrap();
    let (kicker, byte) = processor();
    let other = kicker.clone();
    thread::spawn(move || {
        other.attach();
        assert_eq!(thread_of(&other), Some(this_thread()));
    })
    .join()
    .unwrap();
    assert_eq!(thread_of(&kicker), None);
    kicker.kick();
    assert_eq!(
        byte.load(Ordering::SeqCst),
        1,
        "the next run must still notice"
    );
}

#[test]
fn a_processor_that_moved_on_is_not_taken_from_its_new_thread() {
    install().unwrap();
    let (kicker, _) = processor();
    let (end, ended) = mpsc::channel::<()>();
    let first = {
        let kicker = kicker.clone();
        let (attached, is_attached) = mpsc::channel();
        let first = thread::spawn(move || {
            kicker.attach();
            attached.send(()).unwrap();
            let _ = ended.recv();
        });
        is_attached.recv().unwrap();
        first
    };
    kicker.attach();
    drop(end);
    first.join().unwrap();
    assert_eq!(thread_of(&kicker), Some(this_thread()));
}

#[test]
fn a_processor_that_is_gone_is_not_touched() {
    let (kicker, byte) = processor();
    kicker.attach();
    kicker.processor_gone();
    kicker.kick();
    assert_eq!(byte.load(Ordering::SeqCst), 0);
}

#[test]
fn a_thread_remembers_each_processor_once_and_no_dead_ones() {
    thread::spawn(|| {
        let (kept, _) = processor();
        for _ in 0..3 {
            kept.attach();
            processor().0.attach();
        }
        // The last dead one is found at the next call.
        assert_eq!(HERE.with(|here| here.0.borrow().len()), 2);
    })
    .join()
    .unwrap();
}
