//! What software makes of topology leaves: the algorithms of the manuals.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::topology::tests::arrangements;
use super::*;
use crate::Position;

/// Level type and shift of each level of an extended topology leaf.
fn levels(entries: &[CpuidEntry], leaf: u32) -> Vec<(u32, u32)> {
    (0..)
        .map(|subleaf| answer(entries, leaf, subleaf))
        .take_while(|e| e.ecx >> 8 & 0xff != 0)
        .map(|e| (e.ecx >> 8 & 0xff, e.eax & 0x1f))
        .collect()
}

/// Intel SDM volume 3A, 10.9.3, with leaf 0x1f, or 0xb if that is not there. Package, die, core, thread.
fn intel_position(entries: &[CpuidEntry]) -> [u32; 4] {
    let leaf = if answer(entries, 0, 0).eax >= 0x1f {
        0x1f
    } else {
        0xb
    };
    position_by(entries, leaf, 1, 2)
}

/// APM volume 3, appendix E.4.24: here the core level's shift strips threads and the complex level's strips cores.
fn amd_position(entries: &[CpuidEntry]) -> [u32; 4] {
    position_by(entries, 0x8000_0026, 1, 2)
}

fn position_by(entries: &[CpuidEntry], leaf: u32, thread_level: u32, core_level: u32) -> [u32; 4] {
    let id = answer(entries, leaf, 0).edx;
    let levels = levels(entries, leaf);
    let shift = |kind| {
        levels
            .iter()
            .find(|level| level.0 == kind)
            .map(|level| level.1)
            .unwrap()
    };
    let (core, die) = (shift(thread_level), shift(core_level));
    let package = levels.last().unwrap().1;
    let field = |from: u32, to: u32| (id & ((1 << to) - 1)) >> from;
    [
        id >> package,
        field(die, package),
        field(core, die),
        field(0, core),
    ]
}

fn truth(at: Position) -> [u32; 4] {
    [at.package, at.die, at.core, at.thread]
}

/// All arrangements of up to 48 processors and some larger ones; the ids themselves are tested with `Topology`.
fn cases() -> impl Iterator<Item = (u32, Topology)> {
    let sizes = (1..=48).chain([60, 96, 120, 192, 240, 256, 288, 384, 512]);
    sizes.flat_map(|max| {
        arrangements(max)
            .into_iter()
            .map(move |topology| (max, topology))
    })
}

fn options(max: u32, topology: Topology) -> CpuOptions {
    CpuOptions {
        boot: 1,
        max,
        topology: Some(topology),
        ..CpuOptions::default()
    }
}

/// First, last and some processors between.
fn sample(max: u32) -> impl Iterator<Item = u32> {
    (0..max).step_by(1 + max as usize / 24).chain([max - 1])
}

#[test]
fn intel_algorithm_gives_the_topology_back() {
    let host = hosts::intel();
    for (max, topology) in cases() {
        let profile = profile(&host, &options(max, topology)).unwrap();
        for vcpu in sample(max) {
            let entries = profile.for_vcpu(vcpu);
            let expected = truth(topology.position(vcpu));
            assert_eq!(
                intel_position(&entries),
                expected,
                "{topology}, vCPU {vcpu}"
            );
            assert_eq!(answer(&entries, 0xb, 0).edx, profile.apic_id(vcpu));
            assert_eq!(
                answer(&entries, 1, 0).ebx >> 24,
                profile.apic_id(vcpu) & 0xff
            );
        }
    }
}

