//! Takes stock kernels from the distribution's packages, without installing them.
//!
//! A kernel lives in the cache as the package has it (`boot/vmlinuz-*`, `lib/modules/*`), with
//! `modules.dep` added, which the package leaves to its installation script, and with `vmlinux`,
//! the ELF file inside of the bzImage.

use std::path::{Path, PathBuf};

use crate::apt;
use crate::error::{Context as _, Error, Result};
use crate::project::Project;
use crate::run;

/// Packages that can be the guest's kernel, best first: small ones made for virtual machines.
const GUEST: &[&str] = &[
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-generic",
];

/// Packages that can be the emulated host's kernel: those need 9p, which cloud kernels lack.
const HOST: &[&str] = &["linux-image-amd64", "linux-image-generic"];

/// One stock kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// The compressed kernel as the distribution ships it.
    pub(crate) bzimage: PathBuf,
    /// `lib/modules/VERSION`, with `modules.dep`.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The kernel that guests run.
    pub(crate) fn guest(project: &Project) -> Result<Self> {
        Self::from_packages(project, GUEST)
    }

    /// The kernel that the emulated host runs.
    pub(crate) fn host(project: &Project) -> Result<Self> {
        Self::from_packages(project, HOST)
    }

    /// The uncompressed ELF kernel, extracted once.
    ///
    /// # Errors
    /// When the bzImage has an unknown compression or its tool fails.
    pub(crate) fn vmlinux(&self) -> Result<PathBuf> {
        let path = self.bzimage.with_file_name("vmlinux");
        if !path.exists() {
            let elf = extract_vmlinux(&self.bzimage)?;
            let partial = path.with_extension(format!("{}", std::process::id()));
            run::write(&partial, &elf)?;
            run::rename(&partial, &path)?;
        }
        Ok(path)
    }

    fn from_packages(project: &Project, candidates: &[&str]) -> Result<Self> {
        let folder = project.cache().join("kernels");
        for name in candidates {
            if folder.join(name).exists() {
                return Self::open(&folder.join(name));
            }
        }
        let known = |name: &&&str| dependencies(name).is_ok_and(|found| !found.is_empty());
        let name = match candidates.iter().find(known) {
            Some(name) => name,
            None => {
                // A fresh machine has no package lists yet.
                apt::apt_get(&["update"], true)?;
                candidates
                    .iter()
                    .find(known)
                    .ok_or_else(|| Error::Missing {
                        what: format!("apt knows none of {}", candidates.join(", ")),
                        remedy: "this command takes its kernels from Debian's or Ubuntu's archive"
                            .to_owned(),
                    })?
            }
        };
        fetch(name, &folder)?;
        Self::open(&folder.join(name))
    }

    fn open(folder: &Path) -> Result<Self> {
        let bzimage = only(&folder.join("boot"), "vmlinuz-")?;
        let modules = only(&folder.join("lib/modules"), "")
            .or_else(|_| only(&folder.join("usr/lib/modules"), ""))?;
        Ok(Self { bzimage, modules })
    }
}

/// Downloads a kernel package and unpacks it into `folder/name`, all or nothing.
fn fetch(name: &str, folder: &Path) -> Result<()> {
    run::create_folder(folder)?;
    let work = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(folder)
        .context(|| format!("cannot create a folder in {}", folder.display()))?;
    let packages = package_closure(name)?;
    eprintln!("downloading: {}", packages.join(" "));
    let mut download = run::program("apt-get");
    download
        .args(["-qq", "download"])
        .args(&packages)
        .current_dir(work.path());
    run::output(&mut download)?;
    let content = work.path().join("content");
    let mut debs: Vec<PathBuf> = entries(work.path())?;
    debs.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    for deb in debs {
        run::output(run::program("dpkg-deb").arg("-x").arg(&deb).arg(&content))?;
    }
    if !content.join("lib").exists() && content.join("usr/lib/modules").exists() {
        // depmod -b looks below lib/modules; newer packages ship usr/lib/modules.
        std::os::unix::fs::symlink("usr/lib", content.join("lib"))
            .context(|| "cannot link lib to usr/lib".to_owned())?;
    }
    let kernel = Kernel::open(&content)?;
    let version = kernel.modules.file_name().unwrap_or_default();
    run::output(run::program("depmod").arg("-b").arg(&content).arg(version))?;
    let target = folder.join(name);
    match run::rename(&content, &target) {
        // Another xtask was faster.
        Err(_) if target.exists() => Ok(()),
        result => result,
    }
}

/// The real packages behind a kernel meta package, found through its dependencies.
fn package_closure(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![name.to_owned()];
    while let Some(package) = open.pop() {
        for dependency in dependencies(&package)? {
            if !found.contains(&dependency) {
                found.push(dependency.clone());
                open.push(dependency);
            }
        }
    }
    Ok(found)
}

