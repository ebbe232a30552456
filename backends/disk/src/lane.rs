//! Lanes of an image: what is under way, and what comes next for it.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use rustix::event::{PollFd, PollFlags, poll};

use crate::buffer::{Buffers, SIZE};
use crate::claim::Claimant;
use crate::image::{Alignment, Image};
use crate::port::{Happened, Port, Step, Until};
use crate::slot::{Kind, Phase, Slot, too_short};
use crate::{Event, Lane, Request, sys};

/// Fewer than these many times in a row does the kernel ask to try again, unless something is wrong.
const MOST_REPEATS: u8 = 100;
/// The token of the bell that other lanes ring.
const BELL: u64 = u64::MAX;

const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

pub(crate) struct ImageLane<P: Port> {
    // First, so that it is dropped before what the kernel may work on.
    port: P,
    image: Arc<Image>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots that wait for other writes, or for a buffer.
    held: VecDeque<u32>,
    finished: Vec<Event>,
    happened: Happened,
    buffers: Buffers,
    /// Only where writes can be in each other's way.
    claimant: Option<Claimant>,
    /// Requests that are not finished, and steps of them that the port has.
    under_way: usize,
    steps: usize,
    watched: usize,
}

impl<P: Port> ImageLane<P> {
    pub(crate) fn new(image: Arc<Image>, mut port: P, depth: u16) -> io::Result<Self> {
        let claimant = if image.direct && !image.read_only {
            let claimant = Claimant::new(Arc::clone(&image.claims))?;
            port.watch(claimant.bell(), BELL)?;
            Some(claimant)
        } else {
            None
        };
        let depth = usize::from(depth);
        Ok(Self {
            port,
            buffers: Buffers::new(image.alignment.memory.max(image.alignment.offset)),
            image,
            slots: Vec::with_capacity(depth),
            free: Vec::with_capacity(depth),
            held: VecDeque::new(),
            finished: Vec::with_capacity(depth),
            happened: Happened::default(),
            claimant,
            under_way: 0,
            steps: 0,
            watched: 0,
        })
    }

