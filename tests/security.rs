//! Confinement: system-call filters on every thread, Landlock on the process, guest memory that
//! no core dump shows, files and sockets for the user alone.
//!
//! What a filter or Landlock refuses is tried from inside: [`Intruder`] takes over a processor's
//! thread with ptrace(2), as a guest that escaped would, and makes it call the kernel.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::payload::Payload;
use testkit::terminal::Terminal;
use testkit::{Builder, Exit, SerialLink, Signal, Vm};

/// Longest that anything of a tiny guest takes on a busy machine.
const SECONDS: u64 = 20;

/// Data register of the first serial port.
const COM1: u16 = 0x3f8;

/// The processor's thread that is taken over.
const VCPU: &str = "vcpu0";

/// A folder for one test's files.
struct Bed(TempDir);

impl Bed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A guest that says that it is ready, then powers off on `q` and resets on any other letter.
    fn guest(&self) -> Builder {
        let kernel = self.path("kernel");
        let payload = Payload::new()
            .print(COM1, "ready\n")
            .print_e9("debug\n")
            .raw(&[0x66, 0xba, 0xfd, 0x03]) // 0: mov dx, line status
            .raw(&[0xec, 0xa8, 0x01, 0x74, 0xf7]) // in al, dx; test al, 1; jz 0
            .in_u8(COM1)
            .raw(&[0x3c, b'q', 0x74, 9]) // cmp al, 'q'; je over the next two
            .reset()
            .raw(&[0xeb, 0xfe]) // 1: jmp 1
            .power_off();
        payload.elf().write(&kernel).unwrap();
        Vm::builder().kernel(kernel).memory("size=64M")
    }

    /// A monitor whose guest says that it is ready and then does nothing.
    fn idle(&self, options: &[&str]) -> Vm {
        let kernel = self.path("kernel");
        let payload = Payload::new().print(COM1, "ready\n").halt();
        payload.elf().write(&kernel).unwrap();
        let builder = Vm::builder()
            .kernel(kernel)
            .memory("size=64M")
            .serial(SerialLink::Stdio);
        let builder = options
            .iter()
            .fold(builder, |builder, word| builder.flag(word));
        let mut vm = builder.spawn().unwrap();
        vm.wait_for("ready\n", SECONDS).unwrap();
        vm
    }
}

/// `mode=path`, as an option's value.
fn at(mode: &str, path: &Path) -> String {
    format!("{mode}={}", path.display())
}

/// The threads of a monitor by name: number and what `/proc` says about them. A thread that has
/// just started still has the name of the one that started it.
fn threads(vm: &Vm) -> Vec<(String, i32, String)> {
    let read = |folder: &Path| {
        let name = fs::read_to_string(folder.join("comm"))
            .ok()?
            .trim_end()
            .to_owned();
        let number = folder.file_name()?.to_str()?.parse().ok()?;
        Some((
            name,
            number,
            fs::read_to_string(folder.join("status")).ok()?,
        ))
    };
    let folders = fs::read_dir(format!("/proc/{}/task", vm.pid())).unwrap();
    // One that ended meanwhile is none.
    let mut threads: Vec<_> = folders
        .filter_map(|entry| read(&entry.unwrap().path()))
        .collect();
    threads.sort_unstable();
    threads
}

/// A line of a `/proc` file of `name: value` lines.
fn value<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {status}")).trim()
}

/// Whoever has taken over a processor's thread.
struct Intruder {
    thread: Pid,
    /// The registers as the thread left them, inside `KVM_RUN`.
    before: libc::user_regs_struct,
}

