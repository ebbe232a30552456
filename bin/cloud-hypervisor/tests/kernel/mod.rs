//! The smallest kernels there are. `testkit`, which makes larger ones, is not for crates in a layer.

use std::path::{Path, PathBuf};

/// Where the code is loaded and entered: 1 MiB.
const LOAD: u32 = 0x10_0000;
/// Where in the file the note is, and the code.
const NOTE: u32 = 0x100;
const CODE: u32 = 0x200;

/// Writes `kernel` into a folder: an ELF file with a PVH note (Xen, `XEN_ELFNOTE_PHYS32_ENTRY`) around 32-bit code.
pub(crate) fn write(folder: &Path, code: &[u8]) -> PathBuf {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let size = u32::try_from(code.len()).unwrap();
    let mut words = |list: &[u32]| list.iter().for_each(|word| elf.extend(word.to_le_bytes()));
    // ET_EXEC, EM_X86_64; entry, program headers at 64, no sections, two headers of 56 bytes.
    words(&[
        62 << 16 | 2,
        1,
        LOAD,
        0,
        64,
        0,
        0,
        0,
        0,
        56 << 16 | 64,
        2,
        0,
    ]);
    words(&[1, 7, CODE, 0, LOAD, 0, LOAD, 0, size, 0, size, 0, 0x100, 0]);
    words(&[4, 4, NOTE, 0, 0, 0, 0, 0, 20, 0, 20, 0, 4, 0]);
    elf.resize(NOTE.try_into().unwrap(), 0);
    let note = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), LOAD].map(u32::to_le_bytes);
    elf.extend(note.concat());
    elf.resize(CODE.try_into().unwrap(), 0);
    elf.extend(code);
    let path = folder.join("kernel");
    std::fs::write(&path, elf).unwrap();
    path
}
