//! `top`: what a machine does at the moment, anew every second.
//!
//! Rates are differences of counters. The time of processors is that of the monitor's `vcpu` threads in `/proc`, which
//! takes a monitor on the same host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command, value_parser};
use keyvalue::ByteSize;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::Value;

use crate::error::Result;
use crate::http::Connection;
use crate::request::Request;
use crate::show::{plain, table};

pub(crate) const NAME: &str = "top";

/// The alternate screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left corner; and what is written after a line and after all of them.
const HOME: &str = "\x1b[H";
const END_LINE: &str = "\x1b[K\r\n";
const END_SCREEN: &str = "\x1b[J";

pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Show what the VM does, anew again and again; q ends it")
        .arg(
            Arg::new("interval")
                .long("interval")
                .value_name("seconds")
                .help("Time between two looks")
                .default_value("1")
                .value_parser(value_parser!(u64).range(1..=3600)),
        )
        .arg(
            Arg::new("count")
                .long("count")
                .value_name("number")
                .help("How often; for ever if it is not given")
                .value_parser(value_parser!(u64).range(1..)),
        )
}

pub(crate) fn run(socket: &Path, arguments: &ArgMatches) -> Result<()> {
    let interval = arguments.get_one::<u64>("interval").copied().unwrap_or(1);
    let mut rest = arguments.get_one::<u64>("count").copied();
    let mut connection = Connection::open(socket)?;
    let mut before = Sample::take(&mut connection)?;
    let screen = Screen::open();
    loop {
        if !screen.wait(Duration::from_secs(interval)) {
            return Ok(());
        }
        let now = Sample::take(&mut connection)?;
        if !screen.show(&render(&before, &now)) {
            return Ok(());
        }
        before = now;
        rest = rest.map(|rest| rest.saturating_sub(1));
        if rest == Some(0) {
            return Ok(());
        }
    }
}

/// Standard output: a screen of its own if it is a terminal, or one text after the other.
struct Screen {
    terminal: bool,
    /// How standard input was, if it is a terminal.
    input: Option<Termios>,
}

impl Screen {
    fn open() -> Self {
        let terminal = io::stdout().is_terminal();
        let input = terminal.then(keys_alone).flatten();
        if terminal {
            write(ENTER);
        }
        Self { terminal, input }
    }

    /// Waits. False if the user wants to go.
    fn wait(&self, time: Duration) -> bool {
        if self.input.is_none() {
            std::thread::sleep(time);
            return true;
        }
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else {
                return false;
            };
            let stdin = rustix::stdio::stdin();
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&left)) {
                Ok(0) => return true,
                Ok(_) if goes_on(stdin) => {}
                Ok(_) => return false,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// False if nobody reads it.
    fn show(&self, lines: &str) -> bool {
        if !self.terminal {
            return write(&format!("{lines}\n"));
        }
        let mut text = HOME.to_owned();
        for line in lines.lines() {
            text.push_str(line);
            text.push_str(END_LINE);
        }
        text.push_str(END_SCREEN);
        write(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.input {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, before);
        }
        if self.terminal {
            write(LEAVE);
        }
    }
}

/// Has keys come one by one, also the one that would interrupt: whoever leaves has the terminal put back first. How
/// it was before.
fn keys_alone() -> Option<Termios> {
    let before = tcgetattr(rustix::stdio::stdin()).ok()?;
    let mut alone = before.clone();
    alone
        .local_modes
        .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &alone).ok()?;
    Some(before)
}

/// Reads keys. False at q, Escape, Ctrl-C, Ctrl-D or the end.
fn goes_on(stdin: impl std::os::fd::AsFd) -> bool {
    let mut keys = [0; 64];
    match rustix::io::read(stdin, &mut keys) {
        Ok(0) | Err(_) => false,
        Ok(count) => !keys[..count]
            .iter()
            .any(|key| [b'q', 0x1b, 0x03, 0x04].contains(key)),
    }
}

fn write(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

/// What is known at one time.
struct Sample {
    when: Instant,
    info: Value,
    counters: Value,
    /// Ticks of processor time by the name of a thread, and whether they could be read.
    threads: BTreeMap<String, u64>,
    /// Bytes of the monitor that are in the host's memory.
    resident: Option<u64>,
}

impl Sample {
    fn take(connection: &mut Connection) -> Result<Self> {
        let mut get = |endpoint| -> Result<Value> {
            let answer = connection.ask(Request::get(endpoint))?.success()?;
            serde_json::from_slice(&answer.body)
                .map_err(|_| crate::Error::Malformed("its body is not JSON"))
        };
        let pid = get("vmm.ping")?["pid"].as_u64().unwrap_or_default();
        Ok(Self {
            when: Instant::now(),
            info: get("vm.info")?,
            counters: get("vm.counters")?,
            threads: threads(&format!("/proc/{pid}/task")),
            resident: resident(&format!("/proc/{pid}/status")),
        })
    }
}

/// Processor time of a process's threads.
fn threads(tasks: &str) -> BTreeMap<String, u64> {
    let read = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        thread(&stat)
    };
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    tasks.filter_map(read).collect()
}

