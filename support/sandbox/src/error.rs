//! What can go wrong while confining the process.

use std::io;
use std::path::PathBuf;

/// A limit that could not be set up, or a file that could not be opened within the limits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The word is not one of `true`, `false`, `log`, `errno`.
    #[error("unknown mode {0:?}: true, false, log or errno")]
    UnknownMode(String),

    /// The declared calls make a program larger than the kernel loads.
    #[error(
        "the seccomp filter has {instructions} instructions but the kernel loads at most 4096; \
         --seccomp false runs without filters"
    )]
    FilterTooLarge {
        /// How long the program became.
        instructions: usize,
    },

    /// The kernel refused the filter.
    #[error("cannot apply a seccomp filter; --seccomp false runs without filters")]
    ApplyFilter(#[source] io::Error),

    /// The kernel was built without Landlock, or it was not enabled at boot.
    #[error(
        "the kernel has no Landlock or it is not enabled (CONFIG_SECURITY_LANDLOCK, lsm=landlock); \
         leave out --landlock to run without it"
    )]
    LandlockUnavailable,

    /// Landlock would leave the threads that already run without limits.
    #[error("Landlock rules must be applied before the process starts other threads")]
    LandlockThreads,

    /// A path in a rule cannot be opened.
    #[error("cannot give access to {}, a path in the configuration or in --landlock-rules", path.display())]
    LandlockPath {
        /// The path of the rule.
        path: PathBuf,
        /// Why it cannot be opened.
        source: io::Error,
    },

    /// The kernel refused a rule or the whole set.
    #[error("cannot apply the Landlock rules")]
    Landlock(#[from] ::landlock::RulesetError),

    /// The access letters of a rule are not `r`, `w` or both.
    #[error("unknown access {0:?}: a Landlock rule takes r, w or rw")]
    UnknownAccess(String),

    /// A file of the configuration cannot be opened.
    #[error("cannot open {} for {purpose}", path.display())]
    Open {
        /// The configured path.
        path: PathBuf,
        /// What it was to be used for: `reading`, `reading and writing`, `writing`.
        purpose: &'static str,
        /// Why it cannot be opened.
        source: io::Error,
    },

    /// The kernel or the processor cannot schedule by core.
    #[error(
        "this host cannot schedule by core: the kernel needs CONFIG_SCHED_CORE and the processor \
         needs simultaneous multithreading; --cpus core_scheduling=off runs without"
    )]
    CoreSchedulingUnavailable,

    /// The kernel refused the core scheduling request for another reason.
    #[error("cannot set up core scheduling")]
    CoreScheduling(#[source] io::Error),

    /// A thread was to be pinned to no CPU at all.
    #[error("a thread cannot be pinned to an empty list of CPUs (affinity)")]
    NoCpus,

    /// A thread was to be pinned to CPUs that are not there or not allowed for this process.
    #[error("host CPU {cpu} is offline, absent or outside this process's cpuset (affinity)")]
    CpuUnavailable {
        /// The first CPU that cannot be used.
        cpu: usize,
    },

    /// The kernel refused the CPU mask for another reason.
    #[error("cannot pin the thread to host CPUs (affinity)")]
    Affinity(#[source] io::Error),

    /// The process-wide settings could not be made.
    #[error("cannot prepare the process: {what}")]
    Prepare {
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },

    /// A handler for fatal signals could not be installed.
    #[error("cannot install the handler of a fatal signal")]
    CrashHandler(#[source] io::Error),

    /// All slots for last acts are taken.
    #[error(
        "more than {} terminals and files to tidy up at the end",
        crate::crash::MAX_LAST_ACTS
    )]
    TooManyLastActs,

    /// A last act could not be prepared.
    #[error("cannot prepare to {act} at the end")]
    LastAct {
        /// What was to be done: `restore a terminal`, `remove <path>`.
        act: String,
        /// Why it cannot be prepared.
        source: io::Error,
    },
}
