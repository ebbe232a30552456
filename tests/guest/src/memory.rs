//! All of the machine's memory: reading and writing at any address, mapping it first, handing out parts of RAM.
//!
//! Virtual and physical addresses are the same.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

unsafe extern "C" {
    static mut pml4: u8;
}

/// Where page tables are, far behind the program; they stay for good.
const TABLES: core::ops::Range<u64> = 0x60_0000..0x80_0000;
/// Where free RAM begins.
const FREE_START: u64 = TABLES.end;
const PAGE: u64 = 0x1000;
const LARGE_PAGE: u64 = 0x20_0000;
/// Page table entry bits (Intel SDM volume 3, 5.5.4): present, writable, user; and a large page.
const TABLE: u64 = 7;
const LEAF: u64 = 0x87;
/// The physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

static NEXT: AtomicU64 = AtomicU64::new(FREE_START);
static NEXT_TABLE: AtomicU64 = AtomicU64::new(TABLES.start);
static END: AtomicU64 = AtomicU64::new(0);

/// Learns where RAM ends; below 3 GiB.
pub(crate) fn prepare(ram_end: u64) {
    END.store(ram_end, Ordering::Relaxed);
}

/// Where RAM ends.
pub(crate) fn ram_end() -> u64 {
    END.load(Ordering::Relaxed)
}

/// What was taken so far, for [`give_back`].
pub(crate) fn taken() -> u64 {
    NEXT.load(Ordering::Relaxed)
}

/// Gives back what was taken since. No device may use it any more.
pub(crate) fn give_back(taken: u64) {
    NEXT.store(taken, Ordering::Relaxed);
}

/// Takes zeroed RAM; it stays taken, unless all that was taken later is given back with it.
pub(crate) fn take(len: u64, align: u64) -> u64 {
    let start = NEXT.load(Ordering::Relaxed).next_multiple_of(align);
    assert!(start + len <= ram_end(), "the guest has too little memory");
    NEXT.store(start + len, Ordering::Relaxed);
    map(start, len);
    fill(start, len, 0);
    start
}

/// Maps a range of addresses, where it is not.
pub(crate) fn map(start: u64, len: u64) {
    let end = start.saturating_add(len);
    (start & !(LARGE_PAGE - 1)..end)
        .step_by(LARGE_PAGE as usize)
        .filter(|_| len > 0)
        .for_each(map_page);
}

fn map_page(address: u64) {
    let mut table = &raw mut pml4 as u64;
    for shift in [39, 30] {
        let entry = table + 8 * (address >> shift & 511);
        if read64(entry) & 1 == 0 {
            // The first GiB is mapped from the start.
            let new = NEXT_TABLE.fetch_add(PAGE, Ordering::Relaxed);
            assert!(new < TABLES.end, "too many places are mapped");
            fill(new, PAGE, 0);
            write64(entry, new | TABLE);
        }
        table = read64(entry) & ADDRESS;
    }
    // An entry that was not present is in no cache of the processor: nothing has to be flushed.
    let entry = table + 8 * (address >> 21 & 511);
    if read64(entry) & 1 == 0 {
        write64(entry, (address & !(LARGE_PAGE - 1)) | LEAF);
    }
}

macro_rules! access {
    ($($read:ident $write:ident $type:ty, $register:ident $size:literal;)*) => {$(
        /// Reads memory or a device's register, with one instruction of this width.
        pub(crate) fn $read(address: u64) -> $type {
            let value: $type;
            // SAFETY: Addresses come from the loader, from PCI or from `take`. Memory is only read.
            unsafe { asm!(concat!("mov {0", $size, "}, [{1}]"), out($register) value, in(reg) address,
                options(nostack, preserves_flags)) };
            value
        }

        /// Writes memory or a device's register, with one instruction of this width.
        pub(crate) fn $write(address: u64, value: $type) {
            // SAFETY: Nothing that Rust knows of lies at addresses that come from PCI or from `take`.
            unsafe { asm!(concat!("mov [{1}], {0", $size, "}"), in($register) value, in(reg) address,
                options(nostack, preserves_flags)) };
        }
    )*};
}

access! {
    read8 write8 u8, reg_byte "";
    read16 write16 u16, reg ":x";
    read32 write32 u32, reg ":e";
    read64 write64 u64, reg ":r";
}

/// Reads 1, 2, 4 or 8 bytes.
pub(crate) fn read(address: u64, width: u64) -> u64 {
    match width {
        1 => read8(address).into(),
        2 => read16(address).into(),
        4 => read32(address).into(),
        _ => read64(address),
    }
}

/// Writes the lowest 1, 2, 4 or 8 bytes.
pub(crate) fn write(address: u64, width: u64, value: u64) {
    match width {
        1 => write8(address, value as u8),
        2 => write16(address, value as u16),
        4 => write32(address, value as u32),
        _ => write64(address, value),
    }
}

/// Sets bytes.
pub(crate) fn fill(start: u64, len: u64, value: u8) {
    // SAFETY: As for writing.
    unsafe {
        asm!("rep stosb", inout("rdi") start => _, inout("rcx") len => _, in("al") value,
            options(nostack, preserves_flags));
    }
}

/// Copies bytes into memory.
pub(crate) fn put(start: u64, bytes: &[u8]) {
    for (offset, byte) in (0..).zip(bytes) {
        write8(start + offset, *byte);
    }
}

/// Memory that does not change while it is looked at.
pub(crate) fn bytes(start: u64, len: u64) -> &'static [u8] {
    // SAFETY: It is RAM that is mapped for good, and callers look at it while no device writes to it.
    unsafe { core::slice::from_raw_parts(start as *const u8, len as usize) }
}

/// What was written before is there before what is read or written after.
pub(crate) fn barrier() {
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// What compilers take from the C library.
mod library {
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: The caller says that both are `len` bytes and apart.
        unsafe {
            asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= len {
            // SAFETY: What is copied first is not overwritten before it is copied.
            return unsafe { memcpy(to, from, len) };
        }
        let (last_to, last_from) = (to.wrapping_add(len - 1), from.wrapping_add(len - 1));
        // SAFETY: The caller says that both are `len` bytes; from the end, nothing is overwritten too early.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rdi") last_to => _, inout("rsi") last_from => _,
                inout("rcx") len => _, options(nostack));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
        super::fill(to as u64, len as u64, value as u8);
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
        for index in 0..len {
            // SAFETY: The caller says that both are `len` bytes.
            let a = unsafe { one.wrapping_add(index).read() };
            // SAFETY: As above.
            let b = unsafe { other.wrapping_add(index).read() };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
        // SAFETY: It asks for the same as `memcmp`.
        unsafe { memcmp(one, other, len) }
    }
}
