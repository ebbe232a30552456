//! Leaves that say how processors are arranged, and which one is asking.

use super::super::state::CpuidEntry;
use super::super::topology::Topology;
use super::table::{BASIC, EXTENDED};
use super::{ADDRESS_SIZES, Draft};

/// Initial APIC id (8 bits) and the number of processors of the package.
const FEATURES: u32 = 1;
/// Extended topology: threads and cores.
const TOPOLOGY: u32 = 0xb;
/// Extended topology with dies, Intel.
const TOPOLOGY_V2: u32 = 0x1f;
/// Feature bits that AMD introduced.
const AMD_FEATURES: u32 = 0x8000_0001;
/// AMD's cache descriptions: present together with [`AMD_IDS`].
pub(super) const AMD_CACHES: u32 = 0x8000_001d;
/// AMD's APIC id, core and node.
const AMD_IDS: u32 = 0x8000_001e;
/// Extended topology with dies, AMD.
const AMD_TOPOLOGY: u32 = 0x8000_0026;

/// Fills in all that is the same for every processor.
pub(super) fn apply(draft: &mut Draft<'_>) {
    package_size(draft);
    draft.table.extend_to(BASIC, TOPOLOGY);
    let t = draft.topology;
    let package = level(1, 2, t.package_shift(), t.processors_per_package());
    draft
        .table
        .set_indexed(TOPOLOGY, &[threads_level(&t), package, end(2)]);
    if draft.vendor.is_amd_like() {
        draft.table.remove(TOPOLOGY_V2);
        amd(draft);
    } else {
        intel_dies(draft);
    }
}

/// Writes processor `index`'s own ids into answers that [`apply`] prepared.
pub(super) fn patch(entries: &mut [CpuidEntry], topology: &Topology, index: u32) {
    let id = topology.apic_id(index);
    for entry in entries {
        match entry.leaf {
            FEATURES => entry.ebx = entry.ebx & 0x00ff_ffff | (id & 0xff) << 24,
            TOPOLOGY | TOPOLOGY_V2 | AMD_TOPOLOGY => entry.edx = id,
            AMD_IDS => amd_ids(entry, topology, index),
            _ => {}
        }
    }
}

/// One level of an extended topology leaf: `shift` low bits of the id tell the level's `count` processors apart.
fn level(subleaf: u32, kind: u32, shift: u32, count: u32) -> [u32; 4] {
    [shift, count & 0xffff, kind << 8 | subleaf, 0]
}

fn threads_level(t: &Topology) -> [u32; 4] {
    level(0, 1, t.core_shift(), u32::from(t.threads_per_core))
}

/// The subleaf that ends the list of levels.
fn end(subleaf: u32) -> [u32; 4] {
    [0, 0, subleaf, 0]
}

/// Leaf 1, EBX bits 23:16: ids that the package takes up on Intel, its processors on AMD. The HTT flag says
/// whether they are more than one. 8 bits cannot tell more than 255; leaf 0xb can.
fn package_size(draft: &mut Draft<'_>) {
    const HTT: u32 = 1 << 28;
    let t = draft.topology;
    let processors = t.processors_per_package();
    let count = if draft.vendor.is_amd_like() {
        processors
    } else {
        1 << t.package_shift()
    };
    draft.table.change(FEATURES, 0, |e| {
        e.ebx = e.ebx & 0x0000_ffff | count.min(0xff) << 16;
        e.edx = if processors > 1 {
            e.edx | HTT
        } else {
            e.edx & !HTT
        };
    });
}

/// Leaf 0x1f, if the host has it or the guest has dies to tell of.
fn intel_dies(draft: &mut Draft<'_>) {
    let t = draft.topology;
    let dies = t.dies_per_package > 1;
    if !dies && draft.table.last_leaf(BASIC) < TOPOLOGY_V2 {
        return;
    }
    draft.table.extend_to(BASIC, TOPOLOGY_V2);
    let mut levels = vec![
        threads_level(&t),
        level(1, 2, t.die_shift(), t.processors_per_die()),
    ];
    if dies {
        levels.push(level(2, 5, t.package_shift(), t.processors_per_package()));
    }
    levels.push(end(if dies { 3 } else { 2 }));
    draft.table.set_indexed(TOPOLOGY_V2, &levels);
}

/// AMD's leaves beyond 0xb.
fn amd(draft: &mut Draft<'_>) {
    const CMP_LEGACY: u32 = 1 << 1;
    const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
    let t = draft.topology;
    let processors = t.processors_per_package();
    // The flag promises leaves for caches and for ids. Caches are the host's, so it has to have them.
    let extensions = draft.table.get(AMD_CACHES, 0).eax & 0x1f != 0;
    draft.table.change(AMD_FEATURES, 0, |e| {
        e.ecx = if processors > 1 {
            e.ecx | CMP_LEGACY
        } else {
            e.ecx & !CMP_LEGACY
        };
        e.ecx = if extensions {
            e.ecx | TOPOLOGY_EXTENSIONS
        } else {
            e.ecx & !TOPOLOGY_EXTENSIONS
        };
    });
    // ECX bits 7:0: processors of the package, less one; 15:12: bits of the id within the package.
    draft.table.extend_to(EXTENDED, ADDRESS_SIZES);
    let mut sizes = draft.table.get(ADDRESS_SIZES, 0);
    let count = (processors - 1).min(0xff);
    sizes.ecx = sizes.ecx & !0xf0ff | t.package_shift().min(0xf) << 12 | count;
    draft.table.set(sizes);

    let last = draft.table.last_leaf(EXTENDED);
    draft.table.remove(AMD_IDS);
    if extensions {
        draft.table.extend_to(EXTENDED, AMD_IDS);
        draft.table.set_plain(AMD_IDS, [0; 4]);
    }
    if last >= AMD_TOPOLOGY {
        let die = t.processors_per_die();
        // Levels: core, core complex, die, socket. Each die is one complex.
        let levels = [
            threads_level(&t),
            level(1, 2, t.die_shift(), die),
            level(2, 3, t.die_shift(), die),
            level(3, 4, t.package_shift(), processors),
            end(4),
        ];
        draft.table.set_indexed(AMD_TOPOLOGY, &levels);
    }
}

/// EAX is the id; EBX the core's number in the package and its threads; ECX the node, which is the die, and the
/// nodes of the package. More nodes than the fields can tell read as the most they can.
fn amd_ids(entry: &mut CpuidEntry, topology: &Topology, index: u32) {
    let id = topology.apic_id(index);
    let at = topology.position(index);
    let in_package = id & ((1 << topology.package_shift()) - 1);
    let core = in_package >> topology.core_shift() & 0xff;
    let dies = u32::from(topology.dies_per_package);
    let node = (at.package * dies + at.die) & 0xff;
    entry.eax = id;
    entry.ebx = u32::from(topology.threads_per_core - 1) << 8 | core;
    entry.ecx = (dies - 1).min(7) << 8 | node;
}
