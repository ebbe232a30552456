use super::*;
use crate::cli::command;

/// The request of a command line.
fn request(words: &[&str]) -> Result<Request> {
    let words = ["ch-remote"].iter().chain(words);
    let matches = command().try_get_matches_from(words).unwrap();
    let (name, arguments) = matches.subcommand().unwrap();
    Request::read(name, arguments)
}

/// Method, endpoint and body.
fn sent(words: &[&str]) -> (Method, &'static str, Value) {
    let request = request(words).unwrap();
    let body = request.body.as_deref().map(serde_json::from_slice);
    let body = body.transpose().unwrap().unwrap_or_default();
    (request.method, request.endpoint, body)
}

#[test]
fn subcommands_without_arguments_have_no_body() {
    for plain in PLAIN {
        let request = request(&[plain.subcommand]).unwrap();
        assert_eq!(request.endpoint, plain.endpoint);
        assert!(request.body.is_none(), "{}", plain.subcommand);
    }
    assert_eq!(sent(&["ping"]).0, Method::Get);
    assert_eq!(sent(&["shutdown-vmm"]).1, "vmm.shutdown");
}

#[test]
fn sizes_that_are_not_said_are_null() {
    assert_eq!(
        sent(&["resize", "--memory", "1G"]),
        (
            Method::Put,
            "vm.resize",
            json!({"desired_vcpus": null, "desired_ram": 1 << 30, "desired_balloon": null})
        )
    );
    assert!(request(&["resize"]).is_ok());
    assert_eq!(
        sent(&["resize-disk", "--disk", "a", "--size", "2M"]).2,
        json!({"id": "a", "desired_size": 2 << 20})
    );
    assert_eq!(
        sent(&["resize-zone", "--id", "z", "--size", "4096"]).2,
        json!({"id": "z", "desired_ram": 4096})
    );
}

#[test]
fn devices_are_written_as_on_the_monitors_command_line() {
    let (method, endpoint, body) = sent(&["add-disk", "path=/vm/disk,readonly=on,id=a"]);
    assert_eq!((method, endpoint), (Method::Put, "vm.add-disk"));
    assert_eq!(body["path"], "/vm/disk");
    assert_eq!(body["readonly"], true);
    assert_eq!(body["id"], "a");
    let wrong = request(&["add-disk", "pth=/vm/disk"]).unwrap_err();
    assert!(wrong.chain().concat().contains("path"), "{wrong:?}");
}

#[test]
fn what_this_version_has_no_type_for_goes_as_it_is_written() {
    let known = catalog::options().any(|(names, _)| names.flag == "vdpa");
    assert!(!known, "take another device that is not there yet");
    assert_eq!(
        sent(&["add-vdpa", "path=/dev/vhost-vdpa,num_queues=2"]).2,
        json!({"path": "/dev/vhost-vdpa", "num_queues": "2"})
    );
}

#[test]
fn numbers_of_descriptors_are_not_sent() {
    let mut config = json!({"id": "n", "fds": [3, 4]});
    assert_eq!(take_descriptors(&mut config), [3, 4]);
    assert_eq!(config, json!({"id": "n"}));
    assert!(take_descriptors(&mut config).is_empty());
    assert!(take_descriptors(&mut json!({"fds": null})).is_empty());
    // Nobody has this one open.
    let error = request(&["add-net", "fd=[9999]"]).unwrap_err();
    assert!(
        matches!(error, Error::Descriptor { fd: 9999, .. }),
        "{error:?}"
    );
}

#[test]
fn the_rest() {
    assert_eq!(sent(&["remove-device", "a"]).2, json!({"id": "a"}));
    for (subcommand, endpoint) in [("snapshot", "vm.snapshot"), ("coredump", "vm.coredump")] {
        let (_, to, body) = sent(&[subcommand, "file:///vm/x"]);
        assert_eq!(to, endpoint);
        assert_eq!(body, json!({"destination_url": "file:///vm/x"}));
    }
    let (_, _, body) = sent(&["snapshot", "file:///vm/y", "--base", "file:///vm/x"]);
    let expected = json!({"destination_url": "file:///vm/y", "base_url": "file:///vm/x"});
    assert_eq!(body, expected);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.json");
    std::fs::write(&path, b"not even JSON").unwrap();
    let request_of = |path: &Path| request(&["create", path.to_str().unwrap()]);
    let request = request_of(&path).unwrap();
    assert_eq!(request.body.as_deref(), Some(&b"not even JSON"[..]));
    let error = request_of(&folder.path().join("none")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }));
}
