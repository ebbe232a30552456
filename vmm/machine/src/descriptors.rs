//! Descriptors that users give to devices: with the command line, by number, or with a request.

use catalog::Planned;
use config::{Problem, VmConfig};
use device::{Descriptors, Given};
use serde_json::Value;

use crate::{Error, Result};

/// Takes over the descriptors that a configuration from the command line names by the numbers under which the process
/// inherited them. Before the machine is first built, and once.
///
/// # Errors
/// [`Error::Device`] if one of them is not open, or in use by another device.
pub(crate) fn adopt(config: &VmConfig, given: &Given) -> Result<()> {
    for planned in catalog::plan(&config.devices) {
        let numbers = numbers(&planned);
        if numbers.is_empty() {
            continue;
        }
        let adopted: Result<Vec<_>> = numbers
            .into_iter()
            .map(|number| adopt_one(&planned, number))
            .collect();
        given.give(&planned.id, adopted?.into());
    }
    Ok(())
}

fn adopt_one(planned: &Planned<'_>, number: i32) -> Result<std::os::fd::OwnedFd> {
    sandbox::adopt_descriptor(number).map_err(|source| {
        let flag = planned.kind.names().option.map_or("", |option| option.flag);
        Error::Device {
            id: planned.id.clone(),
            source: device::Error::Backend {
                what: format!("--{flag} fd={number}"),
                source: source.into(),
            },
        }
    })
}

/// Refuses a configuration with numbers of descriptors: one that comes from another process, where they meant something.
///
/// # Errors
/// A [`Problem`] that names the device and the member.
pub(crate) fn refuse(config: &VmConfig) -> Result<()> {
    let plan = catalog::plan(&config.devices).into_iter();
    let Some(planned) = plan
        .into_iter()
        .find(|planned| !numbers(planned).is_empty())
    else {
        return Ok(());
    };
    let id = &planned.id;
    let member = planned.kind.descriptors().unwrap_or_default();
    let text = format!(
        "device {id} has descriptors, and no other VM can be given those: let the child do without by \
         devices={{\"{id}\": {{\"{member}\": null, ...}}}}"
    );
    Err(Problem::new("children", text).into())
}

/// The numbers of descriptors in the configuration of a device.
fn numbers(planned: &Planned<'_>) -> Vec<i32> {
    let member = planned.kind.descriptors();
    let numbers = member.and_then(|member| planned.config.get(member)?.as_array());
    numbers
        .into_iter()
        .flatten()
        .filter_map(|number| i32::try_from(number.as_i64()?).ok())
        .collect()
}

/// Writes into the configuration of a device how many descriptors it is given. The numbers there are this process's.
///
/// # Errors
/// A [`Problem`] if it can be given none.
pub(crate) fn enter(
    member: &'static str,
    config: &mut Value,
    descriptors: &Descriptors,
) -> Result<()> {
    if descriptors.is_empty() {
        return Ok(());
    }
    let kinds = catalog::options();
    let list = kinds
        .filter(|(names, _)| names.field == member)
        .find_map(|(_, kind)| kind.descriptors());
    match (list, config.as_object_mut()) {
        (Some(list), Some(config)) => {
            config.insert(list.to_owned(), descriptors.numbers().collect());
            Ok(())
        }
        _ => Err(Problem::new(member, "such a device can be given no descriptors").into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn some() -> Descriptors {
        let file = std::fs::File::open("/dev/null").unwrap();
        vec![file.into()].into()
    }

    #[test]
    fn numbers_are_replaced_by_those_of_this_process() {
        let descriptors = some();
        let mut config = json!({"fds": [77, 78]});
        enter("net", &mut config, &Descriptors::default()).unwrap();
        assert_eq!(config, json!({"fds": [77, 78]}));
        enter("net", &mut config, &descriptors).unwrap();
        let number = descriptors.numbers().next().unwrap();
        assert_eq!(config, json!({"fds": [number]}));
        assert!(enter("disks", &mut config, &descriptors).is_err());
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_named_with_its_option() {
        let mut config = VmConfig::default();
        config
            .devices
            .insert("net".into(), json!([{"fds": [9997], "id": "n"}]));
        let given = Given::default();
        let error = adopt(&config, &given).unwrap_err();
        let text = telemetry::chain(&error).join(": ");
        assert!(text.contains("device n: --net fd=9997: "), "{text}");
        assert!(given.of("n").is_none());
    }
}
