//! How the machine's owner makes processors' threads stop, pause, go on, or do something in between.
//!
//! A thread looks here when it was kicked out of the guest, and nowhere else: what is wanted is written down under
//! the lock before the kick, so that whoever comes too late for the kick finds it at its start.

use std::collections::VecDeque;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hypervisor::{Kicker, Vcpu};

use super::lock;
use crate::{Error, Result};

/// How long a processor may take to come out of the guest and of the device that it talks to. It takes
/// microseconds, unless a device waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to be done on a processor's own thread.
type Job = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

#[derive(Default)]
struct Wishes {
    stop: bool,
    pause: bool,
    /// Those that a debugger has stopped.
    held: Vec<bool>,
    /// Threads there are, and of these the ones that stand still.
    present: usize,
    parked: usize,
    kickers: Vec<Kicker>,
    jobs: Vec<VecDeque<Job>>,
}

pub(super) struct Control {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

impl Control {
    /// With `paused` or `held` threads stand still from their start on.
    pub(super) fn new(processors: usize, paused: bool, held: bool) -> Self {
        Self {
            wishes: Mutex::new(Wishes {
                pause: paused,
                held: vec![held; processors],
                kickers: Vec::with_capacity(processors),
                jobs: (0..processors).map(|_| VecDeque::new()).collect(),
                ..Wishes::default()
            }),
            changed: Condvar::new(),
        }
    }

    /// A thread is about to start.
    pub(super) fn arrive(&self) {
        lock(&self.wishes).present += 1;
    }

    /// A thread ends.
    pub(super) fn leave(&self) {
        lock(&self.wishes).present -= 1;
        self.changed.notify_all();
    }

    /// A thread can be kicked from here on.
    pub(super) fn enter(&self, kicker: Kicker) {
        lock(&self.wishes).kickers.push(kicker);
    }

    /// On a processor's thread: does what is wanted of it. `false`: end. With `rests` it returns only then.
    pub(super) fn attend(&self, index: u32, vcpu: &mut dyn Vcpu, rests: bool) -> bool {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let mut wishes = lock(&self.wishes);
        let mut parked = false;
        while !wishes.stop {
            if let Some(job) = wishes.jobs.get_mut(index).and_then(VecDeque::pop_front) {
                drop(wishes);
                job(vcpu);
                wishes = lock(&self.wishes);
                continue;
            }
            let held = wishes.held.get(index).is_some_and(|held| *held);
            match (wishes.pause || held, parked) {
                (true, false) => {
                    parked = true;
                    wishes.parked += 1;
                    self.changed.notify_all();
                }
                (false, true) => {
                    parked = false;
                    wishes.parked -= 1;
                    drop(wishes);
                    tell_of_pause(vcpu);
                    wishes = lock(&self.wishes);
                }
                (false, false) if !rests => return true,
                _ => {
                    wishes = self
                        .changed
                        .wait(wishes)
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            }
        }
        if parked {
            wishes.parked -= 1;
        }
        false
    }

    fn wake(&self, wishes: &Wishes) {
        for kicker in &wishes.kickers {
            kicker.kick();
        }
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        let mut wishes = lock(&self.wishes);
        wishes.stop = true;
        self.wake(&wishes);
    }

    /// Returns when all stand still. See [`super::Processors::pause`].
    pub(super) fn pause(&self) -> Result<()> {
        let mut wishes = lock(&self.wishes);
        wishes.pause = true;
        self.wake(&wishes);
        self.stand_still(wishes).inspect_err(|_| self.resume())
    }

    fn stand_still(&self, mut wishes: MutexGuard<'_, Wishes>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while wishes.parked < wishes.present {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Stuck(wishes.present - wishes.parked));
            }
            wishes = self
                .changed
                .wait_timeout(wishes, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// For a debugger: all are to stand still, until it releases them. Does not wait, so that a processor can call it.
    pub(super) fn hold(&self) {
        let mut wishes = lock(&self.wishes);
        wishes.held.fill(true);
        self.wake(&wishes);
    }

    /// As [`Control::hold`], and returns when they do.
    pub(super) fn hold_all(&self) -> Result<()> {
        self.hold();
        self.stand_still(lock(&self.wishes))
    }

    /// For a debugger: these go on, unless they are paused, too.
    pub(super) fn release(&self, which: impl Fn(usize) -> bool) {
        let mut wishes = lock(&self.wishes);
        for (index, held) in wishes.held.iter_mut().enumerate() {
            *held &= !which(index);
        }
        drop(wishes);
        self.changed.notify_all();
    }

    /// How many processors there are, and whether a debugger has stopped any.
    pub(super) fn held(&self) -> (usize, bool) {
        let wishes = lock(&self.wishes);
        (wishes.held.len(), wishes.held.contains(&true))
    }

    /// Has `job` done on one processor's thread; what it says.
    pub(super) fn on_one<T: Send + 'static>(
        &self,
        index: usize,
        job: impl FnOnce(&mut dyn Vcpu) -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = channel();
        let mut wishes = lock(&self.wishes);
        if let Some(queue) = wishes.jobs.get_mut(index) {
            queue.push_back(Box::new(move |vcpu| {
                let _ = sender.send(job(vcpu));
            }));
        } else {
            // Nobody will answer.
            drop(sender);
        }
        self.wake(&wishes);
        drop(wishes);
        answer.recv_timeout(PATIENCE).map_err(|_| Error::Stuck(1))
    }

    pub(super) fn resume(&self) {
        lock(&self.wishes).pause = false;
        self.changed.notify_all();
    }

    /// Has `job` done on each processor's thread, whether they run or stand still, and gathers what they say, in the
    /// processors' order.
    pub(super) fn on_each<T: Send + 'static>(
        &self,
        job: impl Fn(&mut dyn Vcpu) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>> {
        let job = Arc::new(job);
        let (sender, answers) = channel();
        let mut wishes = lock(&self.wishes);
        let count = wishes.jobs.len();
        for (index, queue) in wishes.jobs.iter_mut().enumerate() {
            let (job, sender) = (Arc::clone(&job), sender.clone());
            queue.push_back(Box::new(move |vcpu| {
                // Whoever asked may have run out of patience.
                let _ = sender.send((index, job(vcpu)));
            }));
        }
        self.wake(&wishes);
        drop(wishes);
        let deadline = Instant::now() + PATIENCE;
        let mut gathered = Vec::with_capacity(count);
        for missing in (1..=count).rev() {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = answers.recv_timeout(left);
            gathered.push(answer.map_err(|_| Error::Stuck(missing))?);
        }
        gathered.sort_unstable_by_key(|(index, _)| *index);
        Ok(gathered.into_iter().map(|(_, answer)| answer).collect())
    }
}

/// Keeps the guest's watchdogs from taking the pause for a hang.
fn tell_of_pause(vcpu: &mut dyn Vcpu) {
    if let Err(error) = vcpu.notify_paused() {
        telemetry::warn!(
            "the guest is not told that it was paused: {}",
            telemetry::chain(&error).join(": ")
        );
    }
}
