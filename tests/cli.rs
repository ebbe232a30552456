//! The command line, through the real program: texts, exit statuses, and what it says to wrong
//! input: what is wrong, why, and what would be right.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "cli/bed.rs"]
mod bed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testkit::env;

use bed::{Bed, CHAIN, Outcome, monitor};

/// Exit statuses of `behaviour.json`, `process.exit_codes`.
const NORMAL: i32 = 0;
const FAILURE: i32 = 1;
const USAGE: i32 = 2;

#[test]
fn help_is_a_text_for_standard_output_and_lists_the_options() {
    let help = monitor(&["--help"]);
    assert_eq!(help.status, NORMAL, "{help}");
    assert_eq!(help.stderr, "", "nothing went wrong");
    assert_eq!(monitor(&["-h"]).stdout, help.stdout);
    let groups = [
        (
            "What the machine runs:",
            &["cmdline", "firmware", "initramfs", "kernel"][..],
        ),
        (
            "The machine:",
            &[
                "balloon",
                "console",
                "cpus",
                "debug-console",
                "disk",
                "landlock",
                "landlock-rules",
                "memory",
                "net",
                "platform",
                "pmem",
                "pvpanic",
                "rate-limit-group",
                "restore",
                "rng",
                "rtc",
                "serial",
                "vsock",
                "watchdog",
            ],
        ),
        (
            "The monitor:",
            &[
                "api-socket",
                "event-monitor",
                "gdb",
                "no-shutdown",
                "seccomp",
                "version",
            ],
        ),
        ("Logging:", &["log-file", "log-format"]),
    ];
    for (heading, options) in groups {
        let (_, group) = help
            .stdout
            .split_once(heading)
            .unwrap_or_else(|| panic!("{heading}"));
        let listed: Vec<&str> = group
            .lines()
            .skip(1)
            .take_while(|line| line.is_empty() || line.starts_with(' '))
            // What is further in explains an option, and may begin with another's name.
            .filter(|line| !line.starts_with("       "))
            .filter_map(|line| {
                line.trim_start()
                    .trim_start_matches("-V, ")
                    .strip_prefix("--")
            })
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(listed, options, "{heading} sorted, and complete");
    }
    for (option, default) in [
        ("cpus", "boot=1,max_phys_bits=46"),
        ("memory", "size=512M"),
        ("serial", "null"),
        ("seccomp", "true"),
    ] {
        let (_, after) = help
            .stdout
            .split_once(&format!("\n      --{option} "))
            .unwrap();
        let text = after.split("\n      --").next().unwrap();
        assert!(
            text.contains(&format!("[default: {default}]")),
            "--{option}: {text}"
        );
    }
}

#[test]
fn version_is_the_name_and_with_v_the_features() {
    let version = monitor(&["--version"]);
    assert_eq!((version.status, version.stderr.as_str()), (NORMAL, ""));
    let mut lines = version.stdout.lines();
    let name = lines.next().unwrap();
    let number = name
        .strip_prefix("cloud-hypervisor v")
        .unwrap_or_else(|| panic!("{name}"));
    assert!(
        number.split('.').all(|part| part.parse::<u32>().is_ok()),
        "{number}"
    );
    assert_eq!(lines.next(), Some("Migration Protocol Versions: 0"));
    assert_eq!(lines.next(), None);
    assert_eq!(monitor(&["-V"]).stdout, version.stdout);
    let long = monitor(&["--version", "-v"]).stdout;
    let features = long.strip_prefix(&version.stdout).unwrap();
    assert!(features.contains("kvm"), "{features}");
}

#[test]
fn without_arguments_the_help_is_shown_as_an_error() {
    let nothing = monitor::<&str>(&[]);
    assert_eq!(nothing.status, USAGE, "{nothing}");
    assert_eq!(nothing.stdout, "", "not what a pipe is to get");
    assert!(nothing.stderr.contains("--kernel"), "{nothing}");
}

