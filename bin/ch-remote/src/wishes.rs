//! Parameters of the subcommands that restore and migrate, as the monitor's API has them.

use std::path::PathBuf;

use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Body of a request, and the descriptors that go with it.
pub(crate) type Sent = (Value, Vec<i32>);

/// A subcommand with parameters of its own.
pub(crate) struct Wish {
    pub(crate) subcommand: &'static str,
    pub(crate) endpoint: &'static str,
    pub(crate) argument: &'static str,
    pub(crate) about: &'static str,
    /// Its keys.
    pub(crate) help: fn() -> String,
    /// What is sent.
    pub(crate) read: fn(&str) -> Result<Sent>,
}

/// All of them.
pub(crate) const ALL: &[Wish] = &[
    Wish {
        subcommand: "receive-migration",
        endpoint: "vm.receive-migration",
        argument: "receive_migration_config",
        about: "Take a VM over from another monitor",
        help: || keyvalue::help(&schema_for!(Receive)),
        read: |text| parse::<Receive>("receive-migration", text)?.body(),
    },
    Wish {
        subcommand: "restore",
        endpoint: "vm.restore",
        argument: "restore_config",
        about: "Make a VM from saved files",
        help: || keyvalue::help(&schema_for!(Restore)),
        read: |text| parse::<Restore>("restore", text)?.body(),
    },
    Wish {
        subcommand: "send-migration",
        endpoint: "vm.send-migration",
        argument: "send_migration_config",
        about: "Hand the VM over to another monitor",
        help: || keyvalue::help(&schema_for!(Send)),
        read: |text| parse::<Send>("send-migration", text)?.body(),
    },
];

fn parse<T: serde::de::DeserializeOwned + JsonSchema>(
    subcommand: &'static str,
    text: &str,
) -> Result<T> {
    keyvalue::from_str(text).map_err(|source| Error::Parameters { subcommand, source })
}

/// When memory comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum MigrationMode {
    /// All of it before the guest goes on.
    #[default]
    Precopy,
    /// What the guest asks for, while it runs.
    Postcopy,
}

/// What becomes of a migration that takes too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum TimeoutStrategy {
    /// It is given up.
    #[default]
    Cancel,
    /// It goes on.
    Ignore,
}

/// When memory is read from its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum RestoreMode {
    /// Before the guest goes on.
    Copy,
    /// By the kernel, when the guest touches it; all who restore from the file share what they do not write.
    Mapped,
    /// When the guest touches it.
    OnDemand,
}

/// Parameters of `restore`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Restore {
    /// Where the files are: `file://<folder>`.
    #[schemars(extend("format" = "url"))]
    source_url: String,
    /// Read all memory before the guest goes on.
    #[serde(default)]
    prefault: bool,
    /// When memory is read. Without: mapped for private memory, copy for memory with shared=on or hugepages=on.
    #[serde(default)]
    memory_restore_mode: Option<RestoreMode>,
    /// Descriptors of network devices, by their ids.
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "pairs"))]
    net_fds: Option<Vec<NetDescriptors>>,
    /// Let the guest go on at once.
    #[serde(default)]
    resume: bool,
}

/// Descriptors of one network device.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NetDescriptors {
    /// Id of the device.
    id: String,
    /// Taps that were open when this program started, one for each pair of queues.
    fds: Vec<i32>,
}

impl Restore {
    fn body(&self) -> Result<Sent> {
        if self.prefault && self.memory_restore_mode == Some(RestoreMode::OnDemand) {
            return Err(Error::Conflict(
                "restore: prefault=on reads all memory at once, memory_restore_mode=ondemand does not: give one",
            ));
        }
        let devices = self.net_fds.as_deref().unwrap_or_default();
        // Numbers mean nothing to another process: it is told how many come.
        let told: Vec<Value> = devices
            .iter()
            .map(|net| json!({"id": net.id, "num_fds": net.fds.len(), "fds": null}))
            .collect();
        let body = json!({
            "source_url": self.source_url,
            "prefault": self.prefault,
            "memory_restore_mode": self.memory_restore_mode,
            "net_fds": self.net_fds.as_ref().map(|_| told),
            "resume": self.resume,
        });
        let descriptors = devices.iter().flat_map(|net| net.fds.clone()).collect();
        Ok((body, descriptors))
    }
}

/// Parameters of `receive-migration`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Receive {
    /// Where to wait for the sender: `unix:<path>` or `tcp:<host>:<port>`.
    #[schemars(extend("format" = "url"))]
    receiver_url: String,
    /// Folder with certificates and key, for TLS over TCP.
    #[serde(default)]
    #[schemars(extend("format" = "path"))]
    tls_dir: Option<PathBuf>,
    /// When memory comes.
    #[serde(default)]
    memory_mode: MigrationMode,
}

impl Receive {
    fn body(&self) -> Result<Sent> {
        if self.receiver_url.starts_with("unix:") && self.tls_dir.is_some() {
            return Err(Error::Conflict("receive-migration: tls_dir= is for tcp:"));
        }
        Ok((plain(self), Vec::new()))
    }
}

