//! `cargo xtask bench api`: how long a user of the API waits.
//!
//! - *true*: from just before a program that does nothing is started until it has ended, which is what starting a program
//!   costs here.
//! - *ch-remote ping*: the same of the client. The guest is halted.
//! - *ping*: a request and its answer on a connection that is kept. The guest is halted.
//! - *pause*, *resume*: the same, of a guest whose four processors are halted, and of one whose four all run without a
//!   pause. They alternate.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::payload::Payload;

use crate::error::{Context as _, Error, Result};
use crate::project::Project;
use crate::{release, run};

/// Processors of the guest.
const PROCESSORS: u32 = 4;
/// Memory of the guest.
const BYTES: u64 = 64 << 20;
/// The longest that one answer takes.
const LIMIT: Duration = Duration::from_secs(10);
/// Rounds before those that count.
const WARM_UP: usize = 10;

/// Measures and prints.
pub(super) fn command(project: &Project, runs: usize, binary: Option<PathBuf>) -> Result<u8> {
    let binary = match binary {
        Some(path) => path,
        None => release::build(project)?,
    };
    let folder = tempfile::tempdir().context(|| "no temporary folder".to_owned())?;
    let remote = binary.with_file_name("ch-remote");
    let mut times: Vec<(&str, Vec<f64>)> = [
        "true",
        "ch-remote ping",
        "ping",
        "pause, halted",
        "resume, halted",
        "pause, running",
        "resume, running",
    ]
    .map(|name| (name, Vec::new()))
    .into();
    let (first, last) = times.split_at_mut(5);
    let (halted_one, mut client, socket) = boot(&binary, &folder.path().join("halted"), &halted())?;
    measure(runs, first, || {
        Ok(vec![
            program(&mut Command::new("true"))?,
            program(
                Command::new(&remote)
                    .arg("--api-socket")
                    .arg(&socket)
                    .arg("ping"),
            )?,
            client.ask("GET", "vmm.ping", "")?,
            client.ask("PUT", "vm.pause", "")?,
            client.ask("PUT", "vm.resume", "")?,
        ])
    })?;
    drop(halted_one);
    let (_running, mut client, _) = boot(&binary, &folder.path().join("running"), &running())?;
    measure(runs, last, || {
        Ok(vec![
            client.ask("PUT", "vm.pause", "")?,
            client.ask("PUT", "vm.resume", "")?,
        ])
    })?;
    eprintln!(
        "{:<16}{:>12}{:>12}{:>12}",
        "ms", "median", "90 %", "longest"
    );
    for (name, times) in &mut times {
        times.sort_by(f64::total_cmp);
        let at = |part: usize| times.get(times.len() * part / 100).or(times.last());
        let [median, most, longest] = [50, 90, 100].map(|part| at(part).copied().unwrap_or(0.0));
        eprintln!("{name:<16}{median:>12.3}{most:>12.3}{longest:>12.3}");
    }
    eprintln!("{runs} rounds");
    Ok(0)
}

/// Takes the times of as many rounds, after some that do not count.
fn measure(
    runs: usize,
    times: &mut [(&str, Vec<f64>)],
    mut round: impl FnMut() -> Result<Vec<f64>>,
) -> Result<()> {
    for number in 0..WARM_UP + runs {
        let taken = round()?;
        if number >= WARM_UP {
            for ((_, times), taken) in times.iter_mut().zip(taken) {
                times.push(taken);
            }
        }
    }
    Ok(())
}

/// Starts a monitor and in it a guest; where its socket is.
fn boot(binary: &Path, folder: &Path, kernel: &Payload) -> Result<(Monitor, Client, PathBuf)> {
    std::fs::create_dir(folder).context(|| format!("cannot make {}", folder.display()))?;
    let monitor = Monitor::start(binary, folder)?;
    let mut client = Client::connect(&monitor.socket)?;
    client.ask("PUT", "vm.create", &machine(folder, kernel)?)?;
    client.ask("PUT", "vm.boot", "")?;
    let socket = monitor.socket.clone();
    Ok((monitor, client, socket))
}

/// A monitor without a machine; ended when it is dropped.
struct Monitor {
    child: Child,
    socket: PathBuf,
}

impl Monitor {
    fn start(binary: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("api");
        let mut command = Command::new(binary);
        command.arg("--api-socket").arg(&socket);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command
            .spawn()
            .context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { child, socket })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guest whose processors all run for ever.
fn running() -> Payload {
    // pause; jmp to it.
    wake(0xfceb_90f3).forever(|body| body.spin(1000))
}

/// A guest whose processors are all halted.
fn halted() -> Payload {
    // cli; hlt; jmp to the latter.
    wake(0xfdeb_f4fa).halt()
}

/// Where the other processors begin: a page below 1 MiB, in real mode.
const BEGIN: u32 = 0x6_0000;
/// Low half of the local APIC's interrupt command register (Intel SDM volume 3A, 11.6.1).
const COMMAND: u32 = 0xfee0_0300;
/// To all but the sender: INIT; start-up at [`BEGIN`].
const INIT: u32 = 0x000c_4500;
const START: u32 = 0x000c_4600 | BEGIN >> 12;

/// Starts the other processors, which do this.
fn wake(instructions: u32) -> Payload {
    Payload::new()
        .write_u32(BEGIN, instructions)
        .write_u32(COMMAND, INIT)
        .spin(1000)
        .write_u32(COMMAND, START)
        .spin(1000)
        .write_u32(COMMAND, START)
}

/// The body of `vm.create`.
fn machine(folder: &Path, guest: &Payload) -> Result<String> {
    let kernel = folder.join("kernel");
    run::write(&kernel, &guest.clone().build())?;
    let machine = json!({
        "payload": {"kernel": kernel},
        "cpus": {"boot_vcpus": PROCESSORS, "max_vcpus": PROCESSORS},
        "memory": {"size": BYTES},
        "console": {"mode": "Off"},
        "serial": {"mode": "Off"},
    });
    Ok(machine.to_string())
}

/// Milliseconds that a program runs, which has to succeed.
fn program(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let status = command
        .status()
        .context(|| format!("cannot start {}", run::text(command)))?;
    let taken = begin.elapsed();
    if !status.success() {
        return Err(Error::Command {
            command: run::text(command),
            status: status.to_string(),
        });
    }
    Ok(taken.as_secs_f64() * 1000.0)
}

/// A connection that is kept.
struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path) -> Result<Self> {
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if begin.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(5)),
                Err(source) => return Err(source).context(|| "nobody serves the API".to_owned()),
            }
        };
        let limited = stream.set_read_timeout(Some(LIMIT));
        limited.context(|| "cannot limit the wait".to_owned())?;
        Ok(Self(stream))
    }

    /// Milliseconds until a request was answered, which has to succeed.
    fn ask(&mut self, method: &str, name: &str, body: &str) -> Result<f64> {
        let text = format!(
            "{method} /api/v1/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let what = || format!("{name} is not answered");
        let mut answer = [0; 4096];
        let begin = Instant::now();
        self.0.write_all(text.as_bytes()).context(what)?;
        // Answers here are small, and come in one piece.
        let count = self.0.read(&mut answer).context(what)?;
        let taken = begin.elapsed();
        let answer = String::from_utf8_lossy(&answer[..count]);
        if !answer.starts_with("HTTP/1.1 20") {
            return Err(Error::Command {
                command: name.to_owned(),
                status: answer.into_owned(),
            });
        }
        Ok(taken.as_secs_f64() * 1000.0)
    }
}