#[test]
fn usage_errors_name_what_is_wrong() {
    let bed = Bed::new();
    for (line, parts) in [
        ("--kernel", &["--kernel <path>", "a value is required"][..]),
        ("--kernl @off", &["--kernl", "'--kernel'"]),
        (
            "--kernel @off --kernel @off",
            &["--kernel", "cannot be used multiple times"],
        ),
        (
            "--kernel @off --cpus boot=1 --cpus boot=2",
            &["--cpus", "multiple times"],
        ),
        ("--kernel @off --no-shutdown=on", &["--no-shutdown", "on"]),
        ("--kernel @off surplus", &["surplus"]),
        (
            "--cpus boot=1",
            &["nothing to run", "--kernel or --firmware"],
        ),
        (
            "--initramfs @large",
            &["nothing to run", "--kernel or --firmware"],
        ),
        (
            "--kernel @off --fs tag=x,socket=@large",
            &["--fs", "not in this version yet"],
        ),
    ] {
        let outcome = monitor(&bed.words(line));
        assert_eq!(outcome.status, USAGE, "{line}: {outcome}");
        assert!(!outcome.stderr.contains(CHAIN), "{line}: {outcome}");
        for part in parts.iter().chain(&["--help"]) {
            assert!(
                outcome.stderr.contains(part),
                "{line}: {part:?} is not in {outcome}"
            );
        }
    }
}

/// Runs each line and looks for the parts in the causes that it fails with.
fn all_fail(table: &[(&str, &[&str])]) {
    let bed = Bed::new();
    for (line, parts) in table {
        let outcome = monitor(&bed.words(line));
        assert_eq!(outcome.status, FAILURE, "{line}: {outcome}");
        let causes = outcome.causes().join("\n");
        for part in *parts {
            assert!(
                causes.contains(part),
                "{line}: {part:?} is not in {outcome}"
            );
        }
        assert_eq!(outcome.stdout, "", "{line}");
    }
}

#[test]
fn a_wrong_payload_is_described() {
    all_fail(&[
        (
            "--kernel @nowhere",
            &["nowhere", "--kernel", "No such file"],
        ),
        (
            "--kernel @text",
            &["neither an ELF file", "nor a bzImage", "23 21 2f 62"],
        ),
        (
            "--kernel @gzip",
            &["neither an ELF file", "nor a bzImage", "gzip"],
        ),
        ("--kernel @empty", &["kernel file is empty", "--kernel"]),
        ("--kernel /tmp", &["not a regular file", "--kernel"]),
        ("--firmware @text", &["the firmware is", "23 21 2f 62"]),
        (
            "--kernel @off --firmware @off",
            &["--firmware", "together with --kernel"],
        ),
        (
            "--kernel @off --initramfs @nowhere",
            &["nowhere", "--initramfs"],
        ),
        (
            "--kernel @off --initramfs @large --memory size=16M",
            &["initramfs needs 33554432 bytes", "raise --memory size"],
        ),
    ]);
    let bed = Bed::new();
    let mut words = bed.words("--kernel @off --cmdline");
    words.push("x".repeat(0x1_0000));
    let outcome = monitor(&words);
    assert_eq!(outcome.status, FAILURE);
    assert!(
        outcome.causes().join("\n").contains("shorten --cmdline"),
        "{outcome}"
    );
}

#[test]
fn wrong_keys_and_values_are_answered_with_right_ones() {
    all_fail(&[
        (
            "--kernel @off --cpus bot=1",
            &["--cpus: ", "unknown key \"bot\"", "did you mean \"boot\""],
        ),
        (
            "--kernel @off --cpus boot=4,max=2",
            &["--cpus: ", "max=2 is lower than boot=4", "raise max"],
        ),
        (
            "--kernel @off --cpus max=8193",
            &["--cpus: ", "limit of 8192"],
        ),
        (
            "--kernel @off --memory sise=1G",
            &["--memory: ", "did you mean \"size\""],
        ),
        (
            "--kernel @off --memory size=1g",
            &["--memory: ", "1g", "K, M or G", "upper case"],
        ),
        (
            "--kernel @off --memory hugepage_size=2M",
            &["--memory: ", "without hugepages=on"],
        ),
        (
            "--kernel @off --platform system_uuid=x",
            &["--platform", "system_uuid"],
        ),
        (
            "--kernel @off --serial stdout",
            &["--serial: ", "\"stdout\"", "tty"],
        ),
        (
            "--kernel @off --serial file=",
            &["--serial: ", "file=<path>"],
        ),
        (
            "--kernel @off --debug-console tty,iobase=233",
            &["--debug-console: ", "iobase", "0x"],
        ),
        ("--kernel @off --console stdout", &["--console", "tty"]),
        (
            "--kernel @off --rng src=/nowhere/at/all",
            &["--rng", "/nowhere/at/all"],
        ),
        (
            "--kernel @off --seccomp maybe",
            &["--seccomp", "maybe", "true, false, log or errno"],
        ),
        (
            "--kernel @off --log-format {tread}",
            &["--log-format", "{tread}", "{thread}"],
        ),
        (
            "--kernel @off --event-monitor @x",
            &["--event-monitor: ", "known keys: path, fd"],
        ),
        (
            "--kernel @off --event-monitor path=",
            &["--event-monitor: ", "path= or fd="],
        ),
        (
            "--kernel @off --landlock-rules path=/tmp",
            &["--landlock-rules: ", "access"],
        ),
        (
            "--kernel @off --landlock-rules path=/tmp,access=x",
            &["--landlock-rules: ", "r, w or rw"],
        ),
        (
            "--kernel @off --landlock-rules path=@nowhere,access=r",
            &["--landlock-rules: ", "nowhere does not exist"],
        ),
    ]);
}

