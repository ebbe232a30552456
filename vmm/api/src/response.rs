//! Answers: a status and a body.

use std::fmt;

use machine::{Answer, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use telemetry::event::{self, Subscription};

use crate::{Method, metrics};

/// An answer.
#[derive(Debug, PartialEq)]
pub struct Response {
    /// Status of HTTP.
    pub status: u16,
    /// What the body is.
    pub content: Content,
    /// The body.
    pub body: Body,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// JSON.
    Json,
    /// JSON values, one in each line.
    Lines,
    /// The exposition format of Prometheus.
    Metrics,
}

impl Content {
    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
            Self::Metrics => "text/plain; version=0.0.4",
        }
    }
}

/// A body.
pub enum Body {
    /// All of it; empty if there is none.
    Whole(Vec<u8>),
    /// Events, for as long as somebody reads them.
    Events(Subscription),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Events(_) => f.write_str("events"),
        }
    }
}

/// Streams are never the same.
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Whole(one), Self::Whole(other)) if one == other)
    }
}

/// Answer to `vmm.ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Ping {
    /// Version as `--version` shows it.
    pub build_version: String,
    /// Version.
    pub version: String,
    /// Number of the monitor's process.
    pub pid: i64,
    /// What this build can do beyond the machine itself.
    pub features: Vec<String>,
}

/// Characters of a path or of a chain of errors in the log.
const MOST_SHOWN: usize = 1000;
/// First link of the chain of errors that the driver answers with.
const FROM_DRIVER: &str = "Error from API";
/// Why there are no events for a client.
const TOO_MANY: &str = "as many clients as can be listen to events already: end one of them";
/// First link of what is wrong with a body.
const BAD_BODY: &str = "Failed to deserialize JSON";

impl Response {
    /// JSON, or nothing.
    #[must_use]
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            content: Content::Json,
            body: Body::Whole(body),
        }
    }

    pub(crate) fn is_failure(&self) -> bool {
        self.status >= 400
    }

    /// What became of a request, for the log: one line of bounded length, whatever the client sent.
    pub(crate) fn describe(&self, method: Method, path: &str) -> String {
        let path: String = path.chars().take(MOST_SHOWN).collect();
        let path = path.escape_debug();
        let method = match method {
            Method::Get => "GET",
            Method::Put => "PUT",
        };
        let mut text = format!("{method} {path}: {}", self.status);
        if let Body::Whole(body) = &self.body
            && let Ok(chain) = serde_json::from_slice::<Vec<String>>(body)
        {
            let chain: String = chain.join(": ").chars().take(MOST_SHOWN).collect();
            text.push_str(&format!(": {}", chain.escape_debug()));
        }
        text
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self::json(status, Vec::new())
    }

    pub(crate) fn ok(body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self::json(200, body),
            Err(error) => Self::errors(500, &[FROM_DRIVER, &error.to_string()]),
        }
    }

    /// A chain of errors, the outermost first.
    pub(crate) fn errors(status: u16, chain: &[&str]) -> Self {
        // A list of texts always has a JSON form.
        Self::json(status, serde_json::to_vec(chain).unwrap_or_default())
    }

    pub(crate) fn metrics(text: String) -> Self {
        Self {
            status: 200,
            content: Content::Metrics,
            body: Body::Whole(text.into_bytes()),
        }
    }

    /// Events from now on.
    pub(crate) fn events() -> Self {
        match event::subscribe() {
            Some(events) => Self {
                status: 200,
                content: Content::Lines,
                body: Body::Events(events),
            },
            None => Self::errors(503, &[FROM_DRIVER, TOO_MANY]),
        }
    }

    pub(crate) fn not_found() -> Self {
        Self::errors(404, &["Not Found"])
    }

    pub(crate) fn bad_request() -> Self {
        Self::errors(400, &["Bad Request"])
    }

    pub(crate) fn bad_body(text: &str) -> Self {
        Self::errors(400, &[BAD_BODY, text])
    }

    pub(crate) fn later(what: &str) -> Self {
        let text = format!("{what} is not in this version yet; docs/compatibility.md says what is");
        Self::errors(501, &[FROM_DRIVER, &text])
    }

    /// What the driver answered. `status` is for answers without a body.
    pub(crate) fn done(answer: Answer, status: u16) -> Self {
        match answer {
            Answer::Done => Self::empty(status),
            Answer::Added(device) => Self::ok(&device),
            Answer::Forked(forked) => Self::ok(&forked),
            Answer::Info(info) => Self::ok(&info),
            Answer::Counters(counters) => Self::ok(&counters),
            Answer::Measures(measures) => Self::metrics(metrics::text(&measures)),
        }
    }

    pub(crate) fn failed(error: &machine::Error) -> Self {
        let status = match error.kind() {
            Kind::Absent => 404,
            Kind::Later => 501,
            Kind::Failed => 500,
        };
        let chain = telemetry::chain(error);
        let mut links = vec![FROM_DRIVER];
        links.extend(chain.iter().map(String::as_str));
        Self::errors(status, &links)
    }
}
