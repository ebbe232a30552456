//! How a machine ends and starts again: power-off, every kind of reset, signals, a processor that fails.
//!
//! Most guests here are a few instructions long. [`obedient`] takes a letter from its serial port and does what
//! the letter stands for, so that a test decides when the machine resets and looks at it in between.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::payload::Payload;
use testkit::{Builder, Exit, SerialLink, Signal, Vm, env};

/// Longest that anything of a tiny guest takes, also in an emulated host.
const SECONDS: u64 = 20;

/// "Quickly" for the end of the monitor: it takes milliseconds, ten times more in an emulated host.
const QUICK: Duration = Duration::from_secs(2);

/// What [`obedient`] prints when it waits for a letter.
const READY: &str = "ready\n";

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;

/// Ways to reset the machine: name, letter of [`obedient`].
const RESETS: [(&str, char); 4] = [
    ("the ACPI reset register", 'a'),
    ("the keyboard controller's command", 'k'),
    ("CMOS shutdown status", 'c'),
    ("a triple fault", 't'),
];

/// A tiny guest whose monitor tells events.
struct Tiny {
    vm: Vm,
    events: PathBuf,
    _folder: TempDir,
}

impl Tiny {
    /// Starts `payload` with further words on the command line.
    fn start(payload: Payload, link: SerialLink, words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        let events = folder.path().join("events");
        payload.elf().write(&kernel).unwrap();
        let builder = Vm::builder()
            .kernel(kernel)
            .memory("size=64M")
            .serial(link)
            .arg("--event-monitor", format!("path={}", events.display()));
        let vm = words.iter().copied().fold(builder, Builder::flag).spawn();
        Self {
            vm: vm.unwrap(),
            events,
            _folder: folder,
        }
    }

    /// Starts [`obedient`] and waits for it.
    fn obedient(words: &[&str]) -> Self {
        let mut tiny = Self::start(obedient(), SerialLink::Stdio, words);
        tiny.vm.wait_for(READY, SECONDS).unwrap();
        tiny
    }

