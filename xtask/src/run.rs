//! Starts other programs and says clearly when they fail.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context as _, Error, Result};

/// Where a program is: `$PATH`, then the folders that hold administrators' programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// A command for a program found by [`find_program`].
pub(crate) fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// Runs a command whose output the user sees.
///
/// # Errors
/// When it cannot start or ends with another status than 0.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .context(|| format!("cannot start `{}`", text(command)))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: text(command),
        status: status.to_string(),
    })
}

/// Runs a command and returns what it printed to standard output.
///
/// # Errors
/// As [`check`]; what it said on standard error is part of the message.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context(|| format!("cannot start `{}`", text(command)))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let status = format!("{}: {}", output.status, said.trim());
    Err(Error::Command {
        command: text(command),
        status,
    })
}

/// [`output`] as text.
pub(crate) fn output_text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// The command as one would type it.
pub(crate) fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// A word quoted for a POSIX shell.
pub(crate) fn quote(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).context(|| format!("cannot read {}", path.display()))
}

/// Reads a whole file as text; bytes that are not UTF-8 are replaced.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

/// Writes a whole file.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).context(|| format!("cannot write {}", path.display()))
}

/// Creates a folder and its parents.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).context(|| format!("cannot create {}", path.display()))
}

/// Renames a file or folder, within one file system.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        let words = [
            "plain",
            "",
            "with space",
            "it's",
            "$HOME `x` \\ \"y\"",
            "a\nb",
        ];
        for word in words {
            let script = format!("printf %s {}", quote(word));
            let said = output_text(Command::new("sh").args(["-c", &script])).unwrap();
            assert_eq!(said, word);
        }
    }

    #[test]
    fn failures_carry_what_the_program_said() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("why") && text.contains('3'), "{text}");
    }
}
