//! What a guest's processors answer to the `CPUID` instruction.
//!
//! The starting point is the hypervisor's list: the host's features less what the hypervisor cannot give to a
//! guest. It still speaks of the host's topology and address width, and of features that the user may have
//! turned off. [`CpuProfile::new`] makes it a consistent description of the guest's processors, in steps that
//! each own some leaves:
//!
//! | Step | Leaves |
//! |---|---|
//! | [`features`] | 1, 7, 0xd, 0x12, 0x1d, 0x1e, 0x8000_0001, 0x8000_000a |
//! | [`caches`] | 4, 0x8000_0005, 0x8000_0006, 0x8000_001d |
//! | [`topology`] | 1 (counts), 0xb, 0x1f, 0x8000_0008 (ECX), 0x8000_001e, 0x8000_0026 |
//! | [`hypervisor`] | 0x15, 0x16, 0x4000_0000 and up |
//! | here | 0x8000_0002 to 4 (brand), 0x8000_0008 (EAX) |
//!
//! Processors differ only in their APIC ids, so the table is computed once and patched for each.
//!
//! Leaves and fields are those of the Intel SDM volume 2A, "CPUID", and the AMD APM volume 3, appendix E.

mod caches;
mod features;
mod hypervisor;
mod native;
mod table;
#[cfg(test)]
mod tests;
mod topology;

use super::state::CpuidEntry;
use super::topology::Topology;
use crate::Error;
use table::{BASIC, EXTENDED, Table};

/// Fewest physical address bits that a guest can have: what every 64-bit processor has.
pub const MIN_PHYS_BITS: u8 = 36;

/// Brand string: 48 characters in three leaves.
const BRAND: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
/// Physical and linear address widths; on AMD also sizes of the package.
const ADDRESS_SIZES: u32 = 0x8000_0008;

/// Who made the processor: decides which leaves describe topology and caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// "GenuineIntel".
    Intel,
    /// "AuthenticAMD".
    Amd,
    /// "HygonGenuine": AMD's leaves.
    Hygon,
    /// Anybody else: Intel's leaves, as far as the hypervisor's list has them.
    Other,
}

impl Vendor {
    fn of(leaf0: &CpuidEntry) -> Self {
        let name = [leaf0.ebx, leaf0.edx, leaf0.ecx].map(u32::to_le_bytes);
        match name.as_flattened() {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" => Self::Amd,
            b"HygonGenuine" => Self::Hygon,
            _ => Self::Other,
        }
    }

    /// Whether the vendor follows AMD's manuals where they differ from Intel's.
    pub fn is_amd_like(self) -> bool {
        matches!(self, Self::Amd | Self::Hygon)
    }
}

/// What the user and the hypervisor say about processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Processors at boot: 1 to `max`.
    pub boot: u32,
    /// Possible processors: up to [`crate::MAX_VCPUS`].
    pub max: u32,
    /// Their arrangement: [`Topology::default_for`] if `None`.
    pub topology: Option<Topology>,
    /// Most physical address bits, at least [`MIN_PHYS_BITS`]. The host may have fewer.
    pub max_phys_bits: u8,
    /// Offer Hyper-V enlightenments.
    pub kvm_hyperv: bool,
    /// Offer VMX or SVM, if the hypervisor does.
    pub nested: bool,
    /// Offer advanced matrix extensions.
    pub amx: bool,
    /// Frequency of the guest's time stamp counter in kHz, if known.
    pub tsc_khz: Option<u32>,
    /// Frequency that local APIC timers count at, in kHz, before their divider. KVM's is 1 GHz.
    pub apic_bus_khz: u32,
    /// Local APIC timers have the TSC deadline mode. KVM does not say so in its list but by a capability.
    pub tsc_deadline_timer: bool,
    /// The hypervisor implements Hyper-V enlightenments.
    pub hyperv_available: bool,
    /// Hyper-V's synthetic interrupt controller and timers are turned on for each processor.
    pub hyperv_synic: bool,
    /// The machine reads bits 5 to 11 of an MSI address (and the matching ones of an I/O APIC entry) as bits 8 to
    /// 14 of the destination. Without it, guests leave processors with APIC ids above 254 off.
    pub msi_extended_destination: bool,
}

impl Default for CpuOptions {
    /// One processor, as the command line's defaults have it, on a hypervisor like KVM.
    fn default() -> Self {
        Self {
            boot: 1,
            max: 1,
            topology: None,
            max_phys_bits: 46,
            kvm_hyperv: false,
            nested: true,
            amx: false,
            tsc_khz: None,
            apic_bus_khz: 1_000_000,
            tsc_deadline_timer: true,
            hyperv_available: false,
            hyperv_synic: false,
            msi_extended_destination: false,
        }
    }
}

