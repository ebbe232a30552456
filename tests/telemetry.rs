//! The log and the event stream: `--log-file`, `-v`, `--log-format`, `--event-monitor`, and the
//! guest's own time stamps through debug port 0x80.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use testkit::payload::Payload;
use testkit::{Builder, Exit, SerialLink, Signal, Vm, env};

/// Longest that anything here takes on a busy machine.
const SECONDS: u64 = 20;

/// Levels of the log, by urgency.
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/// Data register of the first serial port.
const COM1: u16 = 0x3f8;

/// A folder for one test's files.
struct Bed(TempDir);

impl Bed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn guest(&self, payload: Payload) -> Builder {
        let kernel = self.path("kernel");
        payload.elf().write(&kernel).unwrap();
        Vm::builder().kernel(kernel).memory("size=32M")
    }

    /// Runs a guest that powers off at once, with these options, and returns its standard error.
    fn run(&self, options: &[&str]) -> String {
        let builder = self.guest(Payload::new().power_off());
        let mut vm = options
            .iter()
            .fold(builder, |builder, word| builder.flag(word))
            .spawn()
            .unwrap();
        assert_eq!(
            vm.wait_exit(SECONDS).unwrap(),
            Exit::Code(0),
            "{}",
            vm.stderr()
        );
        vm.stderr()
    }

    /// What one token becomes, in each line of a log that has several.
    fn values(&self, token: &str) -> Vec<String> {
        let format = format!("[{{{token}}}]{{{{}}}}");
        let log = self.run(&["-v", "--log-format", &format]);
        let value = |line: &str| {
            let inner = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix("]{}"));
            inner.unwrap_or_else(|| panic!("{line:?}")).to_owned()
        };
        let values: Vec<String> = log.split_terminator("\r\n").map(value).collect();
        assert!(values.len() >= 4, "{values:?}");
        values
    }
}

/// An event as `source/event`.
fn events(stream: &str) -> Vec<String> {
    parse(stream)
        .iter()
        .map(|event| format!("{}/{}", text(event, "source"), text(event, "event")))
        .collect()
}

fn text<'a>(event: &'a Value, member: &str) -> &'a str {
    event[member]
        .as_str()
        .unwrap_or_else(|| panic!("{member} of {event}"))
}

/// Reads a stream of events: each one a pretty-printed object and an empty line.
fn parse(stream: &str) -> Vec<Value> {
    let body = stream
        .strip_suffix("\n\n")
        .unwrap_or_else(|| panic!("{stream:?}"));
    body.split("\n\n")
        .map(|text| {
            let event: Value = serde_json::from_str(text).unwrap();
            assert!(
                text.starts_with("{\n  \"timestamp\": {\n    \"secs\": "),
                "{text}"
            );
            event
        })
        .collect()
}

/// Whether a text looks like a pattern: `0` stands for any digit, everything else for itself.
fn looks_like(text: &str, pattern: &str) -> bool {
    text.chars().count() == pattern.chars().count()
        && text
            .chars()
            .zip(pattern.chars())
            .all(|(letter, like)| match like {
                '0' => letter.is_ascii_digit(),
                other => letter == other,
            })
}

/// The levels of the lines of a log in the default format, most urgent first.
fn levels(log: &str) -> Vec<&str> {
    let has = |level: &&str| log.contains(&format!("> {level}:"));
    LEVELS.into_iter().filter(has).collect()
}

#[test]
fn each_v_logs_more_and_without_any_a_good_start_is_silent() {
    let bed = Bed::new();
    assert_eq!(bed.run(&[]), "");
    assert_eq!(levels(&bed.run(&["-v"])), ["INFO"]);
    let debug = bed.run(&["-vv"]);
    assert!(
        !levels(&debug).contains(&"TRACE") && levels(&debug).contains(&"INFO"),
        "{debug}"
    );
    assert_eq!(
        bed.run(&["-v", "-v"]).lines().count(),
        debug.lines().count()
    );
    assert!(bed.run(&["-vvv"]).lines().count() >= debug.lines().count());
}

