//! A file that was written under another name gets its own, and nothing that is there is replaced.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Names a file `to` that is `from` until then, in the same folder.
///
/// Network file systems cannot rename without replacing (renameat2(2), `RENAME_NOREPLACE`): there the file gets its
/// name by link(2), which never replaces either, and loses the other one.
///
/// # Errors
/// `AlreadyExists` if there is something called `to`; what the system calls say. The file is still called `from` then.
pub fn give_name(from: &Path, to: &Path) -> io::Result<()> {
    let renamed = renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    match renamed.map_err(io::Error::from) {
        Err(error) if is_not_able(&error) => by_link(from, to),
        result => result,
    }
}

fn is_not_able(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let able = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP];
    able.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn by_link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    let removed = fs::remove_file(from);
    if removed.is_err() {
        // One name, and the one that says that it is not finished.
        let _ = fs::remove_file(to);
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_name_a_file_and_replace_nothing() {
        let ways: [fn(&Path, &Path) -> io::Result<()>; 2] = [give_name, by_link];
        for way in ways {
            let folder = tempfile::tempdir().unwrap();
            let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
            fs::write(&from, "new").unwrap();
            fs::write(&to, "old").unwrap();
            let error = way(&from, &to).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&to).unwrap(), b"old");
            fs::remove_file(&to).unwrap();
            way(&from, &to).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"new");
            assert!(!from.exists());
            assert_eq!(way(&from, &to).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn only_what_a_file_system_cannot_do_is_done_otherwise() {
        for (number, able) in [
            (libc::EINVAL, true),
            (libc::EOPNOTSUPP, true),
            (libc::ENOSYS, true),
            (libc::EEXIST, false),
            (libc::ENOSPC, false),
            (libc::EACCES, false),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(is_not_able(&error), able, "{error}");
        }
    }
}
