//! How a user names an endpoint: the part that every console's configuration has.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Endpoint;

/// Where a console is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConsoleMode {
    /// No device.
    Off,
    /// A new pseudo terminal.
    Pty,
    /// The monitor's own terminal.
    Tty,
    /// A file.
    File,
    /// A Unix socket on which the monitor listens.
    Socket,
    /// Nothing: output is thrown away.
    Null,
}

impl ConsoleMode {
    /// The endpoint that a mode and its path mean.
    ///
    /// # Errors
    /// A text that says which path is missing.
    pub fn endpoint(self, file: Option<&Path>, socket: Option<&Path>) -> Result<Endpoint, String> {
        let path = |path: Option<&Path>, key: &str| -> Result<PathBuf, String> {
            match path {
                Some(path) if !path.as_os_str().is_empty() => Ok(path.to_owned()),
                _ => Err(format!("{key}= needs a path")),
            }
        };
        Ok(match self {
            Self::Off => Endpoint::Off,
            Self::Null => Endpoint::Null,
            Self::Tty => Endpoint::Tty,
            Self::Pty => Endpoint::Pty,
            Self::File => Endpoint::File(path(file, "file")?),
            Self::Socket => Endpoint::Socket(path(socket, "socket")?),
        })
    }
}

impl Endpoint {
    /// The paths of the host that it opens, with the access it needs: for a socket its folder, because
    /// the socket itself is made there.
    #[must_use]
    pub fn paths(&self) -> Vec<(PathBuf, sandbox::landlock::Access)> {
        use sandbox::landlock::Access::ReadWrite;
        let folder = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        match self {
            Self::Off | Self::Null | Self::Tty => Vec::new(),
            Self::Pty => vec![
                ("/dev/pts".into(), ReadWrite),
                ("/dev/ptmx".into(), ReadWrite),
            ],
            Self::File(path) if path.exists() => vec![(path.clone(), ReadWrite)],
            Self::File(path) | Self::Socket(path) => vec![(folder(path), ReadWrite)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_with_a_path_needs_it() {
        let path = Path::new("/tmp/x");
        assert_eq!(
            ConsoleMode::File.endpoint(Some(path), None),
            Ok(Endpoint::File(path.into()))
        );
        assert_eq!(
            ConsoleMode::File.endpoint(None, Some(path)),
            Err("file= needs a path".into())
        );
        assert_eq!(
            ConsoleMode::Socket.endpoint(None, Some(Path::new(""))),
            Err("socket= needs a path".into())
        );
        assert_eq!(ConsoleMode::Tty.endpoint(None, None), Ok(Endpoint::Tty));
    }

    #[test]
    fn a_file_that_does_not_exist_needs_its_folder() {
        let paths = |endpoint: Endpoint| -> Vec<PathBuf> {
            endpoint.paths().into_iter().map(|(path, _)| path).collect()
        };
        assert_eq!(
            paths(Endpoint::File("/dev/null".into())),
            [Path::new("/dev/null")]
        );
        assert_eq!(
            paths(Endpoint::File("/dev/nowhere".into())),
            [Path::new("/dev")]
        );
        assert_eq!(
            paths(Endpoint::Socket("here.sock".into())),
            [Path::new(".")]
        );
        assert!(paths(Endpoint::Tty).is_empty());
    }
}
