//! `cargo xtask bench snapshot`: how long a guest stands still for a snapshot or a fork, and how soon a copy runs.
//!
//! The guest is a payload that touches a part of its memory. A copy of it that finds its generation ID changed writes a
//! byte to the debug console, which is a FIFO with us at the other end: *runs* is the time from the request to it. All requests go to the
//! API sockets of monitors that are there already.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use serde_json::{Value, json};
use testkit::payload::Payload;

use crate::error::{Context as _, Error, Result};
use crate::project::Project;
use crate::{release, run};

/// Rounds, unless `--runs` says otherwise.
const RUNS: usize = 9;
/// Memory of the guest, and how much of it is touched, in MiB.
const GUESTS: [(u32, u32); 4] = [(256, 26), (1024, 102), (1024, 900), (4096, 410)];
/// The guest of which many are made, and how many at a time.
const CROWD: (u32, u32) = (1024, 102);
const CROWDS: [usize; 3] = [1, 16, 100];
/// Where a guest finds the id that tells its machine from copies.
const GENERATION_ID: u32 = 0xe_f000;
/// A monitor or guest that takes this long does not work here.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a child settles before its memory is read.
const SETTLE: Duration = Duration::from_millis(50);

/// Runs it.
pub(super) fn command(
    project: &Project,
    runs: Option<usize>,
    binary: Option<PathBuf>,
) -> Result<u8> {
    let binary = match binary {
        Some(path) => path,
        None => release::build(project)?,
    };
    let runs = runs.unwrap_or(RUNS);
    let mut table = String::from(
        "| Guest MiB | touched | snapshot ms | restore ms | runs ms | fork pause ms | fork ms | child runs ms | child PSS KiB |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (size, touched) in GUESTS {
        let rounds: Result<Vec<[f64; 7]>> =
            (0..runs).map(|_| round(&binary, size, touched)).collect();
        let rounds = rounds?;
        let _ = write!(table, "| {size} | {touched} |");
        for column in 0..7 {
            let mut values: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
            values.sort_by(f64::total_cmp);
            let digits = if column == 6 { 0 } else { 2 };
            let _ = write!(table, " {:.digits$} |", values[values.len() / 2]);
        }
        table.push('\n');
    }
    eprint!("{table}");
    eprint!("\n{}", crowds(&binary)?);
    eprintln!(
        "medians of {runs} rounds; the folder of the snapshot is {}",
        std::env::temp_dir().display()
    );
    Ok(0)
}

/// One guest: a snapshot, a restore of it, a fork. In the order of the columns.
fn round(binary: &Path, size: u32, touched: u32) -> Result<[f64; 7]> {
    let stage = Stage::new(size, touched)?;
    let folder = stage.folder.path();
    let (mut outer, mut inner) = (Fifo::again(&stage.outer)?, Fifo::new(folder, "inner")?);
    let snapshot = stage.save(binary, &mut outer)?;
    let second = Monitor::start(binary, folder, "second")?;
    let wish = json!({"source_url": stage.url(), "resume": true});
    let begin = Instant::now();
    let restore = timed(|| second.ask("vm.restore", Some(&wish)))?.1;
    outer.wait()?;
    let restored = milliseconds(begin);
    drop(second);

    outer.drain();
    let parent = Monitor::start(binary, folder, "parent")?;
    parent.boot(&stage.config(true), &mut outer)?;
    let child = Monitor::start(binary, folder, "child")?;
    let wish = json!({"resume": true, "children": [{
        "api_socket": child.socket, "devices": {"__debug_console": {"file": inner.path}},
    }]});
    let begin = Instant::now();
    let (answer, fork) = timed(|| parent.ask("vm.fork", Some(&wish)))?;
    inner.wait()?;
    let child_runs = milliseconds(begin);
    let pause = answer["pause_us"].as_f64().unwrap_or(f64::NAN) / 1000.0;
    std::thread::sleep(SETTLE);
    Ok([
        snapshot,
        restore,
        restored,
        pause,
        fork,
        child_runs,
        child.proportional()?,
    ])
}

