//! `docs/devices` has a page for each kind that a user can configure, made of what its folder says.
//!
//! The pages are in the repository so that they can be read there, and this is what keeps them true: with the
//! variable `UPDATE_PAGES`, as `cargo xtask docs` sets it, they are written, otherwise compared.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod page;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use page::Page;
use surface::{Rig, examples};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What the pages are to be, by file name.
fn pages() -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let examples = examples(folder.path());
    let mut pages = BTreeMap::new();
    let mut index = String::from(
        "<!-- Made by `cargo xtask docs`. Not to be edited. -->\n\n# Devices\n\n\
         One page for each kind of device that can be configured, in the order of their creation. Each is made of \
         the kind's own folder.\n\n| Option | What it is |\n|---|---|\n",
    );
    for (option, kind) in catalog::options() {
        let name = kind.names().kind;
        let path = root().join("devices").join(name).join("src/lib.rs");
        let source = fs::read_to_string(&path);
        let source = source.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let example = examples
            .iter()
            .find(|example| example.kind.names() == kind.names());
        let example = example.unwrap_or_else(|| panic!("--{} has no example", option.flag));
        let rig = Rig::new();
        let device = rig.build(kind, &example.config).unwrap();
        let page = Page {
            kind,
            option,
            source: &source,
            device: &*device,
        };
        let _ = writeln!(
            index,
            "| [`--{}`]({name}.md) | {} |",
            option.flag,
            page.about()
        );
        pages.insert(format!("{name}.md"), page.text());
    }
    pages.insert("README.md".into(), index);
    pages
}

#[test]
fn pages_say_what_the_folders_say() {
    let folder = root().join("docs/devices");
    let wanted = pages();
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if !wanted.contains_key(entry.file_name().to_str().unwrap()) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for (name, text) in &wanted {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let found: BTreeMap<String, String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    let names = wanted.keys().chain(found.keys());
    for name in names {
        assert!(
            wanted.get(name) == found.get(name),
            "docs/devices/{name} is not what its folder says: `cargo xtask docs` writes it"
        );
    }
}
