//! `cargo xtask bench data` is in [`data`], `disk` in [`disk`], `snapshot` in [`snapshot`]. `cargo xtask bench startup`:
//! how fast and how small, beside other monitors in the same run.
//!
//! What is measured, from outside and without a debugger:
//!
//! - *first instruction*: from just before the process is started until the guest's first byte
//!   arrives. The guest is a payload of a few instructions that writes to the debug console, which
//!   is a FIFO with us at the other end.
//! - *whole run*: until the process that then powers off has ended.
//! - *CPU time*: user and system time of that process, as the kernel accounts it.
//! - *private and proportional memory*: of the monitor while its guest halts, without the guest's own memory
//!   and with another monitor of the same kind beside it, so that a program's text counts as shared.
//! - *binary*: size of the program's file.
//!
//! All contenders take turns in every round, so a busy moment of the machine hits all alike.

mod api;
mod contender;
mod data;
mod disk;
mod measure;
mod report;
mod snapshot;

use std::path::PathBuf;

use self::contender::Contender;
use self::measure::Bench;
use crate::args::Args;
use crate::error::{Error, Result};
use crate::project::Project;
use crate::{apt, release, run};

/// Memory of the guest.
const GUEST_MEBIBYTES: u32 = 128;

/// Rounds that count, unless `--runs` says otherwise.
const RUNS: usize = 50;

/// The same of the API.
const API_RUNS: usize = 300;

/// Rounds before them, to fill the caches.
const WARM_UP: usize = 3;

/// Runs the benchmark with this name.
pub(crate) fn command(project: &Project, arguments: Vec<String>) -> Result<u8> {
    let mut args = Args::without_separator(arguments);
    let runs = match args.option("--runs")? {
        Some(text) => text
            .parse()
            .ok()
            .filter(|runs| *runs > 0)
            .map(Some)
            .ok_or_else(|| Error::Usage(format!("--runs {text} is not a positive number")))?,
        None => None,
    };
    if args.flag("data") {
        return data::command(project, args, runs);
    }
    if args.flag("disk") {
        return disk::command(project, args, runs);
    }
    let peers = args.options_named("--peer")?;
    let binary = args.option("--binary")?.map(PathBuf::from);
    match args.rest()?.as_slice() {
        [name] if name == "api" => api::command(project, runs.unwrap_or(API_RUNS), binary),
        [name] if name == "startup" => startup(project, runs.unwrap_or(RUNS), &peers, binary),
        [name] if name == "snapshot" => snapshot::command(project, runs, binary),
        _ => Err(Error::Usage(format!(
            "cargo xtask bench startup [--runs N] [--binary PATH] [--peer NAME=PATH …]\n\
             cargo xtask bench api [--runs N] [--binary PATH]\n\
             cargo xtask bench snapshot [--runs N] [--binary PATH]\n{}\n{}",
            data::USAGE,
            disk::USAGE
        ))),
    }
}

fn startup(
    project: &Project,
    runs: usize,
    peers: &[String],
    binary: Option<PathBuf>,
) -> Result<u8> {
    apt::ensure(&[apt::BENCH])?;
    let binary = match binary {
        Some(path) => path,
        None => release::build(project)?,
    };
    let mut contenders = vec![Contender::compatible("ours", binary)];
    for peer in peers {
        let (name, path) = peer
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--peer {peer}: expected NAME=PATH")))?;
        contenders.push(Contender::compatible(name, path.into()));
    }
    contenders.extend(Contender::qemu());
    let mut bench = Bench::prepare(contenders)?;
    for round in 0..WARM_UP + runs {
        bench.round(round >= WARM_UP)?;
    }
    let summaries = bench.summaries()?;
    let folder = project.target().join("bench");
    run::create_folder(&folder)?;
    let (json, svg) = (folder.join("startup.json"), folder.join("startup.svg"));
    run::write(&json, report::json(&summaries, runs).as_bytes())?;
    run::write(&svg, report::svg(&summaries).as_bytes())?;
    eprint!("{}", report::table(&summaries));
    eprintln!("{runs} rounds; {} and {}", json.display(), svg.display());
    Ok(0)
}
