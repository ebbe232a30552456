//! Consoles: every mode of `--serial` and `--debug-console`, through real files, pseudo terminals
//! and sockets.
//!
//! Most guests here are a few instructions, so that these tests run wherever there is a `/dev/kvm`.
//! [`echo`] answers what is typed with upper and lower case exchanged: no terminal does that by
//! itself, so an answer always went through the guest.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::payload::{DEBUG_CONSOLE, Payload};
use testkit::terminal::Terminal;
use testkit::{Builder, Exit, SerialLink, Signal, Vm};

/// Data and line status registers of the first serial port.
const COM1: u16 = 0x3f8;
const COM1_STATUS: u16 = 0x3fd;

/// What a port without a device reads as; the serial port's status when it can take a byte.
const NOBODY: u8 = 0xff;
const IDLE: u8 = 0x60;

/// Longest that anything here takes on a busy machine.
const SECONDS: u64 = 20;

/// `O_NOCTTY | O_NONBLOCK` of Linux: a pseudo terminal that is only looked at.
const LOOK: i32 = 0o400 | 0o4000;

/// A folder for one test's files.
struct Bed(TempDir);

impl Bed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A monitor that runs these instructions; consoles are still to be said.
    fn guest(&self, payload: Payload) -> Builder {
        let kernel = self.path("kernel");
        payload.elf().write(&kernel).unwrap();
        Vm::builder().kernel(kernel).memory("size=32M")
    }

    /// Runs a guest to its end, with these options beside others.
    fn run(&self, payload: Payload, options: &[(&str, String)]) -> Vm {
        let mut builder = self.guest(payload);
        for (option, value) in options {
            builder = builder.arg(option, value);
        }
        let mut vm = builder.spawn().unwrap();
        assert_eq!(
            vm.wait_exit(SECONDS).unwrap(),
            Exit::Code(0),
            "{}",
            vm.stderr()
        );
        vm
    }
}

/// `mode=path`, as an option's value.
fn at(mode: &str, path: &Path) -> String {
    format!("{mode}={}", path.display())
}

/// Says hello, then answers what is typed on the serial port with the case of letters exchanged;
/// `q` powers off, `!` jumps to where no instruction can be read.
fn echo() -> Payload {
    Payload::new()
        .print(COM1, "hello\n")
        .raw(&[
            0x66, 0xba, 0xfd, 0x03, // 0: mov dx, line status
            0xec, 0xa8, 0x01, 0x74, 0xf7, // in al, dx; test al, 1; jz 0
            0x66, 0xba, 0xf8, 0x03, 0xec, // mov dx, data; in al, dx
            0x3c, b'q', 0x74, 0x10, // cmp al, 'q'; je 34
            0x3c, b'!', 0x74, 0x05, // cmp al, '!'; je 27
            0x34, 0x20, 0xee, // xor al, 0x20; out dx, al
            0xeb, 0xe5, // jmp 0
            0xb8, 0x00, 0x00, 0x00, 0xd0, 0xff, 0xe0, // 27: mov eax, 0xd000_0000; jmp eax
        ])
        .power_off() // 34
}

/// Reads until this text came and returns all that did.
fn expect(from: &mut impl Read, text: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let so_far = String::from_utf8_lossy(&seen).into_owned();
        if so_far.contains(text) {
            return so_far;
        }
        assert!(
            Instant::now() < deadline,
            "{text:?} did not come, but {so_far:?}"
        );
        match from.read(&mut buffer) {
            Ok(0) => panic!("the end instead of {text:?}, after {so_far:?}"),
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error} instead of {text:?}, after {so_far:?}"),
        }
    }
}

