//! Finds the configuration of one device among those of a machine.

use device::Form;
use serde_json::{Map, Value};

use super::options;
use crate::kinds::{each, each_mut};

/// Whether a member of the machine's configuration is a list of devices.
#[must_use]
pub fn is_list(member: &str) -> bool {
    options().any(|(names, _)| names.field == member && names.form == Form::Many)
}

/// The id that a settled configuration gives its device.
fn id_of<'a>(config: &'a Value, fixed: &'a str) -> &'a str {
    config.get("id").and_then(Value::as_str).unwrap_or(fixed)
}

/// The configuration of the device with this id; the devices have been [settled](super::settle).
pub fn config_of<'a>(devices: &'a mut Map<String, Value>, id: &str) -> Option<&'a mut Value> {
    let (member, at) = place_of(devices, id)?;
    each_mut(devices.get_mut(member)?).get_mut(at)
}

/// Takes the device with this id out. Whether there was one.
pub fn remove(devices: &mut Map<String, Value>, id: &str) -> bool {
    let Some((member, at)) = place_of(devices, id) else {
        return false;
    };
    match devices.get_mut(member) {
        Some(Value::Array(list)) if list.len() > 1 => drop(list.remove(at)),
        _ => drop(devices.shift_remove(member)),
    }
    true
}

/// The member that a device is in, and which of the devices in it it is.
fn place_of(devices: &Map<String, Value>, id: &str) -> Option<(&'static str, usize)> {
    options().find_map(|(names, kind)| {
        let fixed = kind.names().id;
        let configs = each(devices.get(names.field)?);
        let at = configs
            .iter()
            .position(|config| id_of(config, fixed) == id)?;
        Some((names.field, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settle;

    #[test]
    fn a_device_is_found_and_removed_by_its_id() {
        let mut devices = Map::new();
        settle(&mut devices);
        let config = config_of(&mut devices, "__serial").unwrap();
        assert_eq!(config["mode"], "Null");
        assert!(config_of(&mut devices, "serial").is_none());
        assert!(remove(&mut devices, "__serial"));
        assert!(!devices.contains_key("serial"));
        assert!(!remove(&mut devices, "__serial"));
    }

    #[test]
    fn lists_are_known() {
        assert!(!is_list("serial"));
        assert!(!is_list("nonsense"));
        for (names, _) in options() {
            assert_eq!(is_list(names.field), names.form == Form::Many);
        }
    }
}
