//! Consoles on the VMM's own terminal. Each test runs this test program once more, with a pseudo
//! terminal, file or pipe as its standard input and output, to play a part in [`child`].

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reactor::Kick;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OutputModes, isatty, tcgetattr};

use super::{Typed, start, stopped_console, wait_until};
use crate::{Endpoint, Stream};

const PART: &str = "STREAM_TEST_PART";

/// Both sides of a pseudo terminal that plays the user's.
struct FakeTerminal {
    user: File,
    program: OwnedFd,
}

impl FakeTerminal {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let program = ioctl_tiocgptpeer(&user, flags).unwrap();
        Self {
            user: user.into(),
            program,
        }
    }

    fn stdio(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }

    fn is_raw(&self) -> bool {
        let mode = tcgetattr(&self.program).unwrap();
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        let raw = !mode.local_modes.intersects(cooked);
        assert_eq!(
            raw,
            !mode.output_modes.contains(OutputModes::OPOST),
            "one half is raw"
        );
        raw
    }

    /// Reads what the program prints until it contains `text`.
    fn expect(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let mut buffer = [0; 4096];
            let length = self.user.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        seen
    }
}

fn play(part: &str, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "tests::terminal::child",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(PART, part)
        .stdin(stdin)
        .stdout(stdout)
        .spawn()
        .unwrap()
}

