//! The thread of one queue: from chains to requests of a lane and back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use disk::{Disk, Event, Lane, Operation, Request};
use limiter::Limiter;
use memory::IoVectors;
use reactor::{BusyPoll, Kick, Loop, Timer};
use virtio::{Chain, Error, Ring};

use crate::counters::Counters;
use crate::fields::feature;
use crate::request::{Bounds, ID_LEN, Plan, Refusal, Segment, Status, plan, put_id, put_status};
use crate::run::Run;
use crate::slot::Slot;

/// What a lane tells about descriptors.
const STOP: u64 = 0;
const DOORBELL: u64 = 1;
const TIMER: u64 = 2;

/// Longest that is looked for the driver's next request before sleeping: being woken by a doorbell costs the guest an
/// exit and both sides tens of microseconds.
const FOR_DRIVER: Duration = Duration::from_micros(50);
/// Longest that is looked for the end of one. Fast devices are done in this time; behind slower ones looking longer
/// gains some latency for a third of the processor time (docs/performance.md).
const FOR_HOST: Duration = Duration::from_micros(20);

/// What the queues of a disk have in common with each other and with the registers.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Writes may complete before they are durable, if the driver can choose.
    pub(crate) writeback: AtomicBool,
    /// One for each queue.
    pub(crate) counters: Vec<Counters>,
    /// Id of the device, for events.
    pub(crate) id: String,
    /// It was told that the image contradicts itself.
    pub(crate) is_damage_told: AtomicBool,
}

/// What a worker is made of.
pub(crate) struct WorkerParts {
    /// Name of the thread, for the log.
    pub(crate) name: String,
    pub(crate) ring: Ring,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) serial: [u8; ID_LEN],
    /// Host CPUs to run on; empty for any.
    pub(crate) cpus: Vec<usize>,
}

/// Serves one queue.
pub(crate) struct Worker {
    parts: WorkerParts,
    /// Opened by the owner, whose rights it takes; used up by the thread.
    lane: Option<Box<dyn Lane>>,
    throttle: Option<Throttle>,
    /// Requests under way, by tag, and the tags that are free.
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// The transfer that requests join while they are taken.
    run: Option<Run>,
    /// Ranges of the request that is being looked at.
    segments: Vec<Segment>,
    now: Instant,
    /// What is learned of the driver's next request, while none is under way, and of the host's next completion.
    for_driver: BusyPoll,
    for_host: BusyPoll,
}

/// A limiter with the timer that ends a wait.
struct Throttle {
    limiter: Limiter,
    timer: Timer,
    /// The next chain waits.
    waits: bool,
}

impl Worker {
    /// A worker with a lane of its own.
    ///
    /// # Errors
    /// If there is no lane or no timer.
    pub(crate) fn new(mut parts: WorkerParts) -> io::Result<Self> {
        let depth = parts.ring.size();
        let lane = parts.disk.lane(depth)?;
        let throttle = parts.limiter.take().map(|limiter| {
            Ok::<_, io::Error>(Throttle {
                limiter,
                timer: Timer::new()?,
                waits: false,
            })
        });
        Ok(Self {
            parts,
            lane: Some(lane),
            throttle: throttle.transpose()?,
            slots: (0..depth).map(|_| Slot::default()).collect(),
            free: (0..depth.into()).rev().collect(),
            run: None,
            segments: Vec::new(),
            now: Instant::now(),
            for_driver: BusyPoll::up_to(FOR_DRIVER),
            for_host: BusyPoll::up_to(FOR_HOST),
        })
    }

    /// The queue.
    pub(crate) fn into_ring(self) -> Ring {
        self.parts.ring
    }

    fn ring(&mut self) -> &mut Ring {
        &mut self.parts.ring
    }

