//! A file of the host's, seen by the guest as memory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_memory::FileOffset;

use super::{LARGE_PAGE, Mapping, Source};
use crate::Error;

/// Where what is written to a mapped file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileWrites {
    /// Into the file. It must be open for reading and writing.
    Kept,
    /// Into private copies of its pages, which are gone with the mapping. The file need only be open for reading.
    Discarded,
}

impl Mapping {
    /// Maps the first `size` bytes of a file, for a memory slot of the guest that is no RAM.
    ///
    /// The host address is a multiple of 2 MiB, so that the kernel can serve guest addresses that are too with
    /// large pages, where the file has them.
    ///
    /// `size` is a multiple of the host's page and not above the file's length. Should the file become shorter
    /// later, the missing part is not there for the guest: the processor that touches it does not get any further.
    /// Code of the monitor that touched it would get `SIGBUS`; there is none, because this is not part of
    /// [`GuestRam`](crate::GuestRam), through which devices reach memory.
    ///
    /// # Errors
    /// [`Error::MapFile`] if the host does not map it, [`Error::Advise`] if it refuses to keep it out of dumps.
    pub fn of_file(file: &Arc<File>, size: u64, writes: FileWrites) -> Result<Self, Error> {
        let failed = |source| Error::MapFile { size, source };
        let length = usize::try_from(size)
            .ok()
            .filter(|length| *length > 0 && isize::try_from(*length).is_ok())
            .ok_or_else(|| failed(std::io::Error::from_raw_os_error(libc::EINVAL)))?;
        let flags = match writes {
            FileWrites::Kept => libc::MAP_SHARED,
            // Only pages that the guest writes take memory: they are not accounted for ahead.
            FileWrites::Discarded => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        };
        let source = Source {
            flags,
            descriptor: file.as_raw_fd(),
            offset: 0,
        };
        let span = if length < LARGE_PAGE {
            source.map(length)
        } else {
            source.map_aligned(0, length)
        };
        let span = span.map_err(failed)?;
        let shared = writes == FileWrites::Kept;
        let mapping = Self {
            span,
            page_size: crate::ram::host_page_size(),
            file: shared.then(|| FileOffset::from_arc(Arc::clone(file), 0)),
            base: None,
            frozen: AtomicBool::new(false),
            above: super::layers::Above::default(),
            missing: std::sync::OnceLock::new(),
            huge_pages: false,
            transparent_huge_pages: false,
            populate: false,
        };
        mapping.keep_out_of_dumps()?;
        Ok(mapping)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::testing::{MIB, flags, has, smaps, virtual_size};

    /// A file of 4 MiB with a 7 as its first byte.
    fn file() -> (tempfile::NamedTempFile, Arc<File>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 * MIB).unwrap();
        file.as_file().write_all_at(&[7], 0).unwrap();
        let again = Arc::new(file.reopen().unwrap());
        (file, again)
    }

    fn first_byte(file: &File) -> u8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        byte[0]
    }

    fn write(mapping: &Mapping, byte: u8) {
        mapping.slice(0, 1).unwrap().copy_from(&[byte]);
    }

    #[test]
    fn writes_reach_the_file() {
        let (named, file) = file();
        let mapping = Mapping::of_file(&file, 4 * MIB, FileWrites::Kept).unwrap();
        assert_eq!(mapping.address().addr() % LARGE_PAGE, 0);
        assert_eq!(mapping.size(), 4 * MIB);
        assert!(mapping.file().is_some());
        assert!(
            has(&mapping, "sh") && has(&mapping, "dd"),
            "{:?}",
            flags(&mapping)
        );
        write(&mapping, 9);
        assert_eq!(first_byte(named.as_file()), 9);
    }

    #[test]
    fn discarded_writes_do_not_and_need_no_right_to() {
        let (named, _) = file();
        let read_only = Arc::new(OpenOptions::new().read(true).open(named.path()).unwrap());
        let mapping = Mapping::of_file(&read_only, 4 * MIB, FileWrites::Discarded).unwrap();
        assert!(mapping.file().is_none() && !has(&mapping, "sh") && has(&mapping, "nr"));
        write(&mapping, 9);
        let mut byte = [0u8];
        mapping.slice(0, 1).unwrap().copy_to(&mut byte);
        assert_eq!((byte[0], first_byte(named.as_file())), (9, 7));
        let error = Mapping::of_file(&read_only, 4 * MIB, FileWrites::Kept).unwrap_err();
        assert!(matches!(error, Error::MapFile { .. }), "{error}");
    }

    #[test]
    fn a_part_of_a_file_is_just_that() {
        let (_named, file) = file();
        let mapping = Mapping::of_file(&file, 4096, FileWrites::Kept).unwrap();
        assert!(
            smaps(&mapping)
                .iter()
                .any(|line| line.starts_with("Size:") && line.ends_with(" 4 kB"))
        );
        for impossible in [0, u64::MAX, 1 << 63] {
            assert!(Mapping::of_file(&file, impossible, FileWrites::Kept).is_err());
        }
    }

    #[test]
    fn nothing_stays_mapped() {
        crate::testing::alone("mapping::file::tests::nothing_stays_mapped", || {
            let (_named, file) = file();
            let before = virtual_size();
            for _ in 0..8 {
                drop(Mapping::of_file(&file, 4 * MIB, FileWrites::Kept).unwrap());
            }
            assert_eq!(virtual_size(), before);
        });
    }
}
