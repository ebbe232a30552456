//! The subcommands, with an independent program as the judge.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::*;

const TARGETS: [(&str, &[&str], &str); 7] = [
    ("raw", &[], "raw"),
    ("qcow2", &[], "qcow2"),
    ("qcow2", &["--block-size", "4K"], "qcow2"),
    ("vhd", &[], "vpc"),
    ("vhd", &["--fixed"], "vpc"),
    ("vhdx", &["--block-size", "1M"], "vhdx"),
    ("vhdx", &["--fixed"], "vhdx"),
];

fn run(words: &[&str]) -> Result<Outcome> {
    let words = ["ch-image"].iter().chain(words);
    act(&crate::cli::command().try_get_matches_from(words).unwrap())
}

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// A raw image with something here and there, in a folder.
fn source() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    let file = File::create(&path).unwrap();
    file.set_len((20 << 20) + 512).unwrap();
    for (at, byte) in [(0, 1), (5 << 20, 2), (9_999_872, 3), (20 << 20, 4)] {
        file.write_all_at(&[byte; 512], at).unwrap();
    }
    (folder, path.to_str().unwrap().to_owned())
}

#[test]
fn every_format_is_made_of_every_other_one() {
    let (folder, raw) = source();
    let name = |name: String| folder.path().join(name).to_str().unwrap().to_owned();
    for (index, (format, more, qemu)) in TARGETS.into_iter().enumerate() {
        let first = name(format!("{index}"));
        let words = ["convert", "--source-format", "raw", "--format", format];
        let outcome = run(&[&words[..], more, &[&raw, &first]].concat()).unwrap();
        assert_eq!(outcome.json["written"], 3 * (64 << 10) + 512, "{format}");
        let driver = match qemu {
            "vpc" => format!("driver=vpc,file.filename={first},force_size_calc=current_size"),
            _ => format!("driver={qemu},file.filename={first}"),
        };
        let same = format!("driver=raw,file.filename={raw}");
        qemu_img(&["compare", "--image-opts", &driver, &same]);
        // And back.
        let second = name(format!("{index}-back"));
        let words = ["convert", "--source-format", format, "--format", "raw"];
        run(&[&words[..], &[&first, &second]].concat()).unwrap();
        assert!(std::fs::read(&second).unwrap() == std::fs::read(&raw).unwrap());
        if format != "raw" {
            let outcome = run(&["check", "--format", format, &first]).unwrap();
            assert!(!outcome.contradictions, "{outcome:?}");
            let info = run(&["info", &first]).unwrap();
            assert_eq!(info.json["format"], format);
            assert_eq!(info.json["format_guessed"], true);
            assert_eq!(info.json["size"], (20 << 20) + 512);
            let kind = match format {
                "qcow2" => Value::Null,
                _ if more == ["--fixed"] => "fixed".into(),
                _ => "dynamic".into(),
            };
            assert_eq!(info.json["kind"], kind);
        }
    }
}

#[test]
fn images_are_made_and_get_another_size() {
    let folder = tempfile::tempdir().unwrap();
    for (index, (format, more, _)) in TARGETS.into_iter().enumerate() {
        let path = folder.path().join(format!("{index}"));
        let path = path.to_str().unwrap();
        let words = ["create", "--format", format, "--size", "8M"];
        run(&[&words[..], more, &[path]].concat()).unwrap();
        let again = run(&[&words[..], more, &[path]].concat()).unwrap_err();
        assert!(matches!(again, Error::Image(disk::Error::Create { .. })));
        if format == "qcow2" {
            // Whether its size changes is the format's own matter.
            assert_eq!(run(&["info", path]).unwrap().json["size"], 8 << 20);
            continue;
        }
        let resize = ["resize", "--format", format, "--size"];
        run(&[&resize[..], &["16M", path]].concat()).unwrap();
        let error = run(&[&resize[..], &["4M", path]].concat()).unwrap_err();
        assert!(error.to_string().contains("--shrink"), "{error}");
        run(&[&resize[..], &["4M", "--shrink", path]].concat()).unwrap();
        let info = run(&["info", "--format", format, path]).unwrap();
        assert_eq!(info.json["size"], 4 << 20, "{format}");
    }
}

