//! Runs the integration tests, those that boot guests.
//!
//! Where KVM cannot run a stock kernel, each test program runs in an emulated host: what is built
//! here is started there, by this same xtask.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::count::{self, Counts};
use super::hosts::{self, EMULATED};
use super::linux::{self, Linux};
use crate::debian::{self, Debian};
use crate::error::{Context as _, Error, Result};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::kvm::{self, Place};
use crate::project::Project;
use crate::{bare, release, run};

/// The package with the integration tests.
pub(crate) const PACKAGE: &str = "integration";

/// More failures than this are no accident, and are not tried again.
const FEW: usize = 3;

/// Guests at the same time: in an emulated host as many as it has processors, so that none is too slow for its limits.
fn threads(is_emulated: bool) -> &'static str {
    if is_emulated {
        "--test-threads=1"
    } else {
        "--test-threads=2"
    }
}

/// Builds monitor, tests and guest, and runs the tests where that works.
pub(crate) fn run(
    project: &Project,
    filters: &[String],
    extra: &[String],
    binary: Option<PathBuf>,
) -> Result<Counts> {
    let programs = build(project)?;
    let binary = match binary {
        Some(path) => std::path::absolute(path).context(|| "bad path".to_owned())?,
        None => release::build(project)?,
    };
    let guest = Guest::for_tests(project)?;
    // The generic kernel, which the emulated host runs, is also the one of the guest that reads an MP table.
    Kernel::host(project)?;
    let path = |path: &Path| path.display().to_string();
    let environment = vec![
        ("CH_BINARY".to_owned(), path(&binary)),
        ("CH_KERNEL".to_owned(), path(&guest.kernel.bzimage)),
        ("CH_VMLINUX".to_owned(), path(&guest.kernel.vmlinux()?)),
        ("CH_INITRAMFS".to_owned(), path(&guest.initramfs)),
        ("CH_GUEST".to_owned(), path(&bare::build(project)?)),
        ("CH_CACHE".to_owned(), path(project.cache())),
        ("PATH".to_owned(), programs_path()),
    ];
    let themes: Vec<String> = programs.iter().map(|program| theme(program)).collect();
    let mut groups: Vec<Vec<String>> = Vec::new();
    for (program, theme) in programs.iter().zip(&themes) {
        // The package's library has no tests.
        let words = words_for(theme, filters, &themes).filter(|_| theme != PACKAGE);
        if let Some(words) = words {
            let words = words.into_iter().chain(extra.iter().cloned());
            groups.push(std::iter::once(path(program)).chain(words).collect());
        }
    }
    let place = kvm::place(&binary)?;
    match &place {
        Place::Here => eprintln!("guests run on this machine's /dev/kvm"),
        Place::Nested(reason) => eprintln!("guests run inside an emulated host: {reason}"),
    }
    let mut parts = Vec::new();
    for group in groups {
        for (place, group) in by_place(project, &place, group)? {
            parts.push((place, part(project, group, &environment)?));
        }
    }
    hosts::run_all(project, parts)
}

/// One part of a run with what its theme needs.
fn part(
    project: &Project,
    group: Vec<String>,
    environment: &[(String, String)],
) -> Result<hosts::Run> {
    let path = |path: &Path| path.display().to_string();
    let theme = theme(Path::new(&group[0]));
    let mut run = hosts::Run {
        theme: theme.clone(),
        group,
        environment: environment.to_vec(),
        debian: None,
    };
    if needs_debian(project, &theme) {
        let debian = Debian::prepare(project)?;
        let more = [
            ("CH_DEBIAN_KERNEL", path(&debian.kernel)),
            ("CH_DEBIAN_INITRAMFS", path(&debian.initramfs)),
        ];
        let more = more.map(|(name, value)| (name.to_owned(), value));
        run.environment.extend(more);
        run.debian = Some(debian);
    }
    if mentions(project, &theme, "env::firmware(") {
        let firmware = debian::firmware::prepare(project)?;
        let entry = ("CH_FIRMWARE".to_owned(), path(&firmware));
        run.environment.push(entry);
    }
    Ok(run)
}

