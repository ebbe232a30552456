//! The envelope of a saved state.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// A device's state at rest: which kind wrote it, in which version, and the state itself.
///
/// The body is made of types that exist only for this purpose, never of the types a device runs on. Fields may
/// be added with a meaningful default; any other change needs a new version and a conversion from the old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Name of the kind.
    pub kind: String,
    /// Version of the body's layout, from 1.
    pub version: u32,
    /// The state.
    pub body: Value,
}

impl Saved {
    /// Wraps the state of a device.
    ///
    /// # Errors
    /// [`Error::BadState`] if it has no JSON form.
    pub fn new<T: Serialize>(kind: &'static str, version: u32, body: &T) -> Result<Self> {
        let body = serde_json::to_value(body).map_err(|error| Error::BadState {
            kind,
            why: error.to_string(),
        })?;
        Ok(Self {
            kind: kind.to_owned(),
            version,
            body,
        })
    }

    /// The state, if it is of this kind and of exactly this version.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is another device's or version's, [`Error::BadState`] if it does not parse.
    pub fn read<T: DeserializeOwned>(self, kind: &'static str, version: u32) -> Result<T> {
        if self.kind != kind || self.version != version {
            return Err(Error::WrongState {
                found: self.kind,
                found_version: self.version,
                expected: kind,
                version,
            });
        }
        serde_json::from_value(self.body).map_err(|error| Error::BadState {
            kind,
            why: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_saved() {
        let saved = Saved::new("thing", 2, &vec![1u8, 2]).unwrap();
        let text = serde_json::to_string(&saved).unwrap();
        let again: Saved = serde_json::from_str(&text).unwrap();
        assert_eq!(again.read::<Vec<u8>>("thing", 2).unwrap(), [1, 2]);
    }

    #[test]
    fn refuses_another_kind_version_or_shape() {
        let saved = Saved::new("thing", 2, &"text").unwrap();
        let error = saved.clone().read::<String>("other", 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "saved state is of thing version 2, this device reads other up to version 2"
        );
        assert!(matches!(
            saved.clone().read::<String>("thing", 1),
            Err(Error::WrongState { .. })
        ));
        assert!(matches!(
            saved.read::<u32>("thing", 2),
            Err(Error::BadState { .. })
        ));
    }
}
