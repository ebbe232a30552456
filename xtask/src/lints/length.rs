//! Files under 500 lines and functions under 60, as a rule.

use std::path::Path;

use super::Findings;

const FILE_LINES: usize = 500;
const FILE_LINES_AT_MOST: usize = 700;
const FUNCTION_LINES: usize = 60;

/// Adds what is too long.
pub(super) fn check(file: &Path, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    let name = file.display();
    if lines > FILE_LINES_AT_MOST {
        let offence = format!("{name}: {lines} lines, more than {FILE_LINES_AT_MOST}: split it");
        findings.offences.push(offence);
    } else if lines > FILE_LINES {
        findings
            .warnings
            .push(format!("{name}: {lines} lines, more than {FILE_LINES}"));
    }
    for (function, line, length) in long_functions(text) {
        let warning = format!("{name}:{line}: {function} has {length} lines");
        findings.warnings.push(warning);
    }
}

/// Name, first line and length of each function that is too long.
///
/// Code is formatted by rustfmt, so a function ends at the brace below its first letter.
fn long_functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        if line.ends_with('}') || line.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let Some(length) = lines[index..].iter().position(|line| *line == end) else {
            continue;
        };
        if length + 1 > FUNCTION_LINES {
            found.push((name.to_owned(), index + 1, length + 1));
        }
    }
    found
}

/// The name in a line that begins a function.
fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let word = |word: &str| {
        matches!(
            word,
            "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\""
        ) || word.starts_with("pub(")
    };
    if !before.split_whitespace().all(word) {
        return None;
    }
    after
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_recognised() {
        assert_eq!(
            function_name("    pub(crate) const fn new(x: u8) -> Self {"),
            Some("new")
        );
        assert_eq!(function_name("fn main() {"), Some("main"));
        assert_eq!(function_name("    let f: fn (u8) = x;"), None);
        assert_eq!(function_name("    // a fn here"), None);
    }

    #[test]
    fn length_counts_from_the_signature_to_the_brace() {
        let body = "        x();\n".repeat(59);
        let text =
            format!("impl X {{\n    fn long() {{\n{body}    }}\n\n    fn short() {{\n    }}\n}}");
        assert_eq!(long_functions(&text), [("long".to_owned(), 2, 61)]);
        let body = "        x();\n".repeat(58);
        assert!(long_functions(&format!("    fn fits() {{\n{body}    }}\n")).is_empty());
    }

    #[test]
    fn files_warn_first_and_fail_later() {
        let mut findings = Findings::default();
        check(Path::new("a.rs"), &"x\n".repeat(501), &mut findings);
        assert_eq!((findings.warnings.len(), findings.offences.len()), (1, 0));
        check(Path::new("a.rs"), &"x\n".repeat(701), &mut findings);
        assert_eq!((findings.warnings.len(), findings.offences.len()), (1, 1));
    }
}