    fn slot(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    fn occupy(&mut self) -> u32 {
        self.under_way += 1;
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            // A list of 2^32 slots does not fit into memory.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn finish(&mut self, index: u32, result: io::Result<()>) {
        let slot = &mut self.slots[index as usize];
        if let Some(piece) = slot.piece.take() {
            self.buffers.give_back(piece.buffer);
        }
        let claim = slot.claim.take();
        self.finished.push(Event::Done {
            tag: slot.tag,
            result,
            vectors: slot.vectors.take(),
        });
        if let (Some(claimant), Some(claim)) = (&self.claimant, claim) {
            claimant.release(&claim);
        }
        self.free.push(index);
        self.under_way -= 1;
    }

    fn submit(&mut self, index: u32, step: Step) {
        self.steps += 1;
        // SAFETY: what the step points to is owned by the slot, which is not given up before the step is done: not by
        // `finish`, which is called after that, nor by `drop`, which waits or leaks.
        unsafe { self.port.take(index, step) };
    }

    /// Why a request cannot be carried out, before anything is done for it; or that nothing needs to be done.
    fn check(&mut self, index: u32) -> Option<io::Result<()>> {
        let (capacity, read_only) = (self.image.capacity(), self.image.read_only);
        let can_discard = self.image.can_discard();
        let slot = self.slot(index);
        let refuse = |number| Some(Err(io::Error::from_raw_os_error(number)));
        match slot.offset.checked_add(slot.length) {
            Some(end) if end <= capacity => {}
            _ => return refuse(libc::EINVAL),
        }
        if slot.kind.changes() && read_only {
            return refuse(libc::EROFS);
        }
        let nothing = match slot.kind {
            // Nothing was written through a lane that cannot.
            Kind::Flush => read_only,
            Kind::Discard => !can_discard || slot.length == 0,
            _ => slot.length == 0,
        };
        nothing.then_some(Ok(()))
    }

    /// Takes the bytes that the request changes, where that is needed.
    fn claim(&mut self, index: u32) {
        let Some(claimant) = &self.claimant else {
            return;
        };
        let block = u64::from(self.image.alignment.offset);
        let slot = &mut self.slots[index as usize];
        if slot.kind.changes() {
            let end = slot.offset + slot.length;
            let alone = !(slot.offset.is_multiple_of(block) && end.is_multiple_of(block));
            let (first, last) = (slot.offset / block * block, end.next_multiple_of(block));
            slot.claim = Some(claimant.claim(first, last, alone));
        }
    }

    /// Begins a request, or holds it back until it can.
    fn begin(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if let (Some(claimant), Some(claim)) = (&self.claimant, &slot.claim)
            && !claimant.may_begin(claim)
        {
            self.held.push_back(index);
            return;
        }
        match slot.kind {
            Kind::Flush => {
                self.slot(index).phase = Phase::Sync;
                self.submit(index, Step::Sync);
            }
            Kind::Read | Kind::Write if fits(slot, self.image.alignment) => {
                let step = self.slot(index).plain();
                self.submit(index, step);
            }
            Kind::Read | Kind::Write => self.next_piece(index),
            Kind::Discard if self.image.is_block_device => {
                let result = discard_sectors(&self.image, slot);
                self.finish(index, result);
            }
            Kind::Discard => self.allocate(index, PUNCH),
            // A device has no zeros for parts of its sectors, but it can be written.
            Kind::Zero { .. }
                if self.image.is_block_device && !whole_sectors(&self.image, slot) =>
            {
                self.next_piece(index);
            }
            Kind::Zero { unmap } if unmap && self.image.sparse => self.allocate(index, PUNCH),
            Kind::Zero { .. } => self.allocate(index, ZERO),
        }
    }

    fn allocate(&mut self, index: u32, mode: i32) {
        let step = self.slot(index).allocate(mode);
        self.submit(index, step);
    }

    /// Lets what was held back begin, as far as it can now.
    fn begin_held(&mut self) {
        for _ in 0..self.held.len() {
            if let Some(index) = self.held.pop_front() {
                self.begin(index);
            }
        }
    }

    /// Goes on with the part of the request that the next buffer holds.
    fn next_piece(&mut self, index: u32) {
        let block = self.image.alignment.offset.into();
        let slot = &mut self.slots[index as usize];
        let own = slot.piece.take().map(|piece| piece.buffer);
        let Some(buffer) = own.or_else(|| self.buffers.take()) else {
            self.held.push_back(index);
            return;
        };
        slot.lay_out(buffer, block);
        let whole = |slot: &Slot| {
            let piece = slot.piece.as_ref();
            piece.is_some_and(|piece| piece.payload == piece.length)
        };
        let phase = match slot.kind {
            Kind::Read => Phase::ReadPiece,
            _ if whole(slot) => {
                slot.fill_piece();
                Phase::WritePiece
            }
            _ => Phase::FillPiece,
        };
        self.piece_step(index, phase);
    }

    fn piece_step(&mut self, index: u32, phase: Phase) {
        match self.slot(index).piece_step(phase) {
            Some(step) => self.submit(index, step),
            None => self.finish(index, Err(io::Error::from_raw_os_error(libc::EIO))),
        }
    }

    /// A step of the slot is done.
    fn advance(&mut self, index: u32, result: i32) {
        let slot = self.slot(index);
        let count = match usize::try_from(result) {
            Ok(count) => count,
            Err(_) => return self.failed(index, result.unsigned_abs().cast_signed()),
        };
        slot.again = 0;
        match slot.phase {
            Phase::Plain => self.moved_plain(index, count),
            Phase::Sync | Phase::Allocate { .. } => self.finish(index, Ok(())),
            Phase::ReadPiece | Phase::FillPiece | Phase::WritePiece => {
                self.moved_piece(index, count);
            }
        }
    }

    fn failed(&mut self, index: u32, number: i32) {
        let slot = self.slot(index);
        let refused = || Err(io::Error::from_raw_os_error(number));
        match (number, slot.phase, slot.kind) {
            (libc::EINTR | libc::EAGAIN | libc::ECANCELED, ..) if slot.again < MOST_REPEATS => {
                slot.again += 1;
                match slot.repeat() {
                    Some(step) => self.submit(index, step),
                    None => self.finish(index, refused()),
                }
            }
            // The file system or device has no such call: the next best way to the same.
            (libc::EOPNOTSUPP, Phase::Allocate { mode: PUNCH }, Kind::Zero { .. }) => {
                self.allocate(index, ZERO);
            }
            (libc::EOPNOTSUPP, Phase::Allocate { .. }, Kind::Zero { .. }) => self.next_piece(index),
            _ => self.finish(index, refused()),
        }
    }

    fn moved_plain(&mut self, index: u32, count: usize) {
        let block = u64::from(self.image.alignment.offset);
        let slot = self.slot(index);
        let reached = slot.done + count as u64;
        // Direct I/O goes on at a whole block only. It ends within one only at the end of the file.
        let aligned = reached / block * block;
        if reached >= slot.length {
            self.finish(index, Ok(()));
        } else if aligned > slot.done {
            slot.done = aligned;
            let step = slot.plain();
            self.submit(index, step);
        } else {
            let result = Err(stuck(slot.kind));
            self.finish(index, result);
        }
    }

    fn moved_piece(&mut self, index: u32, count: usize) {
        let block = self.image.alignment.offset as usize;
        let slot = self.slot(index);
        let (phase, kind) = (slot.phase, slot.kind);
        let Some(piece) = &mut slot.piece else {
            return self.finish(index, Err(io::Error::from_raw_os_error(libc::EIO)));
        };
        let reached = piece.moved + count;
        let needed = match phase {
            Phase::ReadPiece => piece.skip + piece.payload,
            _ => piece.length,
        };
        let aligned = reached / block * block;
        let goes_on = aligned > piece.moved;
        if reached < needed && goes_on {
            piece.moved = aligned;
            return self.piece_step(index, phase);
        }
        match phase {
            Phase::FillPiece => {
                // What the file does not have, behind its end.
                piece.buffer.bytes()[reached.min(SIZE)..].fill(0);
                slot.fill_piece();
                self.piece_step(index, Phase::WritePiece);
            }
            _ if reached < needed => self.finish(index, Err(stuck(kind))),
            Phase::ReadPiece => {
                slot.empty_piece();
                self.end_piece(index);
            }
            _ => {
                let end = piece.start + piece.length as u64;
                match self.image.trim(end) {
                    Ok(()) => self.end_piece(index),
                    Err(error) => self.finish(index, Err(error)),
                }
            }
        }
    }

    fn end_piece(&mut self, index: u32) {
        let slot = self.slot(index);
        slot.done += slot.piece.as_ref().map_or(0, |piece| piece.payload as u64);
        if slot.done >= slot.length {
            self.finish(index, Ok(()));
        } else {
            self.next_piece(index);
        }
    }

    /// One round: begins, waits, and takes what happened. Gives the tokens that are ready to `ready`.
    fn round(&mut self, until: Until, mut ready: impl FnMut(u64)) -> io::Result<()> {
        let mut happened = mem::take(&mut self.happened);
        let result = self.port.wait(until, &mut happened);
        for (index, result) in happened.done.drain(..) {
            self.steps -= 1;
            self.advance(index, result);
        }
        for token in happened.ready.drain(..) {
            match (token, &self.claimant) {
                (BELL, Some(claimant)) => claimant.silence(),
                _ => ready(token),
            }
        }
        self.happened = happened;
        result
    }

    /// Waits until another lane has let something go.
    fn wait_for_bell(&self) -> io::Result<()> {
        let Some(claimant) = &self.claimant else {
            return Ok(());
        };
        let mut fds = [PollFd::from_borrowed_fd(claimant.bell(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {
                claimant.silence();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        loop {
            self.begin_held();
            match (self.steps, self.held.is_empty()) {
                (0, true) => return Ok(()),
                (0, false) => self.wait_for_bell()?,
                _ => self.round(Until::StepDone, |_| {})?,
            }
        }
    }
}

fn whole_sectors(image: &Image, slot: &Slot) -> bool {
    let sector = u64::from(image.topology.logical_block);
    slot.offset.is_multiple_of(sector) && slot.length.is_multiple_of(sector)
}

/// Discards the sectors that are in the request as a whole. Here and now: only new kernels take this through a ring.
fn discard_sectors(image: &Image, slot: &Slot) -> io::Result<()> {
    let sector = u64::from(image.topology.logical_block).max(1);
    let first = slot.offset.next_multiple_of(sector);
    let end = (slot.offset + slot.length) / sector * sector;
    match end.checked_sub(first) {
        None | Some(0) => Ok(()),
        Some(length) => sys::block_discard(image.fd(), first, length),
    }
}

/// Whether the kernel takes the transfer as it is.
fn fits(slot: &Slot, alignment: Alignment) -> bool {
    if alignment == Alignment::NONE {
        return true;
    }
    let offset = u64::from(alignment.offset);
    let (memory, length) = (alignment.memory as usize, alignment.offset as usize);
    let fits = |vector: &libc::iovec| {
        vector.iov_base.addr().is_multiple_of(memory) && vector.iov_len.is_multiple_of(length)
    };
    let vectors = slot.vectors.as_ref();
    slot.offset.is_multiple_of(offset)
        && vectors.is_some_and(|vectors| vectors.as_raw().iter().all(fits))
}

fn stuck(kind: Kind) -> io::Error {
    match kind {
        Kind::Read => too_short(),
        _ => io::ErrorKind::WriteZero.into(),
    }
}

/// A lane that a format above raw uses.
pub(crate) trait FileLane: Lane {
    /// Has the next [`Lane::wait`] tell an event of the format's own, without waiting for others.
    fn deliver(&mut self, event: Event);
}

impl<P: Port> FileLane for ImageLane<P> {
    fn deliver(&mut self, event: Event) {
        self.finished.push(event);
    }
}

impl<P: Port> Lane for ImageLane<P> {
    fn push(&mut self, request: Request) {
        let index = self.occupy();
        self.slot(index).fill(request.tag, request.operation);
        if let Some(result) = self.check(index) {
            return self.finish(index, result);
        }
        self.claim(index);
        self.begin(index);
    }

    fn in_flight(&self) -> usize {
        self.under_way + self.finished.len()
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        if token == BELL {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.port.watch(fd, token)?;
        self.watched += 1;
        Ok(())
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        if self.in_flight() == 0 && self.watched == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a lane without requests and descriptors has nothing to wait for",
            ));
        }
        let before = events.len();
        while events.len() == before {
            self.begin_held();
            let until = match self.finished.is_empty() {
                true => Until::Anything,
                false => Until::Now,
            };
            self.round(until, |token| events.push(Event::Ready { token }))?;
            events.append(&mut self.finished);
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.begin_held();
        self.round(Until::Now, |token| events.push(Event::Ready { token }))?;
        events.append(&mut self.finished);
        Ok(())
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let result = self.settle();
        events.append(&mut self.finished);
        result
    }
}

impl<P: Port> Drop for ImageLane<P> {
    fn drop(&mut self) {
        if self.settle().is_err() {
            // The kernel may still work on it.
            mem::forget(mem::take(&mut self.slots));
        }
    }
}