#[test]
fn what_cannot_be_leaves_nothing_behind() {
    let (folder, raw) = source();
    let path = folder.path().join("new");
    let new = path.to_str().unwrap();
    for words in [
        &["create", "--format", "vmdk", "--size", "1M"][..],
        &["create", "--format", "raw", "--size", "1"],
        &["create", "--format", "qcow2", "--size", "1M", "--fixed"],
        &[
            "create",
            "--format",
            "qcow2",
            "--size",
            "1M",
            "--block-size",
            "4M",
        ],
        &[
            "create",
            "--format",
            "qcow2",
            "--size",
            "1M",
            "--block-size",
            "5K",
        ],
        &[
            "create",
            "--format",
            "raw",
            "--size",
            "1M",
            "--block-size",
            "1M",
        ],
        &[
            "create",
            "--format",
            "vhd",
            "--size",
            "1M",
            "--block-size",
            "3M",
        ],
        &["create", "--format", "vhd", "--size", "3072G"],
        &["create", "--format", "vhdx", "--size", "66560G"],
        &[
            "create",
            "--format",
            "vhdx",
            "--size",
            "1M",
            "--sector-size",
            "1K",
        ],
        // Not a multiple of these sectors.
        &[
            "create",
            "--format",
            "vhdx",
            "--size",
            "512",
            "--sector-size",
            "4K",
        ],
        &["convert", "--source-format", "vhd", "--format", "raw", &raw],
    ] {
        let error = run(&[words, &[new]].concat()).unwrap_err();
        assert!(!path.exists(), "{words:?}: {error}");
    }
    // What is there is kept.
    let before = std::fs::read(&raw).unwrap();
    run(&["create", "--format", "raw", "--size", "1M", &raw]).unwrap_err();
    assert!(std::fs::read(&raw).unwrap() == before);
}

#[test]
fn a_check_finds_and_repairs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let name = path.to_str().unwrap();
    run(&["create", "--format", "vhd", "--size", "8M", name]).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&[9; 512], length - 512).unwrap();
    let outcome = run(&["check", "--format", "vhd", name]).unwrap();
    assert!(outcome.contradictions && outcome.json["errors"] == 1);
    let outcome = run(&["check", "--format", "vhd", "--repair", name]).unwrap();
    assert!(!outcome.contradictions && outcome.json["repairs"] == 1);
    let outcome = run(&["check", "--format", "vhd", name]).unwrap();
    assert!(!outcome.contradictions && outcome.json["repairs"] == 0);
    assert!(run(&["check", "--format", "raw", name]).is_err());
}

#[test]
fn a_check_of_qcow2_counts_users_of_clusters() {
    let (folder, raw) = source();
    let path = folder.path().join("image");
    let name = path.to_str().unwrap();
    let words = ["convert", "--source-format", "raw", "--format", "qcow2"];
    run(&[&words[..], &[&raw, name]].concat()).unwrap();
    let check = ["check", "--format", "qcow2", name];
    let outcome = run(&check).unwrap();
    // Four clusters of 64 KiB have something.
    assert_eq!(outcome.json["used"], 4 * (64 << 10));
    assert_eq!(
        (&outcome.json["errors"], &outcome.json["leaked"]),
        (&json!(0), &json!(0))
    );
    // Refcounts are in the third cluster of a new image, 16 bits each: one cluster is not used, another one is not free.
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&[0, 0], (2 << 16) + 2 * 4).unwrap();
    file.write_all_at(&[0, 1], (2 << 16) + 2 * 1000).unwrap();
    let outcome = run(&check).unwrap();
    assert!(outcome.contradictions, "{outcome:?}");
    assert_eq!(outcome.json["leaked"], 64 << 10, "{outcome:?}");
    let outcome = run(&[&check[..], &["--repair"]].concat()).unwrap();
    assert!(!outcome.contradictions, "{outcome:?}");
    let outcome = run(&check).unwrap();
    assert!(!outcome.contradictions, "{outcome:?}");
    assert_eq!(
        (&outcome.json["leaked"], &outcome.json["repairs"]),
        (&json!(0), &json!(0))
    );
}

