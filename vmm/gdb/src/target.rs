//! The guest as `gdbstub` wants to see it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use arch::{Mapped, SpecialRegs};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::{TargetError, TargetResult};
use hypervisor::{Access, GuestDebug, HARDWARE_BREAKPOINTS, HardwareBreakpoint, Trap};
use machine::{Debugger, News};

use crate::registers::{Processor, Values};

/// `INT3`.
const INT3: u8 = 0xcc;

/// gdb's number of a processor.
pub(crate) fn tid(index: usize) -> Tid {
    NonZeroUsize::MIN.saturating_add(index)
}

fn index(tid: Tid) -> usize {
    tid.get() - 1
}

/// What an `INT3` of ours has replaced.
struct Patch {
    /// Physical address.
    address: u64,
    byte: u8,
}

/// The guest.
pub(crate) struct Target {
    debugger: Arc<Debugger>,
    /// Of those that go on: whether only for one step.
    actions: BTreeMap<usize, bool>,
    /// Those that have no action stand still.
    locked: bool,
    /// By linear address.
    patches: BTreeMap<u64, Patch>,
    hardware: [Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS],
    /// The processor that stopped last, whose page tables tell where breakpoints are.
    last: usize,
}

impl Target {
    pub(crate) fn new(debugger: Arc<Debugger>) -> Self {
        Self {
            debugger,
            actions: BTreeMap::new(),
            locked: false,
            patches: BTreeMap::new(),
            hardware: [None; HARDWARE_BREAKPOINTS],
            last: 0,
        }
    }

    pub(crate) fn debugger(&self) -> &Debugger {
        &self.debugger
    }

    pub(crate) fn hold(&self) -> machine::Result<()> {
        self.debugger.hold()
    }

    pub(crate) fn last(&self) -> Tid {
        tid(self.last)
    }

    /// What has happened. Of another machine, memory is another one.
    pub(crate) fn news(&mut self) -> Vec<News> {
        let news = self.debugger.news();
        if news.contains(&News::Built) {
            self.patches.clear();
            self.last = 0;
        }
        news
    }

    /// What gdb is told of a trap.
    pub(crate) fn reason(&mut self, index: u32, trap: Trap) -> MultiThreadStopReason<u64> {
        self.last = usize::try_from(index).unwrap_or(usize::MAX);
        let tid = self.last();
        let hit = match trap {
            Trap::Software => return MultiThreadStopReason::SwBreak(tid),
            Trap::Hardware { breakpoints, .. } => self
                .hardware
                .iter()
                .zip(breakpoints)
                .find_map(|(point, hit)| point.filter(|_| hit)),
        };
        let watch = |kind, addr| MultiThreadStopReason::Watch { tid, kind, addr };
        match hit.map(|point| (point.access, point.address)) {
            Some((Access::Execute, _)) => MultiThreadStopReason::HwBreak(tid),
            Some((Access::Write(_), address)) => watch(WatchKind::Write, address),
            Some((Access::ReadWrite(_), address)) => watch(WatchKind::ReadWrite, address),
            None => MultiThreadStopReason::SignalWithThread {
                tid,
                signal: Signal::SIGTRAP,
            },
        }
    }

    /// Takes back all that is set, and lets the guest go on.
    pub(crate) fn let_go(&mut self) {
        if let Err(error) = self.try_let_go() {
            telemetry::info!("gdb: {}", telemetry::chain(&error).join(": "));
        }
    }

    fn try_let_go(&mut self) -> machine::Result<()> {
        self.debugger.hold()?;
        self.news();
        let ram = self.debugger.ram()?;
        for (_, patch) in std::mem::take(&mut self.patches) {
            take_back(&ram, &patch);
        }
        self.hardware = [None; HARDWARE_BREAKPOINTS];
        self.actions.clear();
        self.locked = false;
        self.go()
    }

