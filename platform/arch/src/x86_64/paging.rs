//! From linear to physical addresses, by the guest's page tables (Intel SDM volume 3A, chapter 4).

use crate::SpecialRegs;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const PRESENT: u64 = 1;
/// The entry maps a large page.
const LARGE: u64 = 1 << 7;
/// Physical address in an entry of 64 bits.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where something is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Physical address.
    pub address: u64,
    /// Bytes from there to the end of the page.
    pub left: u64,
}

/// A form of page tables.
struct Form {
    /// Bits of an index, and of an offset in the smallest page.
    index_bits: u32,
    levels: u32,
    /// Bytes of an entry.
    entry: u64,
    /// Levels from the lowest on, counted from 0, whose entries can map a page: 1 and 2.
    large: u32,
}

/// Finds what a processor with these registers has at a linear address, whoever may access it. `read` reads a
/// little-endian word of so many bytes (4 or 8) of physical memory. `None`: nothing is mapped there, or tables are
/// where there is no memory.
#[must_use]
pub fn translate(
    registers: &SpecialRegs,
    linear: u64,
    read: impl Fn(u64, u64) -> Option<u64>,
) -> Option<Mapped> {
    let Some(form) = Form::of(registers) else {
        // Without paging, linear addresses are physical ones, of 32 bits.
        let address = linear & u64::from(u32::MAX);
        let left = 0x1000 - address % 0x1000;
        return (address == linear).then_some(Mapped { address, left });
    };
    let bits = form.index_bits * form.levels + 12;
    form.check(linear, bits)?;
    let mut table = registers.cr3
        & if form.entry == 8 {
            ADDRESS
        } else {
            0xffff_f000
        };
    if form.levels == 3 {
        // The four entries of PAE need no page of their own (4.4.1).
        table = registers.cr3 & 0xffff_ffe0;
    }
    for level in (0..form.levels).rev() {
        let shift = 12 + form.index_bits * level;
        let index = linear >> shift & ((1 << form.index_bits) - 1);
        let entry = read(table.checked_add(index * form.entry)?, form.entry)?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || (level <= form.large && entry & LARGE != 0) {
            let size = 1 << shift;
            let offset = linear & (size - 1);
            return Some(Mapped {
                address: form.page(entry, level) & !(size - 1) | offset,
                left: size - offset,
            });
        }
        table = entry & ADDRESS;
    }
    None
}

impl Form {
    /// `None` without paging.
    fn of(registers: &SpecialRegs) -> Option<Self> {
        let has = |register: u64, bit: u64| register & bit != 0;
        if !has(registers.cr0, CR0_PG) {
            return None;
        }
        let wide = |levels, large| Self {
            index_bits: 9,
            levels,
            entry: 8,
            large,
        };
        Some(if has(registers.efer, EFER_LMA) {
            wide(4 + u32::from(has(registers.cr4, CR4_LA57)), 2)
        } else if has(registers.cr4, CR4_PAE) {
            wide(3, 1)
        } else {
            Self {
                index_bits: 10,
                levels: 2,
                entry: 4,
                large: u32::from(has(registers.cr4, CR4_PSE)),
            }
        })
    }

    /// Whether a processor takes this address: with 64 bits the upper ones are all like the highest that is used.
    fn check(&self, linear: u64, bits: u32) -> Option<()> {
        if self.levels < 4 {
            return u32::try_from(linear).ok().map(|_| ());
        }
        let upper = linear.cast_signed() >> (bits - 1);
        (upper == 0 || upper == -1).then_some(())
    }

    /// The page in an entry. A page of 4 MiB has further bits of its address in 13 to 20 (4.3).
    fn page(&self, entry: u64, level: u32) -> u64 {
        if self.entry == 4 && level == 1 {
            entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
        } else {
            entry & ADDRESS
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn memory(words: &[(u64, u64)]) -> impl Fn(u64, u64) -> Option<u64> {
        let words: HashMap<u64, u64> = words.iter().copied().collect();
        move |address, _| Some(words.get(&address).copied().unwrap_or(0))
    }

    fn long(cr4: u64) -> SpecialRegs {
        SpecialRegs {
            cr0: CR0_PG | 1,
            cr3: 0x1018,
            cr4: cr4 | CR4_PAE,
            efer: EFER_LMA,
            ..SpecialRegs::default()
        }
    }

    #[test]
    fn without_paging_addresses_are_what_they_are() {
        let none = SpecialRegs::default();
        let mapped = translate(&none, 0x1234, memory(&[])).unwrap();
        assert_eq!((mapped.address, mapped.left), (0x1234, 0xdcc));
        assert!(translate(&none, 1 << 32, memory(&[])).is_none());
    }

    #[test]
    fn four_levels_have_pages_of_three_sizes() {
        let tables = memory(&[
            (0x1000 + 511 * 8, 0x2003),
            (0x2000 + 510 * 8, 0x8000_0000_4000_00e3),
            (0x2000 + 511 * 8, 0x3003),
            (0x3000, 0x60_00e3),
            (0x3000 + 8, 0x4003),
            (0x4000 + 5 * 8, 0x7003),
        ]);
        let at = |linear| translate(&long(0), linear, &tables);
        let kernel = 0xffff_ffff_8000_0000;
        assert_eq!(
            at(kernel + 0x123),
            Some(Mapped {
                address: 0x4000_0123,
                left: (1 << 30) - 0x123
            })
        );
        let text = 0xffff_ffff_c000_0000;
        assert_eq!(
            at(text + 0x1f_ffff),
            Some(Mapped {
                address: 0x7f_ffff,
                left: 1
            })
        );
        assert_eq!(
            at(text + 0x20_5010),
            Some(Mapped {
                address: 0x7010,
                left: 0xff0
            })
        );
        assert_eq!(at(text + 0x20_6000), None);
        assert_eq!(at(0x0000_8000_0000_0000), None, "not canonical");
    }

    #[test]
    fn five_levels_have_one_more() {
        let tables = memory(&[(0x1000 + 8, 0x2003), (0x2000, 0x3003), (0x3000, 0x83)]);
        let linear = (1 << 48) + 0x42;
        let mapped = translate(&long(CR4_LA57), linear, &tables).unwrap();
        assert_eq!(mapped.address, 0x42);
        assert_eq!(translate(&long(0), linear, &tables), None);
    }

    #[test]
    fn thirty_two_bits_have_two_forms() {
        let mut registers = SpecialRegs {
            cr0: CR0_PG | 1,
            cr3: 0x1000,
            cr4: CR4_PSE,
            ..SpecialRegs::default()
        };
        let tables = memory(&[
            (0x1000 + 4 * 4, 0x0080_2083),
            (0x1000 + 5 * 4, 0x2003),
            (0x2000, 0x9003),
        ]);
        let at = |linear| translate(&registers, linear, &tables).map(|mapped| mapped.address);
        assert_eq!(at(0x0100_0007), Some(0x1_0080_0007));
        assert_eq!(at(0x0140_0007), Some(0x9007));
        registers.cr3 = 0x1020;
        registers.cr4 = CR4_PAE;
        let tables = memory(&[(0x1020 + 3 * 8, 0x2001), (0x2000, 0x20_0083)]);
        let mapped = translate(&registers, 0xc000_0010, tables);
        assert_eq!(mapped.map(|mapped| mapped.address), Some(0x20_0010));
    }
}
