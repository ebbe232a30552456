//! Decides where everything goes, before anything is written.

use std::ops::Range;

use super::bzimage::BzImage;
use super::elf::Elf;
use super::image::Image;
use super::source::{Role, Source};
use super::{Entry, Loaded, Request};
use crate::Error;
use arch::layout;

/// Alignment of the initramfs.
const PAGE: u64 = 4096;
/// Memory below 1 MiB that no payload may take: what it is started with, and the firmware tables.
const TAKEN: [Range<u64>; 2] = [
    0..layout::CMDLINE_START + layout::CMDLINE_MAX_SIZE,
    layout::RSDP_START..layout::EXTENDED_RAM_START,
];

/// What to do, and what that results in.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) copies: Vec<Copy<'a>>,
    /// Memory that must be zero, for segments that are larger than in the file.
    pub(super) zeros: Vec<Range<u64>>,
    pub(super) loaded: Loaded,
}

/// Part of a file that goes to guest memory.
#[derive(Debug)]
pub(super) struct Copy<'a> {
    pub(super) source: Source<'a>,
    pub(super) file_offset: u64,
    pub(super) size: u64,
    pub(super) address: u64,
}

/// The room there is.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    /// End of the RAM that starts at 0.
    pub(super) low_ram_end: u64,
    /// What must stay free of it.
    pub(super) reserved: &'a [Range<u64>],
}

impl<'a> Plan<'a> {
    /// Reads the headers of all files and places them.
    pub(super) fn new(request: &'a Request, room: Room<'_>) -> Result<Self, Error> {
        let (file, role) = match (&request.kernel, &request.firmware) {
            (Some(_), Some(_)) => return Err(Error::KernelAndFirmware),
            (None, None) => return Err(Error::NoPayload),
            (Some(kernel), None) => (kernel, Role::Kernel),
            (None, Some(firmware)) => (firmware, Role::Firmware),
        };
        let source = Source::new(file, role)?;
        let mut plan = match Image::from_source(&source)? {
            Image::Elf(elf) => Self::elf(source, elf, room)?,
            Image::BzImage(image) => Self::bzimage(source, image, room)?,
        };
        if role == Role::Firmware {
            plan.ignore(request);
            return Ok(plan);
        }
        if let Some(cmdline) = &request.cmdline {
            plan.loaded.cmdline_len = Some(check_cmdline(cmdline, plan.loaded.cmdline_max)?);
        }
        if let Some(file) = &request.initramfs {
            plan.initramfs(Source::new(file, Role::Initramfs)?, room)?;
        }
        Ok(plan)
    }

    /// Firmware finds a kernel on its own.
    fn ignore(&mut self, request: &Request) {
        let given = [
            ("--cmdline", request.cmdline.is_some()),
            ("--initramfs", request.initramfs.is_some()),
        ];
        self.loaded.ignored = given
            .into_iter()
            .filter(|(_, given)| *given)
            .map(|(option, _)| option)
            .collect();
    }

    fn elf(source: Source<'a>, elf: Elf, room: Room<'_>) -> Result<Self, Error> {
        let mut plan = Self::empty(Entry::Pvh { entry: elf.entry });
        for segment in elf.segments {
            plan.take(source.role, &segment.memory, room)?;
            let end_of_file_part = segment.memory.start + segment.file_size;
            if segment.file_size > 0 {
                plan.copies.push(Copy {
                    source,
                    file_offset: segment.file_offset,
                    size: segment.file_size,
                    address: segment.memory.start,
                });
            }
            if end_of_file_part < segment.memory.end {
                plan.zeros.push(end_of_file_part..segment.memory.end);
            }
        }
        plan.loaded.spare_ram.end = spare_end(plan.loaded.spare_ram.start, room);
        Ok(plan)
    }

