use serde_json::json;

use super::*;

fn parent() -> VmConfig {
    let mut config = VmConfig::default();
    config.payload = Some(config::PayloadConfig {
        kernel: Some("/k".into()),
        ..Default::default()
    });
    let disks = json!([
        {"path": "/d", "id": "d"},
        {"path": "/r", "id": "r", "readonly": true},
    ]);
    config.devices.insert("disks".into(), disks);
    config
        .devices
        .insert("vsock".into(), json!({"cid": 3, "socket": "/v", "id": "v"}));
    config
        .devices
        .insert("net".into(), json!([{"tap": "t", "id": "n"}]));
    prepare::settle(&mut config);
    config
}

fn configs(children: &Value) -> Result<Vec<VmConfig>> {
    let wish: Fork = serde_json::from_value(json!({"children": children})).unwrap();
    wish.configs(&parent())
}

fn own(number: u32) -> Value {
    json!({
        "api_socket": format!("/s{number}"),
        "devices": {
            "d": {"path": format!("/d{number}")},
            "v": {"socket": format!("/v{number}")},
            "n": {"tap": format!("t{number}"), "mac": "2e:00:00:00:00:01"},
        },
    })
}

#[test]
fn children_have_what_they_are_given_and_share_what_is_only_read() {
    let configs = configs(&json!([own(1), own(2)])).unwrap();
    let disks = &configs[1].devices["disks"];
    assert_eq!(
        (&disks[0]["path"], &disks[1]["path"]),
        (&json!("/d2"), &json!("/r"))
    );
    assert_eq!(configs[0].devices["net"][0]["mac"], "2e:00:00:00:00:01");
}

#[test]
fn what_two_cannot_have_is_refused_by_its_device() {
    let without = |id: &str| {
        let mut child = own(1);
        child["devices"].as_object_mut().unwrap().remove(id);
        configs(&json!([child])).unwrap_err().to_string()
    };
    for (id, thing) in [("d", "/d,"), ("v", "/v,"), ("n", "tap t,")] {
        let error = without(id);
        assert!(error.contains(&format!("device {id} of")), "{error}");
        assert!(
            error.contains(thing) && error.contains("the parent"),
            "{error}"
        );
    }
    let mut other = own(1);
    other["api_socket"] = json!("/s2");
    let twice = configs(&json!([own(1), other])).unwrap_err().to_string();
    assert!(twice.contains("which the child at /s1 has"), "{twice}");
}

#[test]
fn wishes_that_mean_nothing_are_refused() {
    for children in [
        json!([]),
        json!([own(1), own(1)]),
        json!([{
            "api_socket": "/s",
            "devices": {
                "d": {"path": "/d1"},
                "v": {"socket": "/v1"},
                "n": {"tap": null, "fds": [3]},
            },
        }]),
        json!([{"api_socket": "/s", "devices": {"x": {}}}]),
        json!([{"api_socket": "/s", "devices": {"d": "/d1"}}]),
        json!([{"api_socket": "/s", "devices": {"d": {"id": "e"}}}]),
        json!([{"api_socket": "/s", "devices": {"d": {"pth": "/d1"}}}]),
    ] {
        assert!(configs(&children).is_err(), "{children}");
    }
}
