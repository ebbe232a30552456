//! The head of a core file: ELF header, program headers and notes (System V ABI, chapters 4 and 5).

use memory::RangeInFile;

const ELF_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const ET_CORE: u16 = 4;
const EV_CURRENT: u8 = 1;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_R: u32 = 4;
const PF_W: u32 = 2;
const PF_X: u32 = 1;
/// Memory begins at such an offset in the file, so that it can be mapped.
const PAGE: u64 = 4096;

/// One note.
pub(super) struct Note {
    /// Who says what it means.
    pub(super) name: &'static str,
    /// Which of the owner's notes it is.
    pub(super) kind: u32,
    pub(super) content: Vec<u8>,
}

/// All that comes before memory.
pub(super) struct Head {
    /// What the file begins with.
    pub(super) bytes: Vec<u8>,
    /// Where in the file memory begins.
    pub(super) memory: u64,
}

impl Head {
    /// The head for these notes and this memory, of which the ranges' offsets are those in memory's part of the file.
    pub(super) fn new(notes: &[Note], ranges: &[RangeInFile]) -> Self {
        let notes: Vec<u8> = notes.iter().flat_map(Note::bytes).collect();
        // A machine has a few ranges: on x86 one below 4 GiB and one above.
        let count = u16::try_from(ranges.len() + 1).unwrap_or(u16::MAX);
        let notes_start = u64::from(ELF_HEADER) + u64::from(count) * u64::from(PROGRAM_HEADER);
        let notes_size = notes.len() as u64;
        let memory = (notes_start + notes_size).next_multiple_of(PAGE);
        let mut bytes = Vec::new();
        push_header(&mut bytes, count);
        Segment {
            kind: PT_NOTE,
            flags: 0,
            offset: notes_start,
            address: 0,
            size: notes_size,
            size_in_memory: 0,
            align: 4,
        }
        .push(&mut bytes);
        for range in ranges {
            Segment {
                kind: PT_LOAD,
                flags: PF_R | PF_W | PF_X,
                offset: memory + range.offset,
                address: range.start,
                size: range.size,
                size_in_memory: range.size,
                align: PAGE,
            }
            .push(&mut bytes);
        }
        bytes.extend(notes);
        Self { bytes, memory }
    }
}

fn push_header(bytes: &mut Vec<u8>, segments: u16) {
    // Class 64 bits, little-endian, no particular system.
    bytes.extend([0x7f, b'E', b'L', b'F', 2, 1, EV_CURRENT, 0]);
    bytes.extend([0; 8]);
    bytes.extend(ET_CORE.to_le_bytes());
    bytes.extend(arch::ELF_MACHINE.to_le_bytes());
    bytes.extend(u32::from(EV_CURRENT).to_le_bytes());
    // Entry point; program headers follow at once; there are no sections.
    bytes.extend([0, u64::from(ELF_HEADER), 0].map(u64::to_le_bytes).concat());
    bytes.extend(0u32.to_le_bytes());
    let sizes = [ELF_HEADER, PROGRAM_HEADER, segments, 0, 0, 0];
    bytes.extend(sizes.map(u16::to_le_bytes).concat());
}

/// A program header.
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    /// Virtual and physical: there is only the latter.
    address: u64,
    size: u64,
    size_in_memory: u64,
    align: u64,
}

impl Segment {
    fn push(self, bytes: &mut Vec<u8>) {
        bytes.extend([self.kind, self.flags].map(u32::to_le_bytes).concat());
        let rest = [
            self.offset,
            self.address,
            self.address,
            self.size,
            self.size_in_memory,
            self.align,
        ];
        bytes.extend(rest.map(u64::to_le_bytes).concat());
    }
}

impl Note {
    /// Each part is padded to 4 bytes, as all readers take it whatever the class.
    fn bytes(&self) -> Vec<u8> {
        // Notes are some hundred bytes.
        let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = Vec::new();
        bytes.extend(length(self.name.len() + 1));
        bytes.extend(length(self.content.len()));
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(&self.content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_where_the_head_says() {
        let ranges = [
            RangeInFile {
                start: 0,
                size: 0x10_0000,
                offset: 0,
            },
            RangeInFile {
                start: 1 << 32,
                size: 0x2000,
                offset: 0x10_0000,
            },
        ];
        let note = Note {
            name: "CORE",
            kind: 1,
            content: vec![7; 5000],
        };
        let head = Head::new(&[note], &ranges);
        assert_eq!(head.memory, 8192);
        let word = |at: usize| u64::from_le_bytes(head.bytes[at..at + 8].try_into().unwrap());
        // Three program headers of 56 bytes from 64 on.
        assert_eq!(head.bytes[54..58], [56, 0, 3, 0]);
        let notes = 64 + 3 * 56;
        assert_eq!((word(64 + 8), word(64 + 32)), (notes as u64, 12 + 8 + 5000));
        for (index, range) in ranges.iter().enumerate() {
            let at = 64 + 56 * (index + 1);
            assert_eq!(
                word(at),
                u64::from(PF_R | PF_W | PF_X) << 32 | u64::from(PT_LOAD)
            );
            assert_eq!(word(at + 8), head.memory + range.offset);
            assert_eq!((word(at + 16), word(at + 24)), (range.start, range.start));
            assert_eq!((word(at + 32), word(at + 40)), (range.size, range.size));
        }
        assert_eq!(
            head.bytes[notes..notes + 12],
            [5, 0, 0, 0, 0x88, 0x13, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(head.bytes[notes + 12..notes + 20], *b"CORE\0\0\0\0");
        assert_eq!(head.bytes.len(), notes + 12 + 8 + 5000);
    }
}
