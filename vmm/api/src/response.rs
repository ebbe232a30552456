//! Answers: a status and a body of JSON.

use machine::{Answer, Kind};
use schemars::JsonSchema;
use serde::Serialize;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status of HTTP.
    pub status: u16,
    /// JSON, or nothing.
    pub body: Vec<u8>,
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

/// First link of the chain of errors that the driver answers with.
const FROM_DRIVER: &str = "Error from API";
/// First link of what is wrong with a body.
const BAD_BODY: &str = "Failed to deserialize JSON";

impl Response {
    pub(crate) fn empty(status: u16) -> Self {
        Self {
            status,
            body: Vec::new(),
        }
    }

    pub(crate) fn ok(body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self { status: 200, body },
            Err(error) => Self::errors(500, &[FROM_DRIVER, &error.to_string()]),
        }
    }

    /// A chain of errors, the outermost first.
    pub(crate) fn errors(status: u16, chain: &[&str]) -> Self {
        Self {
            status,
            // A list of texts always has a JSON form.
            body: serde_json::to_vec(chain).unwrap_or_default(),
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
            Answer::Info(info) => Self::ok(&info),
            Answer::Counters(counters) => Self::ok(&counters),
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
