//! What a device is, and everything it may ask of the machine.
//!
//! A device lives in one folder under `devices/`. It implements [`Kind`] once, on a unit struct: its names,
//! the type of its configuration, how to check and how to build one. The catalog lists the kinds; nothing
//! else knows them. What [`Kind::build`] returns is a [`Device`], which the machine starts, stops, saves and
//! drops. What a device needs from the machine it asks of [`Host`]; every answer is a guard ([`Region`],
//! [`hypervisor::IrqLine`], [`reactor::Task`], …), so that dropping the device gives everything back.
//!
//! ```text
//!  Kind (unit struct, in the catalog) --build(config, Host)--> Device (owned by the machine)
//!     NAMES, check, schema                                        start / stop / save / restore
//!                                          Host --guards--> Region, IrqLine, Task
//! ```
//!
//! A guest's access to a device arrives at its [`Target`] through the [`Bus`], which holds the only lock there
//! is per device: a target sees one access at a time and needs no lock of its own.
#![forbid(unsafe_code)]

mod bus;
mod error;
mod given;
mod histogram;
mod host;
mod kind;
mod place;
mod power;
mod runner;
mod saved;

pub use bus::{Bus, Region, Shared, Target};
pub use error::{Error, Problem, Result};
pub use given::{Descriptors, Given};
pub use histogram::{Durations, Histogram};
pub use host::{Board, Eoi, EoiGuard, Facts, Host};
pub use kind::{AnyKind, Device, Form, Kind, Names, NoConfig, OptionNames, Presence, Syscalls};
pub use place::{PciBar, PciPlace};
pub use power::{Power, PowerEvent};
pub use runner::Runner;
pub use saved::Saved;