    fn go(&mut self) -> machine::Result<()> {
        self.news();
        let steps = |index: usize| self.actions.get(&index).copied().unwrap_or(false);
        let software: BTreeSet<u64> = self.patches.keys().copied().collect();
        for index in 0..self.debugger.processors() {
            let debug = GuestDebug {
                software: !software.is_empty(),
                step: steps(index),
                breakpoints: self.hardware,
            };
            let set = self
                .debugger
                .on(index, move |vcpu| vcpu.set_debug(&debug))?;
            set?;
        }
        let stepping = self.actions.iter().filter(|(_, steps)| **steps);
        let stepping = stepping.filter_map(|(index, _)| u32::try_from(*index).ok());
        self.debugger.expect(software, stepping.collect());
        let goes = |index: usize| !self.locked || self.actions.contains_key(&index);
        self.debugger.release(goes)
    }

    /// Calls `each` for each part of a range of linear addresses that is one range of physical memory, until one
    /// is not there. How many bytes those were.
    fn parts(
        &self,
        processor: usize,
        linear: u64,
        length: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>) -> bool,
    ) -> Option<usize> {
        let special = self.debugger.on(processor, |vcpu| vcpu.special_regs());
        let special = special.ok()?.ok()?;
        let mut done = 0;
        while done < length {
            let at = u64::try_from(done)
                .ok()
                .and_then(|done| linear.checked_add(done));
            let Some(mapped) = at.and_then(|at| self.translate(&special, at)) else {
                break;
            };
            let left = usize::try_from(mapped.left).unwrap_or(usize::MAX);
            let end = length.min(done.saturating_add(left));
            if !each(mapped.address, done..end) {
                break;
            }
            done = end;
        }
        Some(done)
    }

    fn translate(&self, special: &SpecialRegs, linear: u64) -> Option<Mapped> {
        let ram = self.debugger.ram().ok()?;
        arch::translate(special, linear, |address, size| {
            let mut word = [0; 8];
            let size = usize::try_from(size).ok()?;
            ram.read(address, word.get_mut(..size)?).ok()?;
            Some(u64::from_le_bytes(word))
        })
    }

    fn add_hardware(&mut self, point: HardwareBreakpoint) -> bool {
        let free = self.hardware.iter_mut().find(|slot| slot.is_none());
        let Some(free) = free else { return false };
        *free = Some(point);
        true
    }

    fn remove_hardware(&mut self, point: HardwareBreakpoint) -> bool {
        let mut all = self.hardware.iter_mut();
        let Some(slot) = all.find(|slot| **slot == Some(point)) else {
            return false;
        };
        *slot = None;
        true
    }
}

/// Puts back what was there, unless the guest has written something else meanwhile.
fn take_back(ram: &memory::GuestRam, patch: &Patch) {
    let mut byte = [0];
    if ram.read(patch.address, &mut byte).is_ok() && byte == [INT3] {
        // It is there: it was just read.
        let _ = ram.write(patch.address, &[patch.byte]);
    }
}

/// A watchpoint of a size that processors have, at an address that fits.
fn watch(address: u64, size: u64, kind: WatchKind) -> Option<HardwareBreakpoint> {
    let size = u8::try_from(size)
        .ok()
        .filter(|size| [1, 2, 4, 8].contains(size))?;
    let access = match kind {
        WatchKind::Write => Access::Write(size),
        // There is none for reading alone.
        WatchKind::Read | WatchKind::ReadWrite => Access::ReadWrite(size),
    };
    let fits = address.is_multiple_of(u64::from(size));
    fits.then_some(HardwareBreakpoint { address, access })
}

fn execute(address: u64) -> HardwareBreakpoint {
    HardwareBreakpoint {
        address,
        access: Access::Execute,
    }
}

impl gdbstub::target::Target for Target {
    type Arch = Processor;
    type Error = machine::Error;

    fn base_ops(&mut self) -> BaseOps<'_, Processor, machine::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Target {
    fn read_registers(&mut self, regs: &mut Values, tid: Tid) -> TargetResult<(), Self> {
        let state = self.debugger.on(index(tid), |vcpu| vcpu.save());
        let Ok(Ok(state)) = state else {
            return Err(TargetError::NonFatal);
        };
        *regs = Values::of(&state);
        Ok(())
    }

