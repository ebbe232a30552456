//! A limit that several disks share: `--rate-limit-group id=g,bw_size=…` and `--disk rate_limit_group=g,…`.
//!
//! Nothing of it is in the guest. It is a device because it is configured like one, and because what it offers is to
//! be there when disks are built: it comes before them in the catalog. Disks take the limiter out of [`Groups`].
#![forbid(unsafe_code)]

use std::time::Instant;

use device::{
    Device, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Saved,
};
use limiter::{Groups, Limiter, Member, RateLimiterConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

const OPTION: &str = "--rate-limit-group";

/// A limit that several disks share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitGroupConfig {
    /// Name of the group, unique in the machine: for `rate_limit_group` of disks.
    #[serde(default)]
    pub id: String,
    /// What the disks of the group may use together.
    #[serde(default)]
    pub rate_limiter_config: RateLimiterConfig,
}

/// The kind.
#[derive(Debug)]
pub struct RateLimitGroup;

impl Kind for RateLimitGroup {
    const NAMES: Names = Names {
        kind: "rate-limit-group",
        option: Some(OptionNames {
            flag: "rate-limit-group",
            field: "rate_limit_groups",
            form: Form::Many,
        }),
        id: "_rate_limit_group",
    };
    const PRESENCE: Presence = Presence::OnRequest;
    const EXAMPLES: &'static [&'static str] = &[
        "id=slow,bw_size=10000000,bw_refill_time=1000",
        "id=group0,ops_size=1000,ops_one_time_burst=5000,ops_refill_time=1000",
    ];
    type Config = RateLimitGroupConfig;
    type Device = Group;

    fn check(config: &RateLimitGroupConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        let problem = |text: String| Err(Problem::new(OPTION, text));
        if config.id.is_empty() {
            return problem("id is missing: disks name the group by it".into());
        }
        if config.id.starts_with("__") {
            return problem(format!(
                "id={}: names that start with \"__\" are the monitor's own",
                config.id
            ));
        }
        if !config.rate_limiter_config.is_limit() {
            return problem(format!(
                "the group {} limits nothing: give bw_size and bw_refill_time, or ops_size and ops_refill_time",
                config.id
            ));
        }
        Ok(())
    }

    fn build(config: RateLimitGroupConfig, host: &mut Host<'_>) -> Result<Group> {
        Ok(Group::new(&config, &host.shared::<Groups>())?)
    }
}

/// A group, there for disks until dropped.
#[derive(Debug)]
pub struct Group(#[expect(dead_code, reason = "a guard")] Member);

impl Group {
    /// Adds a group with full buckets to `groups`.
    ///
    /// # Errors
    /// If there is one of this name.
    pub fn new(
        config: &RateLimitGroupConfig,
        groups: &Groups,
    ) -> std::result::Result<Self, Problem> {
        let limiter = Limiter::new(&config.rate_limiter_config, Instant::now());
        let taken = || Problem::new(OPTION, format!("there are two groups called {}", config.id));
        groups.add(&config.id, limiter).map(Self).ok_or_else(taken)
    }
}

impl Device for Group {
    /// Nothing: after a restore the buckets are full.
    fn save(&self) -> Result<Saved> {
        Saved::new(RateLimitGroup::NAMES.kind, 1, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        saved.read(RateLimitGroup::NAMES.kind, 1)
    }
}
