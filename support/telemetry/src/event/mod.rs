//! The event stream: what happened, as JSON, for programs that manage this one.
//!
//! `--event-monitor` names a file or an inherited descriptor. Each event is one JSON object over
//! several lines, followed by an empty line:
//!
//! ```json
//! {
//!   "timestamp": {
//!     "secs": 0,
//!     "nanos": 1234567
//!   },
//!   "source": "vm",
//!   "event": "booting",
//!   "properties": null
//! }
//! ```
//!
//! [`subscribe`] is for who listens only for a while, each with a queue of its own.
//!
//! A thread of its own writes them. What tells an event only puts it in a queue, which is bounded:
//! if the reader is slow for long, events are lost, and the log says how many.

mod monitor;
mod subscription;

use std::fmt::{self, Display};
use std::fs::File;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::{Error, elapsed};
use monitor::Monitor;
pub use subscription::{CAPACITY, MAX_SUBSCRIPTIONS, Subscription, subscribe};

static MONITOR: OnceLock<Monitor> = OnceLock::new();
/// Held while an event is stamped and put in the queues: all of them have the same order, and times never go back.
static ORDER: Mutex<()> = Mutex::new(());

/// Something that happened. Made by [`crate::event!`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    source: &'static str,
    name: &'static str,
    properties: Vec<(&'static str, String)>,
    timestamp: Duration,
}

impl Event {
    /// Describes what happened: who says so, what it is, and with what details.
    pub fn new(
        source: &'static str,
        name: &'static str,
        properties: &[(&'static str, &dyn Display)],
    ) -> Self {
        let properties = properties
            .iter()
            .map(|(key, value)| (*key, value.to_string()))
            .collect();
        Self {
            source,
            name,
            properties,
            timestamp: Duration::ZERO,
        }
    }

    /// The event as the stream has it, without the empty line.
    fn to_json(&self) -> String {
        // Strings and numbers always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.source, self.name)?;
        for (key, value) in &self.properties {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// A JSON object, or null if it would be empty.
        struct Properties<'a>(&'a [(&'static str, String)]);
        impl Serialize for Properties<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if self.0.is_empty() {
                    return serializer.serialize_none();
                }
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (key, value) in self.0 {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
        let mut event = serializer.serialize_struct("Event", 4)?;
        // serde's own form of a duration has the two members that the format wants.
        event.serialize_field("timestamp", &self.timestamp)?;
        event.serialize_field("source", self.source)?;
        event.serialize_field("event", self.name)?;
        event.serialize_field("properties", &Properties(&self.properties))?;
        event.end()
    }
}

/// Begins to write events to the sink, for the rest of the process's life.
///
/// The sink is made non-blocking, which other holders of an inherited descriptor notice.
///
/// # Errors
///
/// [`Error::Sink`] if it cannot be, [`Error::Thread`] if the thread cannot be started,
/// [`Error::AlreadySet`] on a second call.
pub fn init(sink: File) -> Result<(), Error> {
    init_with(sink, || Ok(()))
}

/// As [`init`], with `prepare` called first on the new thread, for its seccomp filter.
///
/// The thread locks, allocates, logs, writes to the sink and sleeps, and no more.
///
/// # Errors
///
/// Those of [`init`]; [`Error::Thread`] with what `prepare` returned if it failed.
pub fn init_with(
    sink: File,
    prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), Error> {
    let already = || Error::AlreadySet("events");
    if MONITOR.get().is_some() {
        return Err(already());
    }
    MONITOR
        .set(Monitor::start(sink, prepare)?)
        .map_err(|_| already())
}

/// Whether anybody would hear of an event: the stream, who subscribed, or the log.
#[doc(hidden)]
pub fn is_wanted() -> bool {
    MONITOR.get().is_some()
        || subscription::is_any()
        || ::log::max_level() >= ::log::LevelFilter::Info
}

/// Puts an event in the queues, stamped with the time of now. Never waits for who reads them.
pub fn send(event: Event) {
    stamped(event, |event| {
        subscription::send(&event);
        if let Some(monitor) = MONITOR.get() {
            monitor.send(event);
        }
    });
}

/// Stamps an event and delivers it, one at a time.
fn stamped(mut event: Event, deliver: impl FnOnce(Event)) {
    let _order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    event.timestamp = elapsed();
    deliver(event);
}

/// Waits until all events so far are written, but no longer than `timeout`. Whether they are.
///
/// To be called before the process exits, as the thread that writes them ends with it.
#[must_use = "false means that events are lost"]
pub fn flush(timeout: Duration) -> bool {
    MONITOR.get().is_none_or(|monitor| monitor.flush(timeout))
}

#[cfg(test)]
mod tests;
