//! Which of the guest tests boot Linux: those take an emulated host where KVM cannot run a kernel.

use crate::error::Result;
use crate::project::Project;
use crate::run;

/// How a test says that it boots Linux.
const BOOTS: &str = "Vm::linux(";

/// The tests of a theme that boot Linux.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Linux {
    /// None does.
    None,
    /// Those with these names.
    Some(Vec<String>),
    /// All, because what they have in common does.
    All,
}

/// Reads that from the sources of a theme.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn tests(project: &Project, theme: &str) -> Result<Linux> {
    let tests = project.root().join("tests");
    let parts = std::fs::read_dir(tests.join(theme)).into_iter().flatten();
    for part in parts.flatten() {
        if run::read_text(&part.path())?.contains(BOOTS) {
            return Ok(Linux::All);
        }
    }
    let source = run::read_text(&tests.join(format!("{theme}.rs")))?;
    Ok(among(&source))
}

/// The same of one source: what is before the first test is what all have in common.
fn among(source: &str) -> Linux {
    let mut parts = source.split("#[test]");
    if parts.next().is_some_and(|common| common.contains(BOOTS)) {
        return Linux::All;
    }
    let name = |part: &str| {
        let (_, rest) = part.split_once("fn ")?;
        let (name, body) = rest.split_once('(')?;
        body.contains(BOOTS).then(|| name.to_owned())
    };
    let names: Vec<String> = parts.filter_map(name).collect();
    if names.is_empty() {
        Linux::None
    } else {
        Linux::Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_boots_linux_says_so_in_its_body() {
        let source = "use testkit::Vm;\n#[test]\nfn one() { Vm::builder() }\n\
                      #[test]\nfn two() -> Result { Vm::linux().spawn() }\n";
        assert_eq!(among(source), Linux::Some(vec!["two".to_owned()]));
        assert_eq!(among("#[test]\nfn one() {}"), Linux::None);
    }

    #[test]
    fn what_tests_have_in_common_counts_for_all() {
        let source = "fn machine() { Vm::linux() }\n#[test]\nfn one() { machine() }\n";
        assert_eq!(among(source), Linux::All);
    }
}
