//! Runs test programs where their guests run: here one after the other, in emulated hosts two at a time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::count::Counts;
use crate::debian::Debian;
use crate::error::{Context as _, Error, Result, print_chain};
use crate::kvm::Place;
use crate::nested::{self, Job};
use crate::project::Project;
use crate::run;

/// Set where tests run inside an emulated host.
pub(super) const EMULATED: &str = "CH_EMULATED";

/// Emulated hosts at the same time: each has one processor.
const HOSTS: u32 = 2;

/// Runs of this process so far.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// One theme, in an emulated host on one processor: the longest takes three minutes.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The same for a theme whose guests run Debian from a disk: ten minutes are usual, on one processor.
const DEBIAN_LIMIT: Duration = Duration::from_secs(25 * 60);

/// Further emulated hosts for a theme whose host fails: QEMU's emulation of nested virtualisation ends some (its own
/// assertions, or the host's kernel panics), which no process in them should be able to do.
const SPARE_HOSTS: u32 = 5;

/// One test program with its arguments, and what it is told.
pub(super) struct Run {
    /// The name of the program: one file of tests.
    pub(super) theme: String,
    /// The program and its arguments.
    pub(super) group: Vec<String>,
    /// Variables set for it.
    pub(super) environment: Vec<(String, String)>,
    /// The disk that its guests start from.
    pub(super) debian: Option<Debian>,
}

/// Runs all of them and sums up. What runs on this machine's KVM is shown as it comes, what runs in emulated hosts when
/// its theme is through.
///
/// # Errors
/// The first that keeps a part from giving a result; the other parts are run all the same.
pub(super) fn run_all(project: &Project, parts: Vec<(Place, Run)>) -> Result<Counts> {
    let (here, mut nested): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .partition(|(place, _)| matches!(place, Place::Here));
    let mut counts = Counts::default();
    for (place, run) in here {
        counts.add(run_group(project, &place, run, None)?);
    }
    if !nested.is_empty() {
        // Once, before several want to.
        nested::prepare(project)?;
    }
    // Taken from the end: those with Debian take longest and begin first.
    nested.sort_by_key(|(_, run)| run.debian.is_some());
    let queue = Mutex::new(nested);
    let results = Mutex::new(Vec::new());
    let next = || queue.lock().ok()?.pop();
    let work = || {
        while let Some((place, run)) = next() {
            let result = run_apart(project, &place, run);
            if let Ok(mut results) = results.lock() {
                results.push(result);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..HOSTS {
            scope.spawn(work);
        }
    });
    for result in results.into_inner().unwrap_or_default() {
        counts.add(result?);
    }
    Ok(counts)
}

/// Runs one and shows what it printed when it is through, because others run beside it.
fn run_apart(project: &Project, place: &Place, run: Run) -> Result<Counts> {
    eprintln!("   {} begins in an emulated host", run.theme);
    let output =
        tempfile::NamedTempFile::new().context(|| "cannot create a temporary file".to_owned())?;
    let result = run_group(project, place, run, Some(output.path().to_path_buf()));
    eprint!("{}", String::from_utf8_lossy(&run::read(output.path())?));
    result
}

/// Runs one test program with its arguments where guests run.
fn run_group(
    project: &Project,
    place: &Place,
    mut run: Run,
    output: Option<PathBuf>,
) -> Result<Counts> {
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let name = format!("test-result-{}-{number}", std::process::id());
    let result = project.cache().join(name);
    let this = std::env::current_exe().context(|| "xtask does not find itself".to_owned())?;
    let mut command = vec![text(&this), "run-tests".to_owned(), text(&result)];
    command.push("--".to_owned());
    command.append(&mut run.group);
    match place {
        Place::Here => run_here(project, &command, run)?,
        Place::Nested(_) => run_nested(project, command, run, output)?,
    }
    let said = run::read_text(&result)?;
    let _ = std::fs::remove_file(&result);
    parse(&said).ok_or_else(|| Error::Malformed {
        path: result,
        problem: "the test run left no result".to_owned(),
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run_here(project: &Project, command: &[String], run: Run) -> Result<()> {
    let scratch = tempfile::tempdir_in(project.cache())
        .context(|| "no temporary folder in the cache".to_owned())?;
    let mut here = Command::new(&command[0]);
    here.args(&command[1..]).envs(run.environment);
    here.env("CH_SCRATCH", scratch.path());
    if let Some(debian) = &run.debian {
        let disk = scratch.path().join("debian.raw");
        here.env("CH_DEBIAN_DISK", &disk);
        let mut copy = Command::new("cp");
        run::check(copy.arg("--sparse=always").arg(&debian.disk).arg(disk))?;
    }
    run::check(&mut here)
}

/// Each gets a host of its own, and another one if the host itself fails.
fn run_nested(
    project: &Project,
    command: Vec<String>,
    run: Run,
    output: Option<PathBuf>,
) -> Result<()> {
    let mut environment = run.environment;
    let mut add = |name: &str, value: &str| environment.push((name.to_owned(), value.to_owned()));
    add(EMULATED, "1");
    add("CH_SCRATCH", nested::SCRATCH);
    let mut limit = LIMIT;
    if run.debian.is_some() {
        // The drive after the scratch file system.
        add("CH_DEBIAN_DISK", "/dev/vdb");
        limit = DEBIAN_LIMIT;
    }
    let job = Job {
        command,
        environment,
        folder: project.root().join("tests"),
        limit: Some(limit),
        drives: run.debian.into_iter().map(|debian| debian.disk).collect(),
        scratch: true,
        interactive: false,
        output,
        hosts: HOSTS,
    };
    let mut spare = SPARE_HOSTS;
    while let Err(error) = nested::run_job(project, &job) {
        if spare == 0 {
            return Err(error);
        }
        spare -= 1;
        print_chain(&error);
        let theme = &run.theme;
        eprintln!(
            "UNSTABLE: the emulated host of {theme} failed; the tests begin again in another"
        );
    }
    Ok(())
}

fn parse(text: &str) -> Option<Counts> {
    let (passed, failed) = text.trim().split_once(' ')?;
    Some(Counts {
        passed: passed.parse().ok()?,
        failed: failed.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_as_it_was_written() {
        assert_eq!(
            parse("12 1\n"),
            Some(Counts {
                passed: 12,
                failed: 1
            })
        );
        assert_eq!(parse(""), None);
    }
}
