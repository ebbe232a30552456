//! Errors for people: what failed, and why, and why that.

use std::error::Error;
use std::io::{self, Write};

/// No honest chain is longer; one that leads back to itself must end.
const LONGEST: usize = 64;

/// The messages of an error and of its sources, outermost first.
///
/// Messages of this project never repeat their source, so that the list reads as one story.
pub fn chain(error: &dyn Error) -> Vec<String> {
    std::iter::successors(Some(error), |&error| error.source())
        .take(LONGEST)
        .map(ToString::to_string)
        .collect()
}

/// Messages as a numbered list for people, by the name of the program that ended with them.
#[must_use]
pub fn chain_text(program: &str, messages: &[String]) -> String {
    let mut text = format!("Error: {program} exited with the following chain of errors:\n");
    for (index, message) in messages.iter().enumerate() {
        text.push_str(&format!("  {index}: {message}\n"));
    }
    text
}

/// Prints the monitor's chain of causes to standard error, once, at the edge of the program.
///
/// Standard error being gone is ignored: there is nobody left to tell.
pub fn print_chain(error: &dyn Error) {
    let text = chain_text("Cloud Hypervisor", &chain(error));
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot boot")]
    struct Boot(#[source] Load);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot load the kernel")]
    struct Load(#[source] io::Error);

    #[test]
    fn outermost_comes_first() {
        let error = Boot(Load(io::Error::other("disk on fire")));
        assert_eq!(
            chain(&error),
            ["cannot boot", "cannot load the kernel", "disk on fire"]
        );
        assert_eq!(
            chain_text("Cloud Hypervisor", &chain(&error)),
            "Error: Cloud Hypervisor exited with the following chain of errors:\n  \
             0: cannot boot\n  1: cannot load the kernel\n  2: disk on fire\n"
        );
    }

    #[test]
    fn a_circle_ends() {
        #[derive(Debug)]
        struct Circle;
        impl std::fmt::Display for Circle {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("round")
            }
        }
        impl Error for Circle {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&Circle)
            }
        }
        assert_eq!(chain(&Circle).len(), LONGEST);
    }
}
