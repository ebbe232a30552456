//! `cargo xtask bench data`: how fast data moves through devices, and for how much CPU, beside other monitors.
//!
//! The guest is our own (`tests/guest`, `bench=…`): it polls in ring 3 and runs at the processor's speed on any KVM.
//! A cell is one load on one device. For each cell every monitor is started in turn, which is a round of that cell;
//! results are medians over the rounds.
//!
//! What is measured between the guest's lines `fact begin` and `fact end`:
//!
//! - *rate*: requests, frames or bytes by wall-clock time.
//! - *CPU*: of the monitor, by the kernel's clocks in nanoseconds. The guest polls, so a vCPU's thread always runs;
//!   of it only the time in the kernel counts (`stime`: doorbells and whatever else leaves the guest), of all others
//!   everything, those of io_uring too.
//! - *per CPU-second*: rate by CPU; the figure that does not depend on how busy the machine is.

mod cell;
mod host;
mod monitor;
mod report;
mod run;
mod watch;

use std::path::PathBuf;

use self::cell::Cell;
use self::monitor::Monitor;
use self::report::Row;
use crate::args::Args;
use crate::error::{Error, Result};
use crate::project::Project;
use crate::{apt, bare, release, run as commands};

/// How to call it.
pub(super) const USAGE: &str = "cargo xtask bench data [--only block|net|vsock] [--quick] [--runs N] [--binary PATH] \
     [--peer NAME=PATH …] [--filter TEXT]";

/// Rounds, unless `--runs` says otherwise.
const RUNS: usize = 5;

/// Runs it.
pub(super) fn command(project: &Project, mut args: Args, runs: Option<usize>) -> Result<u8> {
    let quick = args.flag("--quick");
    let only = args.option("--only")?;
    let filter = args.option("--filter")?.unwrap_or_default();
    let peers = args.options_named("--peer")?;
    let binary = args.option("--binary")?.map(PathBuf::from);
    args.done()?;
    if let Some(only) = &only
        && !["block", "net", "vsock"].contains(&only.as_str())
    {
        return Err(Error::Usage(format!("--only {only}\n{USAGE}")));
    }
    let runs = runs.unwrap_or(if quick { 1 } else { RUNS });
    apt::ensure(&[apt::BENCH])?;
    let guest = bare::build(project)?;
    let binary = match binary {
        Some(path) => path,
        None => release::build(project)?,
    };
    let mut monitors = vec![Monitor::compatible("ours", binary)];
    for peer in peers {
        let (name, path) = peer
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--peer {peer}: expected NAME=PATH")))?;
        monitors.push(Monitor::compatible(name, path.into()));
    }
    monitors.extend(Monitor::qemu());
    let folder = project.target().join("bench");
    commands::create_folder(&folder)?;
    let bench = run::Bench::prepare(guest, &folder, quick)?;
    let mut rows = Vec::new();
    for cell in Cell::all(only.as_deref()) {
        if cell.name().contains(&filter) {
            rows.push(measure(&bench, cell, &monitors, runs)?);
        }
    }
    let text = report::table(&monitors, &rows);
    commands::write(&folder.join("data.txt"), text.as_bytes())?;
    let json = report::json(&monitors, &rows, runs);
    commands::write(&folder.join("data.json"), json.as_bytes())?;
    eprint!("{text}");
    eprintln!("{runs} rounds; {}", folder.join("data.json").display());
    Ok(0)
}

fn measure(bench: &run::Bench, cell: Cell, monitors: &[Monitor], runs: usize) -> Result<Row> {
    let mut samples = vec![Vec::new(); monitors.len()];
    for _ in 0..runs {
        for (monitor, samples) in monitors.iter().zip(&mut samples) {
            if monitor.can(cell) {
                samples.push(sample(bench, monitor, cell)?);
            }
        }
    }
    let row = Row::new(cell, &samples);
    eprintln!("{}", report::line(&row));
    Ok(row)
}

/// On a machine that is busy otherwise a guest may get no time at all: it has three chances.
fn sample(bench: &run::Bench, monitor: &Monitor, cell: Cell) -> Result<run::Sample> {
    for _ in 0..2 {
        match bench.run(monitor, cell) {
            Ok(sample) => return Ok(sample),
            Err(error) => eprintln!("once more: {error}"),
        }
    }
    bench.run(monitor, cell)
}
