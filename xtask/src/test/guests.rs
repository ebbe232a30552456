//! Runs the integration tests, those that boot guests.
//!
//! Where KVM cannot run a stock kernel, all test programs run in one emulated host: what is built
//! here is started there, by this same xtask.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::count::{self, Counts};
use crate::args::Args;
use crate::error::{Context as _, Error, Result};
use crate::guest::Guest;
use crate::kvm::{self, Place};
use crate::nested::{self, Job};
use crate::project::Project;
use crate::{release, run};

/// The package with the integration tests.
pub(crate) const PACKAGE: &str = "integration";

/// All of them together, in an emulated host on two processors.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Guests at the same time: as many as there are processors to emulate.
const THREADS: &str = "--test-threads=2";

/// Builds monitor, tests and guest, and runs the tests where that works.
pub(crate) fn run(project: &Project, words: &[String], binary: Option<PathBuf>) -> Result<Counts> {
    let programs = build(project)?;
    let binary = match binary {
        Some(path) => std::path::absolute(path).context(|| "bad path".to_owned())?,
        None => release::build(project)?,
    };
    let guest = Guest::for_tests(project)?;
    let path = |path: &Path| path.display().to_string();
    let environment = vec![
        ("CH_BINARY".to_owned(), path(&binary)),
        ("CH_KERNEL".to_owned(), path(&guest.kernel.bzimage)),
        ("CH_VMLINUX".to_owned(), path(&guest.kernel.vmlinux()?)),
        ("CH_INITRAMFS".to_owned(), path(&guest.initramfs)),
        ("CH_CACHE".to_owned(), path(project.cache())),
    ];
    let result = project
        .cache()
        .join(format!("test-result-{}", std::process::id()));
    let this = std::env::current_exe().context(|| "xtask does not find itself".to_owned())?;
    let mut command = vec![path(&this), "run-tests".to_owned(), path(&result)];
    command.extend(programs.iter().map(|program| path(program)));
    command.push("--".to_owned());
    command.extend(words.iter().cloned());
    match kvm::place(&binary)? {
        Place::Here => {
            eprintln!("guests run on this machine's /dev/kvm");
            let mut here = Command::new(&command[0]);
            run::check(here.args(&command[1..]).envs(environment))?;
        }
        Place::Nested(reason) => {
            eprintln!("guests run inside an emulated host: {reason}");
            let folder = project.root().join("tests");
            let limit = Some(LIMIT);
            let job = Job {
                command,
                environment,
                folder,
                limit,
                interactive: false,
            };
            nested::run_job(project, &job)?;
        }
    }
    let text = run::read_text(&result)?;
    let _ = std::fs::remove_file(&result);
    parse(&text).ok_or_else(|| Error::Malformed {
        path: result,
        problem: "the test run left no result".to_owned(),
    })
}

/// `cargo xtask run-tests RESULT PROGRAM… -- ARGUMENT…`: what runs in the emulated host.
pub(crate) fn run_programs(project: &Project, arguments: Vec<String>) -> Result<u8> {
    let separator = arguments
        .iter()
        .position(|word| word == "--")
        .unwrap_or(arguments.len());
    let words: Vec<String> = arguments.iter().skip(separator + 1).cloned().collect();
    let mut programs = Args::new(arguments.into_iter().take(separator))
        .rest()?
        .into_iter();
    let result = programs.next().map(PathBuf::from);
    let result = result.ok_or_else(|| Error::Usage("run-tests RESULT PROGRAM…".to_owned()))?;
    let mut counts = Counts::default();
    for program in programs {
        println_name(&program);
        let mut command = Command::new(&program);
        command.arg(THREADS).args(&words).stdin(Stdio::null());
        counts.add(count::run(
            command.current_dir(project.root().join("tests")),
        )?);
    }
    run::write(
        &result,
        format!("{} {}\n", counts.passed, counts.failed).as_bytes(),
    )?;
    Ok(0)
}

fn println_name(program: &str) {
    let name = Path::new(program)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // cargo adds a hash to the name.
    let name = name
        .rsplit_once('-')
        .map_or(name.as_str(), |(name, _)| name);
    eprintln!("   running {name}");
}

fn parse(text: &str) -> Option<Counts> {
    let (passed, failed) = text.trim().split_once(' ')?;
    Some(Counts {
        passed: passed.parse().ok()?,
        failed: failed.parse().ok()?,
    })
}

/// Builds the test programs and returns where they are.
fn build(project: &Project) -> Result<Vec<PathBuf>> {
    let mut cargo = release::cargo();
    cargo.args(["test", "--no-run", "--quiet", "--package", PACKAGE]);
    cargo
        .arg("--message-format=json-render-diagnostics")
        .current_dir(project.root());
    cargo.stderr(Stdio::inherit());
    let output = cargo.output().context(|| "cannot start cargo".to_owned())?;
    if !output.status.success() {
        let status = output.status.to_string();
        return Err(Error::Command {
            command: run::text(&cargo),
            status,
        });
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The test programs among cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        let path = message["executable"].as_str()?;
        is_test.then(|| PathBuf::from(path))
    };
    messages.lines().filter_map(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/bin"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/boot-1"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":null}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [PathBuf::from("/boot-1")]);
    }

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
