//! The initramfs of the emulated host: busybox, kernel modules, the job.

use std::path::{Path, PathBuf};

use testkit::cpio::Archive;

use super::Job;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::modules::{self, Modules};
use crate::run::{self, quote};

/// Needed to find the files and to talk to us.
const NEEDED: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// For the job: the hypervisor on both makers' processors, networks, disks from files.
const USEFUL: &[&str] = &[
    "kvm_amd",
    "kvm_intel",
    "tun",
    "loop",
    "vhost_net",
    "vhost_vsock",
    "virtio_blk",
    "ext4",
];

/// Everything that one run of the emulated host depends on.
pub(super) fn build(
    kernel: &Kernel,
    job: &Job,
    writable: &[PathBuf],
    trailer: &str,
) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in ["bin", "dev", "proc", "sys", "job"] {
        archive.directory(folder);
    }
    archive.char_device("dev/console", 0o600, 5, 1);
    let busybox = run::find_program("busybox").unwrap_or_else(|| "/bin/busybox".into());
    archive.file("bin/busybox", 0o755, &run::read(&busybox)?);
    archive.file("init", 0o755, include_bytes!("init.sh"));
    let all = Modules::read(&kernel.modules)?;
    let mut wanted = all.in_load_order(NEEDED)?;
    for name in USEFUL {
        // A slim kernel may lack some; whoever needs one says so.
        for file in all.in_load_order(&[name]).unwrap_or_default() {
            if !wanted.contains(&file) {
                wanted.push(file);
            }
        }
    }
    for (index, file) in wanted.iter().enumerate() {
        let name = modules::module_name(&file.to_string_lossy());
        archive.file(
            &format!("modules/{index:03}-{name}.ko"),
            0o644,
            &modules::content(file)?,
        );
    }
    archive.file("job/enter", 0o644, include_bytes!("enter.sh"));
    archive.file("job/job", 0o644, script(job).as_bytes());
    archive.file("job/trailer", 0o644, format!("{trailer}\n").as_bytes());
    archive.file("job/writable", 0o644, mounts(writable).as_bytes());
    let modules = kernel.modules.parent().unwrap_or(&kernel.modules);
    archive.file(
        "job/modules",
        0o644,
        format!("{}\n", modules.display()).as_bytes(),
    );
    if job.scratch {
        let line = format!("/dev/vda {}\n", super::SCRATCH);
        archive.file("job/scratch", 0o644, line.as_bytes());
    }
    if job.interactive {
        let (rows, columns) = crate::terminal::size();
        archive.file(
            "job/interactive",
            0o644,
            format!("{rows} {columns}\n").as_bytes(),
        );
    }
    Ok(archive.finish())
}

/// The job as a shell script: folder, environment, command.
fn script(job: &Job) -> String {
    let mut lines = vec![format!("cd {}", quote(&job.folder))];
    for (name, value) in &job.environment {
        lines.push(format!("export {name}={}", quote(value)));
    }
    let words: Vec<String> = job.command.iter().map(quote).collect();
    lines.push(format!("exec {}", words.join(" ")));
    lines.join("\n") + "\n"
}

/// The 9p tag of the writable folder with this index.
pub(super) fn tag(index: usize) -> String {
    format!("rw{index}")
}

fn mounts(writable: &[PathBuf]) -> String {
    let line = |(index, path): (usize, &PathBuf)| format!("{} {}\n", tag(index), path.display());
    writable.iter().enumerate().map(line).collect()
}

/// Removes folders that lie inside of others, which bring them anyway.
pub(super) fn outermost(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut sorted = folders.to_vec();
    sorted.sort();
    sorted.dedup();
    let inside = |folder: &Path| {
        sorted
            .iter()
            .any(|other| other.as_path() != folder && folder.starts_with(other))
    };
    sorted
        .iter()
        .filter(|folder| !inside(folder))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_survives_the_shell() {
        let job = Job {
            command: vec!["printf".into(), "%s|".into(), "a b".into(), "it's".into()],
            environment: vec![("ODD".into(), "x $y".into())],
            folder: "/".into(),
            ..Job::default()
        };
        let text = script(&job).replace("exec ", "printf '%s|' \"$ODD\" \"$PWD\"; exec ");
        let said = run::output_text(run::program("sh").args(["-c", &text])).unwrap();
        assert_eq!(said, "x $y|/|a b|it's|");
    }

    #[test]
    fn nested_folders_are_mounted_once() {
        let folders = ["/a/b", "/a", "/ab", "/a"].map(PathBuf::from);
        assert_eq!(outermost(&folders), ["/a", "/ab"].map(PathBuf::from));
    }
}
