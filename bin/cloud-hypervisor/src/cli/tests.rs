use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn read(words: &[&str]) -> Result<Invocation, Stop> {
    Invocation::read(
        std::iter::once("cloud-hypervisor")
            .chain(words.iter().copied())
            .map(OsString::from),
    )
}

fn machine(words: &[&str]) -> VmConfig {
    let mut all = vec!["--kernel", "k"];
    all.extend_from_slice(words);
    read(&all)
        .unwrap_or_else(|stop| panic!("{words:?}: {stop:?}"))
        .vm
        .unwrap()
}

fn usage(words: &[&str]) -> String {
    match read(words) {
        Err(Stop::Usage(text)) => text,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn problem(words: &[&str]) -> String {
    let mut all = vec!["--kernel", "k"];
    all.extend_from_slice(words);
    match read(&all) {
        Err(Stop::Problem(problem)) => problem.to_string(),
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn the_parser_is_consistent() {
    command(Help::No).debug_assert();
    command(Help::Yes).debug_assert();
}

#[test]
fn a_whole_machine() {
    let vm = machine(&[
        "--cpus",
        "boot=2",
        "--memory",
        "size=1G",
        "--initramfs",
        "i",
        "--cmdline",
        "a=b c",
        "--serial",
        "tty",
        "--debug-console",
        "file=/tmp/x,iobase=0x402",
        "--platform",
        "system_serial_number=s",
    ]);
    assert_eq!(vm.cpus.boot_vcpus, 2);
    assert_eq!(vm.memory.size.0, 1 << 30);
    let payload = vm.payload.unwrap();
    assert_eq!(payload.cmdline.as_deref(), Some("a=b c"));
    assert_eq!(vm.devices["serial"]["mode"], "Tty");
    assert_eq!(vm.devices["debug_console"]["iobase"], 0x402);
    assert_eq!(
        vm.platform.unwrap().system_serial_number.as_deref(),
        Some("s")
    );
}

#[test]
fn equals_sign_and_order_do_not_matter() {
    let one = machine(&["--cpus=boot=3"]);
    let two = read(&["--cpus", "boot=3", "--kernel", "k"])
        .unwrap()
        .vm
        .unwrap();
    assert_eq!(one, two);
}

#[test]
fn repeated_values_append_and_repeated_single_options_are_wrong() {
    let rule = "path=/tmp,access=r";
    for words in [
        &["--landlock-rules", rule, rule][..],
        &["--landlock-rules", rule, "--landlock-rules", rule],
    ] {
        assert_eq!(machine(words).landlock_rules.unwrap().len(), 2, "{words:?}");
    }
    let text = usage(&["--kernel", "k", "--cpus", "boot=1", "--cpus", "boot=2"]);
    assert!(text.contains("--cpus"), "{text}");
}

#[test]
fn nothing_to_run_is_a_usage_error() {
    assert!(usage(&["--cpus", "boot=1"]).contains("--kernel or --firmware"));
    assert!(usage(&[]).contains("Usage:"));
}

#[test]
fn without_a_payload_the_monitor_waits_for_one_through_the_api() {
    let run = read(&["--api-socket", "path=/run/x", "--cpus", "boot=2"]).unwrap();
    assert_eq!(run.vm, None);
    assert_eq!(run.api_socket, Some(ApiSocket::Path("/run/x".into())));
    let run = read(&["--kernel", "k", "--api-socket=/run/x"]).unwrap();
    assert!(run.vm.is_some());
}

#[test]
fn forms_of_the_api_socket() {
    let path = |path: &str| Ok(ApiSocket::Path(path.into()));
    for (text, socket) in [
        ("path=/a", path("/a")),
        ("/a", path("/a")),
        ("/a,b", path("/a,b")),
        ("file=/a", path("file=/a")),
        ("fd=5", Ok(ApiSocket::Descriptor(5))),
        ("path=/a,fd=5", Ok(ApiSocket::Descriptor(5))),
    ] {
        assert_eq!(text.parse(), socket, "{text}");
    }
    for text in ["fd=x", "fd=", "path=", "fd=5x"] {
        assert!(text.parse::<ApiSocket>().is_err(), "{text}");
    }
    assert!(problem(&["--api-socket", "fd=x"]).starts_with("--api-socket: fd"));
}

#[test]
fn monitor_options() {
    let run = read(&[
        "--kernel",
        "k",
        "-vv",
        "--no-shutdown",
        "--seccomp",
        "log",
        "--event-monitor",
        "fd=7",
        "--log-file",
        "/tmp/l",
        "--log-format",
        "{level} {msg}",
    ])
    .unwrap();
    assert_eq!(run.log_level, LevelFilter::Debug);
    assert!(run.no_shutdown);
    assert_eq!(run.seccomp, Mode::Log);
    assert_eq!(run.event_monitor.unwrap().fd, Some(7));
    assert_eq!(run.log_file, Some("/tmp/l".into()));
    let plain = read(&["--kernel", "k"]).unwrap();
    assert_eq!(
        (plain.log_level, plain.seccomp),
        (LevelFilter::Warn, Mode::Trap)
    );
}

#[test]
fn wrong_values_name_the_option_and_what_would_be_right() {
    for (words, parts) in [
        (["--cpus", "bot=1"], ["--cpus: ", "did you mean \"boot\""]),
        (["--memory", "size=512m"], ["--memory: ", "512m"]),
        (["--serial", "stdout"], ["--serial: ", "tty"]),
        (
            ["--seccomp", "yes"],
            ["--seccomp: ", "true, false, log or errno"],
        ),
        (
            ["--log-format", "{nonsense}"],
            ["--log-format: ", "nonsense"],
        ),
        (
            ["--landlock-rules", "path=/tmp"],
            ["--landlock-rules: ", "access"],
        ),
        (["--event-monitor", "/tmp/x"], ["--event-monitor: ", "path"]),
    ] {
        let message = problem(&words);
        for part in parts {
            assert!(message.contains(part), "{words:?}: {message}");
        }
    }
}

#[test]
fn version_and_help_are_texts() {
    let text = |words: &[&str]| match read(words) {
        Err(Stop::Done(text)) => text,
        other => panic!("{other:?}"),
    };
    let version = text(&["--version"]);
    assert!(version.starts_with("cloud-hypervisor v53."), "{version}");
    assert!(version.contains("Migration Protocol Versions: 0\n"));
    assert!(!version.contains("kvm"));
    assert!(text(&["-V", "-v"]).contains("kvm"));
    let help = text(&["--help"]);
    for part in [
        "--cpus <parameters>",
        "max_phys_bits",
        "The machine",
        "Logging",
        "[default: null]",
    ] {
        assert!(help.contains(part), "{part}\n{help}");
    }
}

#[test]
fn help_is_sorted_within_each_group() {
    let mut group = String::new();
    let mut last = String::new();
    for option in command(Help::Yes)
        .get_arguments()
        .filter_map(|a| Some((a.get_help_heading()?, a.get_long()?)))
    {
        if option.0 != group {
            group = option.0.to_owned();
        }
        assert!(last.as_str() <= option.1, "{last} before {}", option.1);
        last = option.1.to_owned();
    }
}

/// Every option of the reference is one of ours, or one of those that are said to come later.
#[test]
fn no_option_of_the_reference_is_forgotten() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/compat/cli.json"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        eprintln!("skipped: {path} is not here");
        return;
    };
    let facts: Value = serde_json::from_str(&text).unwrap();
    let theirs: BTreeSet<String> = facts["binaries"]["cloud-hypervisor"]["options"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|option| {
            option["name"]
                .as_str()?
                .strip_prefix("--")
                .map(ToOwned::to_owned)
        })
        .collect();
    let ours: BTreeSet<String> = command(Help::No)
        .get_arguments()
        .filter_map(|option| option.get_long().map(ToOwned::to_owned))
        .chain(LATER.iter().map(|name| (*name).to_owned()))
        .chain(ELSEWHERE.iter().map(|(name, _)| (*name).to_owned()))
        .chain(["help".to_owned()])
        .collect();
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let invented: Vec<_> = ours.difference(&theirs).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:?}, invented {invented:?}"
    );
    for (name, feature) in ELSEWHERE {
        let message = usage(&["--kernel", "k", &format!("--{name}"), "x"]);
        let how = format!("--{name} is not in this build: build it with --features {feature}");
        assert!(message.contains(&how), "{message}");
    }
    for name in LATER {
        let message = usage(&["--kernel", "k", &format!("--{name}"), "x"]);
        assert!(
            message.contains("not in this version yet"),
            "{name}: {message}"
        );
    }
}

