//! Where things are: the repository, the cache of downloads, the build folder.

use std::path::{Path, PathBuf};

use crate::error::{Context as _, Result};

/// The folders of one checkout.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    root: PathBuf,
    cache: PathBuf,
    target: PathBuf,
}

impl Project {
    /// The checkout that this xtask was built from. `CH_CACHE` moves the cache,
    /// `CARGO_TARGET_DIR` the build folder.
    ///
    /// # Errors
    /// When the cache folder cannot be made.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest).to_owned();
        let folder = |variable: &str, default: &str| {
            let chosen = std::env::var_os(variable).filter(|value| !value.is_empty());
            chosen.map_or_else(|| root.join(default), PathBuf::from)
        };
        let cache = folder("CH_CACHE", ".cache");
        let target = folder("CARGO_TARGET_DIR", "target");
        crate::run::create_folder(&cache)?;
        let cache = cache
            .canonicalize()
            .context(|| format!("cannot resolve {}", cache.display()))?;
        Ok(Self {
            root,
            cache,
            target,
        })
    }

    /// The repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Downloads and what is made of them; may be removed at any time.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// cargo's build folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }
}
