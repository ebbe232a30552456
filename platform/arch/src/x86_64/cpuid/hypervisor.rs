//! Leaves by which a guest recognises the hypervisor and learns its clocks.
//!
//! Normally these are as the hypervisor gives them, with one more for frequencies. With Hyper-V enlightenments,
//! Microsoft's leaves take their place (Hypervisor Top Level Functional Specification, 2.4) and the hypervisor's
//! own move up by 0x100, where guests look next.

use super::{BASIC, Draft, Error, Table};

/// Signature and last leaf of the first hypervisor interface.
const BASE: u32 = 0x4000_0000;
/// Where a second interface may be.
const SECOND_BASE: u32 = BASE + 0x100;
/// Features of KVM's interface, relative to its base.
const KVM_FEATURES: u32 = 1;
/// Frequencies of the time stamp counter and of the local APIC's timer, in kHz. VMware's invention; others have
/// it too.
const FREQUENCIES: u32 = BASE + 0x10;
/// Ratio of the time stamp counter to the crystal that drives the APIC timer, Intel.
const TSC: u32 = 0x15;
/// Processor frequencies in MHz, Intel.
const PROCESSOR_FREQUENCY: u32 = 0x16;

pub(super) fn apply(draft: &mut Draft<'_>) -> Result<(), Error> {
    extended_destinations(draft);
    if draft.options.kvm_hyperv {
        if !draft.options.hyperv_available {
            return Err(Error::NoHyperV);
        }
        second_interface(&mut draft.table);
        hyperv(draft);
    }
    if let Some(tsc_khz) = draft.options.tsc_khz.filter(|khz| *khz > 0) {
        clocks(draft, tsc_khz);
    }
    Ok(())
}

/// `KVM_FEATURE_MSI_EXT_DEST_ID` is a promise of the machine, not of KVM, so KVM never lists it.
fn extended_destinations(draft: &mut Draft<'_>) {
    const MSI_EXT_DEST_ID: u32 = 1 << 15;
    let promised = draft.options.msi_extended_destination;
    if is_kvm(&draft.table) {
        draft.table.change(BASE + KVM_FEATURES, 0, |e| {
            e.eax = if promised {
                e.eax | MSI_EXT_DEST_ID
            } else {
                e.eax & !MSI_EXT_DEST_ID
            };
        });
    }
}

fn is_kvm(table: &Table) -> bool {
    let e = table.get(BASE, 0);
    [e.ebx, e.ecx, e.edx] == signature(b"KVMKVMKVM\0\0\0")
}

/// Twelve characters as EBX, ECX and EDX.
fn signature(text: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *text;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes)
}

/// Moves KVM's two leaves up.
fn second_interface(table: &mut Table) {
    if !is_kvm(table) {
        return;
    }
    let [ebx, ecx, edx] = signature(b"KVMKVMKVM\0\0\0");
    let features = table.get(BASE + KVM_FEATURES, 0);
    table.set_plain(SECOND_BASE, [SECOND_BASE + KVM_FEATURES, ebx, ecx, edx]);
    let features = [features.eax, features.ebx, features.ecx, features.edx];
    table.set_plain(SECOND_BASE + KVM_FEATURES, features);
}

/// Leaves 0x4000_0000 to 0x4000_000a.
fn hyperv(draft: &mut Draft<'_>) {
    const LAST: u32 = BASE + 0xa;
    /// The version that KVM itself answers with: 10.0.14393.
    const BUILD: u32 = 14393;
    const VERSION: u32 = 10 << 16;
    /// EDX of the features leaf: frequency registers exist.
    const FREQUENCY_REGISTERS: u32 = 1 << 8;
    /// Relax time-outs: a virtual processor may not run for a while.
    const RELAXED_TIMING: u32 = 1 << 5;
    /// Never tell the hypervisor about spinning on a lock.
    const NEVER_NOTIFY: u32 = u32::MAX;
    let [ebx, ecx, edx] = signature(b"Linux KVM Hv");
    let max = draft.options.max;
    let leaves = [
        [LAST, ebx, ecx, edx],
        [u32::from_le_bytes(*b"Hv#1"), 0, 0, 0],
        [BUILD, VERSION, 0, 0],
        [
            privileges(draft.options.hyperv_synic),
            0,
            0,
            FREQUENCY_REGISTERS,
        ],
        [RELAXED_TIMING, NEVER_NOTIFY, 0, 0],
        [max, max, 0, 0],
    ];
    for leaf in BASE..=LAST {
        draft.table.set_plain(leaf, [0; 4]);
    }
    for (leaf, answer) in (BASE..).zip(leaves) {
        draft.table.set_plain(leaf, answer);
    }
}

/// `HV_PARTITION_PRIVILEGE_MASK`, low half: synthetic registers that the guest may use. All of them are served by
/// the hypervisor in the kernel.
fn privileges(synic: bool) -> u32 {
    const VP_RUNTIME: u32 = 1 << 0;
    const REFERENCE_COUNTER: u32 = 1 << 1;
    const SYNTHETIC_INTERRUPTS: u32 = 1 << 2;
    const SYNTHETIC_TIMERS: u32 = 1 << 3;
    const APIC_REGISTERS: u32 = 1 << 4;
    const HYPERCALL_REGISTERS: u32 = 1 << 5;
    const VP_INDEX: u32 = 1 << 6;
    const REFERENCE_TSC: u32 = 1 << 9;
    const FREQUENCIES: u32 = 1 << 11;
    let always = VP_RUNTIME
        | REFERENCE_COUNTER
        | APIC_REGISTERS
        | HYPERCALL_REGISTERS
        | VP_INDEX
        | REFERENCE_TSC
        | FREQUENCIES;
    if synic {
        always | SYNTHETIC_INTERRUPTS | SYNTHETIC_TIMERS
    } else {
        always
    }
}