/// The `CPUID` answers of a machine's processors.
#[derive(Clone, Debug)]
pub struct CpuProfile {
    common: Vec<CpuidEntry>,
    topology: Topology,
    vendor: Vendor,
    phys_bits: u8,
}

/// What the steps work on.
struct Draft<'a> {
    table: Table,
    vendor: Vendor,
    topology: Topology,
    options: &'a CpuOptions,
    /// `CPUID` of the host, for facts that hypervisors leave out of their list.
    native: &'a dyn Fn(u32, u32) -> CpuidEntry,
}

impl CpuProfile {
    /// Computes the profile from `supported`, the leaves that the hypervisor can offer to a guest.
    ///
    /// Brand string and cache sizes, which hypervisors may leave out, are read from the processor.
    ///
    /// # Errors
    /// The options contradict each other, or ask for something that this host does not have: see [`Error`].
    pub fn new(supported: &[CpuidEntry], options: &CpuOptions) -> Result<Self, Error> {
        Self::on_host(supported, options, &native::read)
    }

    fn on_host(
        supported: &[CpuidEntry],
        options: &CpuOptions,
        native: &dyn Fn(u32, u32) -> CpuidEntry,
    ) -> Result<Self, Error> {
        let (boot, max) = (options.boot, options.max);
        if boot == 0 || boot > max {
            return Err(Error::ProcessorCount { boot, max });
        }
        let topology = options
            .topology
            .unwrap_or_else(|| Topology::default_for(max));
        topology.check(max)?;
        let table = Table::new(supported);
        if !table.contains(BASIC) {
            return Err(Error::NoVendor);
        }
        let vendor = Vendor::of(&table.get(BASIC, 0));
        let mut draft = Draft {
            table,
            vendor,
            topology,
            options,
            native,
        };
        features::apply(&mut draft)?;
        caches::apply(&mut draft);
        topology::apply(&mut draft);
        hypervisor::apply(&mut draft)?;
        draft.brand();
        let phys_bits = draft.address_width()?;
        Ok(Self {
            common: draft.table.into_sorted(),
            topology,
            vendor,
            phys_bits,
        })
    }

    /// The answers of processor `index`, sorted by leaf and subleaf.
    pub fn for_vcpu(&self, index: u32) -> Vec<CpuidEntry> {
        let mut entries = self.common.clone();
        topology::patch(&mut entries, &self.topology, index);
        entries
    }

    /// The (x2)APIC id of processor `index`.
    pub fn apic_id(&self, index: u32) -> u32 {
        self.topology.apic_id(index)
    }

    /// The arrangement of the processors.
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// Width of the guest's physical addresses: what [`crate::layout::platform_area`] needs.
    pub fn phys_bits(&self) -> u8 {
        self.phys_bits
    }

    /// The processor's vendor.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }
}

impl Draft<'_> {
    /// Passes the host's brand string on: KVM leaves it to the monitor.
    fn brand(&mut self) {
        if BRAND.clone().any(|leaf| self.table.get(leaf, 0).eax != 0) {
            return;
        }
        self.table.extend_to(EXTENDED, *BRAND.end());
        for leaf in BRAND {
            let part = (self.native)(leaf, 0);
            self.table
                .set_plain(leaf, [part.eax, part.ebx, part.ecx, part.edx]);
        }
    }

    /// Limits the physical address width, and returns it.
    ///
    /// EAX bits 23:16, if not zero, are the width that a guest can have mapped: fewer than the processor's own
    /// with four-level nested page tables.
    fn address_width(&mut self) -> Result<u8, Error> {
        let asked = self.options.max_phys_bits;
        if asked < MIN_PHYS_BITS {
            return Err(Error::PhysBits(asked));
        }
        self.table.extend_to(EXTENDED, ADDRESS_SIZES);
        let mut sizes = self.table.get(ADDRESS_SIZES, 0);
        let [own, linear, mappable, _] = sizes.eax.to_le_bytes();
        let own = if own == 0 { MIN_PHYS_BITS } else { own };
        let mut bits = own.min(asked);
        if mappable != 0 {
            bits = bits.min(mappable);
        }
        // A processor of its age has 48 bits, if the list does not say.
        let linear = if linear == 0 { 48 } else { linear };
        sizes.eax = u32::from_le_bytes([bits, linear, mappable.min(bits), 0]);
        self.table.set(sizes);
        Ok(bits)
    }
}