    /// Works until stopped, then until nothing is under way.
    fn work(&mut self, lane: &mut dyn Lane, stop: &Kick) -> io::Result<()> {
        use std::os::fd::AsFd;
        lane.watch(stop.as_fd(), STOP)?;
        lane.watch(self.parts.ring.kick().as_fd(), DOORBELL)?;
        if let Some(throttle) = &self.throttle {
            lane.watch(throttle.timer.as_fd(), TIMER)?;
        }
        let mut events = Vec::new();
        loop {
            self.wait(lane, &mut events)?;
            if !self.round(lane, &mut events) {
                break;
            }
        }
        while lane.in_flight() > 0 {
            lane.drain(&mut events)?;
            self.deal(lane, &mut events);
        }
        self.ring().notify();
        Ok(())
    }

    /// Begins what was pushed, and waits for events or for chains: for a moment by looking again and again, if that has
    /// paid of late. The driver need not ring before the thread sleeps.
    fn wait(&mut self, lane: &mut dyn Lane, events: &mut Vec<Event>) -> io::Result<()> {
        if self.is_held_up() {
            return lane.wait(events);
        }
        let busy = match lane.in_flight() {
            0 => &mut self.for_driver,
            _ => &mut self.for_host,
        };
        let ring = &mut self.parts.ring;
        let found = busy.look(|| {
            lane.poll(events)?;
            Ok::<_, io::Error>(!events.is_empty() || ring.has_more())
        })?;
        if found || ring.listen() {
            return Ok(());
        }
        let start = Instant::now();
        lane.wait(events)?;
        busy.slept(start.elapsed());
        Ok(())
    }

    /// The next chain waits for its limit: until the timer ends this the queue is not looked at.
    fn is_held_up(&self) -> bool {
        let throttle = self.throttle.as_ref();
        throttle.is_some_and(|throttle| throttle.waits)
    }

    /// Deals with events, and takes what is in the queue. False if it is to stop.
    fn round(&mut self, lane: &mut dyn Lane, events: &mut Vec<Event>) -> bool {
        let go_on = self.deal(lane, events);
        self.ring().notify();
        if go_on && !self.is_held_up() && self.ring().has_more() {
            self.take(lane);
            self.ring().notify();
        }
        go_on
    }

    /// Deals with events. False if one of them says to stop.
    fn deal(&mut self, lane: &mut dyn Lane, events: &mut Vec<Event>) -> bool {
        self.now = Instant::now();
        let mut go_on = true;
        for event in events.drain(..) {
            match event {
                Event::Done {
                    tag,
                    result,
                    vectors,
                } => self.done(lane, tag, result, vectors),
                Event::Ready { token: DOORBELL } => {
                    self.ring().kick().take();
                }
                Event::Ready { token: TIMER } => {
                    if let Some(throttle) = &mut self.throttle {
                        throttle.timer.take();
                        throttle.waits = false;
                    }
                }
                Event::Ready { .. } => go_on = false,
            }
        }
        go_on
    }

    /// Takes chains until there are none, but no more than a queue full, so that a driver that never stops does not
    /// keep the worker from what else it has to do.
    fn take(&mut self, lane: &mut dyn Lane) {
        self.take_chains(lane);
        self.begin_run(lane);
    }

    fn take_chains(&mut self, lane: &mut dyn Lane) {
        self.ring().silence();
        for _ in 0..self.ring().size() {
            if self.is_held_up() {
                return;
            }
            let Some(chain) = self.ring().pop() else {
                return;
            };
            self.admit(lane, chain);
        }
    }

    /// Begins what a chain asks for, if it can be done and need not wait.
    fn admit(&mut self, lane: &mut dyn Lane, chain: Chain) {
        let bounds = self.bounds();
        let plan = match plan(&chain, &bounds, &mut self.segments) {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(chain, refusal),
        };
        if let Some(throttle) = &mut self.throttle {
            let bytes = match plan {
                Plan::Read { length, .. } | Plan::Write { length, .. } => length.into(),
                _ => 0,
            };
            if let Err(wait) = throttle.limiter.take(bytes, 1, self.now) {
                match throttle.timer.set(wait) {
                    Ok(()) => {
                        throttle.waits = true;
                        return self.parts.ring.put_back(chain);
                    }
                    Err(error) => {
                        telemetry::warn!("{}: no timer, no limit: {error}", self.parts.name);
                    }
                }
            }
        }
        self.begin(lane, chain, plan);
    }

