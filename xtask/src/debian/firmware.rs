//! UEFI firmware for machines of this monitor, from the distribution's package.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context as _, Error, Result};
use crate::project::Project;
use crate::run;

/// The package is in Debian's unstable suite only.
const PACKAGE: &str = "cloudhv-efi-x86-64";
const SUITE: &str = "sid";
/// The image in it.
const IMAGE: &str = "CLOUDHV.fd";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The firmware image, downloaded into the cache once.
///
/// # Errors
/// When this machine takes no packages from a Debian mirror, or the mirror cannot be reached.
pub(crate) fn prepare(project: &Project) -> Result<PathBuf> {
    let folder = project.cache().join("firmware");
    let image = folder.join(IMAGE);
    if image.exists() {
        return Ok(image);
    }
    run::create_folder(&folder)?;
    let work = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(&folder)
        .context(|| format!("cannot create a folder in {}", folder.display()))?;
    eprintln!("downloading: {PACKAGE}");
    download(work.path())?;
    let deb = find(work.path(), ".deb")?;
    let content = work.path().join("content");
    run::output(run::program("dpkg-deb").arg("-x").arg(deb).arg(&content))?;
    run::rename(&find(&content, IMAGE)?, &image)?;
    Ok(image)
}

/// Downloads the package with lists and configuration of its own: the machine's stay as they are.
fn download(folder: &Path) -> Result<()> {
    for part in ["lists/partial", "cache/archives/partial"] {
        run::create_folder(&folder.join(part))?;
    }
    let sources = folder.join("sources.list");
    let line = format!("deb [signed-by={KEYRING}] {} {SUITE} main\n", mirror()?);
    run::write(&sources, line.as_bytes())?;
    for words in [&["update"][..], &["download", PACKAGE]] {
        let mut command = run::program("apt-get");
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", folder.join("lists").display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ];
        for option in options {
            command.args(["-o", &option]);
        }
        run::output(command.arg("-qq").args(words).current_dir(folder))?;
    }
    Ok(())
}

/// The mirror from which this machine takes Debian's packages.
fn mirror() -> Result<String> {
    let mut command: Command = run::program("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let text = run::output_text(&mut command)?;
    let uri = text
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian "));
    uri.map(str::to_owned).ok_or_else(|| Error::Missing {
        what: format!("{PACKAGE} comes from Debian's archive, which this machine does not use"),
        remedy: "download it elsewhere and give --firmware".to_owned(),
    })
}

/// The first file below `folder` whose name ends so.
fn find(folder: &Path, end: &str) -> Result<PathBuf> {
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        let entries = std::fs::read_dir(&next)
            .context(|| format!("cannot read {}", next.display()))?
            .flatten();
        for path in entries.map(|entry| entry.path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                return Ok(path);
            }
        }
    }
    Err(Error::Malformed {
        path: folder.to_owned(),
        problem: format!("there is no {end} in it"),
    })
}
