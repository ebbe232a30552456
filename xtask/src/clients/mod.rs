//! Clients of the API that know nothing of this project: a validator, a client made of the OpenAPI document, a parser
//! of metrics, and schemathesis, against a running monitor whose guest is a few instructions.
//!
//! What they do is in `run.py`. They come from PyPI into an environment in the cache, by versions that
//! `requirements.txt` fixes.

use std::path::PathBuf;
use std::process::Command;

use testkit::payload::Payload;

use crate::args::Args;
use crate::error::{Context, Error, Result};
use crate::project::Project;
use crate::{apt, release, run};

const REQUIREMENTS: &str = include_str!("requirements.txt");
/// Everything in a network of its own: a random network device makes no interface on this machine.
const ALONE: &str = "ip link set lo up && exec \"$@\"";

/// `cargo xtask clients`.
pub(crate) fn command(project: &Project, arguments: Vec<String>) -> Result<u8> {
    let mut args = Args::without_separator(arguments);
    let binary = args.option("--binary")?.map(PathBuf::from);
    if let [word, ..] = args.rest()?.as_slice() {
        return Err(Error::Usage(format!("clients: what is {word}?")));
    }
    check(project, binary)?;
    Ok(0)
}

/// Runs them all.
pub(crate) fn check(project: &Project, binary: Option<PathBuf>) -> Result<()> {
    if std::fs::File::open("/dev/kvm").is_err() {
        return Err(Error::Missing {
            what: "the monitor cannot run here: there is no /dev/kvm to open".to_owned(),
            remedy:
                "load the kernel's module kvm_intel or kvm_amd, or see to the rights of /dev/kvm"
                    .to_owned(),
        });
    }
    apt::ensure(&[apt::CLIENTS])?;
    let python = environment(project)?;
    let monitor = match binary {
        Some(binary) => binary,
        None => release::build(project)?,
    };
    let folder = tempfile::tempdir().context(|| "cannot make a folder".to_owned())?;
    let payload = folder.path().join("spin");
    Payload::new()
        .forever(|body| body.spin(1000))
        .elf()
        .write(&payload)
        .context(|| format!("cannot write {}", payload.display()))?;
    let scratch = folder.path().join("scratch");
    run::create_folder(&scratch)?;
    let mut unshare = run::program("unshare");
    unshare.arg("--net");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["sh", "-c", ALONE, "sh"]).arg(python);
    unshare.arg(project.root().join("xtask/src/clients/run.py"));
    unshare.args([&monitor, &payload]);
    unshare
        .arg(project.root().join("docs/openapi.json"))
        .arg(scratch);
    unshare.env("PYTHONDONTWRITEBYTECODE", "1");
    // It talks on standard output, which belongs to the last line of a test run.
    unshare.stdout(std::io::stderr());
    run::check(&mut unshare)
}

/// The Python with the clients in it.
fn environment(project: &Project) -> Result<PathBuf> {
    let folder = project.cache().join("clients");
    let stamp = folder.join("requirements.txt");
    let python = folder.join("bin/python");
    if run::read_text(&stamp).is_ok_and(|there| there == REQUIREMENTS) {
        return Ok(python);
    }
    eprintln!("installing the clients of requirements.txt");
    run::check(
        run::program("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    let list = project.root().join("xtask/src/clients/requirements.txt");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ]);
    run::check(pip.arg(list).stdout(std::io::stderr()))?;
    // Last: an installation that was cut off is none.
    run::write(&stamp, REQUIREMENTS.as_bytes())?;
    Ok(python)
}
