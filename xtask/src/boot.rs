//! `cargo xtask boot`: a stock Linux guest from nothing, with one command.

use std::io::{self, BufRead as _, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::debian;
use crate::error::{Context as _, Error, Result};
use crate::guest::Guest;
use crate::kvm::{self, Place};
use crate::nested::{self, Job};
use crate::project::Project;
use crate::terminal::SavedTerminal;
use crate::{release, run};

/// How long the monitor may take to end after the guest's command has.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What the user asked for.
#[derive(Debug, Default)]
struct Wish {
    exec: Option<String>,
    kernel: Option<PathBuf>,
    initramfs: Option<PathBuf>,
    binary: Option<PathBuf>,
    cpus: String,
    memory: String,
    verbose: bool,
    /// Do not ask where to run: set for the xtask inside of the emulated host.
    here: bool,
    nested: bool,
}

impl Wish {
    fn read(arguments: Vec<String>) -> Result<Self> {
        let mut args = Args::without_separator(arguments);
        let wish = Self {
            exec: args.option("--exec")?,
            kernel: args.option("--kernel")?.map(PathBuf::from),
            initramfs: args.option("--initramfs")?.map(PathBuf::from),
            binary: args.option("--binary")?.map(PathBuf::from),
            cpus: args.option("--cpus")?.unwrap_or_else(|| "2".to_owned()),
            memory: args
                .option("--memory")?
                .unwrap_or_else(|| "512M".to_owned()),
            verbose: args.flag("-v"),
            here: args.flag("--here"),
            nested: args.flag("--nested"),
        };
        args.done()?;
        Ok(wish)
    }

    /// The same wish as arguments, with everything prepared, for the xtask in the emulated host.
    fn arguments(&self, files: &Files) -> Vec<String> {
        let mut words: Vec<String> = vec!["boot".into(), "--here".into()];
        let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
        add("--binary", files.binary.display().to_string());
        add("--kernel", files.kernel.display().to_string());
        add("--initramfs", files.initramfs.display().to_string());
        add("--cpus", self.cpus.clone());
        add("--memory", self.memory.clone());
        if let Some(exec) = &self.exec {
            add("--exec", exec.clone());
        }
        if self.verbose {
            words.push("-v".into());
        }
        words
    }
}

/// What the monitor is started with.
struct Files {
    binary: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Files {
    fn prepare(project: &Project, wish: &Wish) -> Result<Self> {
        let binary = match &wish.binary {
            Some(path) => path.clone(),
            None => release::build(project)?,
        };
        let absolute =
            |path: &Path| std::path::absolute(path).context(|| format!("bad path {path:?}"));
        let (kernel, initramfs) = match (&wish.kernel, &wish.initramfs) {
            (Some(kernel), Some(initramfs)) => (kernel.clone(), initramfs.clone()),
            (kernel, initramfs) => {
                let guest = Guest::plain(project)?;
                let bzimage = guest.kernel.bzimage;
                (
                    kernel.clone().unwrap_or(bzimage),
                    initramfs.clone().unwrap_or(guest.initramfs),
                )
            }
        };
        Ok(Self {
            binary: absolute(&binary)?,
            kernel: absolute(&kernel)?,
            initramfs: absolute(&initramfs)?,
        })
    }
}

/// Boots a guest: a shell, or one command whose exit status is returned.
pub(crate) fn command(project: &Project, arguments: Vec<String>) -> Result<u8> {
    if arguments.iter().any(|word| word == "--debian") {
        return debian::boot::command(project, arguments);
    }
    let wish = Wish::read(arguments)?;
    let files = Files::prepare(project, &wish)?;
    if !wish.here {
        let place = if wish.nested {
            Place::Nested("asked to".to_owned())
        } else {
            kvm::place(&files.binary)?
        };
        if let Place::Nested(reason) = place {
            eprintln!("running inside an emulated host: {reason}");
            return run_nested(project, &wish, &files);
        }
        eprintln!("running on this machine's /dev/kvm");
    }
    match &wish.exec {
        Some(script) => execute(&wish, &files, script),
        None => interact(&wish, &files),
    }
}

fn run_nested(project: &Project, wish: &Wish, files: &Files) -> Result<u8> {
    let this = std::env::current_exe().context(|| "xtask does not find itself".to_owned())?;
    let mut command = vec![this.display().to_string()];
    command.extend(wish.arguments(files));
    let folder = project.root().to_owned();
    let interactive = wish.exec.is_none();
    nested::run_job(
        project,
        &Job {
            command,
            folder,
            interactive,
            ..Job::default()
        },
    )
}

/// The monitor's command line.
fn monitor(wish: &Wish, files: &Files, initramfs: &Path) -> Command {
    let quiet = if wish.verbose {
        ""
    } else {
        " quiet loglevel=3"
    };
    let mut command = Command::new(&files.binary);
    command
        .arg("--kernel")
        .arg(&files.kernel)
        .arg("--initramfs")
        .arg(initramfs);
    command.args(["--cmdline", &format!("console=ttyS0 panic=-1{quiet}")]);
    command.args(["--cpus", &format!("boot={}", wish.cpus)]);
    command.args(["--memory", &format!("size={}", wish.memory)]);
    command.args(["--serial", "tty", "--console", "off"]);
    command
}

/// Gives the user the guest's shell.
fn interact(wish: &Wish, files: &Files) -> Result<u8> {
    let _terminal = SavedTerminal::save();
    let mut command = monitor(wish, files, &files.initramfs);
    let status = command
        .status()
        .context(|| format!("cannot start {}", run::text(&command)))?;
    if status.success() {
        return Ok(0);
    }
    Err(Error::Command {
        command: run::text(&command),
        status: status.to_string(),
    })
}

/// Runs one command in the guest, passes its output on and returns its exit status.
fn execute(wish: &Wish, files: &Files, script: &str) -> Result<u8> {
    let folder = tempfile::tempdir().context(|| "no temporary folder".to_owned())?;
    let marker = format!("@xtask-{:016x}", nested::random());
    let mut initramfs = run::read(&files.initramfs)?;
    initramfs.resize(initramfs.len().next_multiple_of(4), 0);
    initramfs.extend_from_slice(&testkit::guest::command(script, &marker));
    let path = folder.path().join("initramfs");
    run::write(&path, &initramfs)?;
    let mut command = monitor(wish, files, &path);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(|| format!("cannot start {}", run::text(&command)))?;
    let console = child
        .stdout
        .take()
        .ok_or_else(|| Error::Usage("no output".to_owned()))?;
    let framed = pass_on(console, io::stdout(), io::stderr(), &marker, wish.verbose);
    let status = framed.context(|| "cannot pass the guest's output on".to_owned())?;
    let ended = wait(&mut child)?;
    match status {
        Ok(status) if ended.success() => Ok(status),
        Ok(_) => Err(Error::Command {
            command: run::text(&command),
            status: ended.to_string(),
        }),
        Err(console) => {
            eprint!("{console}");
            let status =
                format!("{ended}; the guest did not run the command, see its console above");
            Err(Error::Command {
                command: run::text(&command),
                status,
            })
        }
    }
}

/// Copies what is between the markers to `out`, and the rest of the console to `rest` if wanted.
///
/// The outer error is the system's. The inner one means that the markers did not come: it has the
/// last of what came instead.
fn pass_on(
    mut console: impl Read,
    out: impl Write,
    mut rest: impl Write,
    marker: &str,
    verbose: bool,
) -> io::Result<Result<u8, String>> {
    const SHOWN: usize = 8000;
    let mut before = Vec::new();
    let begin = format!("{marker}-begin\n");
    let mut byte = [0];
    // Byte by byte, to leave everything behind the marker unread; the guest's speed is the limit.
    let mut console = io::BufReader::new(&mut console);
    while !before.ends_with(begin.as_bytes()) {
        if console.read(&mut byte)? == 0 {
            let tail = &before[before.len().saturating_sub(SHOWN)..];
            return Ok(Err(String::from_utf8_lossy(tail).into_owned()));
        }
        before.extend_from_slice(&byte);
        if verbose {
            rest.write_all(&byte)?;
        }
    }
    let trailer = format!("{marker}-end ");
    let Some(behind) = nested::frames::copy(&mut console, out, trailer.as_bytes())? else {
        return Ok(Err("the guest ended before its command did\n".to_owned()));
    };
    let mut console = io::Cursor::new(behind).chain(console);
    let mut line = String::new();
    console.read_line(&mut line)?;
    // Whatever else comes must be read, or the monitor waits for us.
    io::copy(&mut console, &mut io::sink())?;
    Ok(line
        .trim()
        .parse()
        .map_err(|_| format!("the guest reported the status {line:?}\n")))
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let what = || "cannot wait for the monitor".to_owned();
        if let Some(status) = child.try_wait().context(what)? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            return child.wait().context(what);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(console: &str, verbose: bool) -> (Result<u8, String>, String, String) {
        let (mut out, mut rest) = (Vec::new(), Vec::new());
        let result = pass_on(console.as_bytes(), &mut out, &mut rest, "@m", verbose).unwrap();
        (
            result,
            String::from_utf8(out).unwrap(),
            String::from_utf8(rest).unwrap(),
        )
    }

    #[test]
    fn only_the_commands_output_is_passed_on() {
        let console = "kernel\r\n@m-begin\nhello\nno newline@m-end 3\n[  1.0] reboot: Power down\n";
        assert_eq!(
            passed(console, false),
            (Ok(3), "hello\nno newline".to_owned(), String::new())
        );
        let (_, out, rest) = passed(console, true);
        assert_eq!(
            (out.as_str(), rest.as_str()),
            ("hello\nno newline", "kernel\r\n@m-begin\n")
        );
    }

    #[test]
    fn a_guest_that_never_gets_there_shows_its_console() {
        let (result, out, _) = passed("Kernel panic - not syncing\n", false);
        assert!(result.unwrap_err().contains("Kernel panic") && out.is_empty());
        let (result, out, _) = passed("@m-begin\npartial", false);
        assert!(result.is_err());
        assert_eq!(out, "partial");
    }

    #[test]
    fn a_wish_survives_the_way_into_the_emulated_host() {
        let words = ["--exec", "echo 'a b'; exit 3", "--cpus", "4", "-v"].map(str::to_owned);
        let wish = Wish::read(words.to_vec()).unwrap();
        let path = |name: &str| PathBuf::from(name);
        let files = Files {
            binary: path("/b"),
            kernel: path("/k"),
            initramfs: path("/i"),
        };
        let again = Wish::read(wish.arguments(&files)[1..].to_vec()).unwrap();
        assert_eq!(again.exec.as_deref(), Some("echo 'a b'; exit 3"));
        assert_eq!((again.cpus.as_str(), again.memory.as_str()), ("4", "512M"));
        assert!(again.here && again.verbose);
        assert_eq!(again.kernel, Some(path("/k")));
    }
}