fn end(mut child: Child) -> ExitStatus {
    let mut status = None;
    wait_until(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Not a test by itself: what the program does that the tests below start.
#[test]
fn child() {
    match std::env::var(PART).as_deref() {
        Ok("echo until q") => echo_until_q(),
        Ok("die") => die(),
        Ok("two streams") => two_streams(),
        Ok("print only") => print_only(),
        Ok("print much") => print_much(),
        Ok("collect") => collect(),
        Ok(part) => panic!("no such part: {part}"),
        Err(_) => {}
    }
}

/// Prints what is typed in angle brackets, until a `q` is typed.
fn echo_until_q() {
    let stream = Stream::open(&Endpoint::Tty).unwrap();
    let (mut output, worker, typed, _) = stopped_console(stream, 1000);
    output.write_all(b"ready").unwrap();
    let task = start(worker);
    let mut shown = 0;
    loop {
        let bytes = typed.bytes();
        if bytes.len() > shown {
            let text = String::from_utf8_lossy(&bytes[shown..])
                .escape_debug()
                .to_string();
            write!(output, "<{text}>").unwrap();
            shown = bytes.len();
        }
        if bytes.contains(&b'q') {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(task.stop().unwrap());
    drop(output);
}

#[test]
fn the_terminal_is_raw_until_the_last_stream_is_gone() {
    let mut terminal = FakeTerminal::new();
    assert!(!terminal.is_raw());
    let child = play("echo until q", terminal.stdio(), terminal.stdio());
    terminal.expect("ready");
    assert!(terminal.is_raw());
    terminal.user.write_all(b"\x03a\r").unwrap(); // Ctrl-C goes to the guest as well
    let mut seen = String::new();
    while !(seen.contains("\\u{3}") && seen.contains('a') && seen.contains("\\r")) {
        seen += &terminal.expect(">");
    }
    terminal.user.write_all(b"q").unwrap();
    terminal.expect("<q>");
    assert!(end(child).success());
    assert!(!terminal.is_raw());
}

fn die() {
    sandbox::crash::install().unwrap();
    let (mut output, _input) = Stream::open(&Endpoint::Tty).unwrap().split();
    output.write_all(b"ready").unwrap();
    let mut go = [0];
    std::io::stdin().read_exact(&mut go).unwrap();
    std::process::abort();
}

#[test]
fn the_terminal_is_restored_when_the_process_dies() {
    let mut terminal = FakeTerminal::new();
    let child = play("die", terminal.stdio(), terminal.stdio());
    terminal.expect("ready");
    assert!(terminal.is_raw());
    terminal.user.write_all(b"x").unwrap();
    let status = end(child);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(libc::SIGABRT)
    );
    assert!(!terminal.is_raw());
}

fn two_streams() {
    let (mut serial, keyboard) = Stream::open(&Endpoint::Tty).unwrap().split();
    let (mut console, none) = Stream::open(&Endpoint::Tty).unwrap().split();
    assert!(keyboard.is_some() && none.is_none());
    serial.write_all(b"from serial,").unwrap();
    console.write_all(b"from console,").unwrap();

    drop((serial, keyboard));
    assert!(isatty(std::io::stdin()));
    let raw = || {
        !tcgetattr(std::io::stdin())
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    };
    assert!(raw(), "the console still prints");
    let (_, keyboard) = Stream::open(&Endpoint::Tty).unwrap().split();
    assert!(keyboard.is_some(), "the keyboard is free again");
    drop((console, keyboard));
    assert!(!raw());
}

#[test]
fn two_streams_share_a_terminal() {
    let mut terminal = FakeTerminal::new();
    let child = play("two streams", terminal.stdio(), terminal.stdio());
    terminal.expect("from serial,from console,");
    assert!(end(child).success());
    assert!(!terminal.is_raw());
}

fn print_only() {
    let (mut debug, worker) = Stream::open(&Endpoint::Tty).unwrap().output_only().unwrap();
    assert!(worker.is_none());
    let (_, keyboard) = Stream::open(&Endpoint::Tty).unwrap().split();
    assert!(keyboard.is_some());
    debug.write_all(b"trace").unwrap();
}

#[test]
fn a_device_that_only_prints_leaves_the_keyboard_to_others() {
    let mut terminal = FakeTerminal::new();
    let child = play("print only", terminal.stdio(), terminal.stdio());
    terminal.expect("trace");
    assert!(end(child).success());
}

/// Prints more than anybody takes, and writes to standard error how that went.
fn print_much() {
    let mut output = Stream::open(&Endpoint::Tty).unwrap().split().0;
    let start = Instant::now();
    for _ in 0..1000 {
        output.write_all(&[b'x'; 1000]).unwrap();
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(output.dropped() > 500_000, "{}", output.dropped());
    // The test harness will print to the same place.
    std::process::exit(7);
}

#[test]
fn a_stopped_terminal_does_not_stop_the_guest() {
    let terminal = FakeTerminal::new();
    let child = play("print much", Stdio::null(), terminal.stdio());
    assert_eq!(end(child).code(), Some(7));
}

#[test]
fn a_pipe_or_socket_that_nobody_reads_does_not_stop_the_guest() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let child = play("print much", Stdio::null(), writer);
    assert_eq!(end(child).code(), Some(7));

    // A socket cannot be opened once more: this one keeps blocking.
    let (_reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = play("print much", Stdio::null(), OwnedFd::from(writer));
    assert_eq!(end(child).code(), Some(7));
}

/// A guest with little room reads all of standard input; then the console still prints.
fn collect() {
    let stream = Stream::open(&Endpoint::Tty).unwrap();
    let (mut output, worker, typed, resume) = stopped_console(stream, 0);
    let task = start(worker);
    let still = |typed: &Typed, resume: &Kick| {
        typed.make_room(7);
        resume.signal();
        std::thread::sleep(Duration::from_micros(500));
        typed.bytes()
    };
    let mut all = still(&typed, &resume);
    while !all.ends_with(b"end\n") {
        all = still(&typed, &resume);
    }
    for _ in 0..10 {
        still(&typed, &resume);
    }
    assert!(!task.is_finished());
    output.write_all(b"[").unwrap();
    output.write_all(&all).unwrap();
    output.write_all(b"]").unwrap();
    task.stop().unwrap();
}

#[test]
fn standard_input_may_be_a_file_or_pipe_and_end() {
    let mut script = tempfile::tempfile().unwrap();
    let text = "a line of a script, longer than the guest's room\n".repeat(20) + "end\n";
    script.write_all(text.as_bytes()).unwrap();
    script.rewind().unwrap();

    let folder = tempfile::tempdir().unwrap();
    let wanted = format!("[{text}]");
    let outcome = |name: &str, stdin: Stdio| {
        let path = folder.path().join(name);
        let child = play("collect", stdin, File::create(&path).unwrap());
        assert!(end(child).success());
        let printed = fs::read_to_string(path).unwrap();
        assert!(printed.contains(&wanted), "{name}: {printed}");
    };
    outcome("file", script.into());

    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    drop(writer);
    outcome("pipe", reader.into());
}

#[test]
fn a_terminal_without_input_prints() {
    let mut terminal = FakeTerminal::new();
    let child = play("print only", Stdio::null(), terminal.stdio());
    terminal.expect("trace");
    assert!(end(child).success());
}
