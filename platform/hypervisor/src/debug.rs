//! What a debugger wants of a processor.

/// Number of hardware breakpoints that a processor has (Intel SDM volume 3B, 18.2.1).
pub const HARDWARE_BREAKPOINTS: usize = 4;

/// At what a processor stops, with [`crate::Exit::Debug`]. The guest's own debug registers have no effect while it has
/// breakpoints here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestDebug {
    /// `INT3` comes to the monitor instead of the guest.
    pub software: bool,
    /// Stop after one instruction.
    pub step: bool,
    /// Stop there.
    pub breakpoints: [Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS],
}

/// A hardware breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareBreakpoint {
    /// Linear address; that of data must be a multiple of its size.
    pub address: u64,
    /// What is to happen there.
    pub access: Access,
}

/// At what a hardware breakpoint stops. Data has 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An instruction is about to be executed.
    Execute,
    /// Data was written.
    Write(u8),
    /// Data was read or written.
    ReadWrite(u8),
}

/// A trap of a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// `INT3`, which has not been executed.
    Software,
    /// A hardware breakpoint or a step.
    Hardware {
        /// Which breakpoints, by their number.
        breakpoints: [bool; HARDWARE_BREAKPOINTS],
        /// One instruction was executed.
        step: bool,
    },
}

/// DR6 (Intel SDM volume 3B, 18.2.3): a single step.
const DR6_STEP: u64 = 1 << 14;
/// DR7 (18.2.4): the bit that reads as 1, and exact breakpoints.
const DR7: u64 = 1 << 10 | 1 << 9 | 1 << 8;

impl GuestDebug {
    pub(crate) fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// DR0 to DR3, and DR7; `None` if there are no breakpoints.
    pub(crate) fn registers(&self) -> Option<([u64; HARDWARE_BREAKPOINTS], u64)> {
        self.breakpoints.iter().any(Option::is_some).then(|| {
            let addresses = self
                .breakpoints
                .map(|point| point.map_or(0, |point| point.address));
            let control = (0..).zip(&self.breakpoints);
            let control = control.filter_map(|(index, point)| Some(point.as_ref()?.control(index)));
            (addresses, control.fold(DR7, |all, one| all | one))
        })
    }
}

impl HardwareBreakpoint {
    /// Its bits in DR7.
    fn control(self, index: u32) -> u64 {
        let (kind, size) = match self.access {
            Access::Execute => (0, 1),
            Access::Write(size) => (1, size),
            Access::ReadWrite(size) => (3, size),
        };
        let size = match size {
            1 => 0,
            2 => 1,
            8 => 2,
            _ => 3,
        };
        (kind | size << 2) << (16 + 4 * index) | 2 << (2 * index)
    }
}

impl Trap {
    pub(crate) fn hardware(dr6: u64) -> Self {
        Self::Hardware {
            breakpoints: [0, 1, 2, 3].map(|index| dr6 >> index & 1 == 1),
            step: dr6 & DR6_STEP != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_those_of_the_manual() {
        let mut debug = GuestDebug::default();
        assert!(debug.is_off() && debug.registers().is_none());
        debug.step = true;
        assert!(!debug.is_off() && debug.registers().is_none());
        debug.breakpoints[1] = Some(HardwareBreakpoint {
            address: 0x1000,
            access: Access::Execute,
        });
        debug.breakpoints[3] = Some(HardwareBreakpoint {
            address: 0x2000,
            access: Access::Write(8),
        });
        let (addresses, dr7) = debug.registers().unwrap();
        assert_eq!(addresses, [0, 0x1000, 0, 0x2000]);
        assert_eq!(dr7, 0x9000_0700 | 1 << 3 | 1 << 7);
        debug.breakpoints[3] = Some(HardwareBreakpoint {
            address: 0x2000,
            access: Access::ReadWrite(4),
        });
        assert_eq!(debug.registers().unwrap().1 >> 28, 0xf);
    }

    #[test]
    fn the_status_says_which_breakpoint_it_was() {
        assert_eq!(
            Trap::hardware(0xffff_4ff4),
            Trap::Hardware {
                breakpoints: [false, false, true, false],
                step: true
            }
        );
    }
}
