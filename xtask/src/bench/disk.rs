//! `cargo xtask bench disk`: what formats of disk images cost, beside `qemu-img bench` on the same images.
//!
//! Both do the same: so many requests of a size, each a step behind the one before, a number of them under way. A step
//! of one request is *sequential*; one of an odd number of requests, about six tenths of the image, comes to every place
//! once and to none near the last, and is called *random*. An image that a load changes is made anew for each run: what
//! is measured of an empty image is that room is made in it, once for each place.
//!
//! What an allocated image is held against is the *same file* read or written as a raw one: pages of two files on tmpfs lie
//! differently in memory, and copies from them were measured to differ by a third for that alone.
//!
//! Images are on tmpfs, so that it is the program that is measured and not a device; with `--direct` on the host's file
//! system, around its page cache. Both take io_uring. Both take turns, and results are medians over the rounds.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::args::Args;
use crate::error::{Context as _, Error, Result};
use crate::project::Project;
use crate::{apt, release, run};

/// How to call it.
pub(super) const USAGE: &str =
    "cargo xtask bench disk [--direct] [--runs N] [--filter TEXT] [--images FOLDER]";

/// Bytes of the disks.
const SIZE: u64 = 128 << 20;
/// Rounds, unless `--runs` says otherwise.
const RUNS: usize = 3;
/// An allocated image is to be as fast as this part of a raw one.
const OF_RAW: f64 = 0.95;

/// What there is of the disk in an image.
const KINDS: [&str; 5] = ["raw", "allocated", "empty", "backing", "compressed"];

/// One load on one image.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell {
    kind: &'static str,
    block: u64,
    random: bool,
    depth: u64,
    writes: bool,
}

/// A cell's rates, in requests per second.
struct Row {
    cell: Cell,
    ours: f64,
    qemu: f64,
    /// Of an allocated image: ours, of its file as a raw image.
    raw: Option<f64>,
}

/// Runs it.
pub(super) fn command(project: &Project, mut args: Args, runs: Option<usize>) -> Result<u8> {
    let direct = args.flag("--direct");
    let filter = args.option("--filter")?.unwrap_or_default();
    let images = args.option("--images")?.map(PathBuf::from);
    args.done()?;
    apt::ensure(&[apt::IMAGES])?;
    let program = build(project)?;
    let results = project.target().join("bench");
    run::create_folder(&results)?;
    let place = images.unwrap_or_else(|| match direct {
        true => results.clone(),
        false => PathBuf::from("/dev/shm"),
    });
    let folder = tempfile::tempdir_in(&place)
        .context(|| format!("no temporary folder in {}", place.display()))?;
    let bench = Bench {
        program,
        folder: folder.path().to_owned(),
        direct,
    };
    bench.make()?;
    let runs = runs.unwrap_or(RUNS);
    let mut rows = Vec::new();
    for cell in Cell::all().filter(|cell| cell.name().contains(&filter)) {
        let row = bench.measure(cell, runs)?;
        eprintln!("{}", line(&row, &rows));
        rows.push(row);
    }
    let text = table(&rows);
    run::write(&results.join("disk.md"), text.as_bytes())?;
    run::write(&results.join("disk.json"), json(&rows, runs).as_bytes())?;
    eprint!("{text}");
    eprintln!("{runs} rounds; {}", results.join("disk.json").display());
    Ok(0)
}

/// Builds what measures ours.
fn build(project: &Project) -> Result<PathBuf> {
    let mut cargo = release::cargo();
    cargo.args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "disk",
        "--example",
        "images",
    ]);
    run::check(cargo.current_dir(project.root()))?;
    Ok(project.target().join("release/examples/images"))
}

impl Cell {
    fn all() -> impl Iterator<Item = Self> {
        let loads = [4096, 128 << 10].into_iter().flat_map(|block| {
            [false, true].into_iter().flat_map(move |random| {
                [1, 32].into_iter().flat_map(move |depth| {
                    [false, true].map(|writes| (block, random, depth, writes))
                })
            })
        });
        loads.flat_map(|(block, random, depth, writes)| {
            KINDS.map(|kind| Self {
                kind,
                block,
                random,
                depth,
                writes,
            })
        })
    }

