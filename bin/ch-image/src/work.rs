//! The subcommands.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use disk::tools::{self, Backing, NewImage};
use disk::{ImageType, OpenOptions};
use keyvalue::ByteSize;
use serde_json::{Value, json};

use crate::copy::copy;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For people.
    pub(crate) text: String,
    /// For programs.
    pub(crate) json: Value,
    /// A check has found what is still wrong.
    pub(crate) contradictions: bool,
}

/// Does what the subcommand says.
///
/// # Errors
/// Why it cannot be done.
pub(crate) fn act(matches: &ArgMatches) -> Result<Outcome> {
    // The parser demands one.
    let (name, arguments) = matches.subcommand().ok_or(Error::NoSubcommand)?;
    match name {
        "check" => check(arguments, matches.get_flag("json")),
        "convert" => convert(arguments, matches.get_flag("json")),
        "create" => create(arguments),
        "info" => info(arguments),
        _ => resize(arguments),
    }
}

/// A path that the parser demands.
fn path(arguments: &ArgMatches, name: &str) -> PathBuf {
    arguments
        .get_one::<PathBuf>(name)
        .cloned()
        .unwrap_or_default()
}

/// A format that the parser demands; the one that nobody said otherwise.
fn format(arguments: &ArgMatches, name: &str) -> ImageType {
    arguments
        .get_one::<ImageType>(name)
        .copied()
        .unwrap_or_default()
}

/// A number of bytes, if the subcommand has it and it was said.
fn bytes(arguments: &ArgMatches, name: &str) -> Option<u64> {
    let size = arguments.try_get_one::<ByteSize>(name).ok().flatten();
    size.map(|size| size.0)
}

fn done(text: &str, json: Value) -> Outcome {
    Outcome {
        text: format!("{text}\n"),
        json,
        contradictions: false,
    }
}

fn new_image(arguments: &ArgMatches, size: u64) -> NewImage {
    // What does not fit is as wrong as the largest number that does.
    let small = |name| bytes(arguments, name).map(|size| u32::try_from(size).unwrap_or(u32::MAX));
    let compat = arguments.get_one::<String>("compat");
    let backing = arguments.get_one::<String>("backing");
    NewImage {
        version2: compat.is_some_and(|version| version == "0.10"),
        extended_l2: arguments.get_flag("extended-l2"),
        backing: backing.map(|name| Backing {
            name: name.clone(),
            image_type: format(arguments, "backing-format"),
        }),
        image_type: format(arguments, "format"),
        size,
        fixed: arguments.get_flag("fixed"),
        block: small("block-size"),
        sector: small("sector-size"),
    }
}

fn create(arguments: &ArgMatches) -> Result<Outcome> {
    let path = path(arguments, "image");
    let mut new = new_image(arguments, 0);
    new.size = match (bytes(arguments, "size"), &new.backing) {
        (Some(size), _) => size,
        (None, Some(backing)) => backing.size(&path)?,
        // The parser demands one of both.
        (None, None) => 0,
    };
    tools::create(&path, &new)?;
    Ok(done(
        &format!(
            "{} is {} of {} bytes",
            path.display(),
            new.image_type.word(),
            new.size
        ),
        json!({ "image": path, "format": new.image_type.word(), "size": new.size }),
    ))
}

fn info(arguments: &ArgMatches) -> Result<Outcome> {
    let path = path(arguments, "image");
    let said = arguments.get_one::<ImageType>("format").copied();
    let image_type = match said {
        Some(image_type) => image_type,
        None => tools::detect(&path)?,
    };
    let info = tools::info(&path, image_type)?;
    let guessed = if said.is_none() { " (guessed)" } else { "" };
    let mut lines = vec![
        format!("format:         {}{guessed}", image_type.word()),
        format!(
            "size:           {} ({} bytes)",
            ByteSize(info.size),
            info.size
        ),
        format!("sector:         {} bytes", info.sector),
    ];
    if let Some(kind) = info.kind {
        lines.push(format!("kind:           {kind}"));
    }
    if let Some(block) = info.block {
        lines.push(format!("block:          {}", ByteSize(block)));
    }
    lines.push(format!("file:           {} bytes", info.file));
    lines.push(format!("on the host:    {} bytes", info.allocated));
    Ok(done(
        &lines.join("\n"),
        json!({
            "image": path,
            "format": image_type.word(),
            "format_guessed": said.is_none(),
            "kind": info.kind,
            "size": info.size,
            "sector_size": info.sector,
            "block_size": info.block,
            "file_size": info.file,
            "allocated": info.allocated,
        }),
    ))
}