#[test]
fn amd_algorithms_give_the_topology_back() {
    let host = hosts::amd_with_extended_topology();
    for (max, topology) in cases() {
        let profile = profile(&host, &options(max, topology)).unwrap();
        for vcpu in sample(max) {
            let entries = profile.for_vcpu(vcpu);
            let at = topology.position(vcpu);
            assert_eq!(amd_position(&entries), truth(at), "{topology}, vCPU {vcpu}");
            // The older way: leaf 0x8000_0008 for the package, 0x8000_001e for the rest.
            let ids = answer(&entries, 0x8000_001e, 0);
            let size = answer(&entries, 0x8000_0008, 0).ecx >> 12 & 0xf;
            assert_eq!(ids.eax, profile.apic_id(vcpu));
            assert_eq!(ids.eax >> size, at.package, "{topology}, vCPU {vcpu}");
            assert_eq!(
                ids.ebx >> 8 & 0xff,
                u32::from(topology.threads_per_core) - 1
            );
            let dies = u32::from(topology.dies_per_package);
            assert_eq!(ids.ecx & 0xff, at.package * dies + at.die, "node");
            assert_eq!((ids.ecx >> 8 & 7) + 1, dies, "nodes of the package");
        }
    }
}

#[test]
fn siblings_share_a_core_number_and_nobody_else_does() {
    let topology = Topology {
        threads_per_core: 2,
        cores_per_die: 3,
        dies_per_package: 2,
        packages: 1,
    };
    let profile = profile(&hosts::amd(), &options(12, topology)).unwrap();
    let mut cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for vcpu in 0..12 {
        let core = answer(&profile.for_vcpu(vcpu), 0x8000_001e, 0).ebx & 0xff;
        cores.entry(core).or_default().push(vcpu);
    }
    let siblings: Vec<_> = cores.into_values().collect();
    assert_eq!(siblings, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]);
}

/// Groups processors that share each cache, by the manuals' rule: the id without as many low bits as tell the
/// sharers apart.
fn sharers(profile: &CpuProfile, leaf: u32, max: u32) -> BTreeMap<u32, BTreeSet<Vec<u32>>> {
    let mut groups: BTreeMap<(u32, u32, u32), Vec<u32>> = BTreeMap::new();
    for vcpu in 0..max {
        let entries = profile.for_vcpu(vcpu);
        for subleaf in 0..4 {
            let e = answer(&entries, leaf, subleaf);
            let (kind, level, count) = (e.eax & 0x1f, e.eax >> 5 & 7, (e.eax >> 14 & 0xfff) + 1);
            let share = profile.apic_id(vcpu) >> count.next_power_of_two().trailing_zeros();
            groups.entry((level, kind, share)).or_default().push(vcpu);
        }
    }
    let mut by_level: BTreeMap<u32, BTreeSet<Vec<u32>>> = BTreeMap::new();
    for ((level, ..), members) in groups {
        by_level.entry(level).or_default().insert(members);
    }
    by_level
}

#[test]
fn caches_are_shared_by_core_and_die() {
    for (host, leaf) in [(hosts::intel(), 4), (hosts::amd(), 0x8000_001d)] {
        for (max, topology) in cases().filter(|(max, _)| *max <= 36) {
            let profile = profile(&host, &options(max, topology)).unwrap();
            let group = |key: fn(Position) -> (u32, u32, u32)| {
                let mut groups: BTreeMap<_, Vec<u32>> = BTreeMap::new();
                for vcpu in 0..max {
                    groups
                        .entry(key(topology.position(vcpu)))
                        .or_default()
                        .push(vcpu);
                }
                groups.into_values().collect::<BTreeSet<_>>()
            };
            let cores = group(|at| (at.package, at.die, at.core));
            let dies = group(|at| (at.package, at.die, 0));
            let sharers = sharers(&profile, leaf, max);
            assert_eq!(sharers[&1], cores, "{topology}");
            assert_eq!(sharers[&2], cores, "{topology}");
            assert_eq!(sharers[&3], dies, "{topology}");
        }
    }
}

#[test]
fn cache_sizes_are_the_hosts() {
    let options = options(2, Topology::default_for(2));
    let bytes = |e: CpuidEntry| {
        ((e.ebx >> 22) + 1) * ((e.ebx >> 12 & 0x3ff) + 1) * ((e.ebx & 0xfff) + 1) * (e.ecx + 1)
    };
    let intel = profile(&hosts::intel(), &options).unwrap().for_vcpu(0);
    let sizes = [0, 1, 2, 3].map(|subleaf| bytes(answer(&intel, 4, subleaf)) >> 10);
    assert_eq!(sizes, [48, 32, 2048, 107_520]);
    let amd = profile(&hosts::amd(), &options).unwrap().for_vcpu(0);
    let sizes = [0, 1, 2, 3].map(|subleaf| bytes(answer(&amd, 0x8000_001d, subleaf)) >> 10);
    assert_eq!(sizes, [32, 32, 1024, 32768]);
    // First level from the processor because KVM's list is zero; second level as KVM lists it.
    assert_eq!(answer(&amd, 0x8000_0005, 0).ecx, 0x2008_0140);
    assert_eq!(answer(&amd, 0x8000_0006, 0).ecx, 0x0200_6140);
}

