//! What a user asks for, as plain data.
//!
//! Each type here is at the same time a command-line flag (read by `keyvalue`), a JSON body of the API, a
//! part of the OpenAPI document and a text of `--help`: its doc comments are the help. Devices are not here:
//! each has its own configuration type in its own folder, and [`VmConfig::devices`] holds them by the name of
//! their JSON member until the catalog hands them over.
//!
//! Names, defaults and limits are those of the reference's command line and API.
#![forbid(unsafe_code)]

mod cpus;
mod landlock;
mod memory_config;
mod payload;
mod platform;
mod vm;

pub use cpus::{CoreScheduling, CpuAffinity, CpuFeatures, CpuProfileName, CpuTopology, CpusConfig};
pub use landlock::LandlockConfig;
pub use memory_config::{HotplugMethod, MemoryConfig};
pub use payload::PayloadConfig;
pub use platform::PlatformConfig;
pub use vm::VmConfig;

pub use device::Problem;

/// Result of a check.
pub type Check = Result<(), Problem>;

fn require(holds: bool, option: &str, text: impl FnOnce() -> String) -> Check {
    if holds {
        Ok(())
    } else {
        Err(Problem::new(option, text()))
    }
}
