use std::process::Command;

use super::*;

#[test]
fn bytes_are_those_of_the_published_form() {
    let mut event = Event::new("vm", "booting", &[]);
    event.timestamp = Duration::new(3, 450);
    assert_eq!(
        event.to_json(),
        r#"{
  "timestamp": {
    "secs": 3,
    "nanos": 450
  },
  "source": "vm",
  "event": "booting",
  "properties": null
}"#
    );
    let mut event = Event::new(
        "vm",
        "device-removed",
        &[("id", &"_disk0"), ("bdf", &"0000:00:05.0")],
    );
    event.timestamp = Duration::from_nanos(1);
    assert_eq!(
        event.to_json(),
        r#"{
  "timestamp": {
    "secs": 0,
    "nanos": 1
  },
  "source": "vm",
  "event": "device-removed",
  "properties": {
    "id": "_disk0",
    "bdf": "0000:00:05.0"
  }
}"#
    );
}

#[test]
fn properties_are_strings_and_cannot_break_out() {
    let event = Event::new(
        "virtio-device",
        "activated",
        &[("id", &"a\"\n\u{1}"), ("n", &7)],
    );
    let parsed: serde_json::Value = serde_json::from_str(&event.to_json()).unwrap();
    assert_eq!(parsed["properties"]["id"], "a\"\n\u{1}");
    assert_eq!(parsed["properties"]["n"], "7");
    assert_eq!(
        event.to_string(),
        "virtio-device activated id=a\"\n\u{1} n=7"
    );
}

/// A value that must not be shown.
struct Expensive;

impl Display for Expensive {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("built although nobody listens")
    }
}

#[test]
fn the_process_has_one_stream() {
    match std::env::var_os("TELEMETRY_TEST_PART") {
        None => {
            let file = tempfile::NamedTempFile::new().unwrap();
            let output = Command::new(std::env::current_exe().unwrap())
                .args([
                    "event::tests::the_process_has_one_stream",
                    "--exact",
                    "--nocapture",
                ])
                .env("TELEMETRY_TEST_PART", file.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");

            let text = std::fs::read_to_string(file.path()).unwrap();
            let events: Vec<&str> = text.split_terminator("\n\n").collect();
            let [booting, activated] = events[..] else {
                panic!("{text}")
            };
            let booting: serde_json::Value = serde_json::from_str(booting).unwrap();
            let activated: serde_json::Value = serde_json::from_str(activated).unwrap();
            assert_eq!(booting["event"], "booting");
            assert_eq!(activated["properties"]["id"], "_disk0");
            assert!(activated["timestamp"]["secs"].as_u64().unwrap() < 60);

            let log = String::from_utf8(output.stderr).unwrap();
            assert_eq!(
                log,
                "event: vm booting\r\nevent: virtio-device activated id=_disk0\r\n"
            );
        }
        Some(path) => {
            crate::event!("vm", "booting", id = Expensive);
            assert!(flush(Duration::ZERO));
            init(File::create(&path).unwrap()).unwrap();
            let again = init(File::create(path).unwrap());
            assert!(matches!(again, Err(Error::AlreadySet(_))));
            crate::log::init(crate::log::Options {
                level: crate::log::LevelFilter::Info,
                format: "{msg}".parse().unwrap(),
                file: None,
            })
            .unwrap();
            crate::event!("vm", "booting");
            crate::event!("virtio-device", "activated", id = "_disk0",);
            assert!(flush(Duration::from_secs(10)));
        }
    }
}