    fn bounds(&self) -> Bounds {
        let Self { parts, .. } = self;
        Bounds {
            capacity: parts.disk.capacity(),
            read_only: parts.disk.is_read_only(),
            protects_first_sector: parts.disk.protects_first_sector(),
            discard: parts.ring.has(feature::DISCARD),
            write_zeroes: parts.ring.has(feature::WRITE_ZEROES),
        }
    }

    fn refuse(&mut self, chain: Chain, refusal: Refusal) {
        let status = match refusal {
            Refusal::Status(status) => status,
            Refusal::FirstSector => {
                telemetry::warn!(
                    "{}: the guest may not write the first sector of an image whose format was guessed; \
                     --disk image_type=raw says that it is raw and permits it",
                    self.parts.name
                );
                Status::IoError
            }
            Refusal::NoStatus => {
                // The chain stays with the device, as the whole queue does.
                self.ring().complete(chain, 0);
                return self
                    .ring()
                    .fail(&Error::Request("a request has no room for its status"));
            }
        };
        self.complete(chain, status);
    }

    /// Gives a chain back whose data, if there should be any, was not written.
    fn complete(&mut self, chain: Chain, status: Status) {
        put_status(&chain, status);
        // Counted from the start: behind data that is not there, the status does not count.
        let written = if status == Status::Ok || chain.writable_len() == 1 {
            chain.writable_len()
        } else {
            0
        };
        self.ring().complete(chain, written);
    }

    fn begin(&mut self, lane: &mut dyn Lane, mut chain: Chain, plan: Plan) {
        if plan == Plan::GetId {
            let told = put_id(&mut chain, &self.parts.serial);
            let status = told.map_or(Status::IoError, |()| Status::Ok);
            return self.complete(chain, status);
        }
        // There are as many as descriptors, and a chain has at least one of those.
        let Some(tag) = self.free.pop() else {
            return self.complete(chain, Status::IoError);
        };
        let through = is_through(&self.parts.ring, &self.parts.shared);
        let slot = &mut self.slots[tag];
        slot.kind = Some(plan);
        slot.begun = Some(self.now);
        slot.through = through && !matches!(plan, Plan::Read { .. } | Plan::Flush);
        slot.is_synced = false;
        std::mem::swap(&mut slot.segments, &mut self.segments);
        let operation = slot.first(&chain, plan);
        slot.chain = Some(chain);
        match operation {
            Ok(Some(operation)) => self.join(lane, tag, operation),
            Ok(None) => self.go_on(lane, tag),
            Err(_) => self.finish(tag, Status::IoError),
        }
    }

    /// Makes a request's transfer part of the one that is gathered, where it goes on from its end, or begins it.
    fn join(&mut self, lane: &mut dyn Lane, tag: usize, operation: Operation) {
        let through = self.slots[tag].through;
        let operation = match &mut self.run {
            Some(run) => match run.add(tag, through, operation) {
                Ok((before, spare)) => {
                    self.slots[before].joined = Some(tag);
                    self.slots[tag].vectors = Some(spare);
                    return;
                }
                Err(operation) => operation,
            },
            None => operation,
        };
        match Run::begin(tag, through, operation) {
            Ok(run) => {
                self.begin_run(lane);
                self.run = Some(run);
            }
            Err(operation) => lane.push(request(tag, operation)),
        }
    }

    fn begin_run(&mut self, lane: &mut dyn Lane) {
        if let Some(run) = self.run.take() {
            let (tag, operation) = run.end();
            lane.push(request(tag, operation));
        }
    }

    /// A transfer of several requests failed. Each is made again alone, so that only those fail that have to.
    fn part(&mut self, lane: &mut dyn Lane, tag: usize) {
        let mut next = Some(tag);
        while let Some(tag) = next {
            let slot = &mut self.slots[tag];
            next = slot.joined.take();
            match slot.again() {
                Ok(Some(operation)) => lane.push(request(tag, operation)),
                Ok(None) => self.go_on(lane, tag),
                Err(_) => self.finish(tag, Status::IoError),
            }
        }
    }

