//! Caches: sizes are the host's, sharing is the guest's.
//!
//! The first two levels belong to a core, the third to a die. That is how processors of the last ten years are
//! built, and a guest's scheduler groups processors by it.

use super::topology::AMD_CACHES;
use super::{Draft, EXTENDED};

/// Deterministic cache parameters, Intel.
const CACHES: u32 = 4;
/// AMD: first-level caches and their TLBs; second and third level.
const AMD_CACHE_SIZES: [u32; 2] = [0x8000_0005, 0x8000_0006];
/// No processor has as many caches: bounds the walk over subleaves.
const MAX_CACHES: u32 = 16;

pub(super) fn apply(draft: &mut Draft<'_>) {
    if draft.vendor.is_amd_like() {
        sizes_from_host(draft);
    }
    let t = draft.topology;
    let spans = |level: u32, core: u32, die: u32| if level <= 2 { core } else { die };
    // Intel counts ids that may be in use, less one: 12 bits for the cache's, 6 bits for the package's cores.
    let cores = (1u32 << (t.package_shift() - t.core_shift())).min(64) - 1;
    draft.table.change_all(CACHES, |e| {
        if e.eax & 0x1f != 0 {
            let ids = spans(e.eax >> 5 & 7, 1 << t.core_shift(), 1 << t.die_shift());
            e.eax = e.eax & 0x3fff | (ids - 1).min(0xfff) << 14 | cores << 26;
        }
    });
    // AMD counts processors, less one.
    let (core, die) = (u32::from(t.threads_per_core), t.processors_per_die());
    draft.table.change_all(AMD_CACHES, |e| {
        if e.eax & 0x1f != 0 {
            let processors = spans(e.eax >> 5 & 7, core, die);
            e.eax = e.eax & 0x3fff | (processors - 1).min(0xfff) << 14;
        }
    });
}

/// Takes what the hypervisor's list leaves zero from the host's processor.
fn sizes_from_host(draft: &mut Draft<'_>) {
    let native = draft.native;
    let host_has = |leaf: u32| native(EXTENDED, 0).eax >= leaf;
    for leaf in AMD_CACHE_SIZES {
        let known = draft.table.get(leaf, 0);
        if known.ecx == 0 && known.edx == 0 && host_has(leaf) {
            let host = native(leaf, 0);
            draft.table.extend_to(EXTENDED, leaf);
            draft
                .table
                .set_plain(leaf, [host.eax, host.ebx, host.ecx, host.edx]);
        }
    }
    if draft.table.get(AMD_CACHES, 0).eax & 0x1f == 0 && host_has(AMD_CACHES) {
        let mut caches = Vec::new();
        for subleaf in 0..MAX_CACHES {
            let host = native(AMD_CACHES, subleaf);
            caches.push([host.eax, host.ebx, host.ecx, host.edx]);
            if host.eax & 0x1f == 0 {
                break;
            }
        }
        draft.table.set_indexed(AMD_CACHES, &caches);
    }
}
