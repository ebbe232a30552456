//! Builds tiny guests: an ELF file with a PVH note and a few instructions.
//!
//! A guest of thirty bytes says in a millisecond what a Linux guest says in seconds: that an I/O
//! port answers, that a triple fault resets, how long the monitor takes to the first instruction.
//! The code runs as PVH leaves the processor (Xen `docs/misc/pvh.pandoc`): 32-bit protected mode,
//! flat segments, paging and interrupts off, `ebx` = address of the start info.
//!
//! ```
//! use testkit::payload::Payload;
//! let elf = Payload::new().out_u8(0x80, 1).print_e9("ok").power_off().build();
//! assert_eq!(&elf[..4], b"\x7fELF");
//! ```

use std::io;
use std::path::Path;

/// Guest physical address at which the code is loaded and entered.
pub const LOAD_ADDRESS: u32 = 0x10_0000;

/// Guest physical address of the tables that [`Payload::long_mode`] writes, 16 KiB.
pub const PAGE_TABLES: u32 = 0x20_1000;

/// Port of the debug console (`--debug-console`), as in QEMU and Bochs.
pub const DEBUG_CONSOLE: u16 = 0xe9;

/// Port of the ACPI sleep control register, where `power_off` writes.
pub const SLEEP_CONTROL: u16 = 0x600;

/// `SLP_TYP` 5 and `SLP_EN` of the sleep control register (ACPI 6.5, 4.8.3.7).
const SLEEP_S5: u8 = 5 << 2 | 1 << 5;

const NOTE_OFFSET: u64 = 0x100;
const CODE_OFFSET: u64 = 0x1000;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen `public/elfnote.h`).
const PHYS32_ENTRY: u32 = 18;

/// A valid ELF64 file around 32-bit code, for `--kernel` and `--firmware`.
#[derive(Debug, Clone)]
pub struct Elf {
    code: Vec<u8>,
    reserve: u64,
}

impl Elf {
    /// Wraps code that is loaded and entered at [`LOAD_ADDRESS`].
    #[must_use]
    pub fn new(code32: &[u8]) -> Self {
        Self {
            code: code32.to_vec(),
            reserve: 0,
        }
    }

    /// Asks for this many zeroed bytes of guest memory after the code.
    #[must_use]
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.reserve = bytes;
        self
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let load = u64::from(LOAD_ADDRESS);
        let code_size = self.code.len() as u64;
        let note = note(load);
        let mut elf = Vec::new();
        // e_ident: ELF64, little endian, version 1, System V.
        elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        push16(&mut elf, &[2, 62]); // ET_EXEC, EM_X86_64
        push32(&mut elf, &[1]);
        push64(&mut elf, &[load, 64, 0]); // e_entry, e_phoff, e_shoff
        push32(&mut elf, &[0]);
        push16(&mut elf, &[64, 56, 2, 0, 0, 0]); // sizes and counts of headers
        // PT_LOAD, readable, writable and executable.
        push32(&mut elf, &[1, 7]);
        push64(
            &mut elf,
            &[
                CODE_OFFSET,
                load,
                load,
                code_size,
                code_size + self.reserve,
                CODE_OFFSET,
            ],
        );
        // PT_NOTE, readable.
        push32(&mut elf, &[4, 4]);
        push64(
            &mut elf,
            &[NOTE_OFFSET, 0, 0, note.len() as u64, note.len() as u64, 4],
        );
        pad_to(&mut elf, NOTE_OFFSET);
        elf.extend_from_slice(&note);
        pad_to(&mut elf, CODE_OFFSET);
        elf.extend_from_slice(&self.code);
        elf
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Whatever the file system answers.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.bytes())
    }
}

/// The note that says where a PVH loader enters.
fn note(entry: u64) -> Vec<u8> {
    let mut note = Vec::new();
    push32(&mut note, &[4, 8, PHYS32_ENTRY]); // name size, value size, type
    note.extend_from_slice(b"Xen\0");
    push64(&mut note, &[entry]);
    note
}

