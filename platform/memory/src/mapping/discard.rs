//! Memory given back to the host while the guest runs.

use std::io;

use super::Mapping;
use crate::Error;

impl Mapping {
    /// Drops the contents of the backing pages that are wholly within the `count` bytes at `offset`: they take no
    /// memory of the host and read as 0 until somebody writes to them. Pages that are within only in part stay.
    ///
    /// Whoever reads or writes the range at the same time finds old bytes or zeros and nothing else: a write
    /// before the drop is lost, one after it allocates a new page. Pages that the kernel holds for I/O under way
    /// stay with that I/O.
    ///
    /// Private memory is dropped from this process (`MADV_DONTNEED`), or replaced by empty memory if a file would show
    /// through; shared memory is dropped from its file, and so for
    /// everybody who maps it (`MADV_REMOVE`, a hole in the file). A huge page of the pool goes back to the pool. A
    /// transparent huge page of which a part is dropped is taken apart; the kernel frees the dropped part when it
    /// gets round to it, at the latest when memory is short or all of the page was dropped. `khugepaged` may put
    /// such a page together again, filling the gaps with zeros, if its `max_ptes_none` lets it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the range is not within, [`Error::Discard`] if the kernel refuses.
    pub(crate) fn discard(&self, offset: u64, count: u64) -> Result<(), Error> {
        let out_of_range = Error::OutOfRange {
            address: offset,
            length: count,
        };
        let Some(end) = offset
            .checked_add(count)
            .filter(|end| *end <= self.span.size as u64)
        else {
            return Err(out_of_range);
        };
        let first = offset.next_multiple_of(self.page_size);
        let last = end - end % self.page_size;
        let (Ok(start), Ok(length)) = (
            usize::try_from(first),
            usize::try_from(last.saturating_sub(first)),
        ) else {
            return Err(out_of_range);
        };
        if length == 0 {
            return Ok(());
        }
        let failed = |source| Error::Discard {
            size: length as u64,
            source,
        };
        if self.base_offset().is_some() {
            self.note_empty(first, last - first);
            self.span.empty(start, length).map_err(failed)?;
            return self.keep_out_of_dumps();
        }
        let advice = if self.file_offset().is_some() {
            libc::MADV_REMOVE
        } else {
            libc::MADV_DONTNEED
        };
        let drop_pages = || loop {
            match self.span.madvise(start, length, advice) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(failed),
            }
        };
        match self.missing.get() {
            None => drop_pages(),
            // What is still to come must not come afterwards.
            Some(missing) => missing.settle(first..last, drop_pages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{GIB, MIB, Surplus, first, ram, resident_pages};
    use crate::{GuestRam, HugePages, RamOptions, RegionSpec};

    /// Without transparent huge pages, so that pages can be counted one by one.
    fn small_pages(shared: bool) -> RamOptions {
        RamOptions {
            shared,
            thp: false,
            ..RamOptions::default()
        }
    }

    fn filled(size: u64, options: &RamOptions) -> GuestRam {
        let ram = ram(size, options);
        let bytes = vec![0xa5; usize::try_from(size).unwrap()];
        ram.write(0, &bytes).unwrap();
        ram
    }

    fn byte(ram: &GuestRam, address: u64) -> u8 {
        let mut byte = [0];
        ram.read(address, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn whole_pages_are_given_back_and_read_as_zeros() {
        for shared in [false, true] {
            let ram = filled(4 * MIB, &small_pages(shared));
            let mapping = first(&ram);
            assert_eq!(resident_pages(&mapping), 1024);
            // From the middle of page 1 to the middle of page 257: pages 2 to 256.
            ram.discard(0x1800, 256 * 4096).unwrap();
            // Before anything is read: reading maps the page of zeros.
            assert_eq!(resident_pages(&mapping), 1024 - 255, "shared: {shared}");
            for kept in [0, 0x1fff, 257 * 4096, 4 * MIB - 1] {
                assert_eq!(byte(&ram, kept), 0xa5, "{kept:#x}, shared: {shared}");
            }
            for dropped in [0x2000, 0x2fff, 257 * 4096 - 1] {
                assert_eq!(byte(&ram, dropped), 0, "{dropped:#x}, shared: {shared}");
            }
            ram.write(0x2000, &[7]).unwrap();
            assert_eq!(byte(&ram, 0x2000), 7);
        }
    }

    #[test]
    fn less_than_a_page_is_nothing_to_give_back() {
        let ram = filled(MIB, &small_pages(false));
        for (address, length) in [(0, 0), (MIB, 0), (0, 4095), (1, 4096), (0x1001, 0x1ffe)] {
            ram.discard(address, length).unwrap();
        }
        assert_eq!(resident_pages(&first(&ram)), 256);
    }

    #[test]
    fn shared_memory_is_gone_for_everybody() {
        let ram = filled(MIB, &small_pages(true));
        let (file, _) = first(&ram)
            .file()
            .map(|(file, at)| (file.try_clone().unwrap(), at))
            .unwrap();
        use std::os::unix::fs::{FileExt, MetadataExt};
        let blocks = || file.metadata().unwrap().blocks() * 512;
        assert_eq!(blocks(), MIB);
        ram.discard(0, MIB / 2).unwrap();
        assert_eq!(blocks(), MIB / 2);
        let mut byte = [1];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [0]);
        assert_eq!(file.metadata().unwrap().len(), MIB, "the seals hold");
    }

    #[test]
    fn a_range_over_the_border_of_regions_is_one_range() {
        let regions = [
            RegionSpec {
                start: 0,
                size: MIB,
            },
            RegionSpec {
                start: MIB,
                size: MIB,
            },
            RegionSpec {
                start: GIB,
                size: MIB,
            },
        ];
        for shared in [false, true] {
            let ram = GuestRam::new(&regions, &small_pages(shared)).unwrap();
            for address in [0, MIB, GIB] {
                ram.write(address, &vec![1; 1 << 20]).unwrap();
            }
            ram.discard(MIB - 0x2000, 0x5000).unwrap();
            let resident: Vec<_> = ram
                .regions()
                .map(|one| resident_pages(one.mapping()))
                .collect();
            assert_eq!(resident, [254, 253, 256], "shared: {shared}");
            // Not all RAM: nothing of it is dropped.
            for (address, length) in [
                (2 * MIB - 0x1000, 0x2000),
                (GIB - 0x1000, 0x2000),
                (u64::MAX, 2),
                (MIB, u64::MAX),
            ] {
                let error = ram.discard(address, length).unwrap_err();
                assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
            }
            let resident: Vec<_> = ram
                .regions()
                .map(|one| resident_pages(one.mapping()))
                .collect();
            assert_eq!(resident, [254, 253, 256], "shared: {shared}");
        }
    }

    #[test]
    fn whole_huge_pages_go_back_to_the_pool() {
        let Some(_surplus) = Surplus::of(8) else {
            return;
        };
        let options = RamOptions {
            hugepages: Some(HugePages {
                size: Some(2 * MIB),
            }),
            ..RamOptions::default()
        };
        let Ok(ram) = GuestRam::new(
            &[RegionSpec {
                start: 0,
                size: 8 * MIB,
            }],
            &options,
        ) else {
            eprintln!("not run: this host gives no huge pages");
            return;
        };
        use std::os::unix::fs::MetadataExt;
        for address in (0..4).map(|page| page * 2 * MIB) {
            ram.write(address, &[1; 4096]).unwrap();
        }
        let mapping = first(&ram);
        let blocks = || mapping.file().unwrap().0.metadata().unwrap().blocks() * 512;
        assert_eq!(blocks(), 8 * MIB);
        // Half of page 0, all of page 1, half of page 2.
        ram.discard(MIB, 4 * MIB).unwrap();
        assert_eq!(blocks(), 6 * MIB);
        let kept: Vec<u8> = (0..4).map(|page| byte(&ram, page * 2 * MIB)).collect();
        assert_eq!(kept, [1, 0, 1, 1]);
    }

    #[test]
    fn others_may_write_meanwhile() {
        for shared in [false, true] {
            let ram = filled(MIB, &small_pages(shared));
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    for round in 0..2000u64 {
                        ram.write((round % 256) * 4096, &[0xa5; 4096]).unwrap();
                    }
                });
                while !writer.is_finished() {
                    ram.discard(0, MIB).unwrap();
                    assert!([0, 0xa5].contains(&byte(&ram, 0x5000)));
                }
            });
        }
    }
}
