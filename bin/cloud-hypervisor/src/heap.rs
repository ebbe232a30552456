//! What the monitor allocates, and where: for developers.

use config::Problem;
use sandbox::Mode;

use crate::cli::Invocation;

/// Counts what the whole process allocates.
#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

/// Counts from here on; what is returned writes `dhat-heap.json` into the working folder when it is dropped.
///
/// # Errors
/// If filters of system calls, or Landlock, would end the process when it looks for its symbols and writes that file.
pub(crate) fn start(invocation: &Invocation) -> Result<dhat::Profiler, Problem> {
    if invocation.seccomp != Mode::Off {
        return Err(Problem::new(
            "--seccomp",
            "this build (dhat-heap) writes a profile at its end, which filters of system calls forbid: give \
             --seccomp false",
        ));
    }
    if invocation.landlock {
        return Err(Problem::new(
            "--landlock",
            "this build (dhat-heap) writes a profile at its end, which Landlock forbids: leave it out",
        ));
    }
    Ok(dhat::Profiler::new_heap())
}
