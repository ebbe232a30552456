//! Kicks reach a processor wherever it is.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc;
use std::thread;

use vmm_sys_util::signal::{SIGRTMIN, block_signal};

use super::*;
use crate::Kicker;

const ENDLESS: [u8; 2] = [0xeb, 0xfe];

/// Runs the guest on a thread of its own, counting interruptions until `stop`.
struct Runner {
    kicker: Kicker,
    interruptions: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Guest>,
}

impl Runner {
    fn start(mut guest: Guest) -> Self {
        let interruptions = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (give, take) = mpsc::channel();
        let thread = {
            let (interruptions, stop) = (Arc::clone(&interruptions), Arc::clone(&stop));
            thread::spawn(move || {
                // A monitor's threads block the signals that its main thread handles.
                let _ = block_signal(SIGRTMIN());
                give.send(guest.vcpu.kicker()).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    if guest.vcpu.run().unwrap() == Exit::Interrupted {
                        interruptions.fetch_add(1, Ordering::SeqCst);
                    }
                }
                guest
            })
        };
        Self {
            kicker: take.recv().unwrap(),
            interruptions,
            stop,
            thread,
        }
    }

    /// Kicks until the thread has ended. Only one kick may be needed after `stop`.
    fn stop(self) -> Guest {
        self.stop.store(true, Ordering::SeqCst);
        self.kicker.kick();
        assert!(
            eventually(|| self.thread.is_finished()),
            "the last kick was lost"
        );
        self.thread.join().unwrap()
    }

    fn each_kick_counts(&self, kicks: usize) {
        for kick in 0..kicks {
            let before = self.interruptions.load(Ordering::SeqCst);
            self.kicker.kick();
            let end = Instant::now() + Duration::from_secs(10);
            while self.interruptions.load(Ordering::SeqCst) == before {
                assert!(Instant::now() < end, "kick {kick} was lost");
                thread::yield_now();
            }
        }
    }
}

#[test]
fn a_guest_that_never_leaves_is_taken_out() {
    let Some(guest) = Guest::new(&ENDLESS) else {
        return;
    };
    let runner = Runner::start(guest);
    thread::sleep(Duration::from_millis(50));
    let guest = runner.stop();
    assert_eq!(guest.vcpu.regs().unwrap().rip, u64::from(CODE));
}

#[test]
fn a_kick_before_the_run_counts_once() {
    // out 0xe9, al
    let Some(mut guest) = Guest::new(&[0xe6, 0xe9]) else {
        return;
    };
    let kicker = guest.vcpu.kicker();
    kicker.kick();
    kicker.kick();
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Interrupted);
    assert_eq!(
        guest.vcpu.regs().unwrap().rip,
        u64::from(CODE),
        "no instruction was executed"
    );
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::PortWrite { .. }));
}

#[test]
fn ten_thousand_kicks_are_noticed_while_the_guest_loops() {
    let Some(guest) = Guest::new(&ENDLESS) else {
        return;
    };
    let runner = Runner::start(guest);
    runner.each_kick_counts(10_000);
    runner.stop();
}

#[test]
fn ten_thousand_kicks_are_noticed_while_the_guest_exits_all_the_time() {
    // out 0x80, al; jmp to it
    let Some(guest) = Guest::new(&[0xe6, 0x80, 0xeb, 0xfc]) else {
        return;
    };
    let runner = Runner::start(guest);
    runner.each_kick_counts(10_000);
    runner.stop();
}

#[test]
fn kicks_without_waiting_do_not_pile_up() {
    let Some(guest) = Guest::new(&ENDLESS) else {
        return;
    };
    let runner = Runner::start(guest);
    for _ in 0..10_000 {
        runner.kicker.kick();
    }
    assert!(eventually(
        || runner.interruptions.load(Ordering::SeqCst) > 0
    ));
    // Once the last one is noticed, no more come.
    let mut before = usize::MAX;
    assert!(eventually(|| {
        let now = runner.interruptions.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now
    }));
    runner.each_kick_counts(1);
    runner.stop();
}

#[test]
fn a_kick_after_the_thread_or_the_processor_is_gone_does_nothing() {
    let Some(guest) = Guest::new(&ENDLESS) else {
        return;
    };
    let runner = Runner::start(guest);
    let kicker = runner.kicker.clone();
    let mut guest = runner.stop();
    // The thread is gone, the processor is not: the next run notices, also on another thread.
    kicker.kick();
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Interrupted);
    drop(guest);
    kicker.kick();
}