/// Copies of one guest at a time: all restored, and all forked of one that runs.
fn crowds(binary: &Path) -> Result<String> {
    let (size, touched) = CROWD;
    let mut table = format!(
        "| Guests of {size} MiB, {touched} touched, at a time | all restored ms | PSS KiB each | fork pause ms | all children run ms | PSS KiB each |\n\
         |---|---|---|---|---|---|\n",
    );
    for count in CROWDS {
        let [restored, restored_pss, pause, forked, forked_pss] =
            crowd(binary, size, touched, count)?;
        let _ = writeln!(
            table,
            "| {count} | {restored:.1} | {restored_pss:.0} | {pause:.2} | {forked:.1} | {forked_pss:.0} |"
        );
    }
    Ok(table)
}

/// In the order of the columns of [`crowds`].
fn crowd(binary: &Path, size: u32, touched: u32, count: usize) -> Result<[f64; 5]> {
    let stage = Stage::new(size, touched)?;
    let Stage { folder, outer, .. } = &stage;
    let mut outer = Fifo::again(outer)?;
    stage.save(binary, &mut outer)?;
    let restored = Monitor::start_all(binary, folder.path(), "restored", count)?;
    let wish = json!({"source_url": stage.url(), "resume": true});
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let asked: Vec<_> = restored
            .iter()
            .map(|monitor| scope.spawn(|| monitor.ask("vm.restore", Some(&wish))))
            .collect();
        for thread in asked {
            thread.join().map_err(|_| {
                Error::Guest("a thread that asks for a restore has panicked".to_owned())
            })??;
        }
        Ok::<_, Error>(())
    })?;
    let all_restored = milliseconds(begin);
    std::thread::sleep(SETTLE);
    let restored_pss = mean(&restored)?;
    drop(restored);

    outer.drain();
    let parent = Monitor::start(binary, folder.path(), "parent")?;
    parent.boot(&stage.config(true), &mut outer)?;
    let children = Monitor::start_all(binary, folder.path(), "child", count)?;
    let consoles: Result<Vec<Fifo>> = (0..count)
        .map(|number| Fifo::new(folder.path(), &format!("console{number}")))
        .collect();
    let mut consoles = consoles?;
    let wishes: Vec<Value> = children
        .iter()
        .zip(&consoles)
        .map(|(child, console)| {
            json!({"api_socket": child.socket, "devices": {"__debug_console": {"file": console.path}}})
        })
        .collect();
    let wish = json!({"resume": true, "children": wishes});
    let begin = Instant::now();
    let answer = parent.ask("vm.fork", Some(&wish))?;
    for console in &mut consoles {
        console.wait()?;
    }
    let all_run = milliseconds(begin);
    std::thread::sleep(SETTLE);
    let pause = answer["pause_us"].as_f64().unwrap_or(f64::NAN) / 1000.0;
    Ok([all_restored, restored_pss, pause, all_run, mean(&children)?])
}

/// Mean of what monitors have of memory, in KiB.
fn mean(monitors: &[Monitor]) -> Result<f64> {
    let mut sum = 0.0;
    for monitor in monitors {
        sum += monitor.proportional()?;
    }
    let count = u32::try_from(monitors.len()).unwrap_or(u32::MAX);
    Ok(sum / f64::from(count))
}

/// Where a guest of a benchmark is made and saved.
struct Stage {
    folder: tempfile::TempDir,
    kernel: PathBuf,
    outer: PathBuf,
    size: u32,
}

impl Stage {
    fn new(size: u32, touched: u32) -> Result<Self> {
        let folder = tempfile::tempdir().context(|| "no temporary folder".to_owned())?;
        let kernel = folder.path().join("kernel");
        run::write(&kernel, &payload(touched).build())?;
        let outer = Fifo::new(folder.path(), "outer")?.path;
        run::create_folder(&folder.path().join("saved"))?;
        Ok(Self {
            folder,
            kernel,
            outer,
            size,
        })
    }

    fn config(&self, shared: bool) -> Value {
        json!({
            "payload": {"kernel": self.kernel},
            "memory": {"size": u64::from(self.size) << 20, "shared": shared},
            "console": {"mode": "Off"},
            "debug_console": {"mode": "File", "file": self.outer, "iobase": 0xe9},
        })
    }

    fn url(&self) -> String {
        format!("file://{}/saved", self.folder.path().display())
    }

    /// Boots the guest, saves it, and ends it; how many milliseconds the snapshot took.
    fn save(&self, binary: &Path, outer: &mut Fifo) -> Result<f64> {
        let first = Monitor::start(binary, self.folder.path(), "first")?;
        first.boot(&self.config(false), outer)?;
        first.ask("vm.pause", None)?;
        let wish = json!({"destination_url": self.url()});
        let taken = timed(|| first.ask("vm.snapshot", Some(&wish)))?.1;
        drop(first);
        outer.drain();
        Ok(taken)
    }
}

