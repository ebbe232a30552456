//! Starts monitors and takes the time.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use testkit::payload::Payload;

use super::GUEST_MEBIBYTES;
use super::contender::Contender;
use super::report::Summary;
use crate::error::{Context as _, Error, Result};
use crate::run;

/// A monitor that takes this long does not work here.
const LIMIT_SECONDS: i64 = 10;

/// How long a monitor with a halted guest may settle before its memory is read.
const SETTLE: Duration = Duration::from_millis(100);

/// Readings per contender for its memory; it hardly varies.
const MEMORY_RUNS: usize = 5;

/// What one run shows, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Until the guest's first byte.
    pub(super) first: f64,
    /// Until the end of the process.
    pub(super) whole: f64,
    /// User and system time.
    pub(super) cpu: f64,
}

/// All contenders and what is known of them.
pub(super) struct Bench {
    contenders: Vec<(Contender, Vec<Sample>)>,
    ends: PathBuf,
    halts: PathBuf,
    output: PathBuf,
    /// Our end of the FIFO; open for writing too, so that it never ends.
    fifo: OwnedFd,
    folder: tempfile::TempDir,
}

impl Bench {
    /// Writes the payloads and opens the FIFO.
    pub(super) fn prepare(contenders: Vec<Contender>) -> Result<Self> {
        let folder = tempfile::tempdir().context(|| "no temporary folder".to_owned())?;
        let [ends, halts, output] = ["ends", "halts", "output"].map(|n| folder.path().join(n));
        let first = Payload::new().print_e9("x");
        run::write(&halts, &first.clone().build())?;
        // 0xf4 ends QEMU; ours has ended before.
        let last = first.out_u8(0x80, 1).power_off().out_u8(0xf4, 0);
        run::write(&ends, &last.build())?;
        mknodat(CWD, &output, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .context(|| "cannot create a FIFO".to_owned())?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo =
            open(&output, flags, Mode::empty()).context(|| "cannot open a FIFO".to_owned())?;
        let contenders = contenders
            .into_iter()
            .map(|contender| (contender, Vec::new()))
            .collect();
        Ok(Self {
            contenders,
            ends,
            halts,
            output,
            fifo,
            folder,
        })
    }

    /// Runs every contender once; `counts` is false while caches fill.
    pub(super) fn round(&mut self, counts: bool) -> Result<()> {
        for index in 0..self.contenders.len() {
            let sample = self.run_once(&self.contenders[index].0)?;
            if counts {
                self.contenders[index].1.push(sample);
            }
        }
        Ok(())
    }

    fn run_once(&self, contender: &Contender) -> Result<Sample> {
        self.drain();
        let before = cpu_of_children()?;
        let mut command = self.command(contender, &self.ends)?;
        let started = Instant::now();
        let mut child = spawn(&mut command)?;
        let came = self.wait_for_byte()?;
        let first = started.elapsed();
        if !came {
            return Err(self.failed(&mut child, &command, "the guest printed nothing"));
        }
        let status = child.wait().context(|| "cannot wait".to_owned())?;
        let whole = started.elapsed();
        if !contender.is_clean(status.code()) {
            return Err(self.failed(&mut child, &command, &status.to_string()));
        }
        let cpu = cpu_of_children()?.saturating_sub(before);
        let [first, whole, cpu] = [first, whole, cpu].map(|time| time.as_secs_f64() * 1000.0);
        Ok(Sample { first, whole, cpu })
    }

    /// Medians of everything, once the rounds are done.
    pub(super) fn summaries(&self) -> Result<Vec<Summary>> {
        let summary = |(contender, samples): &(Contender, Vec<Sample>)| {
            let [private, proportional] = self.memory(contender)?;
            let size = std::fs::metadata(&contender.program)
                .context(|| format!("cannot look at {}", contender.program.display()))?
                .len();
            let median = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
            Ok(Summary {
                name: contender.name.clone(),
                values: [
                    median(|sample| sample.first),
                    median(|sample| sample.whole),
                    median(|sample| sample.cpu),
                    private,
                    proportional,
                    mebibytes(size),
                ],
            })
        };
        self.contenders.iter().map(summary).collect()
    }

    /// Private and proportional memory in MiB, without the guest's, with the guest halted. Another monitor of
    /// the same kind runs beside the measured one, as on a host with many: what they share is not private.
    fn memory(&self, contender: &Contender) -> Result<[f64; 2]> {
        let mut beside = self.halted(contender)?;
        let mut readings = Vec::new();
        for _ in 0..MEMORY_RUNS {
            let measured = self.halted(contender).and_then(|mut child| {
                std::thread::sleep(SETTLE);
                let maps = run::read_text(Path::new(&format!("/proc/{}/smaps", child.id())));
                end(&mut child);
                maps
            });
            match measured {
                Ok(maps) => readings.push(parse_smaps(&maps)),
                Err(error) => {
                    end(&mut beside);
                    return Err(error);
                }
            }
        }
        end(&mut beside);
        Ok([0, 1].map(|index| median(readings.iter().map(|reading| reading[index]).collect())))
    }

    /// A monitor whose guest has halted.
    fn halted(&self, contender: &Contender) -> Result<Child> {
        self.drain();
        let mut command = self.command(contender, &self.halts)?;
        let mut child = spawn(&mut command)?;
        if self.wait_for_byte()? {
            return Ok(child);
        }
        Err(self.failed(&mut child, &command, "the guest printed nothing"))
    }

    fn command(&self, contender: &Contender, payload: &Path) -> Result<Command> {
        let mut command = contender.command(payload, &self.output);
        let said = File::create(self.folder.path().join("said"))
            .context(|| "cannot create a file".to_owned())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        Ok(command)
    }

    /// Whether the guest's byte came in time.
    fn wait_for_byte(&self) -> Result<bool> {
        let limit = Timespec {
            tv_sec: LIMIT_SECONDS,
            tv_nsec: 0,
        };
        let mut wanted = [PollFd::new(&self.fifo, PollFlags::IN)];
        let ready = poll(&mut wanted, Some(&limit));
        Ok(ready.context(|| "cannot wait for the guest".to_owned())? > 0)
    }

    /// Throws away what an earlier run left.
    fn drain(&self) {
        let mut rest = [0; 4096];
        // An empty FIFO would block, which is an error here.
        while matches!(rustix::io::read(&self.fifo, &mut rest), Ok(1..)) {}
    }

    fn failed(&self, child: &mut Child, command: &Command, problem: &str) -> Error {
        end(child);
        let said = run::read_text(&self.folder.path().join("said")).unwrap_or_default();
        Error::Command {
            command: run::text(command),
            status: format!("{problem}\n{}", said.trim()),
        }
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    let text = run::text(command);
    command.spawn().context(|| format!("cannot start `{text}`"))
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// User and system time of all children that have been waited for.
fn cpu_of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context(|| "no resource usage".to_owned())?;
    let time = |value: nix::sys::time::TimeVal| {
        let micros = u64::try_from(value.tv_usec()).unwrap_or(0);
        Duration::from_secs(u64::try_from(value.tv_sec()).unwrap_or(0))
            + Duration::from_micros(micros)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// Private and proportional memory in MiB from `smaps`, without the guest's memory: the mappings of at least
/// half its size, because some monitors have it in two.
fn parse_smaps(text: &str) -> [f64; 2] {
    let (mut private, mut proportional) = (0, 0);
    let mut guest = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let kib: u32 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match name {
            "Size:" => guest = kib >= GUEST_MEBIBYTES * 1024 / 2,
            "Private_Clean:" | "Private_Dirty:" if !guest => private += kib,
            "Pss:" if !guest => proportional += kib,
            _ => {}
        }
    }
    [private, proportional].map(|kib| f64::from(kib) / 1024.0)
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

/// The middle of values; 0 for none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_outliers() {
        assert!((median(vec![9.0, 1.0, 500.0]) - 9.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 900.0]) - 3.0).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }

    #[test]
    fn memory_is_read_in_mebibytes() {
        let text = "\
            7f00-7f01 rw-p 0 00:00 0\nSize: 131072 kB\nPss: 4096 kB\nPrivate_Dirty: 4096 kB\n\
            7f02-7f03 r-xp 0 fe:00 1 /bin/vmm\nSize: 3000 kB\nPss: 1024 kB\nPrivate_Clean: 512 kB\n\
            7f04-7f05 rw-p 0 00:00 0\nSize: 2000 kB\nPss: 0 kB\nPss_Anon: 5 kB\nPrivate_Dirty: 1536 kB\n";
        assert_eq!(
            parse_smaps(text).map(|mib| format!("{mib:.2}")),
            ["2.00", "1.00"]
        );
    }
}
