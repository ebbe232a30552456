//! What cargo knows about our crates.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::project::Project;
use crate::{release, run};

/// One crate of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crate {
    /// Its package name.
    pub(crate) name: String,
    /// Its folder, relative to the repository.
    pub(crate) folder: PathBuf,
    /// Names of the workspace's crates that it depends on, for whatever purpose.
    pub(crate) dependencies: Vec<String>,
    /// Root files of its libraries and programs.
    pub(crate) roots: Vec<PathBuf>,
    /// One sentence.
    pub(crate) description: String,
}

/// All crates of the workspace.
pub(crate) fn crates(project: &Project) -> Result<Vec<Crate>> {
    let mut cargo = release::cargo();
    cargo
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(project.root());
    let text = run::output(&mut cargo)?;
    let metadata: Value = serde_json::from_slice(&text).map_err(|error| Error::Malformed {
        path: "cargo metadata".into(),
        problem: error.to_string(),
    })?;
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    Ok(packages
        .iter()
        .map(|package| parse(package, project.root()))
        .collect())
}

fn parse(package: &Value, root: &Path) -> Crate {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let folder = manifest.parent().unwrap_or(&manifest);
    let is_product = |target: &Value| {
        list(&target["kind"])
            .iter()
            .any(|kind| matches!(kind.as_str(), Some("lib" | "rlib" | "bin" | "proc-macro")))
    };
    let ours = |dependency: &Value| {
        // Only dependencies inside of the workspace have a path.
        dependency["path"]
            .is_string()
            .then(|| text(&dependency["name"]))
    };
    Crate {
        name: text(&package["name"]),
        folder: folder.strip_prefix(root).unwrap_or(folder).to_owned(),
        dependencies: list(&package["dependencies"])
            .iter()
            .filter_map(ours)
            .collect(),
        roots: list(&package["targets"])
            .iter()
            .filter(|target| is_product(target))
            .map(|target| PathBuf::from(text(&target["src_path"])))
            .collect(),
        description: text(&package["description"]),
    }
}

/// Every Rust file of a folder and of those below it, in a fixed order. Build results are left out.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
