//! How a guest's processors are arranged in packages, dies, cores and threads.
//!
//! Software learns the arrangement from APIC ids: each level owns a field of bits in them, wide enough for its
//! count, the thread's field lowest (Intel SDM volume 3A, 10.9 "Programming considerations for hardware
//! multi-threading capable processors"; AMD APM volume 3, appendix E.4 and E.5). A count that is not a power of two
//! leaves ids unused, so ids are not the vCPU numbers in general: with three cores per die the ids are 0, 1, 2,
//! 4, 5, 6, ...

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;

#[cfg(test)]
pub(crate) mod tests;

/// Most processors of one machine.
pub const MAX_VCPUS: u32 = 8192;

/// Most threads that x86 cores have.
const MAX_THREADS_PER_CORE: u16 = 2;

/// Counts of each level. The number of processors is the product of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Threads of each core: 1 or 2.
    pub threads_per_core: u16,
    /// Cores of each die.
    pub cores_per_die: u16,
    /// Dies of each package.
    pub dies_per_package: u16,
    /// Packages (sockets).
    pub packages: u16,
}

/// Where one processor sits. Each number counts from 0 within the level above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Package.
    pub package: u32,
    /// Die of the package.
    pub die: u32,
    /// Core of the die.
    pub core: u32,
    /// Thread of the core.
    pub thread: u32,
}

impl Topology {
    /// What `max` processors get if the user does not say: one package of single-threaded cores.
    pub fn default_for(max: u32) -> Self {
        // Beyond 65535 the count cannot be told; `check` refuses it long before.
        let cores = u16::try_from(max).unwrap_or(u16::MAX);
        Self {
            threads_per_core: 1,
            cores_per_die: cores,
            dies_per_package: 1,
            packages: 1,
        }
    }

    /// Checks that this is an arrangement of exactly `max` processors that an x86 machine can have.
    ///
    /// # Errors
    /// [`Error::TooManyProcessors`] above [`MAX_VCPUS`]; [`Error::TopologyZeroPart`], [`Error::TopologyThreads`]
    /// or [`Error::TopologyCount`] if the parts are not right.
    pub fn check(&self, max: u32) -> Result<(), Error> {
        if max > MAX_VCPUS {
            return Err(Error::TooManyProcessors {
                max,
                limit: MAX_VCPUS,
            });
        }
        let product = self.processors();
        if product == 0 {
            return Err(Error::TopologyZeroPart(*self));
        }
        if self.threads_per_core > MAX_THREADS_PER_CORE {
            return Err(Error::TopologyThreads(self.threads_per_core));
        }
        if product != u64::from(max) {
            return Err(Error::TopologyCount {
                topology: *self,
                product,
                max,
            });
        }
        Ok(())
    }

    /// Number of processors.
    pub fn processors(&self) -> u64 {
        let parts = [
            self.threads_per_core,
            self.cores_per_die,
            self.dies_per_package,
            self.packages,
        ];
        parts.into_iter().map(u64::from).product()
    }

    /// Number of processors of a die.
    pub fn processors_per_die(&self) -> u32 {
        u32::from(self.threads_per_core) * u32::from(self.cores_per_die)
    }

    /// Number of processors of a package. Meaningful for a topology that passed [`Self::check`].
    pub fn processors_per_package(&self) -> u32 {
        self.processors_per_die()
            .saturating_mul(u32::from(self.dies_per_package))
    }

    /// Low bits of an APIC id that tell threads of a core apart; the rest of the id is the core's.
    pub fn core_shift(&self) -> u32 {
        width(self.threads_per_core)
    }

    /// Low bits of an APIC id that tell processors of a die apart; the rest of the id is the die's.
    pub fn die_shift(&self) -> u32 {
        self.core_shift() + width(self.cores_per_die)
    }

    /// Low bits of an APIC id that tell processors of a package apart; the rest of the id is the package's.
    pub fn package_shift(&self) -> u32 {
        self.die_shift() + width(self.dies_per_package)
    }

    /// Where processor `vcpu` sits. Neighbouring numbers are threads of a core, then cores of a die, and so on.
    pub fn position(&self, vcpu: u32) -> Position {
        let mut rest = vcpu;
        let mut take = |count: u16| {
            let count = u32::from(count).max(1);
            let digit = rest % count;
            rest /= count;
            digit
        };
        let thread = take(self.threads_per_core);
        let core = take(self.cores_per_die);
        let die = take(self.dies_per_package);
        Position {
            package: rest,
            die,
            core,
            thread,
        }
    }

    /// The (x2)APIC id of processor `vcpu`. Below `4 * max` for a topology that passed [`Self::check`].
    pub fn apic_id(&self, vcpu: u32) -> u32 {
        let at = self.position(vcpu);
        let field = |value: u32, shift: u32| value.checked_shl(shift).unwrap_or(0);
        field(at.package, self.package_shift())
            | field(at.die, self.die_shift())
            | field(at.core, self.core_shift())
            | at.thread
    }
}

/// Written as the command line has it: `threads_per_core:cores_per_die:dies_per_package:packages`.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            threads_per_core,
            cores_per_die,
            dies_per_package,
            packages,
        } = self;
        write!(
            f,
            "{threads_per_core}:{cores_per_die}:{dies_per_package}:{packages}"
        )
    }
}

/// Bits that tell `count` things apart.
fn width(count: u16) -> u32 {
    u32::from(count).max(1).next_power_of_two().trailing_zeros()
}
