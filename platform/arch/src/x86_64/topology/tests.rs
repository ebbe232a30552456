//! Every arrangement has unique ids that decode back to it.

use std::collections::BTreeSet;

use super::*;

fn topology(threads: u16, cores: u16, dies: u16, packages: u16) -> Topology {
    Topology {
        threads_per_core: threads,
        cores_per_die: cores,
        dies_per_package: dies,
        packages,
    }
}

/// All arrangements of `max` processors with few dies and packages.
pub(crate) fn arrangements(max: u32) -> Vec<Topology> {
    let mut all = Vec::new();
    for threads in 1..=2u16 {
        for dies in 1..=6u16 {
            for packages in 1..=5u16 {
                let outer = u32::from(threads) * u32::from(dies) * u32::from(packages);
                if max.is_multiple_of(outer) {
                    let cores = u16::try_from(max / outer).unwrap();
                    all.push(topology(threads, cores, dies, packages));
                }
            }
        }
    }
    all
}

#[test]
fn ids_are_unique_and_decode_to_the_position() {
    for max in 1..=512 {
        for topology in arrangements(max) {
            topology.check(max).unwrap();
            let field = |id: u32, from: u32, to: u32| (id & ((1 << to) - 1)) >> from;
            let mut seen = BTreeSet::new();
            for vcpu in 0..max {
                let id = topology.apic_id(vcpu);
                assert!(seen.insert(id), "{topology}: id {id} twice");
                let (core, die, package) = (
                    topology.core_shift(),
                    topology.die_shift(),
                    topology.package_shift(),
                );
                let decoded = Position {
                    package: id >> package,
                    die: field(id, die, package),
                    core: field(id, core, die),
                    thread: field(id, 0, core),
                };
                assert_eq!(decoded, topology.position(vcpu), "{topology}, vCPU {vcpu}");
            }
            assert!(*seen.last().unwrap() < 4 * max, "{topology} wastes ids");
        }
    }
}

#[test]
fn three_vcpus_by_default_share_a_package() {
    let topology = Topology::default_for(3);
    let ids: Vec<u32> = (0..3).map(|vcpu| topology.apic_id(vcpu)).collect();
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(topology.package_shift(), 2);
}

#[test]
fn counts_that_are_no_power_of_two_leave_gaps() {
    let topology = topology(2, 3, 1, 2);
    let ids: Vec<u32> = (0..12).map(|vcpu| topology.apic_id(vcpu)).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn powers_of_two_number_the_ids_without_gaps() {
    let topology = topology(2, 8, 2, 4);
    assert!((0..128).all(|vcpu| topology.apic_id(vcpu) == vcpu));
}

#[test]
fn wrong_parts_are_told() {
    assert_eq!(
        topology(2, 2, 0, 1).check(4).unwrap_err().to_string(),
        "a part of the topology 2:2:0:1 is zero: each must be at least 1 (--cpus topology=)"
    );
    assert_eq!(
        topology(4, 1, 1, 1).check(4),
        Err(Error::TopologyThreads(4))
    );
    assert_eq!(
        topology(1, 2, 1, 1).check(4).unwrap_err().to_string(),
        "topology 1:2:1:1 has 2 vCPUs, not 4: the product of its parts must be max (--cpus topology=,max=)"
    );
    let limit = MAX_VCPUS;
    assert_eq!(Topology::default_for(limit).check(limit), Ok(()));
    assert_eq!(
        Topology::default_for(limit + 1).check(limit + 1),
        Err(Error::TooManyProcessors {
            max: limit + 1,
            limit
        })
    );
    assert!(Topology::default_for(0).check(0).is_err());
}

#[test]
fn unchecked_nonsense_does_not_panic() {
    let huge = topology(u16::MAX, u16::MAX, u16::MAX, u16::MAX);
    assert!(huge.check(u32::MAX).is_err());
    assert!(huge.check(8).is_err());
    huge.apic_id(u32::MAX);
    topology(0, 0, 0, 0).apic_id(7);
}
