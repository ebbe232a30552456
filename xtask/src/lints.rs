//! `cargo xtask lints`: rules of CONTRIBUTING.md that no other tool checks.

mod compatibility;
mod length;

use std::path::Path;

use crate::error::{Error, Result};
use crate::project::Project;
use crate::run;
use crate::workspace::{self, Crate};

/// Crates that may contain `unsafe`: those that speak to the kernel about memory and processors.
const UNSAFE_CRATES: &[&str] = &["disk", "hypervisor", "memory", "sandbox", "tap"];

/// The guest without an operating system: no member of the workspace, so that it has lints of its own. It is made of
/// `unsafe`, each piece of it explained.
const BARE_GUEST: &str = "tests/guest/Cargo.toml";

/// What a check found.
#[derive(Debug, Default)]
struct Findings {
    offences: Vec<String>,
    /// Worth a look; the rule has "as a rule" in it.
    warnings: Vec<String>,
}

/// Prints everything that breaks a rule.
///
/// # Errors
/// When there is an offence; warnings are only printed.
pub(crate) fn check(project: &Project) -> Result<()> {
    let mut findings = Findings::default();
    for member in workspace::crates(project)? {
        check_crate(project, &member, &mut findings)?;
    }
    let manifest = run::read_text(&project.root().join(BARE_GUEST))?;
    findings.offences.extend(bare_guest(&manifest));
    for file in workspace::rust_files(project.root()) {
        let text = run::read_text(&file)?;
        let name = file.strip_prefix(project.root()).unwrap_or(&file);
        if let Some(offence) = architecture(name, &text) {
            findings.offences.push(offence);
        }
        length::check(name, &text, &mut findings);
    }
    compatibility::check(project, &mut findings)?;
    for warning in &findings.warnings {
        eprintln!("lints: note: {warning}");
    }
    for offence in &findings.offences {
        eprintln!("lints: {offence}");
    }
    match findings.offences.len() {
        0 => Ok(()),
        count => Err(Error::Check {
            check: "lints",
            count,
        }),
    }
}

fn check_crate(project: &Project, member: &Crate, findings: &mut Findings) -> Result<()> {
    for root in &member.roots {
        let text = run::read_text(root)?;
        if !UNSAFE_CRATES.contains(&member.name.as_str()) && !forbids_unsafe(&text) {
            let file = root.strip_prefix(project.root()).unwrap_or(root).display();
            findings
                .offences
                .push(format!("{file}: lacks #![forbid(unsafe_code)]"));
        }
    }
    let manifest = member.folder.join("Cargo.toml");
    let text = run::read_text(&project.root().join(&manifest))?;
    if !text.contains("[lints]\nworkspace = true") {
        let file = manifest.display();
        findings
            .offences
            .push(format!("{file}: does not take over the workspace's lints"));
    }
    if member.description.trim().is_empty() {
        let file = manifest.display();
        findings.offences.push(format!(
            "{file}: `description` is empty: say it in one sentence"
        ));
    }
    Ok(())
}

/// What a manifest lacks that lets a crate have `unsafe`.
fn bare_guest(manifest: &str) -> Vec<String> {
    let rules = [
        "undocumented_unsafe_blocks = \"deny\"",
        "unsafe_op_in_unsafe_fn = \"deny\"",
    ];
    let missing = rules
        .into_iter()
        .filter(|rule| !manifest.lines().any(|line| line.trim() == *rule));
    missing
        .map(|rule| format!("{BARE_GUEST}: lacks {rule}"))
        .collect()
}

fn forbids_unsafe(text: &str) -> bool {
    text.lines()
        .any(|line| line.trim() == "#![forbid(unsafe_code)]")
}

/// Architectures are siblings: only the file that picks one may ask which it is.
fn architecture(file: &Path, text: &str) -> Option<String> {
    let picks = file
        .file_name()
        .is_some_and(|name| name == "mod.rs" || name == "lib.rs");
    // In two pieces, or this file would find itself.
    let wanted = concat!("target", "_arch");
    let code = |line: &&str| !line.trim_start().starts_with("//");
    let line = text
        .lines()
        .filter(code)
        .position(|line| line.contains(wanted));
    line.filter(|_| !picks).map(|_| {
        format!(
            "{}: cfg({wanted}) belongs in the mod.rs that picks",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_attribute_forbids() {
        assert!(forbids_unsafe("//! Doc.\n\n#![forbid(unsafe_code)]\n"));
        assert!(!forbids_unsafe("// #![forbid(unsafe_code)]\n"));
    }

    #[test]
    fn the_bare_guest_explains_what_is_unsafe() {
        let both = "[lints.rust]\nunsafe_op_in_unsafe_fn = \"deny\"\n[lints.clippy]\nundocumented_unsafe_blocks = \"deny\"\n";
        assert!(bare_guest(both).is_empty());
        let offences = bare_guest(&both.replace("deny", "warn"));
        assert_eq!(offences.len(), 2, "{offences:?}");
    }

    #[test]
    fn an_architecture_is_picked_in_one_place() {
        let text = format!("#[cfg({}=\"x86_64\")]", concat!("target", "_arch"));
        assert!(architecture(Path::new("platform/arch/src/lib.rs"), &text).is_none());
        assert!(architecture(Path::new("platform/arch/src/x86_64/mod.rs"), &text).is_none());
        assert!(architecture(Path::new("platform/arch/src/cpuid.rs"), &text).is_some());
        let comment = format!("// {text}");
        assert!(architecture(Path::new("a.rs"), &comment).is_none());
    }
}