/// Tries until something is there.
fn soon<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} within {SECONDS} s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = soon("a connection", || UnixStream::connect(path).ok());
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Opens the pseudo terminal that the log names for a device.
fn open_pty(vm: &mut Vm, device: &str) -> File {
    let words = format!("the {device} is at ");
    vm.wait_for_log(&words, SECONDS).unwrap();
    let path = soon("the whole line", || {
        let log = vm.stderr();
        let (path, _) = log.split_once(&words)?.1.split_once("\r\n")?;
        Some(path.to_owned())
    });
    assert!(path.starts_with("/dev/pts/"), "{path}");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(LOOK)
        .open(path)
        .unwrap()
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn off_has_no_port_and_null_has_one_that_forgets() {
    let ask = |port, answer| Payload::new().in_u8(port).out_al(answer).power_off();
    for (mode, status) in [("off", NOBODY), ("null", IDLE)] {
        let bed = Bed::new();
        let out = bed.path("out");
        let debug = ("--debug-console", at("file", &out));
        bed.run(
            ask(COM1_STATUS, DEBUG_CONSOLE),
            &[("--serial", mode.into()), debug],
        );
        assert_eq!(fs::read(&out).unwrap(), [status], "--serial {mode}");
    }
    for (mode, signature) in [("off", NOBODY), ("null", 0xe9)] {
        let bed = Bed::new();
        let out = bed.path("out");
        let serial = ("--serial", at("file", &out));
        bed.run(
            ask(DEBUG_CONSOLE, COM1),
            &[("--debug-console", mode.into()), serial],
        );
        assert_eq!(
            fs::read(&out).unwrap(),
            [signature],
            "--debug-console {mode}"
        );
    }
}

#[test]
fn without_options_the_serial_port_is_null_and_the_debug_console_off() {
    let bed = Bed::new();
    // It powers off only if both ports read as they should.
    let payload = Payload::new()
        .in_u8(COM1_STATUS)
        .raw(&[0x3c, IDLE, 0x75, 5 + 4 + 7]) // cmp al, 0x60; jne behind all
        .in_u8(DEBUG_CONSOLE)
        .raw(&[0x3c, NOBODY, 0x75, 7]) // cmp al, 0xff; jne behind all
        .power_off();
    let vm = bed.run(payload, &[]);
    assert_eq!(vm.console(), "", "nothing is printed");
}

#[test]
fn files_get_every_byte_and_nothing_of_before() {
    let bed = Bed::new();
    let (serial, debug) = (bed.path("serial"), bed.path("debug"));
    fs::write(
        &serial,
        "what an earlier machine said, which was a lot more",
    )
    .unwrap();
    let payload = Payload::new()
        .print(COM1, "to the serial port\r\n")
        .raw(&[0xb0, 0x00, 0x66, 0xba, 0xf8, 0x03, 0xee]) // a NUL is a byte like any other
        .print(0x777, "to the debug console\n")
        .print_e9("to nobody")
        .power_off();
    let debug_value = at("file", &debug) + ",iobase=0x777";
    let options = [
        ("--serial", at("file", &serial)),
        ("--debug-console", debug_value),
    ];
    let vm = bed.run(payload, &options);
    assert_eq!(
        fs::read_to_string(&serial).unwrap(),
        "to the serial port\r\n\0"
    );
    assert_eq!(
        fs::read_to_string(&debug).unwrap(),
        "to the debug console\n"
    );
    assert_eq!(
        mode_of(&debug),
        0o600,
        "the debug console's file is for the user alone"
    );
    assert_eq!(vm.console(), "", "nothing goes to standard output");
}

#[test]
fn a_terminal_is_raw_while_the_guest_has_it() {
    let bed = Bed::new();
    let terminal = Terminal::open().unwrap();
    let before = terminal.attributes().unwrap();
    let builder = bed
        .guest(echo())
        .serial(SerialLink::Stdio)
        .terminal(terminal);
    let mut vm = builder.spawn().unwrap();
    vm.wait_for("hello\n", SECONDS).unwrap();
    let now = vm.terminal().unwrap().attributes().unwrap();
    assert!(now.is_raw(), "{now:?}");
    // Ctrl-C, Ctrl-D, Ctrl-Z and the return key are the guest's.
    vm.send("aB\x03\x04\x1a\r").unwrap();
    vm.wait_for("Ab\x23\x24\x3a\x2d", SECONDS).unwrap();
    vm.send("q").unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    assert_eq!(vm.terminal().unwrap().attributes().unwrap(), before);
}

#[test]
fn a_terminal_is_given_back_on_every_way_out() {
    let signals = [
        (Signal::TERM, Exit::Code(0)),
        (Signal::INT, Exit::Code(0)),
        (Signal::HUP, Exit::Signal(1)),
        (Signal::QUIT, Exit::Signal(3)),
        (Signal::ILL, Exit::Signal(4)),
        (Signal::ABORT, Exit::Signal(6)),
        (Signal::BUS, Exit::Signal(7)),
        (Signal::FPE, Exit::Signal(8)),
        (Signal::SEGV, Exit::Signal(11)),
        (Signal::SYS, Exit::Signal(31)),
    ];
    for (signal, end) in signals {
        let bed = Bed::new();
        let terminal = Terminal::open().unwrap();
        let before = terminal.attributes().unwrap();
        let socket = bed.path("socket");
        let builder = bed
            .guest(echo())
            .serial(SerialLink::Stdio)
            .terminal(terminal);
        let mut vm = builder
            .arg("--debug-console", at("socket", &socket))
            .spawn()
            .unwrap();
        vm.wait_for("hello\n", SECONDS).unwrap();
        assert!(vm.terminal().unwrap().attributes().unwrap().is_raw());
        assert!(socket.exists());
        vm.signal(signal).unwrap();
        assert_eq!(
            vm.wait_exit(SECONDS).unwrap(),
            end,
            "{signal:?}: {}",
            vm.stderr()
        );
        assert_eq!(
            vm.terminal().unwrap().attributes().unwrap(),
            before,
            "{signal:?}"
        );
        assert!(!socket.exists(), "{signal:?}: the socket is left behind");
    }
}

#[test]
fn a_terminal_is_given_back_when_the_machine_cannot_start_or_go_on() {
    let bed = Bed::new();
    let terminal = Terminal::open().unwrap();
    let before = terminal.attributes().unwrap();
    let builder = bed
        .guest(echo())
        .serial(SerialLink::Stdio)
        .terminal(terminal);
    let mut vm = builder.spawn().unwrap();
    vm.wait_for("hello\n", SECONDS).unwrap();
    vm.send("!").unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(1));
    assert!(
        vm.stderr().contains("processor 0 cannot go on"),
        "{}",
        vm.stderr()
    );
    assert_eq!(
        vm.terminal().unwrap().attributes().unwrap(),
        before,
        "a stuck processor"
    );

    let terminal = Terminal::open().unwrap();
    let not_a_kernel = bed.path("text");
    fs::write(&not_a_kernel, "no kernel at all").unwrap();
    let builder = Vm::builder()
        .kernel(not_a_kernel)
        .serial(SerialLink::Stdio)
        .terminal(terminal);
    let mut vm = builder.spawn().unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(1));
    assert_eq!(
        vm.terminal().unwrap().attributes().unwrap(),
        before,
        "a wrong kernel"
    );
}

