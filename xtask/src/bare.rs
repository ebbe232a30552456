//! Builds our own guest, the one without an operating system.

use std::path::PathBuf;
use std::process::Command;

use crate::apt;
use crate::error::Result;
use crate::project::Project;
use crate::{release, run};

/// Builds it and returns its path. Its folder has a configuration of its own for cargo, which is read because
/// cargo is started there.
pub(crate) fn build(project: &Project) -> Result<PathBuf> {
    apt::ensure(&[apt::BUILD])?;
    run::check(cargo(project).args(["build", "--release", "--quiet"]))?;
    let folder = project.target().join("guest");
    Ok(folder.join("x86_64-unknown-linux-gnu/release/guest"))
}

/// What is checked of every crate; it is no member of the workspace, so it has to be asked for.
pub(crate) fn check(project: &Project) -> Result<()> {
    run::check(cargo(project).args(["fmt", "--check"]))?;
    let clippy = ["clippy", "--release", "--quiet"];
    run::check(
        cargo(project)
            .args(clippy)
            .args(["--", "--deny", "warnings"]),
    )
}

fn cargo(project: &Project) -> Command {
    let mut cargo = release::cargo();
    cargo.current_dir(project.root().join("tests/guest"));
    cargo.env("CARGO_TARGET_DIR", project.target().join("guest"));
    // Flags for the monitor are none for the guest: they would take the place of those in its configuration.
    cargo.env_remove("RUSTFLAGS");
    cargo
}
