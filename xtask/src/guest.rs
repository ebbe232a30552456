//! Prepares what a guest boots from: a stock kernel and an initramfs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use testkit::cpio::Archive;

use crate::apt;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::modules::{self, Modules};
use crate::project::Project;
use crate::run;

/// Programs that tests run in the guest and busybox does not have.
const TEST_TOOLS: &[&str] = &["acpidump", "dmidecode", "lscpu"];

/// Drivers that the distribution's kernel has as modules. They are in `/modules`, named so that their order is
/// the one to load them in; a test that needs them loads them.
const TEST_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_rng",
    "virtio_blk",
    "virtio_net",
    "nd_pmem",
    "virtio_pmem",
    "virtio_balloon",
];

/// Files to boot a guest from, all in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// The distribution's kernel.
    pub(crate) kernel: Kernel,
    /// An uncompressed initramfs.
    pub(crate) initramfs: PathBuf,
}

impl Guest {
    /// What `cargo xtask boot` shows: busybox and nothing else.
    pub(crate) fn plain(project: &Project) -> Result<Self> {
        Self::prepare(project, "initramfs", &[], &[])
    }

    /// The same with the tools that tests use in the guest.
    pub(crate) fn for_tests(project: &Project) -> Result<Self> {
        apt::ensure(&[apt::TEST])?;
        Self::prepare(project, "initramfs-test", TEST_TOOLS, TEST_MODULES)
    }

    fn prepare(project: &Project, name: &str, tools: &[&str], modules: &[&str]) -> Result<Self> {
        apt::ensure(&[apt::GUEST])?;
        let kernel = Kernel::guest(project)?;
        let folder = project.cache().join("guest");
        run::create_folder(&folder)?;
        let initramfs = folder.join(name);
        let modules = Modules::read(&kernel.modules)?.in_load_order(modules)?;
        let bytes = image(tools, &modules)?;
        // Left alone when nothing changed: a running guest may be reading it.
        if std::fs::read(&initramfs).ok().as_deref() != Some(&bytes) {
            let partial = folder.join(format!("{name}.{}", std::process::id()));
            run::write(&partial, &bytes)?;
            run::rename(&partial, &initramfs)?;
        }
        Ok(Self { kernel, initramfs })
    }
}

fn image(tools: &[&str], modules: &[PathBuf]) -> Result<Vec<u8>> {
    let busybox = run::find_program("busybox").unwrap_or_else(|| "/bin/busybox".into());
    let applets = run::output_text(run::program("busybox").arg("--list"))?;
    let applets: Vec<&str> = applets.lines().collect();
    let mut archive = testkit::guest::base(&run::read(&busybox)?, &applets);
    let mut libraries = BTreeSet::new();
    for tool in tools {
        let Some(path) = run::find_program(tool) else {
            continue;
        };
        archive.file(&format!("usr/bin/{tool}"), 0o755, &run::read(&path)?);
        libraries.extend(shared_libraries(&path)?);
    }
    add_all(&mut archive, &libraries)?;
    archive.directory("modules");
    for (index, file) in modules.iter().enumerate() {
        let name = modules::module_name(&file.to_string_lossy());
        let content = modules::content(file)?;
        archive.file(&format!("modules/{index:02}-{name}.ko"), 0o644, &content);
    }
    Ok(archive.finish())
}

fn add_all(archive: &mut Archive, libraries: &BTreeSet<PathBuf>) -> Result<()> {
    for library in libraries {
        archive.file(&library.to_string_lossy(), 0o755, &run::read(library)?);
    }
    Ok(())
}

/// The shared libraries of a program, at the paths where its loader looks for them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    if apt::is_static(program) {
        return Ok(Vec::new());
    }
    Ok(parse_ldd(&run::output_text(
        run::program("ldd").arg(program),
    )?))
}

/// Lines are `name => /path (0x…)`, `/loader (0x…)`, or `linux-vdso.so.1 (0x…)`, which is no file.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let file = line.split(" => ").last()?.split(" (").next()?.trim();
        file.starts_with('/').then(|| PathBuf::from(file))
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_vdso_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007)\n";
        let expected = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), expected);
    }
}