#[test]
fn serial_port_and_debug_console_share_a_terminal() {
    let bed = Bed::new();
    let terminal = Terminal::open().unwrap();
    let before = terminal.attributes().unwrap();
    let payload = Payload::new().print_e9("debug\n").raw(echo().code());
    let builder = bed
        .guest(payload)
        .serial(SerialLink::Stdio)
        .terminal(terminal);
    let mut vm = builder.arg("--debug-console", "tty").spawn().unwrap();
    vm.wait_for("debug\n", SECONDS).unwrap();
    vm.wait_for("hello\n", SECONDS).unwrap();
    vm.send("typed").unwrap();
    vm.wait_for("TYPED", SECONDS).unwrap();
    assert!(vm.terminal().unwrap().attributes().unwrap().is_raw());
    vm.send("q").unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    assert_eq!(vm.terminal().unwrap().attributes().unwrap(), before);
}

#[test]
fn standard_streams_that_are_no_terminal_work_as_well() {
    let bed = Bed::new();
    let mut vm = bed.guest(echo()).serial(SerialLink::Stdio).spawn().unwrap();
    vm.wait_for("hello\n", SECONDS).unwrap();
    // More than the receive FIFO takes: the rest waits for the guest.
    let (typed, answer) = ("abcdefghij".repeat(100), "ABCDEFGHIJ".repeat(100));
    vm.send(&typed).unwrap();
    vm.wait_for(&answer, SECONDS).unwrap();
    // The end of the input is not the end of the guest.
    vm.close_input();
    std::thread::sleep(Duration::from_millis(50));
    assert!(vm.is_running().unwrap());
    vm.signal(Signal::TERM).unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
}

