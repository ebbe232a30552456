//! Writes initramfs archives: cpio in the "newc" format that the kernel unpacks.
//!
//! The kernel accepts several archives one after the other and later entries win
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`), so a test can take a
//! prepared initramfs and append a small archive with its own files.
//!
//! The result depends on nothing but the calls made: times, owners and inode numbers are fixed.
//! No privilege is needed, not even for device nodes, because nothing is created on disk.
//!
//! ```
//! let mut archive = testkit::cpio::Archive::new();
//! archive.file("etc/motd", 0o644, b"hello\n");
//! archive.symlink("bin/sh", "busybox");
//! let bytes = archive.finish();
//! assert_eq!(&bytes[..6], b"070701");
//! assert_eq!(bytes.len() % 512, 0);
//! ```

use std::collections::BTreeSet;

const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_SYMLINK: u32 = 0o120_000;
const MODE_CHAR_DEVICE: u32 = 0o020_000;

/// Archives are padded to this many bytes, which keeps a concatenation of them aligned.
const BLOCK: usize = 512;

/// An archive that is being written. Missing parent directories are added by themselves.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, mode 0755, unless it is there already.
    pub fn directory(&mut self, path: &str) {
        let path = relative(path);
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.parents(path);
        self.entry(path, MODE_DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a regular file with these permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        let path = relative(path);
        self.parents(path);
        self.entry(path, MODE_FILE | permissions, (0, 0), content);
    }

    /// Adds a symbolic link that points to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        let path = relative(path);
        self.parents(path);
        self.entry(path, MODE_SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device node, for example `dev/console` (5, 1).
    pub fn char_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        let path = relative(path);
        self.parents(path);
        self.entry(path, MODE_CHAR_DEVICE | permissions, (major, minor), &[]);
    }

    /// Ends the archive and returns its bytes, a multiple of 512.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.pad(BLOCK);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let size = u32::try_from(content.len()).expect("newc has 32-bit sizes: file below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is shorter than 4 GiB");
        self.inode += 1;
        let links = 1;
        // c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_devmajor, c_devminor,
        // c_rdevmajor, c_rdevminor, c_namesize, c_check.
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/').trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::new();
        archive.file("/a/b/one", 0o644, b"1");
        archive.file("a/b/two", 0o644, b"2");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(text.matches("a/b\0").count(), 1);
        assert!(text.find("a\0") < text.find("a/b\0"));
        assert!(text.find("a/b\0") < text.find("a/b/one\0"));
    }

    #[test]
    fn the_same_calls_give_the_same_bytes() {
        let build = || {
            let mut archive = Archive::new();
            archive.char_device("dev/console", 0o600, 5, 1);
            archive.symlink("bin/sh", "busybox");
            archive.finish()
        };
        assert_eq!(build(), build());
    }

    /// busybox is what unpacks it on every developer's machine; skipped where there is none.
    #[test]
    fn an_independent_reader_understands_it() {
        let mut archive = Archive::new();
        archive.file("etc/odd", 0o640, b"12345");
        archive.symlink("bin/sh", "busybox");
        let Ok(mut child) = Command::new("busybox")
            .args(["cpio", "-t", "-v"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return;
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let line = listing
            .lines()
            .find(|line| line.ends_with("etc/odd"))
            .unwrap();
        assert!(
            line.starts_with("-rw-r-----") && line.contains(" 5 "),
            "{line}"
        );
        assert!(listing.contains("bin/sh -> busybox"), "{listing}");
    }
}
