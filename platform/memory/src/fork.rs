//! RAM that several machines go on from.
//!
//! ```text
//!  before         freeze                      afterwards
//!  guest ──▶ memory file (shared)    guest ──▶ private pages ──▶ memory file (sealed) ◀── private pages ◀── child
//! ```
//!
//! Freezing copies nothing: the same file is mapped once more in the same place, privately. The kernel then copies a
//! page when one of the machines writes to it.

use std::fs::File;
use std::sync::Arc;

use crate::ram::host_page_size;
use crate::shared_file::{self, SharedFile};
use crate::{Error, GuestRam, Layer, Mapping};

impl GuestRam {
    /// [`GuestRam::freeze`] is possible: all of it is shared memory of small pages.
    #[must_use]
    pub fn can_freeze(&self) -> bool {
        self.regions().all(|region| region.mapping().can_freeze())
    }

    /// Takes work away from [`GuestRam::freeze`]; the guest may run meanwhile, and finds its memory as it was, a little
    /// slower.
    ///
    /// # Errors
    /// [`Error::Freeze`] if the kernel refuses.
    pub fn prepare_freeze(&self) -> Result<(), Error> {
        for region in self.regions() {
            let forgotten = region.mapping().forget_entries();
            forgotten.map_err(|source| Error::Freeze { source })?;
        }
        Ok(())
    }

    /// Gives the memory file with RAM's contents of this moment, which nobody can change any more: RAM goes on in
    /// private copies of its pages. Nobody may write to RAM meanwhile. Where RAM is in the file, [`GuestRam::ranges`]
    /// says.
    ///
    /// # Errors
    /// [`Error::NotShared`] unless [`GuestRam::can_freeze`]; [`Error::Freeze`] if the kernel refuses. RAM is then
    /// shared as before.
    pub fn freeze(&self) -> Result<Arc<File>, Error> {
        if !self.can_freeze() {
            return Err(Error::NotShared);
        }
        let file = self.file(Mapping::file_offset)?;
        let frozen = self
            .regions()
            .try_for_each(|region| region.mapping().freeze())
            .and_then(|()| shared_file::seal(&file));
        match frozen {
            Ok(()) => Ok(file),
            Err(source) => {
                for region in self.regions() {
                    let thawed = region.mapping().thaw();
                    thawed.map_err(|source| Error::Freeze { source })?;
                }
                Err(Error::Freeze { source })
            }
        }
    }

    /// Copies RAM's contents to a new memory file and seals it; RAM stays what it is. Nobody may write to RAM
    /// meanwhile. Empty pages are not copied.
    ///
    /// # Errors
    /// [`Error::SharedFile`] or [`Error::Contents`] if the host has no memory for it.
    pub fn copy_to_memory(&self) -> Result<Arc<File>, Error> {
        let copy = SharedFile::new(None, self.size(), host_page_size())?;
        self.write_contents_at(&copy.file, 0)?;
        shared_file::seal(&copy.file).map_err(|source| Error::Freeze { source })?;
        Ok(Arc::new(copy.file))
    }

    /// [`GuestRam::over_layers`] for files that came from another process.
    ///
    /// # Errors
    /// [`Error::NotSealed`] if one could still be changed or shortened by others; as [`GuestRam::over_layers`].
    pub fn over_sealed_files(
        regions: &[crate::RegionSpec],
        options: &crate::RamOptions,
        file: &Arc<File>,
        layers: &[Layer],
    ) -> Result<Self, Error> {
        let mut files = layers.iter().map(|layer| &layer.file).chain([file]);
        if !files.all(|file| shared_file::is_sealed(file)) {
            return Err(Error::NotSealed);
        }
        Self::over_layers(regions, options, file, layers)
    }