    fn name(&self) -> String {
        format!(
            "{} {}k {} {} qd{}",
            self.kind,
            self.block >> 10,
            if self.random { "random" } else { "seq" },
            if self.writes { "write" } else { "read" },
            self.depth,
        )
    }

    fn format(&self) -> &'static str {
        if self.kind == "raw" { "raw" } else { "qcow2" }
    }

    fn step(&self) -> u64 {
        let blocks = SIZE / self.block;
        match self.random {
            true => ((blocks * 618 / 1000) | 1) * self.block,
            false => self.block,
        }
    }

    /// Long enough to be measured; no place twice where a write changes what there is of the image.
    fn count(&self) -> u64 {
        let places = SIZE / self.block;
        let is_slow = self.depth == 1 || self.kind == "compressed";
        let count = if is_slow { 8192 } else { places.max(8192) };
        match self.writes && !matches!(self.kind, "raw" | "allocated") {
            true => places.min(count),
            false => count,
        }
    }

    /// Ours is faster at small requests by more than an order of magnitude, so that more of them are needed.
    fn count_of_ours(&self) -> u64 {
        let changes = self.writes && !matches!(self.kind, "raw" | "allocated");
        match self.kind == "compressed" || self.block > 4096 || changes {
            true => self.count(),
            false => self.count().max(1 << 17),
        }
    }
}

/// Where images are, and what measures ours.
struct Bench {
    program: PathBuf,
    folder: PathBuf,
    direct: bool,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes one image of each kind: bytes that look random and have two of eight bits, so that they can be compressed.
    fn make(&self) -> Result<()> {
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < SIZE {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend((state & 0x0303_0303_0303_0303).to_le_bytes());
        }
        run::write(&self.path("raw"), &bytes)?;
        for line in [
            "convert -f raw -O qcow2 raw allocated".to_owned(),
            "convert -c -f raw -O qcow2 raw compressed".to_owned(),
            format!("create -q -f qcow2 empty {SIZE}"),
            "create -q -f qcow2 -F raw -b raw backing".to_owned(),
        ] {
            let mut tool = run::program("qemu-img");
            run::check(tool.args(line.split(' ')).current_dir(&self.folder))?;
        }
        Ok(())
    }

    fn measure(&self, cell: Cell, runs: usize) -> Result<Row> {
        let (mut ours, mut qemu, mut raw) = (Vec::new(), Vec::new(), Vec::new());
        let path = || match cell.writes {
            false => Ok(self.path(cell.kind)),
            true => self.copy(cell.kind),
        };
        for run in 0..runs {
            let image = path()?;
            let count = cell.count_of_ours() as f64;
            // What comes first has the colder caches; writes to a raw image destroy the tables.
            let is_held = cell.kind == "allocated";
            let raw_is_first = is_held && !cell.writes && run % 2 == 1;
            if raw_is_first {
                raw.push(count / self.ours(cell, "raw", &image)?);
            }
            ours.push(count / self.ours(cell, cell.format(), &image)?);
            if is_held && !raw_is_first {
                raw.push(count / self.ours(cell, "raw", &image)?);
            }
            qemu.push(cell.count() as f64 / self.qemu(cell, &path()?)?);
        }
        Ok(Row {
            cell,
            ours: median(ours),
            qemu: median(qemu),
            raw: (!raw.is_empty()).then(|| median(raw)),
        })
    }

    /// The image to be written, beside the one that stays.
    fn copy(&self, kind: &str) -> Result<PathBuf> {
        let (from, to) = (self.path(kind), self.path("written"));
        let mut copy = Command::new("cp");
        run::check(copy.arg("--sparse=auto").args([&from, &to]))?;
        Ok(to)
    }

    fn ours(&self, cell: Cell, format: &str, path: &Path) -> Result<f64> {
        let mut program = Command::new(&self.program);
        program.arg(path).arg(format);
        for number in [cell.depth, cell.block, cell.step(), cell.count_of_ours()] {
            program.arg(number.to_string());
        }
        program.arg(if cell.writes { "write" } else { "read" });
        program.args(self.direct.then_some("direct"));
        let said = run::output_text(&mut program)?;
        seconds(said.trim(), &said)
    }