#[test]
fn a_log_file_gets_the_lines_and_is_for_the_user_alone() {
    let bed = Bed::new();
    let file = bed.path("log");
    let option = file.display().to_string();
    assert_eq!(
        bed.run(&["-v", "--log-file", &option]),
        "",
        "nothing on standard error"
    );
    let log = fs::read_to_string(&file).unwrap();
    assert!(log.ends_with("\r\n"), "{log:?}");
    for line in log.split_terminator("\r\n") {
        // cloud-hypervisor: {boottime}s: <{thread}> {level}:{location} -- {msg}
        let rest = line
            .strip_prefix("cloud-hypervisor: ")
            .unwrap_or_else(|| panic!("{line}"));
        let (time, rest) = rest.split_once("s: <").unwrap();
        assert!(
            looks_like(time.trim_start(), "0.000000") && time.len() == 10,
            "{time:?}"
        );
        let (thread, rest) = rest.split_once("> INFO:").unwrap();
        assert!(
            ["main", "vmm", "event-monitor"].contains(&thread),
            "{thread}"
        );
        let (location, message) = rest.split_once(" -- ").unwrap();
        let (path, number) = location.rsplit_once(':').unwrap();
        assert!(
            path.ends_with(".rs") && number.parse::<u32>().is_ok(),
            "{location}"
        );
        assert!(!message.is_empty());
    }
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it can name what others should not know");
    // Emptied, not appended to.
    bed.run(&["--log-file", &option]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}

#[test]
fn tokens_of_the_log_format_become_what_they_say() {
    let bed = Bed::new();
    for (token, pattern) in [
        ("wallclock", "0000-00-00T00:00:00.000000Z"),
        ("glog", "0000 00:00:00.000000"),
        ("localglog", "0000 00:00:00.000000"),
        ("year", "0000"),
        ("localhour", "00"),
        ("second", "00"),
        ("micros", "000000"),
        ("offset", "+00:00"),
        ("boottime", "  0.000000"),
    ] {
        for value in bed.values(token) {
            assert!(
                looks_like(&value, pattern),
                "{token}: {value:?} is not like {pattern:?}"
            );
        }
    }
    assert!(bed.values("level").iter().all(|level| level == "INFO"));
    assert!(bed.values("levelchar").iter().all(|level| level == "I"));
    assert!(bed.values("msg").contains(&"event: vm booted".to_owned()));
    let threads = bed.values("thread");
    assert!(threads.contains(&"vmm".to_owned()), "{threads:?}");
    let number = |value: &String| value.parse::<u32>().unwrap();
    let processes: Vec<u32> = bed.values("pid").iter().map(number).collect();
    assert!(
        processes.iter().all(|pid| *pid == processes[0]),
        "{processes:?}"
    );
    let threads: Vec<u32> = bed.values("tid").iter().map(number).collect();
    assert!(threads.iter().any(|tid| *tid != threads[0]), "{threads:?}");
}

#[test]
fn local_tokens_are_in_the_time_zone_of_tz() {
    let bed = Bed::new();
    let builder = bed
        .guest(Payload::new().power_off())
        .variable("TZ", "<+05>-5");
    let format = "{localoffset} {hour} {localhour}";
    let mut vm = builder
        .flag("-v")
        .arg("--log-format", format)
        .spawn()
        .unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    let log = vm.stderr();
    for line in log.split_terminator("\r\n") {
        let (offset, hours) = line.split_once(' ').unwrap();
        let (utc, local) = hours.split_once(' ').unwrap();
        let hour = |text: &str| text.parse::<u32>().unwrap();
        assert_eq!(
            (offset, hour(local)),
            ("+05:00", (hour(utc) + 5) % 24),
            "{line}"
        );
    }
}

/// Says that it is ready, waits for a letter on the serial port, powers off on `q` and resets on
/// any other.
fn obedient() -> Payload {
    Payload::new()
        .print(COM1, "ready\n")
        .raw(&[0x66, 0xba, 0xfd, 0x03]) // 0: mov dx, line status
        .raw(&[0xec, 0xa8, 0x01, 0x74, 0xf7]) // in al, dx; test al, 1; jz 0
        .in_u8(COM1)
        .raw(&[0x3c, b'q', 0x74, 9]) // cmp al, 'q'; je over the next two
        .reset()
        .raw(&[0xeb, 0xfe]) // 1: jmp 1
        .power_off()
}

#[test]
fn boot_reset_and_power_off_are_told_in_order() {
    let bed = Bed::new();
    let file = bed.path("events");
    fs::write(&file, "of an earlier monitor").unwrap();
    let builder = bed.guest(obedient()).serial(SerialLink::Stdio).flag("-v");
    let option = format!("path={}", file.display());
    let mut vm = builder.arg("--event-monitor", option).spawn().unwrap();
    vm.wait_for("ready\n", SECONDS).unwrap();
    vm.send("r").unwrap();
    vm.wait_for("ready\n", SECONDS).unwrap();
    vm.send("q").unwrap();
    assert_eq!(
        vm.wait_exit(SECONDS).unwrap(),
        Exit::Code(0),
        "{}",
        vm.stderr()
    );
    let stream = fs::read_to_string(&file).unwrap();
    let expected = [
        "vmm/starting",
        "vm/booting",
        "vm/booted",
        "vm/rebooting",
        "vm/rebooted",
        "vm/shutdown",
        "vmm/shutdown",
    ];
    assert_eq!(events(&stream), expected);
    let mut last = (0, 0);
    for event in parse(&stream) {
        assert_eq!(event.as_object().unwrap().len(), 4, "{event}");
        assert!(event["properties"].is_null(), "{event}");
        let time = &event["timestamp"];
        let now = (
            time["secs"].as_u64().unwrap(),
            time["nanos"].as_u64().unwrap(),
        );
        assert!(
            now >= last && now.0 < SECONDS && now.1 < 1_000_000_000,
            "{event} after {last:?}"
        );
        last = now;
    }
    // The log has them too, in the same order.
    let log = vm.stderr();
    let logged: Vec<String> = log
        .split_terminator("\r\n")
        .filter_map(|line| Some(line.split_once(" -- event: ")?.1.replace(' ', "/")))
        .collect();
    assert_eq!(logged, expected, "{log}");
}

#[test]
fn a_signal_is_the_end_that_the_events_tell() {
    for signal in [Signal::TERM, Signal::INT] {
        let bed = Bed::new();
        let file = bed.path("events");
        let option = format!("path={}", file.display());
        let builder = bed.guest(obedient()).serial(SerialLink::Stdio);
        let mut vm = builder.arg("--event-monitor", option).spawn().unwrap();
        vm.wait_for("ready\n", SECONDS).unwrap();
        vm.signal(signal).unwrap();
        assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0), "{signal:?}");
        let told = events(&fs::read_to_string(&file).unwrap());
        assert_eq!(
            told[..3],
            ["vmm/starting", "vm/booting", "vm/booted"],
            "{signal:?}"
        );
        assert_eq!(told.last().unwrap(), "vmm/shutdown", "{signal:?}: {told:?}");
    }
}