    fn bzimage(source: Source<'a>, image: BzImage, room: Room<'_>) -> Result<Self, Error> {
        let role = source.role;
        let mut plan = Self::empty(Entry::Linux64 { entry: image.entry });
        plan.take(role, &image.memory, room)?;
        // The page tables it starts with reach no further.
        if image.memory.end > layout::IDENTITY_MAPPED_SIZE {
            return Err(Error::BadBzImage {
                role,
                what: "a kernel that runs above 1 GiB",
            });
        }
        plan.copies.push(Copy {
            source,
            file_offset: image.file_offset,
            size: image.file_size,
            address: image.load_address,
        });
        plan.loaded.setup_header = image.setup_header;
        plan.loaded.load_address = image.load_address;
        plan.loaded.cmdline_max = plan.loaded.cmdline_max.min(image.cmdline_max);
        plan.loaded.initramfs_end = image.initramfs_end;
        plan.loaded.spare_ram.end = spare_end(plan.loaded.spare_ram.start, room);
        Ok(plan)
    }

    fn empty(entry: Entry) -> Self {
        Self {
            copies: Vec::new(),
            zeros: Vec::new(),
            loaded: Loaded {
                entry,
                initramfs: None,
                cmdline_len: None,
                spare_ram: layout::EXTENDED_RAM_START..layout::EXTENDED_RAM_START,
                ignored: Vec::new(),
                setup_header: Vec::new(),
                load_address: 0,
                // One less than the room, for the NUL.
                cmdline_max: layout::CMDLINE_MAX_SIZE - 1,
                initramfs_end: u64::MAX,
            },
        }
    }

    /// Checks that a payload may have a range, and notes where free memory starts.
    fn take(&mut self, role: Role, range: &Range<u64>, room: Room<'_>) -> Result<(), Error> {
        let (start, end) = (range.start, range.end);
        if end > room.low_ram_end {
            return Err(Error::PayloadTooLarge {
                role,
                start,
                end,
                ram: room.low_ram_end,
            });
        }
        let mut taken = TAKEN.iter().chain(room.reserved);
        if taken.any(|taken| start < taken.end && taken.start < end) {
            return Err(Error::PayloadInTheWay { role, start, end });
        }
        self.loaded.spare_ram.start = self.loaded.spare_ram.start.max(end);
        Ok(())
    }

    /// Puts the initramfs as high as it may be.
    fn initramfs(&mut self, source: Source<'a>, room: Room<'_>) -> Result<(), Error> {
        let loaded = &mut self.loaded;
        let lowest = loaded.spare_ram.start;
        let limit = room.low_ram_end.min(loaded.initramfs_end);
        let need = source.size;
        let mut top = limit;
        let range = loop {
            let start = match top.checked_sub(need).map(|start| start & !(PAGE - 1)) {
                Some(start) if start >= lowest => start,
                _ => {
                    let have = limit.saturating_sub(lowest);
                    return Err(Error::InitramfsTooLarge { need, have, limit });
                }
            };
            let range = start..start + need;
            let overlaps =
                |reserved: &&Range<u64>| reserved.start < range.end && range.start < reserved.end;
            match room.reserved.iter().find(overlaps) {
                // Always lower than before, so each reserved range is met once.
                Some(reserved) => top = reserved.start,
                None => break range,
            }
        };
        self.copies.push(Copy {
            source,
            file_offset: 0,
            size: need,
            address: range.start,
        });
        loaded.spare_ram.end = spare_end(lowest, room).min(range.start);
        loaded.initramfs = Some(range);
        Ok(())
    }
}

/// End of the free RAM that starts at `start`.
fn spare_end(start: u64, room: Room<'_>) -> u64 {
    let reserved = room
        .reserved
        .iter()
        .map(|range| range.start)
        .filter(|at| *at >= start);
    reserved
        .min()
        .map_or(room.low_ram_end, |end| end.min(room.low_ram_end))
}

/// Checks the command line against the room and the kernel; returns its length.
fn check_cmdline(cmdline: &str, max: u64) -> Result<u64, Error> {
    let len = cmdline.len() as u64;
    if cmdline.contains('\0') {
        return Err(Error::CmdlineNul);
    }
    if len > max {
        return Err(Error::CmdlineTooLong { len, max });
    }
    Ok(len)
}