#[test]
fn a_level_counts_its_processors() {
    let topology = Topology {
        threads_per_core: 2,
        cores_per_die: 3,
        dies_per_package: 2,
        packages: 2,
    };
    let entries = profile(&hosts::intel(), &options(24, topology))
        .unwrap()
        .for_vcpu(23);
    let counts = |leaf| {
        (0..4)
            .map(|subleaf| answer(&entries, leaf, subleaf).ebx)
            .collect::<Vec<_>>()
    };
    assert_eq!(counts(0xb), [2, 12, 0, 0]);
    assert_eq!(counts(0x1f), [2, 6, 12, 0]);
    assert_eq!(levels(&entries, 0x1f), [(1, 1), (2, 3), (5, 4)]);
    assert_eq!(levels(&entries, 0xb), [(1, 1), (2, 4)]);
    // The list's end still carries the processor's id.
    assert_eq!(answer(&entries, 0x1f, 3).edx, answer(&entries, 0x1f, 0).edx);
}

#[test]
fn old_intel_gets_the_die_leaf_only_for_dies() {
    let mut host = hosts::intel();
    host.supported_mut(0, 0).eax = 0x16;
    let flat = profile(&host, &options(4, Topology::default_for(4)))
        .unwrap()
        .for_vcpu(0);
    assert_eq!(answer(&flat, 0, 0).eax, 0x16);
    let dies = Topology {
        threads_per_core: 1,
        cores_per_die: 2,
        dies_per_package: 2,
        packages: 1,
    };
    let entries = profile(&host, &options(4, dies)).unwrap().for_vcpu(3);
    assert_eq!(answer(&entries, 0, 0).eax, 0x1f);
    assert_eq!(intel_position(&entries), [0, 1, 1, 1 - 1]);
}

#[test]
fn legacy_counts() {
    let count = |host: &hosts::Host, max: u32| {
        let entries = profile(host, &options(max, Topology::default_for(max)))
            .unwrap()
            .for_vcpu(0);
        let e = answer(&entries, 1, 0);
        (e.ebx >> 16 & 0xff, e.edx >> 28 & 1)
    };
    let (intel, amd) = (hosts::intel(), hosts::amd());
    assert_eq!([count(&intel, 1), count(&amd, 1)], [(1, 0), (1, 0)]);
    assert_eq!([count(&intel, 3), count(&amd, 3)], [(4, 1), (3, 1)]);
    assert_eq!([count(&intel, 512), count(&amd, 512)], [(255, 1), (255, 1)]);
    let sizes = |max: u32| {
        let entries = profile(&amd, &options(max, Topology::default_for(max)))
            .unwrap()
            .for_vcpu(0);
        answer(&entries, 0x8000_0008, 0).ecx & 0xffff
    };
    assert_eq!([sizes(1), sizes(3), sizes(8192)], [0, 0x2002, 0xd0ff]);
}

#[test]
fn eight_thousand_processors() {
    for host in [hosts::intel(), hosts::amd()] {
        let max = crate::MAX_VCPUS;
        let profile = profile(
            &host,
            &CpuOptions {
                max,
                ..CpuOptions::default()
            },
        )
        .unwrap();
        let ids: BTreeSet<u32> = (0..max)
            .map(|vcpu| answer(&profile.for_vcpu(vcpu), 0xb, 0).edx)
            .collect();
        assert_eq!(ids.len(), 8192);
        assert_eq!(answer(&profile.for_vcpu(300), 1, 0).ebx >> 24, 300 & 0xff);
    }
}
