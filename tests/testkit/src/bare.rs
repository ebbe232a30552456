//! Our own guest without an operating system (`tests/guest`): started with a test's name, it reports by lines.
//!
//! What the lines mean is said in the guest's `report.rs`: `fact NAME VALUE`, `fail TEXT`, `done`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::Context as _;
use crate::{Builder, Error, Exit, Result, Vm, env};

/// A monitor that runs the guest.
pub struct Bare {
    /// The monitor.
    pub vm: Vm,
    output: PathBuf,
    /// Keeps the file that the debug console writes to.
    _folder: tempfile::TempDir,
}

/// What the guest said so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    text: String,
}

impl Bare {
    /// Starts the guest with these words on its command line, for example `test=work`. `configure` adds devices.
    ///
    /// # Errors
    /// When a variable of [`env`](mod@crate::env) is missing or the monitor cannot be started.
    pub fn start(words: &str, configure: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let output = folder.path().join("debug");
        let builder = Vm::builder()
            .kernel(env::guest()?)
            .cmdline(words)
            .memory("size=64M")
            .arg("--serial", "off")
            .arg("--debug-console", format!("file={}", output.display()));
        let vm = configure(builder).spawn()?;
        Ok(Self {
            vm,
            output,
            _folder: folder,
        })
    }

    /// Whole lines so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Report { text }
    }

    /// Waits until the guest states this fact, and gives its value.
    ///
    /// # Errors
    /// When it does not in time, or the monitor ends first.
    pub fn wait_for(&mut self, fact: &str, seconds: u64) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let running = self.vm.is_running()?;
            if let Some(value) = self.report().fact(fact) {
                return Ok(value.to_owned());
            }
            if !running || Instant::now() >= deadline {
                return Err(self.problem(&format!("no fact {fact} (running: {running})")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the guest has powered off.
    ///
    /// # Errors
    /// When it found a failure or did not come to its end in time; when the monitor did not end well or panicked.
    pub fn finish(mut self, seconds: u64) -> Result<Report> {
        let exit = self.vm.wait_exit(seconds);
        let report = self.report();
        let ended = matches!(exit, Ok(Exit::Code(0))) && !self.vm.stderr().contains("panicked");
        if ended && report.failures().next().is_none() && report.is_done() {
            return Ok(report);
        }
        Err(self.problem(&format!("the guest's test failed (end: {exit:?})")))
    }

    fn problem(&self, what: &str) -> Error {
        Error::Answer {
            answer: what.to_owned(),
            context: format!(
                "--- guest ---\n{}--- monitor ---\n{}",
                self.report().text,
                self.vm.stderr()
            ),
        }
    }
}

impl Report {
    /// The value of the first fact with this name.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// All facts, in order: name and value.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &str)> {
        let facts = self.lines("fact ");
        facts.map(|line| line.split_once(' ').unwrap_or((line, "")))
    }

    /// What the guest found to be wrong.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        self.lines("fail ")
    }

    /// The guest came to the end of its test.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.text.ends_with("done\n")
    }

    fn lines<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.text
            .lines()
            .filter_map(move |line| line.strip_prefix(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_facts_failures_and_an_end() {
        let text = "fact a 1 2\nx\nfact b\nfail broken\ndone\n".to_owned();
        let report = Report { text };
        assert_eq!(report.fact("a"), Some("1 2"));
        assert_eq!(report.fact("b"), Some(""));
        assert_eq!(report.fact("c"), None);
        assert_eq!(report.failures().collect::<Vec<_>>(), ["broken"]);
        assert!(report.is_done());
    }
}