impl Intruder {
    fn enter(vm: &Vm) -> Self {
        let of_vcpu = |(name, number, _): (String, i32, String)| (name == VCPU).then_some(number);
        let thread = Pid::from_raw(threads(vm).into_iter().find_map(of_vcpu).unwrap());
        let deadline = Instant::now() + Duration::from_secs(SECONDS);
        ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
        loop {
            ptrace::interrupt(thread).unwrap();
            Self::wait(thread);
            let before = ptrace::getregs(thread).unwrap();
            if i64::from_ne_bytes(before.orig_rax.to_ne_bytes()) == libc::SYS_ioctl {
                return Self { thread, before };
            }
            assert!(Instant::now() < deadline, "{VCPU} is not in the guest");
            ptrace::cont(thread, None).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn wait(thread: Pid) -> WaitStatus {
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap()
    }

    /// Lets the thread's next instruction be a call of `openat`.
    fn prepare_open(&self, path: &Path, flags: i32) {
        // Far enough below what the thread uses of its stack.
        let buffer = (self.before.rsp - 4096) & !7;
        let mut bytes = path.to_str().unwrap().as_bytes().to_vec();
        bytes.resize(bytes.len() / 8 * 8 + 8, 0);
        for (address, word) in (buffer..).step_by(8).zip(bytes.chunks(8)) {
            let address: ptrace::AddressType =
                std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap());
            let word = libc::c_long::from_ne_bytes(word.try_into().unwrap());
            ptrace::write(self.thread, address, word).unwrap();
        }
        let mut registers = self.before;
        // Back to the system call instruction, and no restart of the call that was interrupted.
        registers.rip -= 2;
        registers.orig_rax = u64::MAX;
        registers.rax = u64::try_from(libc::SYS_openat).unwrap();
        registers.rdi = i64::from(libc::AT_FDCWD).cast_unsigned();
        registers.rsi = buffer;
        registers.rdx = u64::try_from(flags).unwrap();
        registers.r10 = 0;
        ptrace::setregs(self.thread, registers).unwrap();
    }

    /// Opens a file from the thread: the error number, or none.
    fn open(&self, path: &Path, flags: i32) -> Option<i32> {
        self.prepare_open(path, flags);
        for _ in ["entry", "exit"] {
            ptrace::syscall(self.thread, None).unwrap();
            let status = Self::wait(self.thread);
            assert!(matches!(status, WaitStatus::PtraceSyscall(_)), "{status:?}");
        }
        let answer = ptrace::getregs(self.thread).unwrap().rax.cast_signed();
        ptrace::setregs(self.thread, self.before).unwrap();
        (answer < 0).then(|| i32::try_from(-answer).unwrap())
    }

    /// Lets the thread go on where it is.
    fn leave(self) {
        ptrace::detach(self.thread, None).unwrap();
    }
}

#[test]
fn every_thread_has_its_name_and_its_filter() {
    for (mode, seccomp) in [("true", "2"), ("log", "2"), ("errno", "2"), ("false", "0")] {
        let bed = Bed::new();
        let (serial, debug, events) = (bed.path("serial"), bed.path("debug"), bed.path("events"));
        let builder = bed.guest().cpus("boot=2").arg("--seccomp", mode);
        let builder = builder.arg("--serial", at("socket", &serial));
        let builder = builder.arg("--debug-console", at("socket", &debug));
        let mut vm = builder
            .arg("--event-monitor", at("path", &events))
            .spawn()
            .unwrap();
        // Names have 15 letters at most for the kernel.
        let expected: Vec<(&str, &str)> = [
            "__debug_console",
            "cloud-hyperviso",
            "event-monitor",
            "serial-manager",
            "vcpu0",
            "vcpu1",
            "vmm",
            "vmm_signal_hand",
        ]
        .map(|name| (name, seccomp))
        .to_vec();
        let deadline = Instant::now() + Duration::from_secs(SECONDS);
        loop {
            let threads = threads(&vm);
            let found: Vec<(&str, &str)> = threads
                .iter()
                // The kernel's own worker for this machine, where it has one.
                .filter(|(name, ..)| !name.starts_with("kvm-"))
                .map(|(name, _, status)| (name.as_str(), value(status, "Seccomp")))
                .collect();
            if found == expected {
                break;
            }
            let time = Instant::now();
            assert!(
                time < deadline,
                "--seccomp {mode}: {found:?}, not {expected:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        // The filters let everything pass that an orderly end takes.
        vm.signal(Signal::TERM).unwrap();
        assert_eq!(
            vm.wait_exit(SECONDS).unwrap(),
            Exit::Code(0),
            "{mode}: {}",
            vm.stderr()
        );
    }
}

#[test]
fn a_processors_thread_cannot_open_files() {
    let passwd = Path::new("/etc/passwd");
    for (mode, answer) in [("errno", Some(libc::EPERM)), ("log", None), ("false", None)] {
        let bed = Bed::new();
        let mut vm = bed.idle(&["--seccomp", mode]);
        let intruder = Intruder::enter(&vm);
        assert_eq!(
            intruder.open(passwd, libc::O_RDONLY),
            answer,
            "--seccomp {mode}"
        );
        intruder.leave();
        assert!(
            vm.is_running().unwrap(),
            "--seccomp {mode} does not end the monitor"
        );
        vm.signal(Signal::TERM).unwrap();
        assert_eq!(
            vm.wait_exit(SECONDS).unwrap(),
            Exit::Code(0),
            "{mode}: {}",
            vm.stderr()
        );
    }
}

#[test]
fn a_forbidden_call_ends_the_monitor_says_which_and_gives_the_terminal_back() {
    let bed = Bed::new();
    let terminal = Terminal::open().unwrap();
    let before = terminal.attributes().unwrap();
    let builder = bed.guest().serial(SerialLink::Stdio).terminal(terminal);
    let mut vm = builder.spawn().unwrap();
    vm.wait_for("ready\n", SECONDS).unwrap();
    assert!(vm.terminal().unwrap().attributes().unwrap().is_raw());
    let intruder = Intruder::enter(&vm);
    intruder.prepare_open(Path::new("/etc/passwd"), libc::O_RDONLY);
    intruder.leave();
    assert_eq!(
        vm.wait_exit(SECONDS).unwrap(),
        Exit::Signal(libc::SIGSYS),
        "{}",
        vm.stderr()
    );
    for part in ["thread \"vcpu0\"", "openat", "--seccomp log"] {
        assert!(
            vm.stderr().contains(part),
            "{part} is not in {}",
            vm.stderr()
        );
    }
    assert_eq!(vm.terminal().unwrap().attributes().unwrap(), before);
}

#[test]
fn landlock_leaves_what_the_configuration_names_and_nothing_else() {
    let bed = Bed::new();
    let [ruled, outside] = ["ruled", "outside"].map(|name| bed.path(name));
    fs::create_dir(&ruled).unwrap();
    let inside = ruled.join("inside");
    fs::write(&inside, "").unwrap();
    fs::write(&outside, "").unwrap();
    let (read, write) = (libc::O_RDONLY, libc::O_WRONLY);
    let refused = Some(libc::EACCES);
    // Without filters, so that it is Landlock that answers.
    let cases = |rule: Option<&str>, expected: [(&Path, i32, Option<i32>); 6]| {
        let rule = rule.map(|access| format!("path={},access={access}", ruled.display()));
        let mut options = vec!["--seccomp", "false", "--landlock"];
        options.extend(rule.iter().flat_map(|rule| ["--landlock-rules", rule]));
        let mut vm = bed.idle(&options);
        let intruder = Intruder::enter(&vm);
        for (path, flags, answer) in expected {
            let opened = intruder.open(path, flags);
            assert_eq!(
                opened,
                answer,
                "{} with flags {flags} and {rule:?}",
                path.display()
            );
        }
        intruder.leave();
        vm.signal(Signal::TERM).unwrap();
        assert_eq!(
            vm.wait_exit(SECONDS).unwrap(),
            Exit::Code(0),
            "{}",
            vm.stderr()
        );
    };
    let kernel = bed.path("kernel");
    let passwd = Path::new("/etc/passwd");
    let always = [
        (kernel.as_path(), read, None),
        (&kernel, write, refused),
        (&outside, read, refused),
        (passwd, read, refused),
    ];
    let with = |for_reading, for_writing| {
        let [a, b, c, d] = always;
        [
            a,
            b,
            c,
            d,
            (inside.as_path(), read, for_reading),
            (&inside, write, for_writing),
        ]
    };
    cases(None, with(refused, refused));
    cases(Some("r"), with(None, refused));
    cases(Some("w"), with(refused, None));
    cases(Some("rw"), with(None, None));
}

#[test]
fn a_machine_resets_under_landlock_with_every_console() {
    for (mode, exists) in [
        ("null", false),
        ("file", false),
        ("file", true),
        ("socket", false),
        ("pty", false),
    ] {
        let bed = Bed::new();
        let console = bed.path("console");
        if exists {
            fs::write(&console, "").unwrap();
        }
        let option = match mode {
            "file" | "socket" => at(mode, &console),
            _ => mode.to_owned(),
        };
        let builder = bed.guest().serial(SerialLink::Stdio).flag("--landlock");
        let builder = builder.arg("--log-file", bed.path("log"));
        let builder = builder.arg("--event-monitor", at("path", &bed.path("events")));
        let mut vm = builder.arg("--debug-console", &option).spawn().unwrap();
        for _ in 0..3 {
            vm.wait_for("ready\n", SECONDS)
                .unwrap_or_else(|error| panic!("{option}: {error}"));
            vm.send("r").unwrap();
        }
        vm.wait_for("ready\n", SECONDS).unwrap();
        vm.send("q").unwrap();
        assert_eq!(
            vm.wait_exit(SECONDS).unwrap(),
            Exit::Code(0),
            "{option}: {}",
            vm.stderr()
        );
        if mode == "file" {
            assert!(fs::read_to_string(&console).unwrap().ends_with("debug\n"));
        }
        assert!(
            mode != "socket" || !console.exists(),
            "the socket is left behind"
        );
        let events = fs::read_to_string(bed.path("events")).unwrap();
        assert_eq!(events.matches("\"rebooted\"").count(), 3, "{events}");
    }
}

#[test]
fn guest_memory_is_in_no_core_dump() {
    let bed = Bed::new();
    for memory in [
        "size=64M",
        "size=64M,shared=on",
        "size=64M,prefault=on,thp=off",
    ] {
        let builder = bed.guest().memory(memory).serial(SerialLink::Stdio);
        let mut vm = builder.spawn().unwrap();
        vm.wait_for("ready\n", SECONDS).unwrap();
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", vm.pid())).unwrap();
        // Each mapping ends with its flags.
        let mappings = smaps.split_inclusive("VmFlags:");
        let flags = smaps
            .split("VmFlags:")
            .skip(1)
            .map(|rest| rest.lines().next().unwrap());
        let large: Vec<(u64, &str)> = mappings
            .zip(flags)
            .map(|(mapping, flags)| {
                let size = value(mapping, "Size").strip_suffix(" kB").unwrap();
                (size.parse().unwrap(), flags)
            })
            .filter(|(size, flags)| *size > 4 << 10 && flags.contains(" wr "))
            .collect();
        let dumpable: Vec<_> = large
            .iter()
            .filter(|(_, flags)| !flags.contains(" dd"))
            .collect();
        let hidden: u64 = large
            .iter()
            .filter(|(_, f)| f.contains(" dd"))
            .map(|(size, _)| size)
            .sum();
        assert!(hidden >= 64 << 10, "--memory {memory}: {large:?}");
        // What may be dumped is less than the guest's memory.
        let rest: u64 = dumpable.iter().map(|(size, _)| size).sum();
        assert!(rest < 32 << 10, "--memory {memory}: {dumpable:?}");
        vm.send("q").unwrap();
        assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    }
}

#[test]
fn what_the_monitor_makes_is_for_its_user_alone() {
    let bed = Bed::new();
    let [serial, debug, log, events] =
        ["serial", "debug", "log", "events"].map(|name| bed.path(name));
    let builder = bed.guest().arg("--serial", at("socket", &serial));
    let builder = builder
        .arg("--debug-console", at("file", &debug))
        .arg("--log-file", &log);
    let mut vm = builder
        .arg("--event-monitor", at("path", &events))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    while !(serial.exists() && debug.exists()) {
        assert!(Instant::now() < deadline, "{}", vm.stderr());
        std::thread::sleep(Duration::from_millis(2));
    }
    for path in [&serial, &debug, &log, &events] {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{} has mode {mode:o}", path.display());
    }
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    assert_eq!(value(&status, "Umask"), "0077");
    vm.signal(Signal::TERM).unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
}

#[test]
fn linux_boots_reboots_and_ends_under_landlock_and_filters() {
    let mut vm = Vm::linux()
        .flag("--landlock")
        .arg("--seccomp", "true")
        .spawn()
        .unwrap();
    assert_eq!(vm.run("uname -s").unwrap().stdout, "Linux\n");
    vm.run_last("reboot -f").unwrap();
    assert_eq!(vm.run("cat /proc/uptime | wc -l").unwrap().stdout, "1\n");
    vm.power_off().unwrap();
    assert_eq!(vm.stderr(), "", "nothing to complain about");
}
