//! `cargo xtask docs`: builds the reference of every crate; a broken link is an error.

use crate::error::Result;
use crate::project::Project;
use crate::{release, run};

/// Builds rustdoc for the whole workspace.
pub(crate) fn build(project: &Project) -> Result<()> {
    let mut cargo = release::cargo();
    cargo
        .args(["doc", "--workspace", "--no-deps", "--quiet"])
        .current_dir(project.root());
    run::check(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}
