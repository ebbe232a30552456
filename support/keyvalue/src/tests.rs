//! Behaviour of the whole, over types that use every attribute.

mod fixture;
mod json;
mod parts;
mod print;
mod properties;
mod syntax;
mod types;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// What reading `text` as a `T` gives.
fn read<T: DeserializeOwned + JsonSchema>(text: &str) -> T {
    crate::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// The message of reading `text` as a `T`, with its causes.
fn error<T: DeserializeOwned + JsonSchema>(text: &str) -> String {
    let Err(error) = crate::from_str::<T>(text) else {
        panic!("{text:?} was accepted")
    };
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    message
}