fn check(arguments: &ArgMatches, json: bool) -> Result<Outcome> {
    let path = path(arguments, "image");
    let repair = arguments.get_flag("repair");
    let mut progress = Progress::new("checking", json);
    let image_type = format(arguments, "format");
    let found = tools::check_telling(&path, image_type, repair, &mut |done, all| {
        progress.tell(done, all);
    })?;
    progress.end();
    let mut lines = found.notes.clone();
    lines.push(match found.errors {
        0 => "no contradictions are in the image".to_owned(),
        errors => format!("{errors} contradictions are in the image"),
    });
    if found.repairs > 0 {
        lines.push(format!("{} were put right", found.repairs));
    }
    if found.leaks > 0 {
        lines.push(format!("{} bytes of the file are not used", found.leaks));
    }
    Ok(Outcome {
        contradictions: found.errors > 0,
        ..done(
            &lines.join("\n"),
            json!({
                "image": path,
                "errors": found.errors,
                "repairs": found.repairs,
                "leaked": found.leaks,
                "used": found.used,
                "notes": found.notes,
            }),
        )
    })
}

fn open(path: &Path, image_type: ImageType, read_only: bool) -> OpenOptions {
    OpenOptions {
        image_type,
        read_only,
        ..OpenOptions::new(path)
    }
}

fn convert(arguments: &ArgMatches, json: bool) -> Result<Outcome> {
    let (from, to) = (path(arguments, "source"), path(arguments, "target"));
    let source = disk::open(&OpenOptions {
        backing_files: arguments.get_flag("backing-files"),
        ..open(&from, format(arguments, "source-format"), true)
    })?;
    let new = new_image(arguments, source.capacity());
    tools::create(&to, &new)?;
    let mut progress = Progress::new("copying", json);
    let target = disk::open(&OpenOptions {
        // What it names was said on the command line.
        backing_files: new.backing.is_some(),
        ..open(&to, new.image_type, false)
    });
    let copied = target.map_err(Error::from).and_then(|target| {
        let has_bytes = new.backing.is_some();
        let (source, target) = ((&*source, &*from), (&*target, &*to));
        copy(source, target, has_bytes, &mut |done, all| {
            progress.tell(done, all);
        })
    });
    progress.end();
    let written = copied.inspect_err(|_| {
        // Half of a disk is worse than none. The reason why there is none is what counts.
        let _ = std::fs::remove_file(&to);
    })?;
    Ok(done(
        &format!(
            "{} is {} of {} bytes, of which {written} were written",
            to.display(),
            new.image_type.word(),
            new.size
        ),
        json!({
            "image": to,
            "format": new.image_type.word(),
            "size": new.size,
            "written": written,
        }),
    ))
}

fn resize(arguments: &ArgMatches) -> Result<Outcome> {
    let path = path(arguments, "image");
    let wanted = bytes(arguments, "size").unwrap_or(0);
    let disk = disk::open(&open(&path, format(arguments, "format"), false))?;
    let have = disk.capacity();
    if wanted < have && !arguments.get_flag("shrink") {
        return Err(Error::Shrinks { path, have, wanted });
    }
    disk.resize(wanted).map_err(|source| Error::Io {
        what: "resize",
        path: path.clone(),
        source,
    })?;
    Ok(done(
        &format!("{} has {wanted} bytes now, and had {have}", path.display()),
        json!({ "image": path, "size": wanted, "size_before": have }),
    ))
}

#[cfg(test)]
mod tests;
