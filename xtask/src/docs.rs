//! `cargo xtask docs`: builds what people read beside the README. A broken link is an error.
//!
//! - the reference of every crate, in `target/doc`;
//! - man page and shell completions, in `target/man`.

use crate::error::Result;
use crate::project::Project;
use crate::{release, run};

/// Builds rustdoc for the whole workspace, and what the command line generates from itself.
pub(crate) fn build(project: &Project) -> Result<()> {
    let mut cargo = release::cargo();
    cargo
        .args(["doc", "--workspace", "--no-deps", "--quiet"])
        .current_dir(project.root());
    run::check(cargo.env("RUSTDOCFLAGS", "-D warnings"))?;
    let mut generate = release::cargo();
    generate
        .args(["run", "--quiet", "--package", "cloud-hypervisor"])
        .args(["--bin", "generate-docs", "--", "target/man"])
        .current_dir(project.root());
    run::check(&mut generate)
}
