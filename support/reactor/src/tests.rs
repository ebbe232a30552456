//! Tests of tasks.

mod sources;

use std::io::{self, ErrorKind};
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sandbox::{COMMON, Filter, Mode};

use crate::{Error, Interest, Kick, Loop, Readiness, Sources, Task, Timer, Token, Worker};

/// A worker that waits for bells, whose tokens are their places, and does `act` for each event.
struct Bells<F> {
    bells: Vec<Kick>,
    seen: Vec<(u64, Readiness)>,
    act: F,
}

impl<F> Worker for Bells<F>
where
    F: FnMut(&[Kick], Token, &mut Sources) -> io::Result<ControlFlow<()>> + Send + 'static,
{
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        for (token, bell) in (0..).zip(&self.bells) {
            sources.add(bell, Token(token), Interest::READ)?;
        }
        Ok(())
    }

    fn ready(
        &mut self,
        token: Token,
        readiness: Readiness,
        sources: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        self.seen.push((token.0, readiness));
        (self.act)(&self.bells, token, sources)
    }
}

fn bells<F>(count: usize, act: F) -> Bells<F>
where
    F: FnMut(&[Kick], Token, &mut Sources) -> io::Result<ControlFlow<()>> + Send + 'static,
{
    let bells = (0..count).map(|_| Kick::new().unwrap()).collect();
    Bells {
        bells,
        seen: Vec::new(),
        act,
    }
}

fn place(token: Token) -> usize {
    usize::try_from(token.0).unwrap()
}

fn spawn<W: Worker>(worker: W) -> Task<W> {
    Task::spawn("test", Filter::none(), worker).unwrap()
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "nothing happened in 20 s");
        thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn gives_back_the_worker_with_what_it_did() {
    let worker = bells(2, |bells, token, _| {
        bells[place(token)].take();
        Ok(if token == Token(1) {
            Break(())
        } else {
            Continue(())
        })
    });
    worker.bells[1].signal();
    let task = spawn(worker);
    wait_until(|| task.is_finished());
    let worker = task.stop().unwrap();
    let readable = Readiness {
        read: true,
        ..Readiness::default()
    };
    assert_eq!(worker.seen, [(1, readable)]);
}

#[test]
fn stops_at_once_when_idle() {
    let stop_time = || {
        let task = spawn(bells(1, |_, _, _| Ok(Continue(()))));
        assert!(task.wait_registered());
        let start = Instant::now();
        task.stop().unwrap();
        start.elapsed()
    };
    // The best of many, as the machine may be busy with other things.
    let best = (0..50).map(|_| stop_time()).min().unwrap();
    assert!(best < Duration::from_millis(1), "{best:?}");
}

#[test]
fn stops_although_sources_are_always_ready_and_serves_them_in_turn() {
    const SOURCES: usize = 40;
    let worker = bells(SOURCES, |_, _, _| Ok(Continue(())));
    worker.bells.iter().for_each(Kick::signal);
    let task = spawn(worker);
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    let worker = task.stop().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );

    let count = |source: u64| {
        worker
            .seen
            .iter()
            .filter(|(token, _)| *token == source)
            .count()
    };
    let counts: Vec<_> = (0..SOURCES as u64).map(count).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 16, "{counts:?}");
}

#[test]
fn loses_no_ring_over_many_starts_and_stops() {
    const RINGS: u64 = 20_000;
    let counted = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut worker = {
        let counted = Arc::clone(&counted);
        bells(1, move |bells, _, _| {
            counted.fetch_add(bells[0].take(), Ordering::Relaxed);
            Ok(Continue(()))
        })
    };
    let bell = worker.bells[0].clone();
    let ringer = thread::spawn(move || {
        for ring in 0..RINGS {
            bell.signal();
            if ring % 64 == 0 {
                thread::sleep(Duration::from_micros(100));
            }
        }
    });
    for _ in 0..200 {
        worker = spawn(worker).stop().unwrap();
        worker.seen.clear();
    }
    ringer.join().unwrap();
    let task = spawn(worker);
    wait_until(|| counted.load(Ordering::Relaxed) == RINGS);
    task.stop().unwrap();
    assert_eq!(counted.load(Ordering::Relaxed), RINGS);
}

