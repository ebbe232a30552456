//! `cargo xtask trace`: a picture of where the time of a monitor's start went.

mod picture;
mod steps;

use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::error::{Context as _, Error, Result};
use crate::run;

/// Reads the file that a monitor with the feature `tracing` wrote, and writes a picture of it beside it or to `-o`.
pub(crate) fn command(arguments: Vec<String>) -> Result<u8> {
    let mut args = Args::without_separator(arguments);
    let output = args.option("-o")?.map(PathBuf::from);
    let rest = args.rest()?;
    let [file] = rest.as_slice() else {
        return Err(Error::Usage(
            "trace takes one file, cloud-hypervisor-<pid>.trace".to_owned(),
        ));
    };
    let file = Path::new(file);
    let output = output.unwrap_or_else(|| file.with_extension("svg"));
    let text = std::fs::read(file).context(|| format!("cannot read {}", file.display()))?;
    let steps = steps::read(&text).map_err(|problem| Error::Malformed {
        path: file.to_owned(),
        problem,
    })?;
    run::write(&output, picture::draw(&steps).as_bytes())?;
    eprintln!("{}", output.display());
    Ok(0)
}