    fn done(
        &mut self,
        lane: &mut dyn Lane,
        tag: u64,
        result: io::Result<()>,
        vectors: Option<IoVectors>,
    ) {
        let Some(tag) = usize::try_from(tag)
            .ok()
            .filter(|tag| *tag < self.slots.len())
        else {
            return;
        };
        let slot = &mut self.slots[tag];
        slot.vectors = vectors.or(slot.vectors.take());
        match result {
            Ok(()) => self.go_on(lane, tag),
            Err(_) if slot.joined.is_some() && !slot.is_synced => self.part(lane, tag),
            Err(error) => {
                if let Some(kind) = slot.kind {
                    telemetry::warn!("{}: {kind:?} failed: {error}", self.parts.name);
                }
                self.finish(tag, Status::IoError);
                self.tell_damage();
            }
        }
    }

    /// Says once that the image is not written any more, if that is why requests fail.
    fn tell_damage(&self) {
        let Self { parts, .. } = self;
        if let Some(reason) = parts.disk.damage()
            && !parts.shared.is_damage_told.swap(true, Ordering::AcqRel)
        {
            let id = &parts.shared.id;
            telemetry::error!("{id}: the image is not written any more: {reason}");
            telemetry::event!("vm", "disk-corrupted", id = id, reason = reason);
        }
    }

    /// A step of a request worked: does the next, or completes it.
    fn go_on(&mut self, lane: &mut dyn Lane, tag: usize) {
        let slot = &mut self.slots[tag];
        let next = slot.next_range().or_else(|| slot.sync());
        match next {
            Some(operation) => lane.push(request(tag, operation)),
            None => self.finish(tag, Status::Ok),
        }
    }

    /// Completes a request, and those whose data went with its own.
    fn finish(&mut self, tag: usize, status: Status) {
        let mut next = Some(tag);
        while let Some(tag) = next {
            next = self.slots[tag].joined.take();
            self.finish_one(tag, status);
        }
    }

    fn finish_one(&mut self, tag: usize, status: Status) {
        let slot = &mut self.slots[tag];
        let Some(chain) = slot.chain.take() else {
            return;
        };
        slot.segments.clear();
        let latency = slot
            .begun
            .take()
            .map(|begun| self.now.saturating_duration_since(begun));
        let kind = slot.kind.take();
        self.free.push(tag);
        self.complete(chain, status);
        if status == Status::Ok
            && let Some(latency) = latency
            && let Some(counters) = self
                .parts
                .shared
                .counters
                .get(usize::from(self.parts.ring.index()))
        {
            match kind {
                Some(Plan::Read { length, .. }) => counters.count_read(length.into(), latency),
                Some(Plan::Write { length, .. }) => counters.count_write(length.into(), latency),
                _ => {}
            }
        }
    }
}

fn request(tag: usize, operation: Operation) -> Request {
    let tag = u64::try_from(tag).unwrap_or(u64::MAX);
    Request { tag, operation }
}

/// Whether writes have to be durable when they complete (VIRTIO 1.3, 5.2.6.2): the driver chose so, or knows no
/// flushes.
fn is_through(ring: &Ring, shared: &Shared) -> bool {
    let chosen = ring.has(feature::CONFIG_WCE) && !shared.writeback.load(Ordering::Acquire);
    chosen || !ring.has(feature::FLUSH)
}

impl Loop for Worker {
    fn run(&mut self, stop: &Kick) -> io::Result<()> {
        if !self.parts.cpus.is_empty()
            && let Err(error) = sandbox::pin_current_thread(&self.parts.cpus)
        {
            // They were there when the disk was built.
            telemetry::error!("{}: queue_affinity: {error}", self.parts.name);
        }
        let Some(mut lane) = self.lane.take() else {
            return Ok(());
        };
        if let Err(error) = self.work(&mut *lane, stop) {
            telemetry::error!("{}: {error}", self.parts.name);
            let why = "the host's side of the disk cannot be used any more";
            self.ring().fail(&Error::Request(why));
        }
        Ok(())
    }
}
