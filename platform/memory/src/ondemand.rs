//! RAM whose pages come from files while the guest runs already.
//!
//! ```text
//!  guest, devices ── touch a page ──▶ kernel ── fault ──▶ serve_faults ──▶ the page's block, at once
//!                                                         fill ─────────▶ all other blocks, one after the other
//! ```
//!
//! When all blocks are there nothing is left of it. RAM is small pages then; the kernel may make large ones of them.
//!
//! A block that cannot be read is never taken for zeros: once the guest has run, all pages that are still missing are
//! taken out of the reach of everybody. Whoever waits for one fails, so that processors stop and requests of devices
//! are errors, and the one who made the pager is told before.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::blocks::BLOCK;
use crate::contents::filled_runs;
use crate::userfault::UserFault;
use crate::{Blocks, Error, GuestRam, Mapping};

/// Who is told what cannot be read.
type Lost = Box<dyn Fn(&Error) + Send + Sync>;

/// Lets RAM's pages come. [`Pager::serve_faults`] and [`Pager::fill`] each need a thread of their own; it must not be
/// dropped before everybody who touches RAM is gone, or all pages have come.
pub struct Pager {
    fault: UserFault,
    blocks: Blocks,
    places: Vec<Place>,
    /// An eventfd(2) that ends the wait for faults.
    bell: OwnedFd,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Bytes that [`Pager::fill`] has before it.
    left: AtomicU64,
    lost: Lost,
}

/// A region of RAM.
struct Place {
    mapping: Arc<Mapping>,
    /// Its first byte in this process.
    address: u64,
    /// Its first byte in the files.
    offset: u64,
}

#[derive(Default)]
struct Progress {
    /// Nobody needs more pages.
    stop: bool,
    /// All have come.
    done: bool,
    /// The guest runs, or has run.
    runs: bool,
    failed: Option<Arc<Error>>,
}

impl Progress {
    fn ended(&self) -> bool {
        self.stop || self.done || self.failed.is_some()
    }
}

impl std::fmt::Debug for Pager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pager")
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

impl Pager {
    /// Prepares RAM that nobody has touched: from here on whoever touches it waits. `lost` is told once, if a block
    /// cannot be had.
    ///
    /// # Errors
    /// [`Error::HugePagesOnDemand`]; [`Error::ContentsSize`] if the blocks are not those of such a RAM;
    /// [`Error::UserFault`] if the kernel refuses.
    pub fn new(ram: &GuestRam, blocks: Blocks, lost: Lost) -> Result<Self, Error> {
        if ram.regions().any(|region| region.mapping().huge_pages()) {
            return Err(Error::HugePagesOnDemand);
        }
        if ram.size() != blocks.size() {
            return Err(Error::ContentsSize {
                found: blocks.size(),
                wanted: ram.size(),
            });
        }
        let shared = ram
            .regions()
            .any(|region| region.mapping().file().is_some());
        let fault = UserFault::open(shared).map_err(Error::UserFault)?;
        let mut places = Vec::new();
        for (region, range) in ram.regions().zip(ram.ranges()) {
            let mapping = Arc::clone(region.mapping());
            let address = mapping.address().addr() as u64;
            mapping.expect_pages();
            let registered = fault.register(address, mapping.size());
            registered.map_err(Error::UserFault)?;
            places.push(Place {
                mapping,
                address,
                offset: range.offset,
            });
        }
        let filled = (0..blocks.count()).filter(|block| blocks.is_filled(*block));
        Ok(Self {
            left: AtomicU64::new(filled.count() as u64 * BLOCK),
            fault,
            blocks,
            places,
            bell: bell().map_err(Error::UserFault)?,
            progress: Mutex::default(),
            changed: Condvar::new(),
            lost,
        })
    }

    /// Serves faults until all pages have come, or it is stopped.
    pub fn serve_faults(&self) {
        let served = self.serve();
        self.end_with(served);
    }

    /// Lets all pages come that nobody has touched yet. Returns when it has, or is stopped.
    pub fn fill(&self) {
        let filled = self.fill_all();
        self.end_with(filled);
    }

    /// The guest is about to run: from here on what is missing cannot be made up for.
    ///
    /// # Errors
    /// What could not be had before.
    pub fn guest_runs(&self) -> Result<(), Arc<Error>> {
        let mut progress = self.lock();
        match &progress.failed {
            Some(error) => Err(Arc::clone(error)),
            None => {
                progress.runs = true;
                Ok(())
            }
        }
    }

