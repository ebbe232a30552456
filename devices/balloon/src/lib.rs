//! Memory balloon (VIRTIO 1.3, 5.5): takes RAM from the guest for the host.
//!
//! The device says how large the balloon is to be; the guest's driver takes that many of its own pages out of use,
//! *inflates* the balloon with their numbers, and says how large it is now. What the balloon holds the host gets
//! back. To *deflate*, the driver takes pages out; it may use them again at once, and finds zeros.
//!
//! With free page reporting the guest tells of pages as they become free. The host gets them back too, but they
//! stay the guest's: it may use them at any time, without a word.
//!
//! ```text
//!  user ── size ──▶ Balloon ── num_pages, interrupt ──▶ driver
//!                      ▲                                  │
//!                   actual                   page numbers │ free ranges
//!                      │                                  ▼
//!                      └───────────── Pages (one thread for all queues) ── GuestRam::discard
//! ```
//!
//! Only whole pages of the host's come back: with huge pages, a balloon of the guest's small pages gives back next to
//! nothing, because drivers hand over at most 1 MiB at a time. Free page reporting, which goes by 2 MiB and more,
//! does.
#![forbid(unsafe_code)]

mod balloon;
mod pages;
mod ranges;
mod state;

use device::{Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result};
use keyvalue::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use virtio::{Environment, OverPci, PciOptions};

pub use balloon::{Balloon, Features};

use balloon::Kept;

#[cfg(test)]
mod tests;

/// The flag, for messages.
const OPTION: &str = "--balloon";
/// Pages of the balloon have 4 KiB, whatever the guest's and the host's have (VIRTIO 1.3, 5.5.6).
const PAGE_SHIFT: u32 = 12;

/// The memory balloon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonConfig {
    /// How much RAM the balloon takes from the guest at first, in whole pages of 4 KiB. Less than all of it.
    #[schemars(extend("x-flag-default" = 0))]
    pub size: ByteSize,
    /// The guest may take pages back from the balloon rather than run out of memory.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// The guest tells which of its pages are free, and the host gets their memory until the guest uses them again.
    #[serde(default)]
    pub free_page_reporting: bool,
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

/// The kind.
#[derive(Debug)]
pub struct MemoryBalloon;

impl Kind for MemoryBalloon {
    const NAMES: Names = Names {
        kind: "balloon",
        option: Some(OptionNames {
            flag: "balloon",
            field: "balloon",
            form: Form::One,
        }),
        id: "__balloon",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const EXAMPLES: &'static [&'static str] =
        &["size=0,free_page_reporting=on", "size=1M,deflate_on_oom=on"];
    type Config = BalloonConfig;
    type Device = OverPci<Balloon>;

    fn check(config: &BalloonConfig, facts: &Facts) -> std::result::Result<(), Problem> {
        config.pci.check(OPTION)?;
        let ram = facts.ram_below_4g.saturating_add(facts.ram_above_4g);
        // Facts of a machine whose RAM is not known yet have none; it is checked again when it is.
        let ram = if ram == 0 { u64::MAX } else { ram };
        pages_of(config.size, ram).map(|_| ())
    }

    fn build(config: BalloonConfig, host: &mut Host<'_>) -> Result<OverPci<Balloon>> {
        let environment = Environment::of(host, &config.pci)?;
        let target = match host.inherit::<Kept>() {
            Some(kept) => kept.target,
            None => pages_of(config.size, host.ram().size()).map_err(Error::Problem)?,
        };
        let features = Features {
            deflate_on_oom: config.deflate_on_oom,
            free_page_reporting: config.free_page_reporting,
        };
        let ram = host.ram().clone();
        let device = Balloon::new(ram, target, features, host.id(), environment.rules.clone());
        Ok(OverPci::new(Self::NAMES.kind, device, environment)?)
    }
}

/// A size in pages, if a guest with `ram` bytes can have a balloon of it: something must be left to the guest.
fn pages_of(size: ByteSize, ram: u64) -> std::result::Result<u32, Problem> {
    let problem = |why: String| Problem::new(OPTION, format!("size={size}: {why}"));
    if size.0 != 0 && size.0 >= ram {
        let all = ByteSize(ram);
        return Err(problem(format!(
            "the balloon must be smaller than the guest's RAM ({all}): lower it, or raise --memory size"
        )));
    }
    // The field has 32 bits (VIRTIO 1.3, 5.5.4).
    u32::try_from(size.0 >> PAGE_SHIFT)
        .map_err(|_| problem("a balloon has less than 16 TiB".into()))
}