#[test]
fn what_the_host_cannot_give_is_named_with_the_option_that_asks_for_it() {
    all_fail(&[
        // No kernel gives a process an exbibyte.
        (
            "--kernel @off --memory size=1073741824G",
            &["--memory", "size"],
        ),
        // More huge pages than any machine that runs this has.
        (
            "--kernel @off --memory size=4096G,hugepages=on,hugepage_size=2M",
            &[
                "too few free 2 MiB huge pages",
                "need 2097152",
                "nr_hugepages",
                "hugepages=off",
            ],
        ),
        (
            "--kernel @off --log-file @no/log",
            &["--log-file", "no/log", "No such file"],
        ),
        (
            "--kernel @off --event-monitor path=@no/events",
            &["--event-monitor", "No such file"],
        ),
        (
            "--kernel @off --gdb path=@no/gdb",
            &["no/gdb", "No such file"],
        ),
        (
            "--kernel @off --event-monitor fd=77",
            &["--event-monitor fd=77", "Bad file descriptor"],
        ),
        (
            "--kernel @off --event-monitor fd=1",
            &["--event-monitor fd=1", "standard"],
        ),
        (
            "--kernel @off --serial file=@no/log",
            &["--serial", "no/log", "No such file"],
        ),
        (
            "--kernel @off --serial socket=@no/s",
            &["--serial", "no/s", "No such file"],
        ),
        (
            "--kernel @off --debug-console null,iobase=0x3f8",
            &["--debug-console", "iobase=0x3f8", "0x3f8-0x3ff"],
        ),
    ]);
}

#[test]
fn options_that_firmware_has_no_use_for_are_mentioned() {
    let bed = Bed::new();
    let outcome = monitor(&bed.words("--firmware @off --cmdline quiet --initramfs @large"));
    assert_eq!(outcome.status, NORMAL, "{outcome}");
    for option in ["--cmdline", "--initramfs"] {
        let text = format!("{option} has no effect together with --firmware");
        assert!(outcome.stderr.contains(&text), "{outcome}");
    }
}

/// Runs the monitor on a host whose `/dev` has no more than what the script puts there; `$@` is
/// the monitor's command line. Needs the right to mount.
fn with_other_dev(bed: &Bed, script: &str) -> Outcome {
    // Where any user can start it.
    let binary = bed.path("monitor");
    fs::copy(env::binary().unwrap(), &binary).unwrap();
    fs::set_permissions(bed.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
    let script = format!("mount -t tmpfs -o mode=755 none /dev && {script}");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-e", "-c", &script, "sh"])
        .arg(binary);
    Outcome::of(command.args(bed.words("--kernel @off")))
}

#[test]
fn a_host_without_a_usable_hypervisor_is_told_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: hiding /dev/kvm takes root");
        return;
    }
    let bed = Bed::new();
    for (script, parts) in [
        (
            "exec \"$@\"",
            ["/dev/kvm", "load the kernel module", "No such file"],
        ),
        (
            "touch /dev/kvm && chmod 600 /dev/kvm && \
             exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"",
            ["/dev/kvm", "group kvm", "Permission denied"],
        ),
        (
            "touch /dev/kvm && exec \"$@\"",
            ["hypervisor", "something else than KVM", "ioctl"],
        ),
    ] {
        let outcome = with_other_dev(&bed, script);
        assert_eq!(outcome.status, FAILURE, "{script}: {outcome}");
        let causes = outcome.causes();
        assert_eq!(causes[0], "cannot use the hypervisor of this host");
        for part in parts {
            assert!(
                causes.join("\n").contains(part),
                "{script}: {part:?} is not in {outcome}"
            );
        }
    }
}
