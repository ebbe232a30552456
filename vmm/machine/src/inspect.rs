//! What `vm.info` and `vm.counters` tell.

use std::collections::BTreeMap;

use config::VmConfig;
use serde_json::{Map, Value, json};

use crate::build::Machine;
use crate::{Counters, Info, Node};

/// Everything about a machine that may not be built.
pub(crate) fn info(config: &VmConfig, machine: Option<&Machine>, state: &'static str) -> Info {
    let mut config = config.clone();
    let mut device_tree = machine.map(device_tree);
    let decided = machine.map(Machine::decided).unwrap_or_default();
    for (id, members) in decided {
        let (members, details) = split(&config, &id, members);
        if let Some(device) = catalog::config_of(&mut config.devices, &id) {
            merge(device, members);
        }
        if let Some(node) = device_tree.as_mut().and_then(|tree| tree.get_mut(&id)) {
            node.details = details;
        }
    }
    fill(&mut config);
    let size = config.memory.size.0;
    Info {
        memory_actual_size: machine.map_or(size, |machine| size.saturating_sub(machine.withheld())),
        memory_restore_mode: machine.and_then(|machine| machine.restored),
        memory_missing: machine.and_then(|machine| Some(machine.paging.as_ref()?.left())),
        device_tree,
        config,
        state,
    }
}

/// Members that the configuration of the device has, and all others: whoever gets a configuration must be able to give
/// it back.
fn split(config: &VmConfig, id: &str, members: Value) -> (Map<String, Value>, Map<String, Value>) {
    let Value::Object(members) = members else {
        return Default::default();
    };
    let mut plan = catalog::plan(&config.devices).into_iter();
    let schema = plan
        .find(|planned| planned.id == id)
        .map(|planned| planned.kind.schema());
    let known = |name: &str| {
        let properties = schema.as_ref().and_then(|schema| schema.get("properties"));
        properties.is_some_and(|all| all.get(name).is_some())
    };
    members.into_iter().partition(|(name, _)| known(name))
}

/// Gives members that the user left out the values that they have then. What has none stays away.
fn fill(config: &mut VmConfig) {
    let plan = catalog::plan(&config.devices).into_iter();
    let all: Vec<_> = plan
        .map(|planned| (planned.id, planned.kind.complete(planned.config)))
        .collect();
    for (id, complete) in all {
        if let Some(device) = catalog::config_of(&mut config.devices, &id) {
            *device = complete;
        }
    }
}

fn merge(device: &mut Value, members: Map<String, Value>) {
    if let Some(device) = device.as_object_mut() {
        device.extend(members);
    }
}

/// Prefix of the node that holds a virtio device's place on PCI.
const TRANSPORT: &str = "_virtio-pci-";

fn device_tree(machine: &Machine) -> BTreeMap<String, Node> {
    let mut tree = BTreeMap::new();
    for (id, place) in machine.places() {
        let mut node = Node {
            id: id.to_owned(),
            ..Node::default()
        };
        if let Some(place) = place {
            let transport = format!("{TRANSPORT}{id}");
            node.parent = Some(transport.clone());
            let parent = Node {
                id: transport.clone(),
                resources: place.bars.iter().map(bar).collect(),
                children: vec![id.to_owned()],
                pci_bdf: Some(place.address),
                ..Node::default()
            };
            tree.insert(transport, parent);
        }
        tree.insert(id.to_owned(), node);
    }
    tree
}

fn bar(bar: &device::PciBar) -> Value {
    let kind = if bar.wide { "Mmio64" } else { "Mmio32" };
    json!({"PciBar": {
        "index": bar.index, "base": bar.base, "size": bar.size, "type_": kind, "prefetchable": bar.prefetchable,
    }})
}

/// Devices that count nothing are not there.
pub(crate) fn counters<'a>(
    devices: impl Iterator<Item = (&'a str, Vec<(&'static str, u64)>)>,
) -> Counters {
    let named = |(name, value): (&str, u64)| (name.to_owned(), value);
    devices
        .filter(|(_, counted)| !counted.is_empty())
        .map(|(id, counted)| (id.to_owned(), counted.into_iter().map(named).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_boot_there_is_no_tree() {
        let mut config = VmConfig::default();
        crate::settle(&mut config);
        let info = info(&config, None, "Created");
        assert_eq!(info.memory_actual_size, 512 << 20);
        let json = serde_json::to_value(&info).unwrap();
        assert_eq!(json["state"], "Created");
        assert!(json.get("device_tree").is_none());
        assert_eq!(json["config"]["rng"]["src"], "/dev/urandom");
    }

    #[test]
    fn what_was_left_out_has_its_value_and_what_was_given_stays() {
        let mut config = VmConfig {
            devices: [
                (
                    "disks".to_owned(),
                    json!([{"path": "/d", "readonly": true}]),
                ),
                ("pvpanic".to_owned(), json!(true)),
            ]
            .into_iter()
            .collect(),
            ..VmConfig::default()
        };
        crate::settle(&mut config);
        let shown = info(&config, None, "Created").config;
        let disk = &shown.devices["disks"][0];
        let expected = json!({"path": "/d", "readonly": true, "direct": false, "num_queues": 1, "queue_size": 128});
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&disk[name], value, "{name}: {disk}");
        }
        for absent in ["iommu", "serial", "rate_limiter_config"] {
            assert!(disk.get(absent).is_none(), "{absent}: {disk}");
        }
        assert_eq!(shown.devices["pvpanic"], json!(true));
        // Whoever gets it can give it back.
        crate::prepare::check_devices(&shown).unwrap();
        assert_eq!(info(&shown, None, "Created").config.devices, shown.devices);
    }

    #[test]
    fn what_was_decided_is_configuration_or_a_detail() {
        let config = VmConfig {
            devices: [("disks".to_owned(), json!([{"path": "/d", "id": "d"}]))]
                .into_iter()
                .collect(),
            ..VmConfig::default()
        };
        let decided = json!({"engine": "sync", "image_type": "Raw"});
        let (members, details) = split(&config, "d", decided.clone());
        assert_eq!(Value::from(members.clone()), json!({"image_type": "Raw"}));
        assert_eq!(Value::from(details), json!({"engine": "sync"}));
        let (none, all) = split(&config, "other", decided);
        assert_eq!((none.len(), all.len()), (0, 2));
        let mut device = json!({"image_type": "Unknown", "path": "/d"});
        merge(&mut device, members);
        assert_eq!(device, json!({"image_type": "Raw", "path": "/d"}));
    }

    #[test]
    fn only_devices_that_count_are_listed() {
        let devices = [("__rng", vec![]), ("_disk0", vec![("read_ops", 3)])];
        let counters = counters(devices.into_iter());
        assert_eq!(
            serde_json::to_value(counters).unwrap(),
            json!({"_disk0": {"read_ops": 3}})
        );
    }
}