    fn qemu(&self, cell: Cell, path: &Path) -> Result<f64> {
        let mut tool = run::program("qemu-img");
        tool.args(["bench", "-i", "io_uring", "-f", cell.format()]);
        tool.args(["-t", if self.direct { "none" } else { "writeback" }]);
        for (option, number) in [
            ("-c", cell.count()),
            ("-d", cell.depth),
            ("-s", cell.block),
            ("-S", cell.step()),
        ] {
            tool.arg(option).arg(number.to_string());
        }
        tool.args(cell.writes.then_some("-w")).arg(path);
        let said = run::output_text(&mut tool)?;
        let words = said.split_once("completed in ");
        let word = words.and_then(|(_, rest)| rest.split(' ').next());
        seconds(word.unwrap_or_default(), &said)
    }
}

fn seconds(word: &str, said: &str) -> Result<f64> {
    let seconds = word.parse().ok().filter(|seconds| *seconds > 0.0);
    seconds.ok_or_else(|| Error::Usage(format!("no time is in: {said}")))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// How fast it is, held against the same load on a raw image.
fn of_raw(row: &Row, rows: &[Row]) -> Option<f64> {
    if let Some(raw) = row.raw {
        return Some(row.ours / raw);
    }
    let wanted = Cell {
        kind: "raw",
        ..row.cell
    };
    let raw = rows.iter().find(|other| other.cell == wanted)?;
    (row.cell.kind != "raw").then(|| row.ours / raw.ours)
}

fn verdict(row: &Row, of_raw: Option<f64>) -> String {
    let mut missed = Vec::new();
    if row.ours < row.qemu {
        missed.push("qemu");
    }
    if row.cell.kind == "allocated" && of_raw.is_some_and(|part| part < OF_RAW) {
        missed.push("raw");
    }
    match missed.is_empty() {
        true => "pass".to_owned(),
        false => format!("FAIL: {}", missed.join(", ")),
    }
}

fn line(row: &Row, rows: &[Row]) -> String {
    let of_raw = of_raw(row, rows);
    format!(
        "| {} | {:.1} k/s | {:.1} k/s | {:.2}x | {} | {} |",
        row.cell.name(),
        row.ours / 1e3,
        row.qemu / 1e3,
        row.ours / row.qemu,
        of_raw.map_or("-".to_owned(), |part| format!("{part:.2}x")),
        verdict(row, of_raw),
    )
}

fn table(rows: &[Row]) -> String {
    let lines = rows.iter().map(|row| line(row, rows) + "\n");
    let head = "| Load | ours | qemu-img | ours/qemu-img | of raw | verdict |\n|---|---|---|---|---|---|\n";
    std::iter::once(head.to_owned()).chain(lines).collect()
}

fn json(rows: &[Row], runs: usize) -> String {
    let cells: Vec<Value> = rows
        .iter()
        .map(|row| {
            let of_raw = of_raw(row, rows);
            json!({
                "cell": row.cell.name(),
                "ours_per_second": row.ours,
                "qemu_per_second": row.qemu,
                "of_raw": of_raw,
                "verdict": verdict(row, of_raw),
            })
        })
        .collect();
    format!(
        "{:#}\n",
        json!({ "rounds": runs, "bytes": SIZE, "cells": cells })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_loads_come_to_every_place_once() {
        for cell in Cell::all() {
            let places = SIZE / cell.block;
            let mut seen: Vec<u64> = (0..places)
                .map(|number| number * cell.step() % SIZE / cell.block)
                .collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..places), "{}", cell.name());
        }
    }

    #[test]
    fn an_allocated_image_is_held_against_a_raw_one_and_all_against_qemu() {
        let cells: Vec<Cell> = Cell::all().take(2).collect();
        let row = |cell, ours, qemu, raw| Row {
            cell,
            ours,
            qemu,
            raw,
        };
        // What counts is the file itself as a raw image, not the other one.
        let rows = [
            row(cells[0], 50.0, 40.0, None),
            row(cells[1], 94.0, 95.0, Some(100.0)),
        ];
        assert!(line(&rows[0], &rows).ends_with("| 1.25x | - | pass |"));
        let second = line(&rows[1], &rows);
        assert!(
            second.ends_with("| 0.99x | 0.94x | FAIL: qemu, raw |"),
            "{second}"
        );
    }
}
