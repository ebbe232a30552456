//! Builds the monitor and the programs beside it as users get them: optimised and static.

use std::path::PathBuf;

use crate::apt;
use crate::error::{Error, Result};
use crate::project::Project;
use crate::run;

/// The monitor's program and package.
pub(crate) const MONITOR: &str = "cloud-hypervisor";
/// The client of its API, and what makes images, which are beside it.
const BESIDE: [&str; 2] = ["ch-remote", "ch-image"];

/// Builds the release binaries and returns the path of the monitor; the others are in the same folder.
///
/// It has a build folder of its own: other flags in the shared one would rebuild everything twice.
///
/// # Errors
/// When cargo fails or a result still needs shared libraries.
pub(crate) fn build(project: &Project) -> Result<PathBuf> {
    apt::ensure(&[apt::BUILD])?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target = project.target().join("static");
    eprintln!("building the release binaries");
    let mut cargo = cargo();
    cargo.args(["build", "--release", "--quiet", "--target", &triple]);
    cargo.arg("--target-dir").arg(&target);
    // An explicit target keeps these flags away from build scripts and procedural macros.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    run::check(cargo.current_dir(project.root()))?;
    let folder = target.join(triple).join("release");
    for program in [MONITOR].into_iter().chain(BESIDE) {
        let path = folder.join(program);
        if !apt::is_static(&path) {
            return Err(Error::Malformed {
                path,
                problem: "is not a static program, although it was linked as one".to_owned(),
            });
        }
    }
    Ok(folder.join(MONITOR))
}

/// The cargo that started us.
pub(crate) fn cargo() -> std::process::Command {
    std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
