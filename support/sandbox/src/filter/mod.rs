//! Seccomp filters: from declared calls to a program the kernel runs before each call.

mod program;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use libc::{c_long, c_ulong, sock_filter, sock_fprog};

use crate::{Allow, Error, crash};

/// What happens on a call that the filter does not permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// The process ends with `SIGSYS` and a message that names the call (`--seccomp true`).
    #[default]
    Trap,
    /// There are no filters (`--seccomp false`).
    Off,
    /// The call is made, and noted in the kernel's audit log (`--seccomp log`).
    Log,
    /// The call fails with `EPERM` (`--seccomp errno`).
    Errno,
}

impl Mode {
    /// The filter's answer to a call that is not permitted; none if there is no filter.
    fn refusal(self) -> Option<u32> {
        match self {
            Self::Trap => Some(libc::SECCOMP_RET_TRAP),
            Self::Off => None,
            Self::Log => Some(libc::SECCOMP_RET_LOG),
            Self::Errno => Some(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "true" => Ok(Self::Trap),
            "false" => Ok(Self::Off),
            "log" => Ok(Self::Log),
            "errno" => Ok(Self::Errno),
            other => Err(Error::UnknownMode(other.to_owned())),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trap => "true",
            Self::Off => "false",
            Self::Log => "log",
            Self::Errno => "errno",
        })
    }
}

/// A compiled filter, ready to be applied to any number of threads. Clones share the program.
#[derive(Clone, Default)]
pub struct Filter {
    program: Option<Arc<[sock_filter]>>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instructions = self.program.as_ref().map(|program| program.len());
        f.debug_struct("Filter")
            .field("instructions", &instructions)
            .finish()
    }
}

impl Filter {
    /// A filter that permits everything: applying it does nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Folds sets of permitted calls into one filter.
    ///
    /// The calls that the ways out need ([`crate::crash`]: abort, panic, last acts) are always
    /// permitted besides, in every mode.
    ///
    /// # Errors
    ///
    /// [`Error::FilterTooLarge`] if the program would exceed the kernel's 4096 instructions, which
    /// takes over a thousand scattered values.
    pub fn compile(mode: Mode, sets: &[&[Allow]]) -> Result<Self, Error> {
        let Some(refusal) = mode.refusal() else {
            return Ok(Self::none());
        };
        let allowed = sets.iter().copied().chain([crash::SYSCALLS]).flatten();
        let program = program::compile(allowed, refusal)?;
        Ok(Self {
            program: Some(program.into()),
        })
    }

    /// Puts the filter on the calling thread, for good; threads it starts afterwards inherit it.
    ///
    /// Filters add up: a second one can only take away more. The thread also gives up gaining
    /// privileges by executing other programs (`no_new_privs`), without which the kernel takes
    /// filters from root only.
    ///
    /// # Errors
    ///
    /// [`Error::ApplyFilter`] if the kernel has no seccomp filters, or if a filter that is already
    /// on the thread forbids adding one.
    pub fn apply(&self) -> Result<(), Error> {
        let Some(program) = &self.program else {
            return Ok(());
        };
        let [on, zero]: [c_ulong; 2] = [1, 0];
        // SAFETY: this prctl option takes plain numbers and touches no memory of ours.
        let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, zero, zero, zero) };
        check(result.into())?;

        let length = u16::try_from(program.len()).map_err(|_| Error::FilterTooLarge {
            instructions: program.len(),
        })?;
        // The kernel only reads the program; the pointer is `mut` as the C structure has no const.
        let fprog = sock_fprog {
            len: length,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: `fprog` and the program it points to live across the call, `len` is the
        // program's true length, and the kernel only reads both.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0u32,
                &raw const fprog,
            )
        };
        check(result)
    }
}

/// The kernel's answer as a result.
fn check(result: c_long) -> Result<(), Error> {
    if result == 0 {
        Ok(())
    } else {
        Err(Error::ApplyFilter(io::Error::last_os_error()))
    }
}

#[cfg(test)]
mod tests;