/// Tells the guest its frequencies, so that it need not measure them.
fn clocks(draft: &mut Draft<'_>, tsc_khz: u32) {
    let bus_khz = draft.options.apic_bus_khz;
    // Hyper-V guests read frequencies from registers, and their leaves end before this one.
    if !draft.options.kvm_hyperv && draft.table.contains(BASE) {
        draft.table.extend_to(BASE, FREQUENCIES);
        draft.table.set_plain(FREQUENCIES, [tsc_khz, bus_khz, 0, 0]);
    }
    if draft.vendor.is_amd_like() || draft.table.last_leaf(BASIC) < TSC || bus_khz == 0 {
        return;
    }
    let crystal_hz = bus_khz.checked_mul(1000).unwrap_or(0);
    if let (Some((numerator, denominator)), 1..) = (tsc_ratio(tsc_khz, bus_khz), crystal_hz) {
        draft
            .table
            .set_plain(TSC, [denominator, numerator, crystal_hz, 0]);
    }
    if draft.table.last_leaf(BASIC) >= PROCESSOR_FREQUENCY
        && draft.table.get(PROCESSOR_FREQUENCY, 0).eax == 0
    {
        const BUS_MHZ: u32 = 100;
        let mhz = (tsc_khz / 1000).min(0xffff);
        draft
            .table
            .set_plain(PROCESSOR_FREQUENCY, [mhz, mhz, BUS_MHZ, 0]);
    }
}

/// `tsc_khz / bus_khz` as a fraction for leaf 0x15: numerator and denominator.
///
/// Linux multiplies the crystal's kHz with the numerator in 32 bits (`native_calibrate_tsc`), so the numerator
/// has to stay small. Among such fractions this is the closest: exact for whole MHz and a bus of 1 GHz, and never
/// further off than a crystal with 120 parts per million. `None` if even that cannot be had.
fn tsc_ratio(tsc_khz: u32, bus_khz: u32) -> Option<(u32, u32)> {
    let limit = u64::from(u32::MAX / bus_khz);
    let (mut rest, mut unit) = (u64::from(tsc_khz), u64::from(bus_khz));
    let parts_per_billion = |(numerator, denominator): (u64, u64)| {
        // |n/d - t/b| / (t/b) = |n*b - t*d| / (t*d)
        let seen = u128::from(numerator) * u128::from(bus_khz);
        let true_one = u128::from(denominator) * u128::from(tsc_khz);
        (seen.abs_diff(true_one) * 1_000_000_000)
            .checked_div(true_one)
            .unwrap_or(u128::MAX)
    };
    // Convergents of the continued fraction come closer and closer as they grow. Where the next one is too big,
    // a smaller step towards it may still be closer than the last.
    let (mut before, mut last) = ((0u64, 1u64), (1u64, 0u64));
    while unit != 0 {
        let whole = rest / unit;
        let fitting = limit
            .saturating_sub(before.0)
            .checked_div(last.0)
            .unwrap_or(whole)
            .min(whole);
        let next = (fitting * last.0 + before.0, fitting * last.1 + before.1);
        if fitting < whole {
            last = std::cmp::min_by_key(last, next, |fraction| parts_per_billion(*fraction));
            break;
        }
        (before, last) = (last, next);
        (rest, unit) = (unit, rest % unit);
    }
    let (numerator, denominator) = (u32::try_from(last.0).ok()?, u32::try_from(last.1).ok()?);
    let usable = numerator > 0 && denominator > 0 && parts_per_billion(last) <= 120_000;
    usable.then_some((numerator, denominator))
}

#[cfg(test)]
mod tests {
    use super::tsc_ratio;

    /// The frequency as Linux computes it.
    fn seen(tsc_khz: u32, bus_khz: u32) -> u32 {
        let (numerator, denominator) = tsc_ratio(tsc_khz, bus_khz).unwrap();
        bus_khz
            .checked_mul(numerator)
            .expect("Linux's product overflows")
            / denominator
    }

    #[test]
    fn whole_mhz_are_exact() {
        for mhz in 800..4294 {
            assert_eq!(seen(mhz * 1000, 1_000_000), mhz * 1000);
        }
        assert_eq!(tsc_ratio(2_500_000, 1_000_000), Some((5, 2)));
    }

    #[test]
    fn any_frequency_is_within_a_crystals_tolerance() {
        for tsc_khz in (800_000..6_000_000)
            .step_by(997)
            .chain([1_999_999, 2_000_123, 2_596_122])
        {
            for bus_khz in [24_000, 25_000, 38_400, 100_000, 1_000_000] {
                let seen = seen(tsc_khz, bus_khz);
                let off = u64::from(seen.abs_diff(tsc_khz)) * 1_000_000 / u64::from(tsc_khz);
                assert!(off <= 120, "{tsc_khz} kHz looks like {seen}");
            }
        }
    }

    #[test]
    fn impossible_ratios_are_refused() {
        assert_eq!(tsc_ratio(u32::MAX, 1), Some((u32::MAX, 1)));
        assert_eq!(tsc_ratio(3_000_000, u32::MAX), None);
        assert_eq!(tsc_ratio(1, u32::MAX), Some((1, u32::MAX)));
    }
}