    /// What could not be had.
    #[must_use]
    pub fn failed(&self) -> Option<Arc<Error>> {
        self.lock().failed.clone()
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Waits until all pages have come. `false`: it was stopped before.
    ///
    /// # Errors
    /// What could not be had.
    pub fn wait(&self) -> Result<bool, Arc<Error>> {
        let mut progress = self.lock();
        while !progress.ended() {
            let waited = self.changed.wait(progress);
            progress = waited.unwrap_or_else(PoisonError::into_inner);
        }
        match &progress.failed {
            Some(error) => Err(Arc::clone(error)),
            None => Ok(progress.done),
        }
    }

    /// Lets both threads end. Who touches a missing page then waits until it is dropped.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.tell();
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // No panic leaves it half changed.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.notify_all();
        let one = 1u64.to_ne_bytes();
        // SAFETY: the bytes are there through the call. It can only fail because the bell rings already.
        unsafe { libc::write(self.bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn end_with(&self, result: Result<(), Error>) {
        let Err(error) = result else { return };
        let error = Arc::new(error);
        let mut progress = self.lock();
        if progress.ended() {
            return;
        }
        progress.failed = Some(Arc::clone(&error));
        // Before anybody fails for it.
        (self.lost)(&error);
        if !progress.runs || self.forbid_rest().is_ok() {
            // Without the guest nobody takes the zeros for anything.
            self.release();
        }
        drop(progress);
        self.tell();
    }

    fn forbid_rest(&self) -> io::Result<()> {
        for Place { mapping, .. } in &self.places {
            let missing = mapping.expect_pages().hold().unsettled(0..mapping.size());
            let mut parts = missing.into_iter();
            if parts.try_for_each(|part| mapping.forbid(part)).is_err() {
                // More pieces than the kernel gives a process.
                mapping.forbid(0..mapping.size())?;
            }
        }
        Ok(())
    }

    fn release(&self) {
        for place in &self.places {
            // What was registered can be unregistered; should it not, the end of the descriptor does it.
            let _ = self.fault.unregister(place.address, place.mapping.size());
            let _ = self.fault.wake(place.address, place.mapping.size());
        }
    }

    fn serve(&self) -> Result<(), Error> {
        let mut buffer = Vec::new();
        while !self.lock().ended() {
            for address in self.fault.faults().map_err(Error::UserFault)? {
                self.serve_one(address, &mut buffer)?;
            }
            self.rest().map_err(Error::UserFault)?;
        }
        Ok(())
    }

    /// Until there is a fault, or the bell rings.
    fn rest(&self) -> io::Result<()> {
        let descriptors = [self.fault.number(), self.bell.as_raw_fd()];
        let mut polled = descriptors.map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: the list has two entries and lives through the call; no limit of time and no signals are given.
        let result =
            unsafe { libc::ppoll(polled.as_mut_ptr(), 2, std::ptr::null(), std::ptr::null()) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    fn serve_one(&self, address: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let mut places = self.places.iter();
        let Some((place, at)) = places.find_map(|place| {
            let at = address.checked_sub(place.address)?;
            (at < place.mapping.size()).then_some((place, at))
        }) else {
            return Ok(());
        };
        let page = at - at % place.mapping.page_size();
        let block = (place.offset + page) / BLOCK;
        let missing = place.mapping.expect_pages();
        if self.blocks.is_filled(block) && !missing.hold().has(page) {
            self.blocks.read(block, buffer)?;
            if self.install(block, buffer, Some((place, page)))? {
                return Ok(());
            }
        }
        // It is empty, or was dropped since, or has come meanwhile.
        let mut held = missing.hold();
        let end = page + place.mapping.page_size();
        buffer.clear();
        buffer.resize(usize::try_from(end - page).unwrap_or(0), 0);
        self.put(place.address + page, buffer)?;
        held.settle(page..end);
        Ok(())
    }

    /// Puts those pages of a block where they belong that have not come yet. Whether the wanted one was among them.
    fn install(
        &self,
        block: u64,
        bytes: &[u8],
        wanted: Option<(&Place, u64)>,
    ) -> Result<bool, Error> {
        let range = self.blocks.range(block);
        let mut found = false;
        for place in &self.places {
            let end = range.end.min(place.offset + place.mapping.size());
            let start = range.start.max(place.offset);
            if start >= end {
                continue;
            }
            let mut held = place.mapping.expect_pages().hold();
            for part in held.unsettled(start - place.offset..end - place.offset) {
                let inside =
                    |at: u64| usize::try_from(at + place.offset - range.start).unwrap_or(0);
                let part_bytes = bytes.get(inside(part.start)..inside(part.end));
                let part_bytes = part_bytes.unwrap_or_default();
                // Empty pages take no memory unless somebody touches them.
                for run in filled_runs(part_bytes) {
                    let start = part.start + run.start as u64;
                    let pages = start..part.start + run.end as u64;
                    self.put(place.address + start, &part_bytes[run])?;
                    found |= wanted.is_some_and(|(other, page)| {
                        std::ptr::eq(other, place) && pages.contains(&page)
                    });
                    held.settle(pages);
                }
            }
        }
        Ok(found)
    }

    /// Puts pages where there are none. Those that are there stay, and whoever waits for them is woken.
    fn put(&self, target: u64, bytes: &[u8]) -> Result<(), Error> {
        let exists = |error: &io::Error| error.raw_os_error() == Some(libc::EEXIST);
        match self.fault.copy(target, bytes) {
            // Another process that has the memory file was here.
            Err(error) if exists(&error) => {
                let size = usize::try_from(crate::ram::host_page_size()).unwrap_or(4096);
                for (page, at) in bytes.chunks(size).zip((target..).step_by(size)) {
                    match self.fault.copy(at, page) {
                        Err(error) if exists(&error) => self.fault.wake(at, page.len() as u64),
                        result => result,
                    }
                    .map_err(Error::Install)?;
                }
                Ok(())
            }
            result => result.map_err(Error::Install),
        }
    }

    fn fill_all(&self) -> Result<(), Error> {
        let mut buffer = Vec::new();
        for block in (0..self.blocks.count()).filter(|block| self.blocks.is_filled(*block)) {
            if self.lock().ended() {
                return Ok(());
            }
            if self.is_missing(block) {
                self.blocks.read(block, &mut buffer)?;
                self.install(block, &buffer, None)?;
            }
            self.left.fetch_sub(BLOCK, Ordering::Relaxed);
        }
        self.release();
        self.lock().done = true;
        self.tell();
        Ok(())
    }

    fn is_missing(&self, block: u64) -> bool {
        let range = self.blocks.range(block);
        self.places.iter().any(|place| {
            let end = range.end.min(place.offset + place.mapping.size());
            let start = range.start.max(place.offset);
            let inside = start < end;
            inside && {
                let held = place.mapping.expect_pages().hold();
                !held
                    .unsettled(start - place.offset..end - place.offset)
                    .is_empty()
            }
        })
    }
}

fn bell() -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and flags, and touches no memory.
    let made = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

#[cfg(test)]
mod tests;
