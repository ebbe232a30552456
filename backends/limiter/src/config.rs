//! What a user asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits on the bytes and the operations of a device.
///
/// In a flag the members are keys of their own: `bw_size=1000000,bw_refill_time=100,ops_size=100,ops_refill_time=1000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-flag-keys" = {
    "bw_size": "/bandwidth/size",
    "bw_one_time_burst": "/bandwidth/one_time_burst",
    "bw_refill_time": "/bandwidth/refill_time",
    "ops_size": "/ops/size",
    "ops_one_time_burst": "/ops/one_time_burst",
    "ops_refill_time": "/ops/refill_time"
}))]
pub struct RateLimiterConfig {
    /// Limit on bytes.
    #[serde(default)]
    pub bandwidth: Option<TokenBucketConfig>,
    /// Limit on operations.
    #[serde(default)]
    pub ops: Option<TokenBucketConfig>,
}

impl RateLimiterConfig {
    /// Whether anything is limited.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        let limits = |bucket: &TokenBucketConfig| bucket.is_limit();
        self.bandwidth.as_ref().is_some_and(limits) || self.ops.as_ref().is_some_and(limits)
    }
}

/// A bucket of tokens, one for each byte or for each operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBucketConfig {
    /// Most bytes (bw) or operations (ops) that can be used at once, and per refill time in the long run; 0 is no limit.
    pub size: u64,
    /// Bytes (bw) or operations (ops) that can be used once in addition, before all others.
    #[serde(default)]
    #[schemars(extend("x-flag-default" = 0))]
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket fills up; 0 is no limit.
    pub refill_time: u64,
}

impl TokenBucketConfig {
    /// Whether it limits anything: a bucket without a size or a refill time does not.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        self.size > 0 && self.refill_time > 0
    }
}