#[test]
fn dropping_a_task_stops_the_thread_and_drops_the_worker() {
    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = SetOnDrop(Arc::clone(&dropped));
    let task = spawn(bells(1, move |_, _, _| {
        let _owned = &guard;
        Ok(Continue(()))
    }));
    assert!(!dropped.load(Ordering::SeqCst));
    drop(task);
    assert!(dropped.load(Ordering::SeqCst));
}

#[test]
fn stop_reports_the_workers_own_error() {
    let worker = bells(1, |_, _, _| Err(io::Error::other("disk on fire")));
    worker.bells[0].signal();
    let task = Task::spawn("burner", Filter::none(), worker).unwrap();
    wait_until(|| task.is_finished());
    let error = task.stop().err().unwrap();
    assert_eq!(error.to_string(), "worker \"burner\" failed");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "disk on fire");
}

#[test]
fn stop_reports_a_panic_with_its_message() {
    let worker = bells(1, |_, _, _| panic!("queue {} is broken", 3));
    worker.bells[0].signal();
    let task = spawn(worker);
    wait_until(|| task.is_finished());
    assert!(!task.wait_registered());
    match task.stop().err().unwrap() {
        Error::Panicked { name, message } => {
            assert_eq!(
                (name.as_str(), message.as_str()),
                ("test", "queue 3 is broken")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_error_in_register_ends_the_task() {
    struct NeverReady;
    impl Worker for NeverReady {
        fn register(&mut self, _: &mut Sources) -> io::Result<()> {
            Err(ErrorKind::ConnectionRefused.into())
        }
        fn ready(
            &mut self,
            _: Token,
            _: Readiness,
            _: &mut Sources,
        ) -> io::Result<ControlFlow<()>> {
            unreachable!("register failed")
        }
    }
    let task = spawn(NeverReady);
    assert!(!task.wait_registered());
    match task.stop().err().unwrap() {
        Error::Failed { source, .. } => assert_eq!(source.kind(), ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
}

/// Asks for the parent's process number, which no filter here permits: what it answers tells
/// whether a filter in `errno` mode is on.
struct Filtered {
    bell: Kick,
    parents: Vec<u32>,
}

impl Worker for Filtered {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        self.parents.push(std::os::unix::process::parent_id());
        sources.add(&self.bell, Token(7), Interest::READ)
    }

    fn ready(
        &mut self,
        token: Token,
        _: Readiness,
        sources: &mut Sources,
    ) -> io::Result<ControlFlow<()>> {
        assert_eq!(token, Token(7));
        self.bell.take();
        self.parents.push(std::os::unix::process::parent_id());
        let timer = sources.add_timer(Token(8))?;
        timer.set(Duration::from_secs(1))?;
        sources.remove(&timer)?;
        Ok(Break(()))
    }
}

#[test]
fn the_filter_is_on_before_the_worker_runs_and_permits_all_that_the_loop_does() {
    let real = std::os::unix::process::parent_id();
    let filter = Filter::compile(Mode::Errno, &[COMMON]).unwrap();
    let worker = Filtered {
        bell: Kick::new().unwrap(),
        parents: Vec::new(),
    };
    worker.bell.signal();
    let task = Task::spawn("filtered", filter, worker).unwrap();
    wait_until(|| task.is_finished());
    let worker = task.stop().unwrap();
    assert_eq!(worker.parents.len(), 2);
    assert!(!worker.parents.contains(&real));

    sandbox::crash::install().unwrap(); // says which call it was
    // In trap mode one call too many would end this process.
    let filter = Filter::compile(Mode::Trap, &[COMMON]).unwrap();
    let worker = bells(1, |bells, _, _| {
        bells[0].take();
        Ok(Continue(()))
    });
    let task = Task::spawn("trapped", filter, worker).unwrap();
    assert!(task.wait_registered());
    task.stop().unwrap();
}

#[test]
fn a_name_is_cut_to_what_the_kernel_keeps() {
    for (name, kept) in [
        ("_disk0_q0", "_disk0_q0"),
        ("exactly15bytes_", "exactly15bytes_"),
        ("exactly15bytes_and_more", "exactly15bytes_"),
        ("fourteen bytesé", "fourteen bytes"),
        ("cut\0here", "cut"),
        ("", ""),
    ] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let worker = bells(1, move |_, _, _| {
            sender
                .send(std::fs::read_to_string("/proc/thread-self/comm")?)
                .unwrap();
            Ok(Break(()))
        });
        worker.bells[0].signal();
        let task = Task::spawn(name, Filter::none(), worker).unwrap();
        assert_eq!(task.name(), kept);
        assert_eq!(receiver.recv().unwrap().trim_end(), kept);
    }
}

#[test]
fn a_removed_source_is_not_reported_though_it_was_fetched() {
    // All three ring at once and so are fetched together; the first served removes the next two
    // and gives one of their tokens to another source.
    let worker = bells(3, |bells, token, sources| {
        if token == Token(99) {
            return Ok(Break(()));
        }
        let others = (0..3).filter(|other| *other != place(token));
        for other in others {
            sources.remove(&bells[other])?;
        }
        sources.modify(&bells[place(token)], Token(99), Interest::READ)?;
        Ok(Continue(()))
    });
    worker.bells.iter().for_each(Kick::signal);
    let task = spawn(worker);
    wait_until(|| task.is_finished());
    let tokens: Vec<_> = task
        .stop()
        .unwrap()
        .seen
        .iter()
        .map(|(token, _)| *token)
        .collect();
    assert_eq!(tokens.len(), 2);
    assert_eq!(tokens[1], 99);
}

#[test]
fn a_worker_may_set_timers_of_its_own() {
    struct Ticker {
        timer: Option<Timer>,
        ticks: u64,
    }
    impl Worker for Ticker {
        fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
            let timer = sources.add_timer(Token(0))?;
            timer.set_periodic(Duration::from_millis(1))?;
            self.timer = Some(timer);
            Ok(())
        }
        fn ready(
            &mut self,
            _: Token,
            _: Readiness,
            _: &mut Sources,
        ) -> io::Result<ControlFlow<()>> {
            self.ticks += self.timer.as_ref().map_or(0, Timer::take);
            Ok(if self.ticks >= 5 {
                Break(())
            } else {
                Continue(())
            })
        }
    }
    let start = Instant::now();
    let task = spawn(Ticker {
        timer: None,
        ticks: 0,
    });
    wait_until(|| task.is_finished());
    assert!(start.elapsed() >= Duration::from_millis(5));
    assert!(task.stop().unwrap().ticks >= 5);
}

struct Own {
    rounds: u32,
    fail: bool,
}

impl Loop for Own {
    fn run(&mut self, stop: &Kick) -> io::Result<()> {
        if self.fail {
            return Err(io::Error::other("broken"));
        }
        self.rounds += 1;
        // Not taken: the bell is only looked at.
        let mut wait = [rustix::event::PollFd::new(
            stop,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut wait, None)?;
        Ok(())
    }
}

#[test]
fn a_worker_with_a_loop_of_its_own_is_stopped_and_started_again() {
    let own = Own {
        rounds: 0,
        fail: false,
    };
    let task = Task::spawn_loop("own", Filter::none(), own).unwrap();
    assert!(task.wait_registered());
    assert!(!task.is_finished());
    let own = task.stop().unwrap();
    let mut own = Task::spawn_loop("own", Filter::none(), own)
        .unwrap()
        .stop()
        .unwrap();
    assert_eq!(own.rounds, 2);
    own.fail = true;
    let error = Task::spawn_loop("own", Filter::none(), own)
        .unwrap()
        .stop()
        .err();
    assert!(matches!(error, Some(Error::Failed { .. })), "{error:?}");
}