/// The keys of each option are those of the reference.
#[test]
fn no_key_of_the_reference_is_forgotten() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/compat/cli.json"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        eprintln!("skipped: {path} is not here");
        return;
    };
    let facts: Value = serde_json::from_str(&text).unwrap();
    // Keys that wait for PCI, for confidential computing, or that the reference itself ignores.
    let later = [
        "--platform iommu_segments",
        "--platform iommu_address_width",
        "--platform iommufd",
        "--platform iommufd_fd",
        "--platform vfio_p2p_dma",
        "--platform tdx",
        "--platform sev_snp",
        "--memory file",
    ];
    for option in facts["binaries"]["cloud-hypervisor"]["options"]
        .as_array()
        .unwrap()
    {
        let Some(name) = option["name"].as_str() else {
            continue;
        };
        let elsewhere = ELSEWHERE.iter().any(|(known, _)| *known == &name[2..]);
        if elsewhere || LATER.contains(&&name[2..]) {
            continue;
        }
        let keys = [&option["value"]["keys"], &option["value"]["mode_keys"]];
        for key in keys.into_iter().filter_map(Value::as_array).flatten() {
            let key = key["key"].as_str().unwrap();
            if later.contains(&format!("{name} {key}").as_str()) {
                continue;
            }
            // A value that no key takes: what matters is which part of it is objected to.
            let text = format!("{key}=\u{1}");
            if let Err(Stop::Problem(problem)) = read(&["--kernel", "k", name, &text]) {
                assert!(
                    !problem.text.contains("unknown key"),
                    "{name} {key}: {problem}"
                );
            }
        }
    }
}
