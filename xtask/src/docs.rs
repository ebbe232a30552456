//! `cargo xtask docs`: builds what people read beside the README. A broken link is an error.
//!
//! - the reference of every crate, in `target/doc`;
//! - man pages and shell completions, in `target/man`;
//! - a page for each kind of device, in `docs/devices`, which is kept in the repository. A test compares.

use crate::error::Result;
use crate::project::Project;
use crate::{release, run};

/// Builds rustdoc for the whole workspace, and what the command line and the devices generate from themselves.
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
    run::check(&mut generate)?;
    let mut pages = release::cargo();
    pages
        .args(["test", "--quiet", "--package", "surface", "--test", "pages"])
        .env("UPDATE_PAGES", "1")
        .current_dir(project.root());
    run::check(&mut pages)
}