/// Parameters of `send-migration`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Send {
    /// Where the receiver waits: `unix:<path>` or `tcp:<host>:<port>`.
    #[schemars(extend("format" = "url"))]
    destination_url: String,
    /// Receiver on this host: memory is handed over and not copied. Takes shared memory and `unix:`.
    #[serde(default)]
    local: bool,
    /// Longest that the guest may stand still, in milliseconds.
    #[serde(default = "downtime")]
    downtime_ms: u64,
    /// Longest that it may take in all, in seconds.
    #[serde(default = "timeout")]
    timeout_s: u64,
    /// What becomes of it if it takes longer.
    #[serde(default)]
    timeout_strategy: TimeoutStrategy,
    /// Connections to use at the same time, 1 to 128.
    #[serde(default = "one")]
    connections: u32,
    /// Folder with certificates and key, for TLS over TCP.
    #[serde(default)]
    #[schemars(extend("format" = "path"))]
    tls_dir: Option<PathBuf>,
    /// When memory goes.
    #[serde(default)]
    memory_mode: MigrationMode,
}

const fn downtime() -> u64 {
    300
}

const fn timeout() -> u64 {
    3600
}

const fn one() -> u32 {
    1
}

impl Send {
    fn body(&self) -> Result<Sent> {
        let unix = self.destination_url.starts_with("unix:");
        let postcopy = self.memory_mode == MigrationMode::Postcopy;
        let rules = [
            (
                self.downtime_ms == 0 || self.timeout_s == 0,
                "send-migration: downtime_ms= and timeout_s= are more than 0",
            ),
            (
                !(1..=128).contains(&self.connections),
                "send-migration: connections= is 1 to 128",
            ),
            (
                unix && (self.connections > 1 || self.tls_dir.is_some()),
                "send-migration: connections= above 1 and tls_dir= are for tcp:",
            ),
            (
                self.local && !unix,
                "send-migration: local=on takes a destination_url=unix:<path>",
            ),
            (
                postcopy && (self.local || self.connections > 1),
                "send-migration: memory_mode=postcopy goes without local=on, on one connection",
            ),
        ];
        match rules.iter().find(|(broken, _)| *broken) {
            Some((_, text)) => Err(Error::Conflict(text)),
            None => Ok((plain(self), Vec::new())),
        }
    }
}

fn plain(wish: &impl Serialize) -> Value {
    serde_json::to_value(wish).expect("parameters are plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(subcommand: &str, text: &str) -> Result<Sent> {
        let wish = ALL.iter().find(|wish| wish.subcommand == subcommand);
        (wish.unwrap().read)(text)
    }

    #[test]
    fn restore_sends_descriptors_and_says_how_many_are_whose() {
        let (body, descriptors) = read(
            "restore",
            "source_url=file:///vm/s,memory_restore_mode=ondemand,net_fds=[a@[5,6],b@[7]],resume=on",
        )
        .unwrap();
        assert_eq!(descriptors, [5, 6, 7]);
        assert_eq!(
            body,
            json!({
                "source_url": "file:///vm/s", "prefault": false, "memory_restore_mode": "OnDemand", "resume": true,
                "net_fds": [
                    {"id": "a", "num_fds": 2, "fds": null},
                    {"id": "b", "num_fds": 1, "fds": null},
                ],
            })
        );
        let (body, _) = read("restore", "source_url=file:///vm/s").unwrap();
        assert!(body["net_fds"].is_null());
        assert!(body["memory_restore_mode"].is_null());
    }

    #[test]
    fn defaults_of_a_migration() {
        let (body, _) = read("send-migration", "destination_url=tcp:h:1").unwrap();
        assert_eq!(
            body,
            json!({
                "destination_url": "tcp:h:1", "local": false, "downtime_ms": 300, "timeout_s": 3600,
                "timeout_strategy": "Cancel", "connections": 1, "tls_dir": null, "memory_mode": "Precopy",
            })
        );
        let (body, _) = read("receive-migration", "receiver_url=unix:/s").unwrap();
        assert_eq!(
            body,
            json!({"receiver_url": "unix:/s", "tls_dir": null, "memory_mode": "Precopy"})
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (subcommand, text) in [
            (
                "restore",
                "source_url=file:///s,prefault=on,memory_restore_mode=ondemand",
            ),
            ("receive-migration", "receiver_url=unix:/s,tls_dir=/t"),
            ("send-migration", "destination_url=unix:/s,connections=2"),
            ("send-migration", "destination_url=unix:/s,tls_dir=/t"),
            ("send-migration", "destination_url=tcp:h:1,local=on"),
            ("send-migration", "destination_url=tcp:h:1,connections=0"),
            ("send-migration", "destination_url=tcp:h:1,connections=129"),
            ("send-migration", "destination_url=tcp:h:1,downtime_ms=0"),
            (
                "send-migration",
                "destination_url=unix:/s,local=on,memory_mode=postcopy",
            ),
        ] {
            let error = read(subcommand, text).unwrap_err();
            assert!(matches!(error, Error::Conflict(_)), "{text}: {error:?}");
        }
        for (subcommand, text) in [
            ("restore", "prefault=on"),
            ("receive-migration", "unix:/s"),
            (
                "send-migration",
                "destination_url=tcp:h:1,timeout_strategy=x",
            ),
            ("send-migration", "destination_url=tcp:h:1,speed=2"),
        ] {
            let error = read(subcommand, text).unwrap_err();
            assert!(
                matches!(error, Error::Parameters { .. }),
                "{text}: {error:?}"
            );
            assert_eq!(error.chain().len(), 2, "{error:?}");
        }
    }
}