    /// The one file that all regions have.
    fn file(
        &self,
        of: impl Fn(&Mapping) -> Option<&vm_memory::FileOffset>,
    ) -> Result<Arc<File>, Error> {
        let region = self.regions().next().ok_or(Error::NoRegions)?;
        let part = of(region.mapping()).ok_or(Error::NotShared)?;
        Ok(Arc::clone(part.arc()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::RamOptions;
    use crate::testing::{GIB, LAYOUT, MIB, first, has};

    fn options(shared: bool) -> RamOptions {
        RamOptions {
            shared,
            ..RamOptions::default()
        }
    }

    fn byte(ram: &GuestRam, address: u64) -> u8 {
        let mut byte = [0];
        ram.read(address, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn parent_and_children_go_on_from_the_same_bytes_and_see_nothing_of_each_other() {
        let parent = GuestRam::new(&LAYOUT, &options(true)).unwrap();
        let address = first(&parent).address();
        let places = [0x1000, 4 * GIB + 3 * MIB];
        for place in places {
            parent.write(place, &[1]).unwrap();
        }
        parent.prepare_freeze().unwrap();
        assert_eq!(places.map(|place| byte(&parent, place)), [1, 1]);
        let file = parent.freeze().unwrap();
        let mapping = first(&parent);
        assert_eq!(mapping.address(), address);
        assert!(has(&mapping, "dd") && !has(&mapping, "sh"));
        assert!(mapping.file().is_none() && mapping.base().is_some() && !parent.can_freeze());
        let child = || GuestRam::over_sealed_files(&LAYOUT, &options(false), &file, &[]).unwrap();
        let children = [child(), child()];
        for (value, ram) in (2..).zip([&parent, &children[0]]) {
            for place in places {
                ram.write(place, &[value]).unwrap();
            }
        }
        for (ram, value) in [
            (&parent, 2),
            (&children[0], 3),
            (&children[1], 1),
            (&child(), 1),
        ] {
            assert_eq!(places.map(|place| byte(ram, place)), [value; 2]);
        }
        assert_eq!(file.metadata().unwrap().len(), 12 * MIB);
        // What is frozen can be saved, and given up, as all private memory.
        let saved = Arc::new(tempfile::tempfile().unwrap());
        parent.discard(0x1000, 0x1000).unwrap();
        parent.write_contents(&saved).unwrap();
        let again = GuestRam::over_file(&LAYOUT, &options(false), &saved).unwrap();
        assert_eq!(places.map(|place| byte(&again, place)), [0, 2]);
    }

    #[test]
    fn nobody_changes_what_is_frozen() {
        let parent = GuestRam::new(&LAYOUT, &options(true)).unwrap();
        parent.write(0, &[1]).unwrap();
        let file = parent.freeze().unwrap();
        assert!(file.write_all_at(&[2], 0).is_err() && file.set_len(0).is_err());
        let denied = Mapping::of_file(&file, 4 * MIB, crate::FileWrites::Kept);
        assert!(denied.is_err());
    }

    #[test]
    fn private_memory_is_copied_and_not_frozen() {
        let parent = GuestRam::new(&LAYOUT, &options(false)).unwrap();
        parent.write(4 * GIB, &[1]).unwrap();
        assert!(matches!(parent.freeze(), Err(Error::NotShared)));
        let file = parent.copy_to_memory().unwrap();
        parent.write(4 * GIB, &[2]).unwrap();
        let child = GuestRam::over_sealed_files(&LAYOUT, &options(false), &file, &[]).unwrap();
        assert_eq!((byte(&child, 4 * GIB), byte(&parent, 4 * GIB)), (1, 2));
        assert!(file.write_all_at(&[2], 0).is_err() && file.set_len(0).is_err());
    }

    #[test]
    fn files_that_others_could_change_are_refused() {
        let open = Arc::new(tempfile::tempfile().unwrap());
        open.set_len(12 * MIB).unwrap();
        let error = GuestRam::over_sealed_files(&LAYOUT, &options(false), &open, &[]).unwrap_err();
        assert!(matches!(error, Error::NotSealed), "{error}");
        let shared = GuestRam::new(&LAYOUT, &options(true)).unwrap();
        let file = shared.file(Mapping::file_offset).unwrap();
        let error = GuestRam::over_sealed_files(&LAYOUT, &options(false), &file, &[]).unwrap_err();
        assert!(matches!(error, Error::NotSealed), "{error}");
    }
}