/// Touches memory from 16 MiB on, page by page, and prints. Waits until its machine is another one, prints, and stops:
/// guests that went on working would be what the ones after them wait for.
fn payload(mebibytes: u32) -> Payload {
    Payload::new()
        .raw(&[0xbf]) // mov edi, 16 MiB
        .raw(&(16u32 << 20).to_le_bytes())
        .raw(&[0xb9]) // mov ecx, pages
        .raw(&(mebibytes * 256).to_le_bytes())
        .raw(&[0xc6, 0x07, 0x07]) // mov byte [edi], 7
        .raw(&[0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]) // add edi, 4096
        .raw(&[0xe2, 0xf5]) // loop
        .raw(&[0x8b, 0x1d]) // mov ebx, [generation id]
        .raw(&GENERATION_ID.to_le_bytes())
        .print_e9(".")
        .raw(&[0xf3, 0x90]) // 1: pause
        .raw(&[0x3b, 0x1d]) // cmp ebx, [generation id]
        .raw(&GENERATION_ID.to_le_bytes())
        .raw(&[0x74, 0xf6]) // je 1b
        .print_e9(".")
        .halt()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn timed<T>(what: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let begin = Instant::now();
    let result = what()?;
    Ok((result, milliseconds(begin)))
}

/// A FIFO that a guest writes to.
struct Fifo {
    path: PathBuf,
    end: OwnedFd,
}

impl Fifo {
    fn new(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .context(|| "cannot create a FIFO".to_owned())?;
        Self::again(&path)
    }

    /// One that is there already.
    fn again(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        // Open for writing too, so that it never ends.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let end = open(&path, flags, Mode::empty()).context(|| "cannot open a FIFO".to_owned())?;
        Ok(Self { path, end })
    }

    fn drain(&mut self) {
        let mut bytes = [0; 4096];
        while rustix::io::read(&self.end, &mut bytes).is_ok_and(|count| count > 0) {}
    }

    /// Waits for a byte.
    fn wait(&mut self) -> Result<()> {
        let mut wanted = [PollFd::new(&self.end, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        let came = poll(&mut wanted, Some(&limit)).context(|| "cannot poll".to_owned())?;
        if came == 0 {
            return Err(Error::Guest("the guest printed nothing".to_owned()));
        }
        Ok(())
    }
}

/// A monitor without a machine, which ends when it is dropped.
struct Monitor {
    child: Child,
    socket: PathBuf,
}

impl Monitor {
    fn start(binary: &Path, folder: &Path, name: &str) -> Result<Self> {
        let socket = folder.join(format!("{name}.api"));
        let mut command = Command::new(binary);
        command
            .arg("--api-socket")
            .arg(format!("path={}", socket.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let text = run::text(&command);
        let child = command
            .spawn()
            .context(|| format!("cannot start `{text}`"))?;
        let monitor = Self { child, socket };
        let deadline = Instant::now() + LIMIT;
        while UnixStream::connect(&monitor.socket).is_err() {
            if Instant::now() > deadline {
                return Err(Error::Guest(format!("`{text}` does not listen")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(monitor)
    }

    /// As many, one after the other.
    fn start_all(binary: &Path, folder: &Path, name: &str, count: usize) -> Result<Vec<Self>> {
        (0..count)
            .map(|number| Self::start(binary, folder, &format!("{name}{number}")))
            .collect()
    }

    /// Boots a machine and waits until its guest has touched its memory.
    fn boot(&self, config: &Value, output: &mut Fifo) -> Result<()> {
        self.ask("vm.create", Some(config))?;
        self.ask("vm.boot", None)?;
        output.wait()
    }

    fn ask(&self, endpoint: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "PUT /api/v1/{endpoint} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let exchange = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        let answer = exchange().context(|| format!("cannot ask for {endpoint}"))?;
        if !answer.starts_with("HTTP/1.1 2") {
            return Err(Error::Guest(format!("{endpoint}: {answer}")));
        }
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// KiB of memory that are its own, and its share of others'.
    fn proportional(&self) -> Result<f64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = run::read_text(Path::new(&path))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(number.unwrap_or(f64::NAN))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
