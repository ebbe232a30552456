//! Reads bodies. A mistake is named by its place, and a misspelt member by the one that was probably meant.

use std::os::fd::OwnedFd;

use device::AnyKind;
use machine::{Call, Received};
use schemars::{JsonSchema, Schema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a body is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is wrong. The text says where and why.
    Body(String),
    /// It asks for something that is not built yet.
    Later(String),
}

impl Bad {
    pub(crate) fn body(error: &(impl ToString + ?Sized)) -> Self {
        Self::Body(error.to_string())
    }
}

/// Reads a body of this type.
pub(crate) fn read<T: DeserializeOwned + JsonSchema>(body: &[u8]) -> Result<T, Bad> {
    member("$", json(body)?)
}

/// Reads JSON of any form.
pub(crate) fn json(body: &[u8]) -> Result<Value, Bad> {
    serde_json::from_slice(body).map_err(|error| Bad::body(&error))
}

/// Reads a part of a body that is at `path`.
pub(crate) fn member<T: DeserializeOwned + JsonSchema>(path: &str, value: Value) -> Result<T, Bad> {
    check_members(path, &schema_for!(T), &value)?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inner = error.path().to_string();
        let at = if inner == "." {
            path.to_owned()
        } else {
            format!("{path}.{inner}")
        };
        Bad::Body(format!("{at}: {}", error.into_inner()))
    })
}

/// Checks that a part of a body has no members that its type does not.
fn check_members(path: &str, schema: &Schema, value: &Value) -> Result<(), Bad> {
    let whole = |inner: &str| format!("{path}{}", inner.strip_prefix('$').unwrap_or(inner));
    keyvalue::check_json(schema, value).map_err(|error| match error {
        keyvalue::Error::UnknownMember {
            path: inner,
            suggestion,
            known,
        } => Bad::body(&keyvalue::Error::UnknownMember {
            path: whole(&inner),
            suggestion,
            known,
        }),
        keyvalue::Error::ListForObject { path: inner } => {
            Bad::body(&keyvalue::Error::ListForObject {
                path: whole(&inner),
            })
        }
        other => Bad::body(&other),
    })
}

/// Checks that the configuration of a device at `path` reads; whether it makes sense is found at the boot.
pub(crate) fn check_device(path: &str, kind: &dyn AnyKind, value: &Value) -> Result<(), Bad> {
    check_members(path, &kind.schema(), value)?;
    // Such numbers are the client's. Among the monitor's own they may be anything.
    let numbers = |list: &&'static str| value.get(list).is_some_and(|numbers| !numbers.is_null());
    if let Some(list) = kind.descriptors().filter(numbers) {
        return Err(Bad::Body(format!(
            "{path}.{list}: numbers of descriptors mean nothing to another process: send the descriptors with the \
             request (SCM_RIGHTS) that adds the device, as ch-remote does, or start the monitor with them"
        )));
    }
    kind.reads(value)
        .map_err(|problem| Bad::Body(format!("{path}: {}", problem.text)))
}

/// The kind of device that this member of a machine's configuration is about.
pub(crate) fn kind(member: &str) -> Option<&'static dyn AnyKind> {
    let (_, kind) = catalog::options().find(|(names, _)| names.field == member)?;
    Some(kind)
}

/// Reads the configuration of a device to add.
pub(crate) fn device(
    endpoint: &str,
    member: &'static str,
    body: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<Call, Bad> {
    let kind = kind(member).ok_or_else(|| Bad::Later(endpoint.to_owned()))?;
    let mut config = json(body)?;
    if !descriptors.is_empty() {
        // A device that made do without them would not be the one that was asked for.
        let list = kind.descriptors().ok_or_else(|| {
            let count = descriptors.len();
            Bad::Body(format!(
                "{endpoint} takes no descriptors, {count} came with the request"
            ))
        })?;
        // These say which is which to the client.
        if let Some(members) = config.as_object_mut() {
            members.shift_remove(list);
        }
    }
    check_device("$", kind, &config)?;
    Ok(Call::AddDevice {
        member,
        config,
        descriptors: descriptors.into(),
    })
}

/// Reads what is said of a machine that comes as these descriptors.
pub(crate) fn receive_fork(body: &[u8], descriptors: Vec<OwnedFd>) -> Result<Call, Bad> {
    let count = descriptors.len();
    let received = Received::new(read(body)?, descriptors);
    let received = received.ok_or_else(|| {
        Bad::Body(format!(
            "$: configuration, state and memory come as 3 descriptors, or as 5 to 20 with layers of memory, not as {count}: \
             vm.fork of another monitor sends them"
        ))
    })?;
    Ok(Call::ReceiveFork(received))
}

/// Reads which saved machine to restore, and how.
pub(crate) fn restore(body: &[u8]) -> Result<Call, Bad> {
    let wish = json(body)?;
    let nets = wish.get("net_fds").and_then(Value::as_array);
    // Such numbers are the client's. Among the monitor's own they may be anything.
    if nets.is_some_and(|nets| !nets.is_empty()) {
        return Err(Bad::Later(
            "$.net_fds: giving the monitor descriptors through the API (--restore takes them)"
                .into(),
        ));
    }
    Ok(Call::Restore(Box::new(member("$", wish)?)))
}
