//! The crate's error.

use thiserror::Error;

/// Why the processors that were asked for cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No processor at all, or fewer possible ones than at boot.
    #[error(
        "{boot} vCPUs at boot with at most {max} in all: boot must be at least 1 and at most max (--cpus boot=,max=)"
    )]
    ProcessorCount {
        /// Processors at boot.
        boot: u32,
        /// Possible processors.
        max: u32,
    },
    /// More possible processors than the machine model allows.
    #[error("{max} vCPUs: at most {limit} are possible (--cpus max=)")]
    TooManyProcessors {
        /// Possible processors asked for.
        max: u32,
        /// Most there can be.
        limit: u32,
    },
    /// A level of the topology is empty.
    #[error("a part of the topology {0} is zero: each must be at least 1 (--cpus topology=)")]
    TopologyZeroPart(crate::Topology),
    /// More threads than x86 cores have.
    #[error("{0} threads per core: x86 cores have at most 2 (--cpus topology=)")]
    TopologyThreads(u16),
    /// The topology's parts do not multiply to the number of processors.
    #[error(
        "topology {topology} has {product} vCPUs, not {max}: the product of its parts must be max (--cpus topology=,max=)"
    )]
    TopologyCount {
        /// The topology.
        topology: crate::Topology,
        /// Processors that it has.
        product: u64,
        /// Possible processors.
        max: u32,
    },
    /// The guest's physical address space would not reach above 4 GiB.
    #[error("{0} physical address bits: at least {min} are needed (--cpus max_phys_bits=)", min = crate::MIN_PHYS_BITS)]
    PhysBits(u8),
    /// Advanced matrix extensions were asked for and are not there.
    #[error(
        "this host offers no AMX to guests: it needs an Intel processor with AMX and Linux 5.17 or later (leave amx out of --cpus features=)"
    )]
    NoAmx,
    /// Hyper-V enlightenments were asked for and are not there.
    #[error(
        "this host's hypervisor does not implement Hyper-V enlightenments (--cpus kvm_hyperv=off)"
    )]
    NoHyperV,
    /// The hypervisor's list of CPUID leaves does not even name the vendor.
    #[error("the hypervisor reported no CPUID leaf 0")]
    NoVendor,
}