/// The kernel packages that a package depends on.
fn dependencies(package: &str) -> Result<Vec<String>> {
    let mut command = run::program("apt-cache");
    command.args([
        "depends",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
    ]);
    command.args(["--no-breaks", "--no-replaces", "--no-enhances", package]);
    Ok(kernel_dependencies(&run::output_text(&mut command)?))
}

fn kernel_dependencies(apt_cache: &str) -> Vec<String> {
    let wanted = |name: &&str| {
        (name.starts_with("linux-image-") || name.starts_with("linux-modules-"))
            // Ubuntu offers the unsigned twin as an alternative; both unpack to the same files.
            && !name.contains("unsigned")
    };
    apt_cache
        .lines()
        .filter_map(|line| {
            line.trim_start_matches([' ', '|'])
                .strip_prefix("Depends: ")
        })
        .filter(wanted)
        .map(str::to_owned)
        .collect()
}

/// Takes the payload out of a bzImage and unpacks it.
///
/// `Documentation/arch/x86/boot.rst`: the payload is at `payload_offset` from the start of the
/// protected-mode code, which follows `setup_sects` + 1 sectors.
fn extract_vmlinux(bzimage: &Path) -> Result<Vec<u8>> {
    let malformed = |problem: &str| Error::Malformed {
        path: bzimage.to_owned(),
        problem: problem.to_owned(),
    };
    let image = run::read(bzimage)?;
    let payload = payload(&image).ok_or_else(|| malformed("not a bzImage with a payload"))?;
    let (tool, arguments): (_, &[&str]) = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz", &["-dc", "--single-stream"]),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", &["-dcq"]),
        [0x1f, 0x8b, ..] => ("gzip", &["-dc"]),
        [0x02, 0x21, 0x4c, 0x18, ..] => ("lz4", &["-dc"]),
        _ => return Err(malformed("its payload has an unknown compression")),
    };
    let dir = tempfile::tempdir().context(|| "cannot create a temporary folder".to_owned())?;
    let packed = dir.path().join("payload");
    run::write(&packed, payload)?;
    let file =
        std::fs::File::open(&packed).context(|| format!("cannot open {}", packed.display()))?;
    let output = run::program(tool)
        .args(arguments)
        .stdin(file)
        .output()
        .context(|| format!("cannot start {tool}"))?;
    // The tools may complain about what follows the stream; the result is what counts.
    if !output.stdout.starts_with(b"\x7fELF") {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(malformed(&format!(
            "{tool} did not find an ELF file in it: {said}"
        )));
    }
    Ok(output.stdout)
}

/// The compressed payload, without the length that the kernel's build appends to it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let length = word(0x24c)?.checked_sub(4)?;
    image.get(start..start.checked_add(length)?)
}

/// The one entry of a folder whose name starts like this.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found = entries(folder)?;
    found.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    match found.len() {
        1 => Ok(found.remove(0)),
        count => Err(Error::Malformed {
            path: folder.to_owned(),
            problem: format!("expected one {prefix}*, found {count}; remove the folder to retry"),
        }),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("cannot read {}", folder.display());
    let entries = std::fs::read_dir(folder).context(what)?;
    entries
        .map(|entry| Ok(entry.context(what)?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn dependencies_of_both_distributions_are_understood() {
        let debian = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(kernel_dependencies(debian), ["linux-image-6.1.0-56-amd64"]);
        let ubuntu = "linux-image-6.8.0-1-generic\n |Depends: kmod\n  Depends: linux-base\n \
                      |Depends: linux-image-unsigned-6.8.0-1\n  Depends: linux-modules-6.8.0-1\n";
        assert_eq!(kernel_dependencies(ubuntu), ["linux-modules-6.8.0-1"]);
    }

    /// A bzImage with nothing but the fields that lead to the payload.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        let length = u32::try_from(payload.len() + 4).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(&[0; 16]);
        image.extend_from_slice(payload);
        image.extend_from_slice(&[9, 9, 9, 9]);
        image
    }

    #[test]
    fn the_kernel_inside_comes_out_whole() {
        let dir = tempfile::tempdir().unwrap();
        let elf = testkit::payload::Payload::new().print_e9("kernel").build();
        std::fs::write(dir.path().join("elf"), &elf).unwrap();
        for tool in ["xz --check=crc32", "zstd -q", "gzip"] {
            let script = format!("{tool} -c < elf");
            let shell = Command::new("sh")
                .args(["-c", &script])
                .current_dir(&dir)
                .output();
            let packed = shell.unwrap().stdout;
            let path = dir.path().join("bzImage");
            std::fs::write(&path, bzimage(&packed)).unwrap();
            assert_eq!(extract_vmlinux(&path).unwrap(), elf, "{tool}");
        }
    }

    #[test]
    fn a_lying_header_is_an_error() {
        let mut image = bzimage(b"xx");
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(payload(&image).is_none());
        assert!(payload(&image[..0x210]).is_none());
        assert!(payload(b"\x7fELF").is_none());
    }
}