/// Parts of the answer of `qemu-img info` to an image, which it also has to find in order.
fn seen_by_qemu(path: &str) -> Value {
    qemu_img(&["check", "-q", path]);
    let output = Command::new("qemu-img")
        .args(["info", "--output", "json", path])
        .output()
        .unwrap();
    assert!(output.status.success(), "{path}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn images_of_qcow2_are_made_over_others_of_both_versions_and_with_extended_entries() {
    let (folder, raw) = source();
    let name = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (index, more) in [
        &["--compat", "0.10"][..],
        &["--compat", "1.1"],
        &["--extended-l2"],
        &["--extended-l2", "--block-size", "16K"],
    ]
    .into_iter()
    .enumerate()
    {
        // Relative names begin where the image is.
        let first = name(&format!("{index}"));
        let base = ["-B", "source", "--backing-format", "raw"];
        let create = ["create", "--format", "qcow2"];
        run(&[&create[..], more, &base, &[&first]].concat()).unwrap();
        let info = seen_by_qemu(&first);
        let own = &info["format-specific"]["data"];
        let compat = if more[1..] == ["0.10"] { "0.10" } else { "1.1" };
        assert_eq!(own["compat"], compat, "{info}");
        let is_extended = more[0] == "--extended-l2";
        assert_eq!(own["extended-l2"] == true, is_extended, "{info}");
        assert_eq!(info["virtual-size"], (20 << 20) + 512);
        assert_eq!(info["backing-filename"], "source");
        assert_eq!(info["backing-filename-format"], "raw");
        qemu_img(&["compare", &first, &raw]);
        // Half a megabyte more, and what is behind it is an image of ours.
        let second = name(&format!("{index}-over"));
        let base = ["-B", &format!("{index}"), "--backing-format", "qcow2"];
        let words = [&create[..], more, &base, &["--size", "21M", &second]].concat();
        run(&words).unwrap();
        assert_eq!(seen_by_qemu(&second)["virtual-size"], 21 << 20);
    }
    // Versions and parts that do not go together, and what is not there.
    let new = name("new");
    for (words, why) in [
        (
            &["--compat", "0.10", "--extended-l2", "--size", "1M"][..],
            "version 2",
        ),
        (&["--extended-l2", "--block-size", "8K", "--size", "1M"], ""),
        (&["-B", "nothing", "--backing-format", "raw"], "nothing"),
        (
            &["-B", "source", "--backing-format", "vhd", "--size", "1M"],
            "raw and qcow2",
        ),
    ] {
        let create = ["create", "--format", "qcow2"];
        let error = run(&[&create[..], words, &[&new]].concat()).unwrap_err();
        let text = telemetry::chain(&error).join(": ");
        assert!(text.contains(why), "{words:?}: {text}");
        assert!(!std::path::Path::new(&new).exists(), "{words:?}");
    }
    let words = [
        "create",
        "--format",
        "vhd",
        "--extended-l2",
        "--size",
        "1M",
        &new,
    ];
    assert!(run(&words).is_err());
}

#[test]
fn only_what_differs_from_what_lies_behind_is_converted() {
    let (folder, raw) = source();
    let name = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let changed = name("changed");
    std::fs::copy(&raw, &changed).unwrap();
    let file = File::options().write(true).open(&changed).unwrap();
    // Other bytes where there were some and where there were none, and zeros where there were some.
    for (at, byte) in [(0, 7), (12 << 20, 8), (5 << 20, 0)] {
        file.write_all_at(&[byte; 512], at).unwrap();
    }
    for (index, more) in [&["--compat", "0.10"][..], &["--extended-l2"], &[]]
        .into_iter()
        .enumerate()
    {
        let first = name(&format!("{index}"));
        let base = ["-B", "source", "--backing-format", "raw"];
        let words = ["convert", "--source-format", "raw", "--format", "qcow2"];
        let outcome = run(&[&words[..], more, &base, &[&changed, &first]].concat()).unwrap();
        assert_eq!(outcome.json["written"], 3 * (64 << 10), "{more:?}");
        assert_eq!(seen_by_qemu(&first)["backing-filename"], "source");
        qemu_img(&["compare", &first, &changed]);
        // Back, through what lies behind it.
        let second = name(&format!("{index}-back"));
        let words = ["convert", "--source-format", "qcow2", "--format", "raw"];
        let refused = run(&[&words[..], &[&first, &second]].concat()).unwrap_err();
        assert!(telemetry::chain(&refused).join(": ").contains("backing"));
        run(&[&words[..], &["--backing-files", &first, &second]].concat()).unwrap();
        assert!(std::fs::read(&second).unwrap() == std::fs::read(&changed).unwrap());
    }
}