#[test]
fn a_pty_keeps_output_for_late_readers_and_takes_them_back() {
    let bed = Bed::new();
    let payload = Payload::new().print_e9("debugging\n").raw(echo().code());
    let builder = bed
        .guest(payload)
        .arg("--serial", "pty")
        .arg("--debug-console", "pty");
    let mut vm = builder.flag("-v").spawn().unwrap();
    let mut debug = open_pty(&mut vm, "debug console");
    assert_eq!(expect(&mut debug, "debugging\n"), "debugging\n");
    // Long after the guest has said it.
    std::thread::sleep(Duration::from_millis(100));
    let mut first = open_pty(&mut vm, "serial port");
    assert_eq!(expect(&mut first, "hello\n"), "hello\n");
    first.write_all(b"one").unwrap();
    assert_eq!(expect(&mut first, "ONE"), "ONE");
    // The last words of who leaves are heard, and the answer is kept for who comes next.
    first.write_all(b"bye").unwrap();
    drop(first);
    std::thread::sleep(Duration::from_millis(100));
    let mut second = open_pty(&mut vm, "serial port");
    expect(&mut second, "BYE");
    second.write_all(b"two").unwrap();
    expect(&mut second, "TWO");
    // Only now: what nobody has read when the monitor ends is gone with the terminal.
    second.write_all(b"q").unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
}

#[test]
fn a_socket_keeps_output_and_serves_one_client_after_the_other() {
    let bed = Bed::new();
    let socket = bed.path("serial");
    let mut vm = bed
        .guest(echo())
        .arg("--serial", at("socket", &socket))
        .spawn()
        .unwrap();
    soon("the socket", || socket.exists().then_some(()));
    assert_eq!(mode_of(&socket), 0o600, "nobody else may connect");
    std::thread::sleep(Duration::from_millis(100));
    let mut first = connect(&socket);
    assert_eq!(expect(&mut first, "hello\n"), "hello\n");
    first.write_all(b"one").unwrap();
    assert_eq!(expect(&mut first, "ONE"), "ONE");
    // One at a time: a second client is turned away, and the first does not notice.
    let mut second = connect(&socket);
    let end = soon("the second client's end", || match second.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        other => Some(other),
    });
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    first.write_all(b"still").unwrap();
    assert_eq!(expect(&mut first, "STILL"), "STILL");
    // The client is gone before the guest answers: stopped, the monitor sees both at once.
    vm.signal(Signal::STOP).unwrap();
    let status = format!("/proc/{}/status", vm.pid());
    soon("the stop", || {
        let status = fs::read_to_string(&status).unwrap();
        status.contains("State:\tT").then_some(())
    });
    first.write_all(b"bye").unwrap();
    // Dropped alone, it would be there until processes that other tests start here have called execve(2).
    first.shutdown(Shutdown::Both).unwrap();
    vm.signal(Signal::CONT).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut third = connect(&socket);
    expect(&mut third, "BYE");
    third.write_all(b"q").unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    assert!(!socket.exists(), "the socket is left behind");
}

#[test]
fn what_is_at_a_sockets_path_is_only_replaced_if_it_is_dead() {
    let bed = Bed::new();
    let socket = bed.path("serial");
    let start = || {
        let payload = Payload::new().power_off();
        let mut vm = bed
            .guest(payload)
            .arg("--serial", at("socket", &socket))
            .spawn()
            .unwrap();
        (vm.wait_exit(SECONDS).unwrap(), vm.stderr())
    };
    let listener = UnixListener::bind(&socket).unwrap();
    let (exit, log) = start();
    assert_eq!(exit, Exit::Code(1));
    assert!(log.contains("in use by a running process"), "{log}");
    drop(listener);
    assert_eq!(start().0, Exit::Code(0), "a socket that nobody listens on");
    fs::write(&socket, "precious").unwrap();
    let (exit, log) = start();
    assert_eq!(exit, Exit::Code(1));
    assert!(log.contains("is not a socket"), "{log}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

#[test]
fn a_login_shell_of_linux_talks_over_a_socket() {
    // Without its usual word on the command line the guest gives a shell.
    let builder = Vm::linux()
        .cmdline("console=ttyS0 quiet panic=-1")
        .serial(SerialLink::Socket);
    let mut vm = builder.spawn().unwrap();
    vm.wait_for("# ", 120).unwrap();
    vm.send("echo $((6 * 7))-$(uname -s)\n").unwrap();
    vm.wait_for("42-Linux", 60).unwrap();
    vm.send("stty -F /dev/ttyS0 | head -n 1; tty\n").unwrap();
    vm.wait_for("/dev/ttyS0", 60).unwrap();
    vm.send("exit\n").unwrap();
    assert_eq!(vm.wait_exit(60).unwrap(), Exit::Code(0));
}
