//! Sums up what test programs say about themselves.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::error::{Context as _, Result};
use crate::run;

/// How many tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and checks that did.
    pub(crate) failed: u64,
}

impl Counts {
    /// Adds others to these.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Adds what a line of a test program's output says: `test result: ok. 3 passed; 0 failed; …`.
    fn add_line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |word: &str| {
            let before = result.split(word).next()?;
            before
                .rsplit([' ', ';'])
                .find(|text| !text.is_empty())?
                .parse::<u64>()
                .ok()
        };
        self.passed += number("passed").unwrap_or(0);
        self.failed += number("failed").unwrap_or(0);
    }
}

/// Runs a test program, shows its output as it comes and counts its results. A program that ends
/// badly without a failed test counts as one.
pub(crate) fn run(command: &mut Command) -> Result<Counts> {
    Ok(run_to(command, io::stdout())?.0)
}

/// The same, with the names of the tests that failed.
pub(crate) fn run_for_names(command: &mut Command) -> Result<(Counts, Vec<String>)> {
    run_to(command, io::stdout())
}

/// The names of the tests that a program runs with these arguments; the first is the program.
///
/// # Errors
/// When it does not run or refuses the arguments.
pub(crate) fn list(program: &[String]) -> Result<Vec<String>> {
    let mut command = Command::new(&program[0]);
    command
        .args(["--list", "--format=terse"])
        .args(&program[1..]);
    let text = run::output_text(&mut command)?;
    let name = |line: &str| Some(line.strip_suffix(": test")?.to_owned());
    Ok(text.lines().filter_map(name).collect())
}

/// Collects the names from the list at the end of a test program's output: `failures:`, then one name a line,
/// indented by four.
#[derive(Default)]
struct Failures {
    in_list: bool,
    names: Vec<String>,
}

impl Failures {
    fn add_line(&mut self, line: &str) {
        match line.strip_prefix("    ") {
            _ if line == "failures:" => {
                self.in_list = true;
                self.names.clear();
            }
            Some(name) if self.in_list && !name.contains(' ') => self.names.push(name.to_owned()),
            _ if line.is_empty() => {}
            _ => self.in_list = false,
        }
    }
}

fn run_to(command: &mut Command, mut out: impl Write) -> Result<(Counts, Vec<String>)> {
    let text = run::text(command);
    let what = || format!("cannot run `{text}`");
    let mut child = command.stdout(Stdio::piped()).spawn().context(what)?;
    let mut counts = Counts::default();
    let mut failures = Failures::default();
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).context(what)? > 0 {
            out.write_all(&line).context(|| "cannot write".to_owned())?;
            let text = String::from_utf8_lossy(&line);
            counts.add_line(text.trim_end());
            failures.add_line(text.trim_end());
            line.clear();
        }
    }
    let status = child.wait().context(what)?;
    if !status.success() && counts.failed == 0 {
        eprintln!("`{text}`: {status}");
        counts.failed = 1;
    }
    Ok((counts, failures.names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_others_ignored() {
        let mut counts = Counts::default();
        counts.add_line(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out",
        );
        counts.add_line("test result: FAILED. 3 passed; 2 failed; 0 ignored");
        counts.add_line("test passed ... ok");
        assert_eq!(
            counts,
            Counts {
                passed: 15,
                failed: 2
            }
        );
    }

    #[test]
    fn the_names_of_failed_tests_are_in_the_last_list() {
        let mut failures = Failures::default();
        let text = "failures:\n\n---- one stdout ----\n    not a name\n\nfailures:\n    one\n    a::two\n\n\
                    test result: FAILED. 3 passed; 2 failed\n    later\n";
        text.lines().for_each(|line| failures.add_line(line));
        assert_eq!(failures.names, ["one", "a::two"]);
    }

    #[test]
    fn a_crashed_test_program_counts_as_a_failure() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo 'test result: ok. 1 passed; 0 failed'; exit 3"]);
        let mut shown = Vec::new();
        let (counts, _) = run_to(&mut shell, &mut shown).unwrap();
        assert_eq!((counts.passed, counts.failed), (1, 1));
        assert_eq!(shown, b"test result: ok. 1 passed; 0 failed\n");
    }
}