    fn write_registers(&mut self, values: &Values, tid: Tid) -> TargetResult<(), Self> {
        let values = values.clone();
        let written = self.debugger.on(index(tid), move |vcpu| {
            let state = vcpu.save()?;
            let (mut regs, mut special) = (vcpu.regs()?, vcpu.special_regs()?);
            let whole = values.apply(&state, &mut regs, &mut special);
            if whole {
                vcpu.set_special_regs(&special)?;
                vcpu.set_regs(&regs)?;
            }
            Ok::<bool, hypervisor::Error>(whole)
        });
        match written {
            Ok(Ok(true)) => Ok(()),
            _ => Err(TargetError::NonFatal),
        }
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let ram = self.debugger.ram().map_err(|_| TargetError::NonFatal)?;
        let length = data.len();
        let read = self.parts(index(tid), start, length, |address, range| {
            ram.read(address, &mut data[range]).is_ok()
        });
        match read {
            None | Some(0) if length > 0 => Err(TargetError::NonFatal),
            read => Ok(read.unwrap_or(0)),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let ram = self.debugger.ram().map_err(|_| TargetError::NonFatal)?;
        let written = self.parts(index(tid), start, data.len(), |address, range| {
            ram.write(address, &data[range]).is_ok()
        });
        if written == Some(data.len()) {
            Ok(())
        } else {
            Err(TargetError::NonFatal)
        }
    }

    fn list_active_threads(&mut self, each: &mut dyn FnMut(Tid)) -> machine::Result<()> {
        for index in 0..self.debugger.processors() {
            each(tid(index));
        }
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadResume for Target {
    fn resume(&mut self) -> machine::Result<()> {
        match self.go() {
            // The session finds that it is gone.
            Err(_) if self.debugger.processors() == 0 => Ok(()),
            other => other,
        }
    }

    fn clear_resume_actions(&mut self) -> machine::Result<()> {
        self.actions.clear();
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> machine::Result<()> {
        self.actions.insert(index(tid), false);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Target {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> machine::Result<()> {
        self.actions.insert(index(tid), true);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Target {
    fn set_resume_action_scheduler_lock(&mut self) -> machine::Result<()> {
        self.locked = true;
        Ok(())
    }
}

impl Breakpoints for Target {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Target {
    fn add_sw_breakpoint(&mut self, linear: u64, _kind: usize) -> TargetResult<bool, Self> {
        if self.patches.contains_key(&linear) {
            return Ok(true);
        }
        let ram = self.debugger.ram().map_err(|_| TargetError::NonFatal)?;
        let mut patch = None;
        // By the page tables of any processor: others than the last may be where the guest is.
        let others = (0..self.debugger.processors()).filter(|other| *other != self.last);
        for processor in std::iter::once(self.last).chain(others) {
            self.parts(processor, linear, 1, |address, _| {
                let mut byte = [0];
                let done =
                    ram.read(address, &mut byte).is_ok() && ram.write(address, &[INT3]).is_ok();
                patch = done.then_some(Patch {
                    address,
                    byte: byte[0],
                });
                done
            });
            if let Some(patch) = patch.take() {
                self.patches.insert(linear, patch);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove_sw_breakpoint(&mut self, linear: u64, _kind: usize) -> TargetResult<bool, Self> {
        // Of a machine that was there before nothing is left to take back.
        if let (Some(patch), Ok(ram)) = (self.patches.remove(&linear), self.debugger.ram()) {
            take_back(&ram, &patch);
        }
        Ok(true)
    }
}

impl HwBreakpoint for Target {
    fn add_hw_breakpoint(&mut self, linear: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.add_hardware(execute(linear)))
    }

    fn remove_hw_breakpoint(&mut self, linear: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_hardware(execute(linear)))
    }
}

impl HwWatchpoint for Target {
    fn add_hw_watchpoint(
        &mut self,
        linear: u64,
        size: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let point = watch(linear, size, kind);
        Ok(point.is_some_and(|point| self.add_hardware(point)))
    }

    fn remove_hw_watchpoint(
        &mut self,
        linear: u64,
        size: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let point = watch(linear, size, kind);
        Ok(point.is_some_and(|point| self.remove_hardware(point)))
    }
}
