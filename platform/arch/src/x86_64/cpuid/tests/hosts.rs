//! CPUID of hosts: what KVM lists there, and what the processor itself answers.

use super::super::native;
use super::CpuidEntry;

/// Leaf, subleaf if it matters, EAX, EBX, ECX, EDX.
type Row = (u32, Option<u32>, [u32; 4]);

pub(super) struct Host {
    pub(super) supported: Vec<CpuidEntry>,
    native: Vec<CpuidEntry>,
}

impl Host {
    fn new(supported: &[Row], native: &[Row]) -> Self {
        Self {
            supported: entries(supported),
            native: entries(native),
        }
    }

    /// Lets the processor have a brand string.
    fn branded(mut self, text: &str) -> Self {
        let mut bytes = [0; 48];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let words = bytes.map(u32::from);
        let word = |at: usize| (0..4).map(|i| words[at * 4 + i] << (8 * i)).sum();
        for (leaf, at) in (0x8000_0002..).zip([0, 4, 8]) {
            let row = (
                leaf,
                None,
                [word(at), word(at + 1), word(at + 2), word(at + 3)],
            );
            self.native.extend(entries(&[row]));
        }
        self
    }

    /// What the processor answers to `CPUID`.
    pub(super) fn native(&self, leaf: u32, subleaf: u32) -> CpuidEntry {
        let found = self
            .native
            .iter()
            .find(|e| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf));
        found.copied().unwrap_or_default()
    }

    /// Changes the list of the hypervisor.
    pub(super) fn supported_mut(&mut self, leaf: u32, subleaf: u32) -> &mut CpuidEntry {
        self.supported
            .iter_mut()
            .find(|e| e.leaf == leaf && e.subleaf == subleaf)
            .unwrap()
    }
}

fn entries(rows: &[Row]) -> Vec<CpuidEntry> {
    let entry = |&(leaf, subleaf, [eax, ebx, ecx, edx]): &Row| CpuidEntry {
        leaf,
        subleaf: subleaf.unwrap_or(0),
        indexed: subleaf.is_some(),
        eax,
        ebx,
        ecx,
        edx,
    };
    rows.iter().map(entry).collect()
}

