//! `docs/compatibility.md` has a row for every capability, and the tests that it names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Findings;
use crate::error::Result;
use crate::project::Project;
use crate::{run, workspace};

const TABLE: &str = "docs/compatibility.md";

/// Compares the table with the list of capabilities, which lies beside the repository on the
/// machines of those who keep it; without it only the named tests are checked.
pub(super) fn check(project: &Project, findings: &mut Findings) -> Result<()> {
    let table = project.root().join(TABLE);
    let features = project.root().join("../shared/compat/features.md");
    let rows = if table.exists() {
        rows(&run::read_text(&table)?)
    } else {
        Vec::new()
    };
    if features.exists() {
        let wanted: Vec<String> = self::rows(&run::read_text(&features)?)
            .into_iter()
            .map(|row| row.id)
            .collect();
        findings.offences.extend(compare(&wanted, &rows));
    }
    let tests = TestNames::collect(project.root())?;
    for row in &rows {
        for name in row.tests().filter(|name| !tests.has(name)) {
            findings.offences.push(format!(
                "{TABLE}: {} names the test {name}, which is not there",
                row.id
            ));
        }
    }
    Ok(())
}

/// One line of a table whose first cell is an id such as `BOOT-01`.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    last: String,
}

impl Row {
    /// Names in backquotes with `::` in them, from the last cell.
    fn tests(&self) -> impl Iterator<Item = &str> {
        let is_name = |text: &&str| {
            text.contains("::")
                && text
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
        };
        self.last.split('`').skip(1).step_by(2).filter(is_name)
    }
}

fn rows(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut cells = line
            .trim()
            .strip_prefix('|')?
            .trim_end_matches('|')
            .split('|');
        let id = cells.next()?.trim().trim_matches('`').to_owned();
        let (area, number) = id.split_once('-')?;
        let is_id = area
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            && !area.is_empty()
            && number.chars().all(|c| c.is_ascii_digit())
            && !number.is_empty();
        is_id.then(|| Row {
            id,
            last: cells.next_back().unwrap_or_default().to_owned(),
        })
    };
    text.lines().filter_map(row).collect()
}

fn compare(wanted: &[String], rows: &[Row]) -> Vec<String> {
    let mut count: BTreeMap<&str, usize> = wanted.iter().map(|id| (id.as_str(), 0)).collect();
    let mut offences = Vec::new();
    for row in rows {
        match count.get_mut(row.id.as_str()) {
            Some(count) => *count += 1,
            None => offences.push(format!("{TABLE}: {} is no known capability", row.id)),
        }
    }
    let missing: Vec<&str> = count
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(id, _)| *id)
        .collect();
    if !missing.is_empty() {
        offences.push(format!("{TABLE}: no row for {}", missing.join(", ")));
    }
    for (id, _) in count.iter().filter(|(_, n)| **n > 1) {
        offences.push(format!("{TABLE}: {id} has more than one row"));
    }
    offences
}

/// Every function of the workspace's Rust files with the folders and files that it is in.
struct TestNames(BTreeMap<String, Vec<BTreeSet<String>>>);

impl TestNames {
    fn collect(root: &Path) -> Result<Self> {
        let mut names: BTreeMap<String, Vec<BTreeSet<String>>> = BTreeMap::new();
        for file in workspace::rust_files(root) {
            let places = places(file.strip_prefix(root).unwrap_or(&file));
            for line in run::read_text(&file)?.lines() {
                let Some(after) = line.trim_start().strip_prefix("fn ") else {
                    continue;
                };
                let name = after.split(['(', '<']).next().unwrap_or_default();
                names
                    .entry(name.to_owned())
                    .or_default()
                    .push(places.clone());
            }
        }
        Ok(Self(names))
    }

    /// `theme::name`: a function of that name in a file, folder or crate called `theme`.
    fn has(&self, path: &str) -> bool {
        let (Some((first, _)), Some((_, name))) = (path.split_once("::"), path.rsplit_once("::"))
        else {
            return false;
        };
        self.0
            .get(name)
            .is_some_and(|found| found.iter().any(|places| places.contains(first)))
    }
}

fn places(file: &Path) -> BTreeSet<String> {
    let stem = PathBuf::from(file).with_extension("");
    stem.iter()
        .map(|part| part.to_string_lossy().replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "| ID | capability |\n|---|---|\n| BOOT-01 | ELF | yes | `boot::vmlinux`, see `README` |\n\
                        | NET-7 | tap | later | no device yet |\nBOOT-02 is text\n";

    #[test]
    fn rows_are_those_with_an_id() {
        let rows = rows(TEXT);
        assert_eq!(
            rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(),
            ["BOOT-01", "NET-7"]
        );
        assert_eq!(rows[0].tests().collect::<Vec<_>>(), ["boot::vmlinux"]);
    }

    #[test]
    fn missing_unknown_and_double_rows_are_named() {
        let wanted = ["BOOT-01", "BOOT-03"].map(str::to_owned);
        let found = compare(&wanted, &rows(&format!("{TEXT}| BOOT-01 | twice | | |\n")));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("NET-7") && found[1].contains("BOOT-03"));
        assert!(found[2].contains("BOOT-01"));
    }

    #[test]
    fn a_named_test_is_looked_up_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tests")).unwrap();
        std::fs::write(
            dir.path().join("tests/boot.rs"),
            "#[test]\nfn vmlinux() {}\n",
        )
        .unwrap();
        let names = TestNames::collect(dir.path()).unwrap();
        assert!(names.has("boot::vmlinux"));
        assert!(!names.has("console::vmlinux") && !names.has("boot::bzimage"));
    }
}
