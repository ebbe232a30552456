//! `cargo xtask test`: everything that continuous integration runs, in one command.

mod count;
pub(crate) mod guests;
mod hosts;
mod linux;

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use self::count::Counts;
use crate::args::Args;
use crate::error::{Error, Result, print_chain};
use crate::guest::Guest;
use crate::project::Project;
use crate::{apt, bare, clients, docs, layers, lints, release, run};

/// Features of the monitor that are not in every build, as far as they go together.
const OPTIONAL: &[&str] = &["dbus_api,tracing", "dhat-heap"];

/// What was asked for.
struct Wish {
    full: bool,
    binary: Option<PathBuf>,
    filters: Vec<String>,
}

/// Runs all steps, or with a filter only the tests that it names, and ends with the line
/// `N passed, N failed`.
pub(crate) fn command(project: &Project, arguments: Vec<String>) -> Result<u8> {
    let mut args = Args::without_separator(arguments);
    let full = args.flag("--full");
    let binary = args.option("--binary")?.map(PathBuf::from);
    let wish = Wish {
        full,
        binary,
        filters: args.rest()?,
    };
    let mut steps = Steps {
        started: Instant::now(),
        times: Vec::new(),
        counts: Counts::default(),
    };
    let result = run_all(project, &wish, &mut steps);
    if let Err(error) = &result {
        print_chain(error);
    }
    Ok(steps.summary(result.is_err(), std::io::stdout()))
}

fn run_all(project: &Project, wish: &Wish, steps: &mut Steps) -> Result<()> {
    steps.check("packages", || {
        apt::ensure(&[apt::BUILD, apt::GUEST, apt::TEST])
    })?;
    if wish.filters.is_empty() {
        steps.check("format", || {
            run::check(cargo(project).args(["fmt", "--all", "--check"]))
        })?;
        steps.check("clippy", || {
            let clippy = ["clippy", "--workspace", "--all-targets", "--quiet"];
            run::check(
                cargo(project)
                    .args(clippy)
                    .args(["--", "--deny", "warnings"]),
            )
        })?;
        steps.check("bare guest", || bare::check(project))?;
        steps.check("layers", || layers::check(project))?;
        steps.check("lints", || lints::check(project))?;
        steps.check("docs", || docs::build(project))?;
    }
    if !guests::are_all_themes(project, &wish.filters) {
        steps.tests("unit tests", || {
            let guest = Guest::for_tests(project)?;
            let mut test = cargo(project);
            test.env("CH_KERNEL", &guest.kernel.bzimage);
            test.args(["test", "--workspace", "--quiet", "--exclude"]);
            count::run(test.args([guests::PACKAGE, "--"]).args(&wish.filters))
        })?;
    }
    if wish.filters.is_empty() {
        for feature in OPTIONAL {
            steps.tests(feature, || {
                let mut test = cargo(project);
                test.args(["test", "--quiet", "--package", release::MONITOR]);
                count::run(test.args(["--tests", "--features", feature]))
            })?;
        }
    }
    if wish.full && wish.filters.is_empty() {
        steps.check("clients", || clients::check(project, wish.binary.clone()))?;
    }
    steps.tests("guest tests", || {
        let ignored = wish.full.then(|| "--include-ignored".to_owned());
        let extra: Vec<String> = ignored.into_iter().collect();
        guests::run(project, &wish.filters, &extra, wish.binary.clone())
    })
}

fn cargo(project: &Project) -> Command {
    let mut cargo = release::cargo();
    cargo.current_dir(project.root());
    cargo
}

/// What has been done and how long it took.
struct Steps {
    started: Instant,
    times: Vec<(&'static str, Duration)>,
    counts: Counts,
}

impl Steps {
    /// A step that is right or wrong. Wrong counts as one failure; right is not a test.
    fn check(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        self.timed(name, step)
            .inspect_err(|_| self.counts.failed += 1)
    }

    /// A step that counts its tests.
    fn tests(&mut self, name: &'static str, step: impl FnOnce() -> Result<Counts>) -> Result<()> {
        let counts = self
            .timed(name, step)
            .inspect_err(|_| self.counts.failed += 1)?;
        self.counts.add(counts);
        if counts.failed == 0 {
            return Ok(());
        }
        let count = usize::try_from(counts.failed).unwrap_or(usize::MAX);
        Err(Error::Check { check: name, count })
    }

    fn timed<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("== {name}");
        let started = Instant::now();
        let result = step();
        let took = started.elapsed();
        self.times.push((name, took));
        let end = if result.is_ok() { "done" } else { "FAILED" };
        eprintln!("== {name}: {end} in {:.1} s", took.as_secs_f32());
        result
    }

    fn summary(&self, failed: bool, mut out: impl Write) -> u8 {
        eprintln!();
        for (name, took) in &self.times {
            eprintln!("{:>8.1} s  {name}", took.as_secs_f32());
        }
        eprintln!("{:>8.1} s  in all", self.started.elapsed().as_secs_f32());
        if failed {
            let last = self.times.last().map_or("the start", |(name, _)| name);
            eprintln!("stopped at: {last}");
        }
        // Nothing is left to do when nobody reads it.
        let _ = writeln!(
            out,
            "{} passed, {} failed",
            self.counts.passed, self.counts.failed
        );
        u8::from(failed || self.counts.failed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Steps {
        Steps {
            started: Instant::now(),
            times: Vec::new(),
            counts: Counts::default(),
        }
    }

    #[test]
    fn a_failed_check_is_counted_and_passed_checks_are_not() {
        let mut steps = steps();
        steps.check("good", || Ok(())).unwrap();
        steps
            .check("bad", || {
                Err(Error::Check {
                    check: "bad",
                    count: 4,
                })
            })
            .unwrap_err();
        assert_eq!(
            steps.counts,
            Counts {
                passed: 0,
                failed: 1
            }
        );
        let mut shown = Vec::new();
        assert_eq!(steps.summary(true, &mut shown), 1);
        assert_eq!(shown, b"0 passed, 1 failed\n");
    }

    #[test]
    fn failed_tests_stop_the_run_and_stay_counted() {
        let mut steps = steps();
        steps
            .tests("unit", || {
                Ok(Counts {
                    passed: 7,
                    failed: 0,
                })
            })
            .unwrap();
        steps
            .tests("guest", || {
                Ok(Counts {
                    passed: 2,
                    failed: 1,
                })
            })
            .unwrap_err();
        assert_eq!(
            steps.counts,
            Counts {
                passed: 9,
                failed: 1
            }
        );
    }
}
