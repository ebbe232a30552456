//! The program, run to its end, and files for its command line.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use testkit::env;
use testkit::payload::Payload;

/// The first line of every report of a failure.
pub(crate) const CHAIN: &str = "Error: Cloud Hypervisor exited with the following chain of errors:";

/// What the program left.
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            status: output.status.code().expect("an exit status, not a signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The causes, outermost first; checks the form of the whole report.
    pub(crate) fn causes(&self) -> Vec<&str> {
        let (before, report) = self
            .stderr
            .split_once(CHAIN)
            .unwrap_or_else(|| panic!("{self}"));
        assert_eq!(before, "", "the report is all that is said\n{self}");
        let lines = report
            .strip_prefix('\n')
            .expect("a line of its own")
            .lines();
        lines
            .enumerate()
            .map(|(index, line)| {
                let prefix = format!("  {index}: ");
                line.strip_prefix(&prefix)
                    .unwrap_or_else(|| panic!("{line:?} in\n{self}"))
            })
            .collect()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            status,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "status {status}\n--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}\n---"
        )
    }
}

/// Runs the monitor with these words.
pub(crate) fn monitor<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Outcome {
    Outcome::of(Command::new(env::binary().unwrap()).args(words))
}

/// A folder of files that options can name: `off`, a guest that powers off at once, and others
/// that are no guests.
pub(crate) struct Bed(pub(crate) TempDir);

impl Bed {
    pub(crate) fn new() -> Self {
        let bed = Self(tempfile::tempdir().unwrap());
        Payload::new()
            .power_off()
            .elf()
            .write(&bed.path("off"))
            .unwrap();
        fs::write(bed.path("text"), "#!/bin/sh\n").unwrap();
        fs::write(bed.path("empty"), "").unwrap();
        fs::write(bed.path("gzip"), b"\x1f\x8b\x08\0\0\0\0\0\0\x03").unwrap();
        fs::write(bed.path("large"), vec![0; 32 << 20]).unwrap();
        bed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Splits a command line at spaces; `@name` is a file of the folder.
    pub(crate) fn words(&self, line: &str) -> Vec<String> {
        let folder = format!("{}/", self.0.path().display());
        line.split(' ')
            .map(|word| word.replace('@', &folder))
            .collect()
    }
}
