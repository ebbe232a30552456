//! Limits on the bytes and operations of a device.
//!
//! A [`Limiter`] has a bucket of tokens for bytes, one for operations, or both. A request takes its tokens out of them
//! before it begins, and waits if there are none. Buckets fill up again at an even rate. All queues of a device share
//! one limiter, and all devices of a [group](Groups) do.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use limiter::{Limiter, RateLimiterConfig, TokenBucketConfig};
//!
//! // Four operations at once, and then one every 25 ms.
//! let ops = TokenBucketConfig { size: 4, one_time_burst: None, refill_time: 100 };
//! let config = RateLimiterConfig { bandwidth: None, ops: Some(ops) };
//! let start = Instant::now();
//! let limiter = Limiter::new(&config, start);
//! for _ in 0..4 {
//!     assert_eq!(limiter.take(4096, 1, start), Ok(()));
//! }
//! assert_eq!(limiter.take(4096, 1, start), Err(Duration::from_millis(25)));
//! assert_eq!(limiter.take(4096, 1, start + Duration::from_millis(25)), Ok(()));
//! ```
//!
//! # Debt
//!
//! A request goes ahead as soon as its buckets are not empty, also if they hold less than it takes: they then owe the
//! rest, and whoever comes next waits until that is paid. So a request larger than a bucket works, and a large one
//! is not overtaken for ever by small ones of other queues. Over time the rate is exact: at no moment has more been
//! taken than the bucket's size, its burst, what was refilled since, and one request.
#![forbid(unsafe_code)]

mod bucket;
mod config;
mod groups;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bucket::Bucket;

pub use config::{RateLimiterConfig, TokenBucketConfig};
pub use groups::{Groups, Member};

/// The shortest time that a request is told to wait. What is held back then goes out in batches, rather than with a
/// timer for each request. No bucket fills in less, so nothing is lost.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Limits on bytes and operations. Clones share the buckets; callable from any thread.
#[derive(Clone)]
pub struct Limiter(Arc<Mutex<Buckets>>);

struct Buckets {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

impl Limiter {
    /// A limiter whose buckets are full at `now`.
    #[must_use]
    pub fn new(config: &RateLimiterConfig, now: Instant) -> Self {
        let bucket = |config: Option<TokenBucketConfig>| {
            config
                .filter(TokenBucketConfig::is_limit)
                .map(|config| Bucket::new(&config, now))
        };
        Self(Arc::new(Mutex::new(Buckets {
            bandwidth: bucket(config.bandwidth),
            ops: bucket(config.ops),
        })))
    }

    /// Takes the tokens of a request of so many bytes and operations, all or none.
    ///
    /// # Errors
    /// How long to wait before trying again, if there are none now. At least 1 ms; others may have taken them by then.
    pub fn take(&self, bytes: u64, ops: u64, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets {
            bandwidth,
            ops: operations,
        } = &mut *buckets;
        let mut wanted = [(bandwidth, bytes), (operations, ops)];
        let mut wait = Duration::ZERO;
        for (bucket, tokens) in &mut wanted {
            if let Some(bucket) = bucket
                && *tokens > 0
            {
                wait = wait.max(bucket.wait(now));
            }
        }
        if !wait.is_zero() {
            return Err(wait.max(SHORTEST_WAIT));
        }
        for (bucket, tokens) in wanted {
            if let Some(bucket) = bucket {
                bucket.take(tokens);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}
