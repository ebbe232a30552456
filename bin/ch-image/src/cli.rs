//! The command line.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};
use disk::ImageType;
use keyvalue::ByteSize;

/// The formats by their words.
const FORMATS: [(&str, ImageType); 5] = [
    ("raw", ImageType::Raw),
    ("qcow2", ImageType::Qcow2),
    ("vhd", ImageType::FixedVhd),
    ("vhdx", ImageType::Vhdx),
    ("vmdk", ImageType::FlatVmdk),
];

/// The command line as the parser wants it.
#[must_use]
pub fn command() -> Command {
    Command::new("ch-image")
        .about("Disk images: what they are, whether they are in order, new ones, other formats, other sizes")
        .after_help(
            "Exit status: 0 if it was done, 1 if not, 2 for a wrong command line, 3 if a check has found \
             contradictions that are still there.",
        )
        .version(concat!("v", env!("CARGO_PKG_VERSION")))
        .subcommand_required(true)
        .arg(
            Arg::new("json")
                .long("json")
                .help("Print results, and on standard error the errors, as JSON")
                .action(ArgAction::SetTrue)
                .global(true),
        )
        .subcommands([
            Command::new("check")
                .about("Look for contradictions in an image")
                .args([file("image", "The image"), format(true)])
                .arg(flag("repair", "Put right what can be without guessing")),
            Command::new("convert")
                .about("Make an image in another format, with the same bytes of the disk")
                .args([
                    file("source", "The image that there is"),
                    file("target", "The image that is made; must not be there"),
                    format(true).help("Format of the target"),
                    named_format("source-format", "Format of the source").required(true),
                    flag(
                        "backing-files",
                        "Open the files that the source names, which whoever could write it has chosen",
                    ),
                    flag("fixed", FIXED),
                    size("block-size", BLOCK),
                ])
                .args(qcow2()),
            Command::new("create")
                .about("Make an image of a disk that has only zeros")
                .args([
                    file("image", "The image; must not be there"),
                    format(true),
                    size(
                        "size",
                        "Bytes of the disk; K, M and G are suffixes. As what is behind it, if not said",
                    )
                    .required_unless_present("backing"),
                    flag("fixed", FIXED),
                    size("block-size", BLOCK),
                    size("sector-size", "Bytes of a sector, 512 or 4096 (vhdx)"),
                ])
                .args(qcow2()),
            Command::new("info")
                .about("Say what an image is")
                .args([file("image", "The image"), format(false)]),
            Command::new("resize")
                .about("Change the size of the disk in an image that no machine uses")
                .args([
                    file("image", "The image"),
                    format(true),
                    size("size", "Bytes of the disk; K, M and G are suffixes").required(true),
                    flag("shrink", "Bytes behind the new end may be lost"),
                ]),
        ])
}

/// What only QCOW2 has.
fn qcow2() -> [Arg; 4] {
    [
        Arg::new("backing")
            .long("backing")
            .short('B')
            .value_name("file")
            .help("What lies behind the image, named as the image will name it (qcow2)")
            .requires("backing-format"),
        named_format("backing-format", "Format of that, raw or qcow2").requires("backing"),
        Arg::new("compat")
            .long("compat")
            .value_name("0.10|1.1")
            .help("Version 2 (0.10) or 3 (1.1) of the format; 1.1 if it is not said (qcow2)")
            .value_parser(["0.10", "1.1"]),
        flag(
            "extended-l2",
            "Parts of clusters are allocated by themselves (qcow2)",
        ),
    ]
}

const FIXED: &str = "All of the disk is in the file from the begin on (vhd, vhdx)";
const BLOCK: &str = "Bytes of a block (vhd, vhdx) or of a cluster (qcow2)";

fn file(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .required(true)
        .help(help)
        .value_parser(value_parser!(PathBuf))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .action(ArgAction::SetTrue)
}

fn size(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("size")
        .help(help)
        .value_parser(value_parser!(ByteSize))
}

fn format(required: bool) -> Arg {
    let help = match required {
        true => "Format of the image",
        false => "Format of the image; guessed of its first bytes if it is not said",
    };
    named_format("format", help).required(required)
}

fn named_format(name: &'static str, help: &'static str) -> Arg {
    let words = FORMATS.map(|(word, _)| word).join("|");
    Arg::new(name)
        .long(name)
        .value_name(words)
        .help(help)
        .value_parser(read_format)
}

fn read_format(text: &str) -> Result<ImageType, String> {
    let found = FORMATS.iter().find(|(word, _)| *word == text);
    found.map(|(_, image_type)| *image_type).ok_or_else(|| {
        let words = FORMATS.map(|(word, _)| word).join(", ");
        format!("the formats are {words}")
    })
}

#[test]
fn the_command_line_makes_sense() {
    command().debug_assert();
    for (word, image_type) in FORMATS {
        assert_eq!(image_type.word(), word);
        assert_eq!(read_format(word), Ok(image_type));
    }
    assert!(read_format("img").unwrap_err().contains("raw, qcow2"));
}
