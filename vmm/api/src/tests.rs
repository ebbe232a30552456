use std::collections::HashSet;

use serde_json::{Value, json};

use super::*;

fn create(body: &Value) -> Result<config::VmConfig, Bad> {
    vm_config(&serde_json::to_vec(body).unwrap())
}

fn mistake(body: &Value) -> String {
    match create(body) {
        Err(Bad::Body(text)) => text,
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn names_are_unique() {
    let names: HashSet<_> = ENDPOINTS.iter().map(|endpoint| endpoint.name).collect();
    assert_eq!(names.len(), ENDPOINTS.len());
    for endpoint in ENDPOINTS {
        let path = format!("{PREFIX}{}", endpoint.name);
        assert_eq!(find(&path).unwrap().name, endpoint.name);
    }
    for path in [
        "/api/v1/",
        "/api/v1",
        "vm.info",
        "/api/v2/vm.info",
        "/api/v1/vm.info?x",
    ] {
        assert!(find(path).is_none(), "{path}");
    }
}

#[test]
fn a_machine_is_read_and_what_is_null_is_not_there() {
    let config = create(&json!({
        "cpus": {"boot_vcpus": 2, "max_vcpus": 4},
        "memory": {"size": 1 << 30},
        "payload": {"kernel": "/k", "cmdline": null},
        "platform": null,
        "serial": {"mode": "Tty"},
        "tpm": null,
        "numa": [],
        "iommu": false,
    }))
    .unwrap();
    assert_eq!(config.cpus.boot_vcpus, 2);
    assert_eq!(config.memory.size.0, 1 << 30);
    assert_eq!(config.payload.unwrap().kernel.unwrap().to_str(), Some("/k"));
    let devices: Vec<&String> = config.devices.keys().collect();
    assert_eq!(devices, ["serial"]);
}

#[test]
fn mistakes_are_named_by_their_place() {
    for (body, parts) in [
        (
            json!({"cpus": {"bot_vcpus": 1}}),
            ["$.cpus.bot_vcpus", "boot_vcpus"],
        ),
        (json!({"serail": {"mode": "Tty"}}), ["$.serail", "serial"]),
        (json!({"serial": {"mod": "Tty"}}), ["$.serial.mod", "mode"]),
        (json!({"serial": {"mode": "tty"}}), ["$.serial: ", "Tty"]),
        (
            json!({"cpus": {"boot_vcpus": "2"}}),
            ["$.cpus.boot_vcpus: ", "invalid type"],
        ),
        (json!({"memory": {"size": -1}}), ["$.memory.size: ", "-1"]),
        (json!({"serial": [{"mode": "Tty"}]}), ["$.serial", ""]),
        (json!([]), ["$: ", "object"]),
        (json!({"cpus": null}), ["$.cpus: ", "null"]),
        (json!({"console": null}), ["$.console: ", "null"]),
        (json!({"pvpanic": null}), ["$.pvpanic: ", "null"]),
        (json!({"cpus": [1, 1]}), ["$.cpus: ", "list"]),
        (
            json!({"disks": [{"rate_limiter_config": [null, null]}]}),
            ["$.disks[0].rate_limiter_config: ", "list"],
        ),
    ] {
        let text = mistake(&body);
        for part in parts {
            assert!(text.contains(part), "{body}: {text}");
        }
    }
    assert!(matches!(vm_config(b"{"), Err(Bad::Body(_))));
}

#[test]
fn what_is_not_built_yet_is_named() {
    assert_eq!(
        create(&json!({"tpm": {"socket": "/s"}})),
        Err(Bad::Later("member \"tpm\"".into()))
    );
}

#[test]
fn bodies_of_other_calls() {
    let read =
        |name: &'static str, body: &str| match find(&format!("{PREFIX}{name}")).unwrap().takes {
            Takes::Json(read, _) => read(body.as_bytes()),
            Takes::Device(member) => body::device(name, member, body.as_bytes(), Vec::new()),
            other => panic!("{other:?}"),
        };
    let net = r#"{"source_url":"file:///s","net_fds":[{"id":"a","num_fds":1,"fds":null}]}"#;
    assert!(matches!(read("vm.restore", net), Err(Bad::Later(_))));
    let resize = machine::Resize {
        desired_vcpus: Some(2),
        ..machine::Resize::default()
    };
    assert_eq!(
        read("vm.resize", r#"{"desired_vcpus":2,"desired_ram":null}"#),
        Ok(Call::Resize(resize))
    );
    let text = |result: Result<Call, Bad>| match result {
        Err(Bad::Body(text)) => text,
        other => panic!("{other:?}"),
    };
    let wrong = text(read("vm.resize", r#"{"desired_rma":1}"#));
    assert!(
        wrong.contains("$.desired_rma") && wrong.contains("desired_ram"),
        "{wrong}"
    );
    let missing = text(read("vm.resize-disk", r#"{"id":"_disk0"}"#));
    assert!(missing.contains("desired_size"), "{missing}");
    assert_eq!(read("vm.add-fs", "{}"), Err(Bad::Later("vm.add-fs".into())));
}

#[test]
fn the_status_says_what_kind_of_failure_it_is() {
    use machine::life::Refusal;
    let status = |error: machine::Error| Response::failed(&error).status;
    assert_eq!(status(Refusal::Absent.into()), 404);
    assert_eq!(status(Refusal::NotStarted.into()), 500);
    assert_eq!(status(machine::Error::Later("it")), 501);
    assert_eq!(status(machine::Error::Ending), 500);
    let body = Response::failed(&Refusal::NotPaused.into()).body;
    let expected = br#"["Error from API","the VM is not paused"]"#;
    assert_eq!(body, Body::Whole(expected.to_vec()));
}

#[test]
fn failures_are_a_bounded_line_of_the_log() {
    let refused = Response::failed(&machine::life::Refusal::NotPaused.into());
    assert!(refused.is_failure() && !Response::empty(204).is_failure());
    assert_eq!(
        refused.describe(Method::Put, "/api/v1/vm.resume"),
        "PUT /api/v1/vm.resume: 500: Error from API: the VM is not paused"
    );
    let line = Response::bad_body(&"x\n".repeat(10_000)).describe(Method::Get, &"/\r".repeat(5000));
    assert!(line.starts_with("GET /\\r/\\r"), "{line}");
    assert!(
        line.len() < 4000 && !line.contains(char::is_control),
        "{line}"
    );
}

#[test]
fn numbers_of_descriptors_are_not_taken_for_the_monitors_own() {
    let net = json!({"net": [{"fds": [5], "num_queues": 2}]});
    let text = mistake(&net);
    assert!(text.starts_with("$.net[0].fds: "), "{text}");
    assert!(text.contains("SCM_RIGHTS"), "{text}");
    assert!(create(&json!({"net": [{"fds": null}]})).is_ok());
}

#[test]
fn descriptors_go_to_devices_that_take_them_and_to_no_other() {
    let some =
        || -> Vec<std::os::fd::OwnedFd> { vec![std::fs::File::open("/dev/null").unwrap().into()] };
    let body = br#"{"id":"n","fds":[7]}"#;
    let call = body::device("vm.add-net", "net", body, some()).unwrap();
    let Call::AddDevice {
        config,
        descriptors,
        ..
    } = call
    else {
        panic!("{call:?}");
    };
    assert_eq!((config, descriptors.len()), (json!({"id": "n"}), 1));
    let refused = body::device("vm.add-disk", "disks", br#"{"path":"/d"}"#, some());
    let text = "vm.add-disk takes no descriptors, 1 came with the request";
    assert_eq!(refused, Err(Bad::Body(text.into())));
    // Without any the numbers are a mistake.
    assert!(body::device("vm.add-net", "net", body, Vec::new()).is_err());
}