/// Divides one test program's run by where its guests run. A KVM that cannot run a kernel still runs guests of a few
/// instructions, in a hundredth of the time that an emulated host takes and more steadily: QEMU's emulation of nested
/// paging fails with guests that do not page, and takes the emulated host's kernel with it.
fn by_place(
    project: &Project,
    place: &Place,
    group: Vec<String>,
) -> Result<Vec<(Place, Vec<String>)>> {
    let theme = theme(Path::new(&group[0]));
    let kvm = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if matches!(place, Place::Here) || kvm.is_err() || needs_debian(project, &theme) {
        return Ok(vec![(place.clone(), group)]);
    }
    let linux = match linux::tests(project, &theme)? {
        Linux::None => return Ok(vec![(Place::Here, group)]),
        Linux::All => return Ok(vec![(place.clone(), group)]),
        Linux::Some(names) => names,
    };
    let (nested, here): (Vec<_>, Vec<_>) = count::list(&group)?
        .into_iter()
        .partition(|name| linux.contains(name));
    let exactly = |place: Place, names: Vec<String>| {
        let words = [group[0].clone(), "--exact".to_owned()];
        // What is no filter goes with both.
        let options = group[1..].iter().filter(|word| word.starts_with('-'));
        let words = words.into_iter().chain(options.cloned());
        (!names.is_empty()).then(|| (place, words.chain(names).collect()))
    };
    let parts = [exactly(Place::Here, here), exactly(place.clone(), nested)];
    Ok(parts.into_iter().flatten().collect())
}

/// Where tests find programs: also those that only root has on its path, such as the checks of file systems.
fn programs_path() -> String {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// Whether the sources of a theme have `text`; true if they cannot be read.
fn mentions(project: &Project, theme: &str, text: &str) -> bool {
    let tests = project.root().join("tests");
    let mut sources = vec![tests.join(format!("{theme}.rs"))];
    let parts = std::fs::read_dir(tests.join(theme)).into_iter().flatten();
    sources.extend(parts.flatten().map(|part| part.path()));
    let has = |source: &PathBuf| {
        std::fs::read_to_string(source).map_or(true, |content| content.contains(text))
    };
    sources.iter().any(has)
}

/// Whether a theme has guests that run Debian from a disk.
fn needs_debian(project: &Project, theme: &str) -> bool {
    mentions(project, theme, "Vm::debian(") || mentions(project, theme, "env::debian_disk(")
}

/// `cargo xtask run-tests RESULT [-- PROGRAM ARGUMENT…]…`: what runs in the emulated host.
pub(crate) fn run_programs(project: &Project, arguments: &[String]) -> Result<u8> {
    let mut groups = arguments.split(|word| word == "--");
    let Some([result]) = groups.next() else {
        return Err(Error::Usage("run-tests RESULT [-- PROGRAM …]…".to_owned()));
    };
    let mut counts = Counts::default();
    for group in groups {
        let [program, words @ ..] = group else {
            return Err(Error::Usage("a program is missing".to_owned()));
        };
        eprintln!("   running {}", theme(Path::new(program)));
        let mut command = Command::new(program);
        let is_emulated = std::env::var_os(EMULATED).is_some();
        command.arg(threads(is_emulated)).args(words);
        command.stdin(Stdio::null());
        let (mut result, failed) =
            count::run_for_names(command.current_dir(project.root().join("tests")))?;
        if is_emulated && (1..=FEW).contains(&failed.len()) {
            repeat(project, program, &failed, &mut result)?;
        }
        counts.add(result);
    }
    let text = format!("{} {}\n", counts.passed, counts.failed);
    run::write(Path::new(result), text.as_bytes())?;
    Ok(0)
}

/// Runs failed tests once more, one by one. The emulated host is not exact: in some 150 boots in it, one ended with
/// an instruction that it could not run, and none of the same guests did so before or after. What fails twice has
/// failed; what does not is named, so that somebody looks.
fn repeat(project: &Project, program: &str, failed: &[String], result: &mut Counts) -> Result<()> {
    for name in failed {
        eprintln!("   once more, because all is emulated here: {name}");
        let mut command = Command::new(program);
        command.args(["--exact", name]).stdin(Stdio::null());
        let again = count::run(command.current_dir(project.root().join("tests")))?;
        if again.failed == 0 && again.passed == 1 {
            eprintln!("   UNSTABLE: {name} failed once and then passed");
            result.failed -= 1;
            result.passed += 1;
        }
    }
    Ok(())
}

/// Whether every filter is about the tests of this package: `THEME` or `THEME::NAME`.
pub(crate) fn are_all_themes(project: &Project, filters: &[String]) -> bool {
    let is_theme = |filter: &String| {
        let theme = filter.split("::").next().unwrap_or_default();
        let file = project.root().join("tests").join(format!("{theme}.rs"));
        !theme.is_empty() && theme != "lib" && file.is_file()
    };
    !filters.is_empty() && filters.iter().all(is_theme)
}

/// The arguments for one theme's program, or `None` when no filter is about it. A filter that
/// names no theme is a part of a test's name, in whatever theme.
fn words_for(theme: &str, filters: &[String], themes: &[String]) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for filter in filters {
        match filter.split_once("::") {
            _ if filter == theme => return Some(Vec::new()),
            Some((first, name)) if first == theme => words.push(name.to_owned()),
            Some((first, _)) if themes.iter().any(|theme| theme == first) => {}
            _ if themes.contains(filter) => {}
            _ => words.push(filter.clone()),
        }
    }
    (filters.is_empty() || !words.is_empty()).then_some(words)
}