#[test]
fn a_boot_that_fails_leaves_only_its_opening_event() {
    let bed = Bed::new();
    let (file, kernel) = (bed.path("events"), bed.path("text"));
    fs::write(&kernel, "no kernel").unwrap();
    let option = format!("path={}", file.display());
    let mut vm = Vm::builder()
        .kernel(kernel)
        .arg("--event-monitor", option)
        .spawn()
        .unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(1));
    assert_eq!(
        events(&fs::read_to_string(&file).unwrap()),
        ["vmm/starting", "vm/booting"]
    );
}

#[test]
fn events_go_to_an_inherited_descriptor() {
    let bed = Bed::new();
    let (file, kernel) = (bed.path("events"), bed.path("kernel"));
    Payload::new().power_off().elf().write(&kernel).unwrap();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec 7>\"$0\" \"$@\""])
        .arg(&file)
        .arg(env::binary().unwrap());
    shell
        .arg("--kernel")
        .arg(kernel)
        .args(["--event-monitor", "fd=7"]);
    assert!(shell.status().unwrap().success());
    let told = events(&fs::read_to_string(&file).unwrap());
    assert_eq!(told[..3], ["vmm/starting", "vm/booting", "vm/booted"]);
    assert_eq!(told.last().unwrap(), "vmm/shutdown");
}

#[test]
fn the_guests_progress_codes_are_logged_with_their_time() {
    let bed = Bed::new();
    let codes = [
        (0x00, "Firmware"),
        (0x1f, "Firmware"),
        (0x20, "Bootloader"),
        (0x40, "Kernel"),
        (0x7f, "Userspace"),
        (0x80, "Custom"),
        (0xff, "Custom"),
    ];
    let payload = codes
        .iter()
        .fold(Payload::new(), |guest, (code, _)| guest.out_u8(0x80, *code));
    let mut vm = bed
        .guest(payload.power_off())
        .arg("--log-format", "{level} {msg}")
        .spawn()
        .unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    let log = vm.stderr();
    let lines: Vec<&str> = log.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), codes.len(), "{log}");
    for (line, (code, range)) in lines.iter().zip(codes) {
        let start = format!("WARN [Debug I/O port: {range} code 0x{code:x}] ");
        let time = line
            .strip_prefix(&start)
            .and_then(|rest| rest.strip_suffix(" seconds"));
        let time = time.unwrap_or_else(|| panic!("{line:?} is not {start:?}"));
        assert!(looks_like(time, "0.000000"), "{line}");
    }
}