    /// Events so far, as `source/event`.
    fn events(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.events).unwrap_or_default();
        let events = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        // The last one may be half written.
        let complete = events.map_while(Result::ok);
        let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        complete
            .map(|event| word(&event["source"]) + "/" + &word(&event["event"]))
            .collect()
    }

    /// Waits until an event has been told this many times.
    fn wait_for_event(&mut self, event: &str, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(SECONDS);
        while self.events().iter().filter(|told| *told == event).count() < count {
            assert!(self.vm.is_running().unwrap(), "{}", self.vm.stderr());
            assert!(
                Instant::now() < deadline,
                "no {count} {event}: {:?}",
                self.events()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal and expects the end with 0 at once.
    fn end_by(&mut self, signal: Signal, what: &str) {
        let begin = Instant::now();
        self.vm.signal(signal).unwrap();
        let exit = self.vm.wait_exit(SECONDS).unwrap();
        let took = begin.elapsed();
        assert_eq!(
            exit,
            Exit::Code(0),
            "{signal:?}, {what}: {}",
            self.vm.stderr()
        );
        assert!(took < QUICK, "{signal:?}, {what}: took {took:?}");
        assert_eq!(
            self.events().last().map(String::as_str),
            Some("vmm/shutdown"),
            "{what}"
        );
    }

    /// Numbers of the monitor's threads, open descriptors and memory mappings.
    fn resources(&self) -> [usize; 3] {
        let process = PathBuf::from(format!("/proc/{}", self.vm.pid()));
        let entries = |name| std::fs::read_dir(process.join(name)).unwrap().count();
        let maps = std::fs::read_to_string(process.join("maps")).unwrap();
        [entries("task"), entries("fd"), maps.lines().count()]
    }
}

/// Prints [`READY`], then obeys letters: those of [`RESETS`], `p` for power-off.
fn obedient() -> Payload {
    let wait = |payload: Payload| payload.in_u8(LINE_STATUS).raw(&[0xa8, 1]); // test al, 1
    let polling = wait(Payload::new()).code().len() + 2;
    let back = i8::try_from(polling).unwrap().wrapping_neg().to_le_bytes();
    Payload::new().print(COM1, READY).forever(|payload| {
        let payload = wait(payload).raw(&[0x74, back[0]]).in_u8(COM1); // jz back to the poll
        let payload = on(payload, 'a', |payload| payload.out_u8(0x600, 1));
        let payload = on(payload, 'k', Payload::reset);
        let payload = on(payload, 'c', |payload| {
            payload.out_u8(0x70, 0x8f).out_u8(0x71, 0)
        });
        let payload = on(payload, 't', Payload::triple_fault);
        on(payload, 'p', Payload::power_off)
    })
}

/// Does something if `al` has this letter.
fn on(payload: Payload, letter: char, action: impl Fn(Payload) -> Payload) -> Payload {
    let length = u32::try_from(action(Payload::new()).code().len()).unwrap();
    let letter = u8::try_from(letter).unwrap();
    // cmp al, letter; jne over the action
    let payload = payload
        .raw(&[0x3c, letter, 0x0f, 0x85])
        .raw(&length.to_le_bytes());
    action(payload)
}

#[test]
fn power_off_ends_the_monitor_with_0() {
    for cpus in ["boot=1", "boot=2,max=4"] {
        let mut tiny = Tiny::start(
            Payload::new().power_off(),
            SerialLink::Unset,
            &["--cpus", cpus],
        );
        assert_eq!(tiny.vm.wait_exit(SECONDS).unwrap(), Exit::Code(0), "{cpus}");
        assert_eq!(tiny.vm.stderr(), "", "{cpus}");
        assert_eq!(
            tiny.events(),
            [
                "vmm/starting",
                "vm/booting",
                "vm/booted",
                "vm/shutdown",
                "vmm/shutdown"
            ]
        );
    }
}

#[test]
fn every_kind_of_reset_starts_the_guest_again_in_the_same_process() {
    for cpus in ["boot=1", "boot=2"] {
        let mut tiny = Tiny::obedient(&["--cpus", cpus]);
        for (name, letter) in RESETS {
            tiny.vm.send(&letter.to_string()).unwrap();
            let again = tiny.vm.wait_for(READY, SECONDS);
            assert!(again.is_ok(), "{name}, {cpus}: {again:?}");
        }
        tiny.vm.send("p").unwrap();
        assert_eq!(tiny.vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
        let mut expected = vec!["vmm/starting", "vm/booting", "vm/booted"];
        expected.extend(["vm/rebooting", "vm/rebooted"].repeat(RESETS.len()));
        expected.extend(["vm/shutdown", "vmm/shutdown"]);
        assert_eq!(tiny.events(), expected, "{cpus}");
    }
}

#[test]
fn a_triple_fault_is_in_the_log() {
    let mut tiny = Tiny::obedient(&[]);
    tiny.vm.send("t").unwrap();
    tiny.vm.wait_for_log("triple fault", SECONDS).unwrap();
    tiny.vm.wait_for(READY, SECONDS).unwrap();
}

#[test]
fn twenty_resets_leave_nothing_behind() {
    let mut tiny = Tiny::obedient(&["--cpus", "boot=2", "--debug-console", "null"]);
    let reset = |tiny: &mut Tiny, count: usize| {
        let (_, letter) = RESETS[count % RESETS.len()];
        tiny.vm.send(&letter.to_string()).unwrap();
        tiny.vm.wait_for(READY, SECONDS).unwrap();
        // The guest is faster than the last steps of the start.
        tiny.wait_for_event("vm/rebooted", count + 1);
        std::thread::sleep(Duration::from_millis(20));
    };
    reset(&mut tiny, 0);
    let before = tiny.resources();
    for count in 1..=20 {
        reset(&mut tiny, count);
    }
    let after = tiny.resources();
    assert_eq!(before[..2], after[..2], "threads, descriptors");
    // The allocator may map a little more; a machine that stays behind is a dozen of mappings.
    assert!(
        after[2] <= before[2] + 10,
        "memory mappings: {before:?} {after:?}"
    );
    tiny.end_by(Signal::TERM, "after 21 resets");
}

#[test]
fn a_guest_that_only_resets_can_be_stopped() {
    let mut tiny = Tiny::start(Payload::new().reset(), SerialLink::Unset, &[]);
    tiny.wait_for_event("vm/rebooted", 20);
    tiny.end_by(Signal::TERM, "in a storm of resets");
    let events = tiny.events();
    let resets: Vec<&String> = events
        .iter()
        .filter(|event| event.contains("reboot"))
        .collect();
    for pair in resets.chunks_exact(2) {
        assert_eq!(pair, ["vm/rebooting", "vm/rebooted"]);
    }
}

#[test]
fn signals_end_the_monitor_with_0_whatever_the_guest_does() {
    let spinning = || Payload::new().forever(|payload| payload);
    let printing = || Payload::new().forever(|payload| payload.print(COM1, "x"));
    type Case<'a> = (&'a str, &'a dyn Fn() -> Payload);
    let guests: [Case<'_>; 3] = [
        ("a spinning guest", &spinning),
        ("a halted guest", &Payload::new),
        ("a guest that prints all the time", &printing),
    ];
    for (what, payload) in guests {
        for signal in [Signal::TERM, Signal::INT] {
            for cpus in ["boot=1", "boot=4"] {
                let words = ["--serial", "null", "--cpus", cpus];
                let mut tiny = Tiny::start(payload(), SerialLink::Unset, &words);
                tiny.wait_for_event("vm/booted", 1);
                tiny.end_by(signal, &format!("{what}, {cpus}"));
            }
        }
    }
}

#[test]
fn a_signal_ends_a_monitor_whose_output_nobody_takes() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    let printing = Payload::new().forever(|payload| payload.print(COM1, "x"));
    printing.elf().write(&kernel).unwrap();
    let mut child = Command::new(env::binary().unwrap())
        .arg("--kernel")
        .arg(&kernel)
        .args([
            "--memory",
            "size=64M",
            "--serial",
            "tty",
            "--console",
            "off",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Time enough to fill the pipe.
    std::thread::sleep(Duration::from_millis(500));
    let pid = i32::try_from(child.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let _ = child.kill();
    let _ = child.wait();
    let status = status.expect("the monitor is stuck on its output");
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn with_no_shutdown_the_monitor_outlives_its_guest() {
    for signal in [Signal::TERM, Signal::INT] {
        let payload = Payload::new().power_off();
        let mut tiny = Tiny::start(payload, SerialLink::Unset, &["--no-shutdown"]);
        tiny.wait_for_event("vm/shutdown", 1);
        std::thread::sleep(Duration::from_millis(300));
        assert!(tiny.vm.is_running().unwrap(), "{}", tiny.vm.stderr());
        let tasks = std::fs::read_dir(format!("/proc/{}/task", tiny.vm.pid())).unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
        let names: Vec<String> = names.map(Result::unwrap).collect();
        assert!(
            !names.iter().any(|name| name.starts_with("vcpu")),
            "{names:?}"
        );
        tiny.end_by(signal, "after the guest's power-off");
    }
}

#[test]
fn a_processor_that_cannot_go_on_ends_the_monitor_with_1_and_the_reason() {
    // Code where there is no memory: no processor can fetch it, no hypervisor emulates it.
    let payload = Payload::new().raw(&[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0]); // jmp 0xd0000000
    let mut tiny = Tiny::start(payload, SerialLink::Unset, &[]);
    assert_eq!(tiny.vm.wait_exit(SECONDS).unwrap(), Exit::Code(1));
    let log = tiny.vm.stderr();
    let chain = "Error: Cloud Hypervisor exited with the following chain of errors:";
    let (_, reasons) = log.split_once(chain).unwrap_or_else(|| panic!("{log}"));
    assert!(reasons.contains("  0: processor 0 cannot go on"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn linux_reboots_by_keyboard_controller_triple_fault_and_acpi_and_ends_by_signal() {
    let mut vm = Vm::linux().extend_cmdline("reboot=k").spawn().unwrap();
    let pid = vm.pid();
    let mut boots = vec![boot_id(&mut vm)];
    let kind = vm.run("cat /sys/kernel/reboot/type").unwrap();
    assert_eq!(kind.stdout, "kbd\n", "reboot=k");
    for kind in ["kbd", "triple", "acpi"] {
        let script = format!("echo {kind} >/sys/kernel/reboot/type; reboot -f");
        vm.run_last(&script).unwrap();
        let boot = boot_id(&mut vm);
        assert!(!boots.contains(&boot), "reboot by {kind} did not reboot");
        boots.push(boot);
    }
    assert_eq!((vm.pid(), vm.is_running().unwrap()), (pid, true));
    let begin = Instant::now();
    vm.signal(Signal::TERM).unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    assert!(begin.elapsed() < QUICK, "took {:?}", begin.elapsed());
}

/// A number that is new at each boot of the guest.
fn boot_id(vm: &mut Vm) -> String {
    let id = vm.run("cat /proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!((id.status, id.stdout.len()), (0, 37), "{}", id.stdout);
    id.stdout
}