/// Name, and ticks in user and kernel mode, of a line of `/proc/PID/task/TID/stat` (proc_pid_stat(5)).
fn thread(stat: &str) -> Option<(String, u64)> {
    let (start, rest) = stat.rsplit_once(')')?;
    let (_, name) = start.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((name.to_owned(), user + system))
}

fn resident(status: &str) -> Option<u64> {
    let status = fs::read_to_string(status).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Ticks of `/proc` in a second (USER_HZ).
fn ticks_per_second() -> f64 {
    // A small number; none is lost.
    u32::try_from(rustix::param::clock_ticks_per_second()).map_or(100.0, f64::from)
}

fn render(before: &Sample, now: &Sample) -> String {
    let seconds = now.when.duration_since(before.when).as_secs_f64();
    let mut text = format!(
        "{}  memory {} of {}",
        plain(now.info["state"].as_str().unwrap_or("?")),
        size(now.info["memory_actual_size"].as_u64().unwrap_or_default()),
        size(
            now.info["config"]["memory"]["size"]
                .as_u64()
                .unwrap_or_default()
        ),
    );
    if let Some(resident) = now.resident {
        let _ = write!(text, ", resident {}", size(resident));
    }
    text.push_str("\n\n");
    text.push_str(&table(&processors(before, now, seconds)));
    text.push('\n');
    text.push_str(&table(&rates(&before.counters, &now.counters, seconds)));
    text
}

/// Busy share of each processor, and of all other threads of the monitor together.
fn processors(before: &Sample, now: &Sample, seconds: f64) -> Vec<Vec<String>> {
    let mut lines = vec![vec!["THREAD".to_owned(), "BUSY".to_owned()]];
    let (mut vcpus, mut others) = (Vec::new(), 0);
    for (name, ticks) in &now.threads {
        let spent = ticks.saturating_sub(before.threads.get(name).copied().unwrap_or(*ticks));
        match name
            .strip_prefix("vcpu")
            .and_then(|n| n.parse::<u32>().ok())
        {
            Some(number) => vcpus.push((number, spent)),
            None => others += spent,
        }
    }
    vcpus.sort_unstable();
    let busy = |ticks: u64| {
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        format!(
            "{:.0} %",
            100.0 * f64::from(ticks) / ticks_per_second() / seconds.max(0.001)
        )
    };
    lines.extend(
        vcpus
            .into_iter()
            .map(|(number, spent)| vec![format!("vcpu{number}"), busy(spent)]),
    );
    if !now.threads.is_empty() {
        lines.push(vec!["others".to_owned(), busy(others)]);
    }
    lines
}

/// A line for each counter that is not nothing: its value, and how much more it is each second.
fn rates(before: &Value, now: &Value, seconds: f64) -> Vec<Vec<String>> {
    let heading = ["DEVICE", "COUNTER", "PER SECOND", "IN ALL"];
    let mut lines = vec![heading.map(str::to_owned).to_vec()];
    for (device, counted) in now.as_object().into_iter().flatten() {
        for (name, value) in counted.as_object().into_iter().flatten() {
            let value = value.as_u64().unwrap_or_default();
            if value == 0 {
                continue;
            }
            // A device that has just come, or that a reset has made anew, begins with nothing.
            let old = before[device][name].as_u64().unwrap_or_default();
            let more = value.saturating_sub(old);
            lines.push(vec![
                plain(device),
                plain(name),
                rate(more, seconds),
                value.to_string(),
            ]);
        }
    }
    lines
}

fn rate(more: u64, seconds: f64) -> String {
    // More than this in one look is a mistake of whoever counts.
    let more = u32::try_from(more).map_or(f64::from(u32::MAX), f64::from);
    format!("{:.0}", more / seconds.max(0.001))
}

/// Bytes, rounded to a unit that a person can read.
fn size(bytes: u64) -> String {
    let shift = match bytes {
        0..0x10_0000 => 0,
        0x10_0000..0x1_0000_0000 => 20,
        _ => 30,
    };
    ByteSize(bytes >> shift << shift).to_string()
}

#[cfg(test)]
#[path = "top_tests.rs"]
mod tests;
