//! Descriptors that the process inherited and its user names by number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Takes over a descriptor that was open when the process started, and closes it on exec from now on.
///
/// # Errors
/// If it is not open, is one of the standard three, or was taken over before.
pub fn adopt_descriptor(fd: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    if (0..=2).contains(&fd) {
        return Err(io::Error::other(
            "standard input, output and error cannot be given away",
        ));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&fd) {
        return Err(io::Error::other(
            "the descriptor is in use by another option",
        ));
    }
    // SAFETY: takes numbers only; a descriptor that is not open is an error.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    taken.push(fd);
    // SAFETY: it is open, and nobody else owns it: each number is given out once, and only before the process
    // opens files of its own under numbers that its user could name.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn a_descriptor_is_given_out_once() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = adopt_descriptor(number).unwrap();
        assert_eq!(owned.as_raw_fd(), number);
        assert!(adopt_descriptor(number).is_err());
    }

    #[test]
    fn what_is_not_open_is_refused() {
        assert_eq!(
            adopt_descriptor(9999).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert!(adopt_descriptor(1).is_err());
        assert!(adopt_descriptor(-1).is_err());
    }
}
