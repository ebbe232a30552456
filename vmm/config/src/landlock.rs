//! `--landlock-rules`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Check, Problem, require};

const OPTION: &str = "--landlock-rules";

/// A path that the monitor may use although no device names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LandlockConfig {
    /// File or folder; it must exist.
    #[schemars(extend("format" = "path"))]
    pub path: PathBuf,
    /// What may be done: r, w or rw.
    pub access: String,
}

impl LandlockConfig {
    /// Checks the path and the letters.
    ///
    /// # Errors
    /// The first problem found.
    pub fn check(&self) -> Check {
        self.rule()?;
        require(self.path.exists(), OPTION, || {
            format!("path={} does not exist", self.path.display())
        })
    }

    /// What may be done.
    ///
    /// # Errors
    /// If there are other letters than r and w.
    pub fn rule(&self) -> Result<sandbox::landlock::Access, Problem> {
        self.access.parse().map_err(|_| {
            Problem::new(
                OPTION,
                format!("access={}: must be r, w or rw", self.access),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_both_keys_known_letters_and_a_path() {
        assert!(keyvalue::from_str::<LandlockConfig>("path=/tmp").is_err());
        let read = |text| keyvalue::from_str::<LandlockConfig>(text).unwrap().check();
        assert_eq!(read("path=/tmp,access=rw"), Ok(()));
        assert!(
            read("path=/tmp,access=x")
                .unwrap_err()
                .text
                .contains("r, w or rw")
        );
        assert!(
            read("path=/nowhere,access=r")
                .unwrap_err()
                .text
                .contains("does not exist")
        );
    }
}