/// A server processor of Intel's fourth Xeon generation (52 physical address bits, five-level paging, AMX), as
/// KVM of Linux 6.12 lists it for a process that may use AMX.
pub(super) fn intel() -> Host {
    let supported: &[Row] = &[
        (0x0, None, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        (
            0x1,
            None,
            [0x000c_06f2, 0x2140_0800, 0xf6fa_b22b, 0x1f8b_fbff],
        ),
        (0x2, None, [0x00fe_ff01, 0xf0, 0, 0]),
        (0x4, Some(0), [0x7c00_4121, 0x02c0_003f, 0x3f, 0]),
        (0x4, Some(1), [0x7c00_4122, 0x01c0_003f, 0x3f, 0]),
        (0x4, Some(2), [0x7c00_4143, 0x03c0_003f, 0x7ff, 0]),
        (0x4, Some(3), [0x7c0f_c163, 0x0380_003f, 0x1_bfff, 4]),
        (0x4, Some(4), [0; 4]),
        (0x6, None, [0x4, 0, 0, 0]),
        (0x7, Some(0), [0x2, 0xf1bf_27ef, 0x5b41_5f7e, 0xafc1_4410]),
        (0x7, Some(1), [0x0020_1c30, 0, 0, 0x0000_4100]),
        (0x7, Some(2), [0, 0, 0, 0x17]),
        (0xa, None, [0x0830_0802, 0, 0, 0x8603]),
        (0xb, Some(0), [0; 4]),
        (0xd, Some(0), [0x6_02e7, 0x2b00, 0x2b00, 0]),
        (0xd, Some(1), [0x1f, 0x240, 0x1800, 0]),
        (0xd, Some(2), [0x100, 0x240, 0, 0]),
        (0xd, Some(5), [0x40, 0x440, 0, 0]),
        (0xd, Some(6), [0x200, 0x480, 0, 0]),
        (0xd, Some(7), [0x400, 0x680, 0, 0]),
        (0xd, Some(9), [0x8, 0xa80, 0, 0]),
        (0xd, Some(11), [0x10, 0, 1, 0]),
        (0xd, Some(12), [0x18, 0, 1, 0]),
        (0xd, Some(17), [0x40, 0xac0, 2, 0]),
        (0xd, Some(18), [0x2000, 0xb00, 6, 0]),
        (0x12, Some(0), [0x63, 0, 0, 0x381f]),
        (0x12, Some(1), [0x36, 0, 0x2e7, 0]),
        (0x15, None, [0; 4]),
        (0x16, None, [0; 4]),
        (0x1d, Some(0), [0x1, 0, 0, 0]),
        (0x1d, Some(1), [0x0400_2000, 0x0008_0040, 0x10, 0]),
        (0x1e, Some(0), [0, 0x4010, 0, 0]),
        (0x1f, Some(0), [0; 4]),
        (
            0x4000_0000,
            None,
            [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
        ),
        (0x4000_0001, None, [0x0100_7efb, 0, 0, 0]),
        (0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
        (0x8000_0001, None, [0, 0, 0x121, 0x2c10_0800]),
        (0x8000_0002, None, [0; 4]),
        (0x8000_0003, None, [0; 4]),
        (0x8000_0004, None, [0; 4]),
        (0x8000_0006, None, [0, 0, 0x0800_7040, 0]),
        (0x8000_0007, None, [0, 0, 0, 0x100]),
        (0x8000_0008, None, [0x0034_3934, 0x0d00_0200, 0, 0]),
    ];
    let native: &[Row] = &[(0x8000_0000, None, [0x8000_0008, 0, 0, 0])];
    Host::new(supported, native).branded("Intel(R) Xeon(R) Gold 6430 @ 2.10GHz")
}

/// A server processor of AMD's fourth Epyc generation, as KVM of Linux 6.1 lists it: topology and cache leaves
/// are left to the monitor.
pub(super) fn amd() -> Host {
    let supported: &[Row] = &[
        (0x0, None, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        (
            0x1,
            None,
            [0x00a1_0f11, 0x0a40_0800, 0xfefa_3203, 0x178b_fbff],
        ),
        (0x4, Some(0), [0; 4]),
        (0x6, None, [0x4, 0, 0, 0]),
        (0x7, Some(0), [0x1, 0xf1bf_07a9, 0x0040_5fce, 0x1000_0010]),
        (0x7, Some(1), [0x20, 0, 0, 0]),
        (0xb, Some(0), [0; 4]),
        (0xd, Some(0), [0x2e7, 0x988, 0x988, 0]),
        (0xd, Some(1), [0xf, 0x240, 0x1800, 0]),
        (0xd, Some(2), [0x100, 0x240, 0, 0]),
        (0xd, Some(5), [0x40, 0x340, 0, 0]),
        (0xd, Some(6), [0x200, 0x380, 0, 0]),
        (0xd, Some(7), [0x400, 0x580, 0, 0]),
        (0xd, Some(9), [0x8, 0x980, 0, 0]),
        (0xd, Some(11), [0x10, 0, 1, 0]),
        (
            0x4000_0000,
            None,
            [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
        ),
        (0x4000_0001, None, [0x0100_7efb, 0, 0, 0]),
        (
            0x8000_0000,
            None,
            [0x8000_0021, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        ),
        (
            0x8000_0001,
            None,
            [0x00a1_0f11, 0x4000_0000, 0x0040_03f7, 0x2fd3_fbff],
        ),
        (0x8000_0002, None, [0; 4]),
        (0x8000_0003, None, [0; 4]),
        (0x8000_0004, None, [0; 4]),
        (0x8000_0005, None, [0; 4]),
        (
            0x8000_0006,
            None,
            [0x4800_6400, 0x6800_6400, 0x0200_6140, 0x0200_9140],
        ),
        (0x8000_0008, None, [0x3030, 0x010c_d005, 0x7f, 0]),
        (0x8000_000a, None, [0x1, 0x8, 0, 0x1_f4b9]),
        (0x8000_001d, Some(0), [0; 4]),
        (0x8000_001e, None, [0; 4]),
        (0x8000_0021, None, [0x4d, 0, 0, 0]),
    ];
    let native: &[Row] = &[
        (
            0x8000_0000,
            None,
            [0x8000_0028, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        ),
        (
            0x8000_0005,
            None,
            [0xff48_ff40, 0xff48_ff40, 0x2008_0140, 0x2008_0140],
        ),
        (
            0x8000_0006,
            None,
            [0x5c00_2200, 0x6c00_4200, 0x0400_8140, 0x0800_9140],
        ),
        (0x8000_001d, Some(0), [0x0000_4121, 0x01c0_003f, 0x3f, 0]),
        (0x8000_001d, Some(1), [0x0000_4122, 0x01c0_003f, 0x3f, 0]),
        (0x8000_001d, Some(2), [0x0000_4143, 0x01c0_003f, 0x7ff, 2]),
        (0x8000_001d, Some(3), [0x0003_c163, 0x03c0_003f, 0x7fff, 9]),
        (0x8000_001d, Some(4), [0; 4]),
    ];
    Host::new(supported, native).branded("AMD EPYC 9454 48-Core Processor")
}

/// The same with the leaves that a KVM which passes 0x8000_0026 on would list.
pub(super) fn amd_with_extended_topology() -> Host {
    let mut host = amd();
    host.supported_mut(0x8000_0000, 0).eax = 0x8000_0028;
    host
}

/// A single-level emulated processor without most leaves, such as a software emulator's oldest model.
pub(super) fn minimal_amd() -> Host {
    let supported: &[Row] = &[
        (0x0, None, [0x1, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        (0x1, None, [0x0000_0f61, 0x800, 0x8000_2001, 0x078b_fbff]),
        (0x8000_0000, None, [0x8000_0001, 0, 0, 0]),
        (0x8000_0001, None, [0, 0, 0x5, 0x2191_abfd]),
    ];
    let native: &[Row] = &[(0x8000_0000, None, [0x8000_0008, 0, 0, 0])];
    Host::new(supported, native)
}

/// The processor that runs the tests, as a hypervisor that hides nothing would list it.
pub(super) fn this() -> Host {
    let mut rows = Vec::new();
    for range in [0, 0x4000_0000, 0x8000_0000u32] {
        let last = native::read(range, 0).eax.min(range + 0x40);
        for leaf in range..=last {
            let indexed =
                [0x4, 0x7, 0xb, 0xd, 0x1d, 0x1f, 0x8000_001d, 0x8000_0026].contains(&leaf);
            for subleaf in 0..if indexed { 20 } else { 1 } {
                let e = native::read(leaf, subleaf);
                rows.push((
                    leaf,
                    indexed.then_some(subleaf),
                    [e.eax, e.ebx, e.ecx, e.edx],
                ));
            }
        }
    }
    Host::new(&rows, &rows)
}