fn push16(out: &mut Vec<u8>, values: &[u16]) {
    values
        .iter()
        .for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn push32(out: &mut Vec<u8>, values: &[u32]) {
    values
        .iter()
        .for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn push64(out: &mut Vec<u8>, values: &[u64]) {
    values
        .iter()
        .for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn pad_to(out: &mut Vec<u8>, offset: u64) {
    while (out.len() as u64) < offset {
        out.push(0);
    }
}

/// Guest code under construction; every method appends instructions and returns the rest.
///
/// Code that runs off the end halts for ever with interrupts off.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    code: Vec<u8>,
}

impl Payload {
    /// No instructions yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends machine code as it is.
    #[must_use]
    pub fn raw(mut self, code: &[u8]) -> Self {
        self.code.extend_from_slice(code);
        self
    }

    /// Writes a byte to an I/O port.
    #[must_use]
    pub fn out_u8(self, port: u16, value: u8) -> Self {
        self.raw(&[0xb0, value]).port(port).raw(&[0xee])
    }

    /// Writes 16 bits to an I/O port.
    #[must_use]
    pub fn out_u16(self, port: u16, value: u16) -> Self {
        self.raw(&[0x66, 0xb8])
            .raw(&value.to_le_bytes())
            .port(port)
            .raw(&[0x66, 0xef])
    }

    /// Writes 32 bits to an I/O port.
    #[must_use]
    pub fn out_u32(self, port: u16, value: u32) -> Self {
        self.raw(&[0xb8])
            .raw(&value.to_le_bytes())
            .port(port)
            .raw(&[0xef])
    }

    /// Reads a byte from an I/O port into `al`; see [`Payload::out_al`].
    #[must_use]
    pub fn in_u8(self, port: u16) -> Self {
        self.port(port).raw(&[0xec])
    }

    /// Reads 32 bits from an I/O port into `eax`.
    #[must_use]
    pub fn in_u32(self, port: u16) -> Self {
        self.port(port).raw(&[0xed])
    }

    /// Writes `al` to an I/O port, for example what was just read.
    #[must_use]
    pub fn out_al(self, port: u16) -> Self {
        self.port(port).raw(&[0xee])
    }

    /// Writes the four bytes of `eax`, lowest first, to an I/O port.
    #[must_use]
    pub fn out_eax_bytes(mut self, port: u16) -> Self {
        self = self.port(port);
        for _ in 0..4 {
            self = self.raw(&[0xee, 0xc1, 0xc8, 8]); // out dx, al; ror eax, 8
        }
        self
    }

    /// Writes a text byte by byte to an I/O port.
    #[must_use]
    pub fn print(self, port: u16, text: &str) -> Self {
        text.bytes()
            .fold(self, |payload, byte| payload.out_u8(port, byte))
    }

    /// Writes a text to the debug console.
    #[must_use]
    pub fn print_e9(self, text: &str) -> Self {
        self.print(DEBUG_CONSOLE, text)
    }

    /// Writes 8 bits to guest physical memory, RAM or MMIO, below 4 GiB.
    #[must_use]
    pub fn write_u8(self, address: u32, value: u8) -> Self {
        self.raw(&[0xc6, 0x05])
            .raw(&address.to_le_bytes())
            .raw(&[value])
    }

    /// Writes 32 bits to guest physical memory, RAM or MMIO, below 4 GiB.
    #[must_use]
    pub fn write_u32(self, address: u32, value: u32) -> Self {
        self.raw(&[0xc7, 0x05])
            .raw(&address.to_le_bytes())
            .raw(&value.to_le_bytes())
    }

    /// Reads 32 bits of guest physical memory, RAM or MMIO, below 4 GiB, into `eax`.
    #[must_use]
    pub fn read_u32(self, address: u32) -> Self {
        self.raw(&[0xa1]).raw(&address.to_le_bytes())
    }

    /// Runs an empty loop this many times; 0 stands for 2³².
    #[must_use]
    pub fn spin(self, times: u32) -> Self {
        // mov ecx, times; 1: pause; dec ecx; jnz 1b
        self.raw(&[0xb9])
            .raw(&times.to_le_bytes())
            .raw(&[0xf3, 0x90, 0x49, 0x75, 0xfb])
    }

    /// Runs `body` for ever; nothing after it is reached.
    ///
    /// # Panics
    /// When the body is so long that the 32-bit jump back does not reach it.
    #[must_use]
    pub fn forever(self, body: impl FnOnce(Self) -> Self) -> Self {
        let start = self.code.len();
        let payload = body(self).raw(&[0xe9]);
        let back = i32::try_from(payload.code.len() + 4 - start).expect("a body below 2 GiB");
        payload.raw(&(-back).to_le_bytes())
    }

    /// Halts for ever with interrupts off.
    #[must_use]
    pub fn halt(self) -> Self {
        self.raw(&[0xfa, 0xf4, 0xeb, 0xfd]) // 1: cli; hlt; jmp 1b+1
    }

    /// Causes a triple fault: an undefined instruction with an empty interrupt table.
    ///
    /// # Panics
    /// When the code before it is larger than the 32-bit address space.
    #[must_use]
    pub fn triple_fault(self) -> Self {
        let table = self.address() + 2;
        self.raw(&[0xeb, 6, 0, 0, 0, 0, 0, 0]) // jmp over a table of limit 0
            .raw(&[0x0f, 0x01, 0x1d])
            .raw(&table.to_le_bytes()) // lidt
            .raw(&[0x0f, 0x0b]) // ud2
    }

    /// Resets through the keyboard controller's pulse command.
    #[must_use]
    pub fn reset(self) -> Self {
        self.out_u8(0x64, 0xfe)
    }

    /// Powers off: ACPI sleep state 5 through [`SLEEP_CONTROL`].
    #[must_use]
    pub fn power_off(self) -> Self {
        self.out_u8(SLEEP_CONTROL, SLEEP_S5)
    }

    /// Goes on in 64-bit mode, with the first 4 MiB mapped one to one.
    ///
    /// The tables are at [`PAGE_TABLES`]. The other instructions of this builder that address
    /// memory are for 32-bit mode; those that speak to ports work in both.
    ///
    /// # Panics
    /// When the code before it is larger than the 32-bit address space.
    #[must_use]
    pub fn long_mode(self) -> Self {
        const PRESENT_WRITABLE: u32 = 3;
        const LARGE: u32 = 1 << 7;
        let [pml4, pdpt, pd] = [0, 0x1000, 0x2000].map(|offset| PAGE_TABLES + offset);
        let mut payload = self
            .write_u32(pml4, pdpt | PRESENT_WRITABLE)
            .write_u32(pdpt, pd | PRESENT_WRITABLE)
            .write_u32(pd, LARGE | PRESENT_WRITABLE)
            .write_u32(pd + 8, 0x20_0000 | LARGE | PRESENT_WRITABLE)
            .raw(&[0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0]) // cr4 = PAE
            .raw(&[0xb8])
            .raw(&pml4.to_le_bytes())
            .raw(&[0x0f, 0x22, 0xd8]) // cr3
            .raw(&[
                0xb9, 0x80, 0, 0, 0xc0, 0xb8, 0, 1, 0, 0, 0x31, 0xd2, 0x0f, 0x30,
            ]) // EFER.LME
            .raw(&[0xb8, 0x11, 0, 0, 0x80, 0x0f, 0x22, 0xc0]); // cr0 = PG | ET | PE
        // Jump over the table and its pointer, load it, jump into its 64-bit code segment.
        let here = payload.address();
        let (table, pointer, target) = (here + 2, here + 2 + 16, here + 2 + 22 + 7 + 7);
        payload = payload
            .raw(&[0xeb, 22])
            .raw(&[0; 8])
            .raw(&0x00af_9a00_0000_ffff_u64.to_le_bytes())
            .raw(&15_u16.to_le_bytes())
            .raw(&table.to_le_bytes())
            .raw(&[0x0f, 0x01, 0x15])
            .raw(&pointer.to_le_bytes()) // lgdt
            .raw(&[0xea])
            .raw(&target.to_le_bytes())
            .raw(&[8, 0]); // jmp 8:target
        debug_assert_eq!(payload.address(), target);
        payload
    }

    /// Executes `lock cmpxchg16b` on fresh memory; 64-bit mode only.
    ///
    /// Stock kernels need it in ring 0, and emulated ring 0 is where it is missing: KVM's
    /// instruction emulator does not know it.
    #[must_use]
    pub fn compare_exchange_16(self) -> Self {
        // mov edi, scratch; xor eax, eax; xor edx, edx; xor ecx, ecx; mov ebx, 1
        self.raw(&[0xbf])
            .raw(&(PAGE_TABLES + 0x3000).to_le_bytes())
            .raw(&[0x31, 0xc0, 0x31, 0xd2, 0x31, 0xc9, 0xbb, 1, 0, 0, 0])
            .raw(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f])
    }

    /// The instructions so far.
    #[must_use]
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// The ELF file's bytes.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        self.elf().bytes()
    }

    /// The ELF file, for those who want to add to it.
    #[must_use]
    pub fn elf(self) -> Elf {
        Elf::new(&self.halt().code)
    }

    /// Guest address of the next instruction.
    fn address(&self) -> u32 {
        u32::try_from(self.code.len()).expect("code below 4 GiB") + LOAD_ADDRESS
    }

    fn port(self, port: u16) -> Self {
        self.raw(&[0x66, 0xba]).raw(&port.to_le_bytes()) // mov dx, port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn long(bytes: &[u8], at: usize) -> usize {
        usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
    }

    #[test]
    fn headers_lead_to_the_code_and_the_note() {
        let elf = Elf::new(&[0xf4]).reserve(100).bytes();
        let phoff = long(&elf, 32);
        assert_eq!(word(&elf, phoff), 1, "PT_LOAD");
        let (offset, paddr) = (long(&elf, phoff + 8), long(&elf, phoff + 24));
        let (file, memory) = (long(&elf, phoff + 32), long(&elf, phoff + 40));
        assert_eq!((elf[offset], file, memory), (0xf4, 1, 101));
        let note = phoff + 56;
        assert_eq!(word(&elf, note), 4, "PT_NOTE");
        let at = long(&elf, note + 8);
        assert_eq!(
            (word(&elf, at), word(&elf, at + 4), word(&elf, at + 8)),
            (4, 8, 18)
        );
        assert_eq!(&elf[at + 12..at + 16], b"Xen\0");
        assert_eq!(long(&elf, at + 16), paddr);
    }

    #[test]
    fn instructions_are_what_an_assembler_gives() {
        let code = |payload: Payload| payload.code().to_vec();
        // mov al, 1; mov dx, 0x80; out dx, al
        assert_eq!(
            code(Payload::new().out_u8(0x80, 1)),
            [0xb0, 1, 0x66, 0xba, 0x80, 0, 0xee]
        );
        // The sleep register gets 0x34.
        assert_eq!(code(Payload::new().power_off())[..2], [0xb0, 0x34]);
        // A jump back over one byte of body and its own five.
        assert_eq!(
            code(Payload::new().forever(|body| body.raw(&[0x90]))),
            [0x90, 0xe9, 0xfa, 0xff, 0xff, 0xff]
        );
    }

    #[test]
    fn the_empty_interrupt_table_lies_inside_the_code() {
        let payload = Payload::new().out_u8(0x80, 1).triple_fault();
        let code = payload.code();
        let address = word(code, code.len() - 6) - LOAD_ADDRESS;
        let table = usize::try_from(address).unwrap();
        assert_eq!(code[table..table + 6], [0; 6]);
    }
}