/// The theme of a test program; cargo adds a hash to the name.
fn theme(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-')
        .map_or_else(|| name.to_string(), |(name, _)| name.to_owned())
}

/// Builds the test programs and returns where they are.
fn build(project: &Project) -> Result<Vec<PathBuf>> {
    let mut cargo = release::cargo();
    cargo.args(["test", "--no-run", "--quiet", "--package", PACKAGE]);
    cargo
        .arg("--message-format=json-render-diagnostics")
        .current_dir(project.root());
    cargo.stderr(Stdio::inherit());
    let output = cargo.output().context(|| "cannot start cargo".to_owned())?;
    if !output.status.success() {
        let status = output.status.to_string();
        return Err(Error::Command {
            command: run::text(&cargo),
            status,
        });
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The test programs among cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        let path = message["executable"].as_str()?;
        is_test.then(|| PathBuf::from(path))
    };
    messages.lines().filter_map(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/bin"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/boot-1"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":null}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [PathBuf::from("/boot-1")]);
    }

    #[test]
    fn a_filter_names_a_theme_or_a_test_of_a_theme_or_any_test() {
        let all = ["boot", "power"].map(str::to_owned);
        let words = |theme: &str, filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
            words_for(theme, &filters, &all)
        };
        assert_eq!(words("boot", &[]), Some(vec![]));
        assert_eq!(words("boot", &["boot"]), Some(vec![]));
        assert_eq!(words("power", &["boot"]), None);
        assert_eq!(
            words("boot", &["boot::bzimage"]),
            Some(vec!["bzimage".to_owned()])
        );
        assert_eq!(words("power", &["boot::bzimage"]), None);
        assert_eq!(words("power", &["reset"]), Some(vec!["reset".to_owned()]));
        assert_eq!(
            words("boot", &["boot::a::b", "c"]),
            Some(vec!["a::b".to_owned(), "c".to_owned()])
        );
    }

    #[test]
    fn a_program_says_its_theme() {
        assert_eq!(theme(Path::new("/target/deps/boot-0123abcd")), "boot");
    }
}
