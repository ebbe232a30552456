//! Shows the results: a table with ratios and verdicts, JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::cell::Cell;
use super::monitor::Monitor;
use super::run::Sample;
use crate::bench::measure::median;

/// One cell's medians; `None` for monitors that cannot do it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    cell: Cell,
    medians: Vec<Option<Sample>>,
}

impl Row {
    /// Medians of each monitor's samples.
    pub(super) fn new(cell: Cell, samples: &[Vec<Sample>]) -> Self {
        let medians = samples.iter().map(|samples| {
            let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
            (!samples.is_empty()).then(|| Sample {
                rate: of(|sample| sample.rate),
                cpu: of(|sample| sample.cpu),
                others: of(|sample| sample.others),
                sampled: of(|sample| sample.sampled),
                doorbells: of(|sample| sample.doorbells),
            })
        });
        Self {
            cell,
            medians: medians.collect(),
        }
    }

    /// Ours by the best of QEMU's: rate, and rate per CPU-second. `None` without QEMU.
    fn against_qemu(&self, monitors: &[Monitor]) -> Option<(f64, f64)> {
        let ours = self.medians.first()?.as_ref()?;
        let peers = monitors.iter().zip(&self.medians);
        let peers = peers.filter(|(monitor, _)| monitor.is_qemu());
        let peers: Vec<&Sample> = peers.filter_map(|(_, sample)| sample.as_ref()).collect();
        let rate = peers.iter().map(|peer| peer.rate).reduce(f64::max)?;
        let cpu = peers.iter().map(|peer| peer.cpu).reduce(f64::min)?;
        Some((ours.rate / rate, cpu / ours.cpu))
    }
}

/// A line while it runs.
pub(super) fn line(row: &Row) -> String {
    let mut text = format!("{:<40}", row.cell.name());
    for sample in &row.medians {
        let _ = write!(
            text,
            "{:>24}",
            sample.map_or("-".to_owned(), |sample| value(row.cell, sample))
        );
    }
    text
}

/// Rate and CPU of one monitor.
fn value(cell: Cell, sample: Sample) -> String {
    let rate = if cell.bytes() == 1.0 {
        format!("{:.0} MB/s", sample.rate / 1e6)
    } else if cell.bytes() > 65536.0 {
        format!("{:.0} MB/s", sample.rate * cell.bytes() / 1e6)
    } else {
        format!("{:.1} k/s", sample.rate / 1e3)
    };
    let unit = if cell.bytes() == 1.0 { 65536.0 } else { 1.0 };
    format!("{rate}, {:.2} us", sample.cpu * unit * 1e6)
}

/// The whole table.
pub(super) fn table(monitors: &[Monitor], rows: &[Row]) -> String {
    let mut text = format!("{:<40}", "rate, CPU per request, frame or 64 KiB");
    for monitor in monitors {
        let _ = write!(text, "{:>24}", monitor.name);
    }
    let _ = writeln!(text, "{:>12}{:>12}  verdict", "rate", "per CPU-s");
    for row in rows {
        text.push_str(&line(row));
        match row.against_qemu(monitors) {
            Some((rate, cpu)) => {
                let verdict = verdict(row.cell, rate, cpu);
                let _ = writeln!(text, "{rate:>11.2}x{cpu:>11.2}x  {verdict}");
            }
            None => text.push_str("  QEMU: not available (needs /dev/vhost-vsock)\n"),
        }
    }
    text
}

/// Per CPU-second the goal of the cell has to be met; in nothing may ours be worse. A twentieth is the noise of
/// rates.
fn verdict(cell: Cell, rate: f64, cpu: f64) -> String {
    let goal = cell.goal();
    match (rate >= 0.95, cpu >= goal) {
        (true, true) => "pass".to_owned(),
        (false, true) => "FAIL: rate".to_owned(),
        (true, false) => format!("FAIL: CPU, goal {goal}x"),
        (false, false) => format!("FAIL: rate; CPU, goal {goal}x"),
    }
}

/// The same for programs.
pub(super) fn json(monitors: &[Monitor], rows: &[Row], runs: usize) -> String {
    let cells: Vec<Value> = rows
        .iter()
        .map(|row| {
            let medians = monitors.iter().zip(&row.medians);
            let medians: Vec<Value> = medians
                .filter_map(|(monitor, sample)| {
                    let sample = sample.as_ref()?;
                    Some(json!({
                        "name": monitor.name,
                        "per_second": sample.rate,
                        "bytes_per_second": sample.rate * row.cell.bytes(),
                        "cpu_seconds_each": sample.cpu,
                        "cpu_seconds_each_without_vcpus": sample.others,
                        "vcpu_system_seconds_each_sampled": sample.sampled,
                        "doorbells_each": sample.doorbells,
                    }))
                })
                .collect();
            let against = row.against_qemu(monitors);
            json!({
                "cell": row.cell.name(),
                "medians": medians,
                "rate_against_qemu": against.map(|(rate, _)| rate),
                "per_cpu_second_against_qemu": against.map(|(_, cpu)| cpu),
                "verdict": against.map(|(rate, cpu)| verdict(row.cell, rate, cpu)),
            })
        })
        .collect();
    format!(
        "{:#}\n",
        json!({ "benchmark": "data", "rounds": runs, "cells": cells })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64, cpu: f64) -> Sample {
        Sample {
            rate,
            cpu,
            others: cpu,
            sampled: 0.0,
            doorbells: 1.0,
        }
    }

    #[test]
    fn the_best_of_each_figure_is_what_has_to_be_beaten() {
        let cell = Cell::all(Some("block"))[0];
        let monitor = Monitor::compatible("ours", "ours".into());
        let mut monitors = vec![monitor];
        monitors.extend(Monitor::pair("qemu".as_ref()));
        let samples = [sample(3.0, 1.0), sample(1.0, 2.0), sample(2.0, 4.0)];
        let row = Row::new(cell, &samples.map(|sample| vec![sample]));
        let (rate, cpu) = row.against_qemu(&monitors).unwrap();
        assert!((rate - 1.5).abs() < 1e-9 && (cpu - 2.0).abs() < 1e-9);
        assert!(table(&monitors, &[row]).ends_with("1.50x       2.00x  pass\n"));
    }

    #[test]
    fn less_than_the_goal_is_a_failure() {
        let cell = Cell::all(Some("net"))[0];
        assert_eq!(verdict(cell, 1.0, 1.3), "pass");
        assert_eq!(verdict(cell, 1.0, 1.2), "FAIL: CPU, goal 1.25x");
        assert_eq!(verdict(cell, 0.9, 1.3), "FAIL: rate");
    }
}
