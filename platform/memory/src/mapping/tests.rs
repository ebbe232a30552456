use std::sync::Arc;

use super::*;
use crate::testing::{
    GIB, MIB, Surplus, alone, first, flags, has, ram, resident_pages, smaps, virtual_size,
};
use crate::{GuestRam, HugePages, RegionSpec};

fn private() -> RamOptions {
    RamOptions::default()
}

fn shared() -> RamOptions {
    RamOptions {
        shared: true,
        ..RamOptions::default()
    }
}

fn huge(size: Option<u64>) -> RamOptions {
    RamOptions {
        hugepages: Some(HugePages { size }),
        ..RamOptions::default()
    }
}

fn refusal(size: u64, options: &RamOptions) -> Error {
    GuestRam::new(&[RegionSpec { start: 0, size }], options).unwrap_err()
}

#[test]
fn private_memory_is_anonymous_unreserved_and_not_dumped() {
    let mapping = first(&ram(8 * MIB, &private()));
    let range = &smaps(&mapping)[0];
    assert!(
        range.contains(" rw-p ") && !range.contains("memfd"),
        "{range}"
    );
    assert!(mapping.file().is_none());
    for flag in ["dd", "nr", "hg"] {
        assert!(has(&mapping, flag), "{flag} in {:?}", flags(&mapping));
    }
    for flag in ["mg", "sh", "ht", "dc"] {
        assert!(!has(&mapping, flag), "{flag} in {:?}", flags(&mapping));
    }
    assert_eq!(mapping.page_size(), 4096);
    assert!(mapping.transparent_huge_pages() && !mapping.huge_pages());
}

#[test]
fn shared_memory_is_a_memory_file() {
    let mapping = first(&ram(8 * MIB, &shared()));
    let range = &smaps(&mapping)[0];
    assert!(
        range.contains(" rw-s ") && range.contains("/memfd:guest_ram"),
        "{range}"
    );
    for flag in ["dd", "sh", "hg"] {
        assert!(has(&mapping, flag), "{flag} in {:?}", flags(&mapping));
    }
    let (file, offset) = mapping.file().unwrap();
    assert_eq!((file.metadata().unwrap().len(), offset), (8 * MIB, 0));
}

#[test]
fn options_are_flags_of_the_mapping() {
    let mapping = first(&ram(
        4 * MIB,
        &RamOptions {
            mergeable: true,
            ..private()
        },
    ));
    assert!(has(&mapping, "mg"));

    let mapping = first(&ram(
        4 * MIB,
        &RamOptions {
            reserve: true,
            ..private()
        },
    ));
    assert!(!has(&mapping, "nr"));

    for options in [private(), shared()] {
        let mapping = first(&ram(
            4 * MIB,
            &RamOptions {
                thp: false,
                ..options
            },
        ));
        assert!(
            !has(&mapping, "hg") && !has(&mapping, "nh"),
            "{:?}",
            flags(&mapping)
        );
        assert!(!mapping.transparent_huge_pages());
    }
}

#[test]
fn guest_and_host_addresses_agree_modulo_a_large_page() {
    for options in [
        private(),
        shared(),
        RamOptions {
            reserve: true,
            ..private()
        },
    ] {
        for start in [0, 0x1000, MIB, GIB, 0x1_0020_0000] {
            for size in [2 * MIB, 2 * MIB + 4096, 3 * MIB, 64 * MIB] {
                let ram = GuestRam::new(&[RegionSpec { start, size }], &options).unwrap();
                let host = first(&ram).address().addr() as u64;
                assert_eq!(
                    host % (2 * MIB),
                    start % (2 * MIB),
                    "{start:#x} {size:#x} {options:?}"
                );
                ram.write(start, &[1]).unwrap();
                ram.write(start + size - 1, &[1]).unwrap();
            }
        }
    }
}

#[test]
fn the_large_pages_are_used() {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap();
    let ram = ram(
        32 * MIB,
        &RamOptions {
            prefault: true,
            ..private()
        },
    );
    ram.prefault().unwrap().join().unwrap();
    let smaps = smaps(&first(&ram));
    let huge = smaps
        .iter()
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .unwrap();
    if setting.contains("[never]") {
        eprintln!("not run: the host has transparent huge pages turned off");
    } else {
        assert_ne!(huge.trim(), "0 kB");
    }
}

#[test]
fn only_what_is_needed_stays_mapped_and_nothing_after() {
    alone(
        "mapping::tests::only_what_is_needed_stays_mapped_and_nothing_after",
        || {
            for options in [private(), shared()] {
                for start in [0, 0x1000] {
                    let before = virtual_size();
                    let ram = GuestRam::new(&[RegionSpec { start, size: GIB }], &options).unwrap();
                    let with = virtual_size() - before;
                    assert!((GIB..GIB + MIB).contains(&with), "{with:#x} for 1 GiB");
                    drop(ram);
                    assert!(virtual_size() < before + MIB, "something stays mapped");
                }
            }
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            assert!(!maps.contains("guest_ram"), "{maps}");
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let links: Vec<_> = open
                .filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .collect();
            assert!(
                !links
                    .iter()
                    .any(|link| link.to_string_lossy().contains("guest_ram")),
                "{links:?}"
            );
        },
    );
}

#[test]
fn a_refusal_leaves_nothing_mapped() {
    alone("mapping::tests::a_refusal_leaves_nothing_mapped", || {
        let before = virtual_size();
        let regions = [
            RegionSpec {
                start: 0,
                size: GIB,
            },
            RegionSpec {
                start: GIB,
                size: 1 << 60,
            },
        ];
        for options in [private(), shared()] {
            GuestRam::new(&regions, &options).unwrap_err();
            assert!(virtual_size() < before + MIB);
        }
    });
}

#[test]
fn a_peer_cannot_change_the_size_of_the_file() {
    let ram = ram(4 * MIB, &shared());
    let mapping = first(&ram);
    let peer = mapping.file().unwrap().0.try_clone().unwrap();
    for size in [0, 4 * MIB - 4096, 8 * MIB] {
        let error = peer.set_len(size).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "to {size:#x}");
    }
    ram.write(4 * MIB - 1, &[1]).unwrap();
}

#[test]
fn a_peer_sees_the_same_bytes() {
    use std::os::unix::fs::FileExt;
    let regions = [
        RegionSpec {
            start: 0,
            size: 2 * MIB,
        },
        RegionSpec {
            start: GIB,
            size: 2 * MIB,
        },
    ];
    let ram = GuestRam::new(&regions, &shared()).unwrap();
    ram.write(GIB + 7, b"hello").unwrap();
    let mapping = Arc::clone(ram.regions().nth(1).unwrap().mapping());
    let (file, offset) = mapping.file().unwrap();
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, offset + 7).unwrap();
    assert_eq!((&bytes, offset), (b"hello", 2 * MIB));
    file.write_all_at(b"HELLO", offset + 7).unwrap();
    ram.read(GIB + 7, &mut bytes).unwrap();
    assert_eq!(&bytes, b"HELLO");
}

#[test]
fn more_than_the_host_has_can_be_mapped() {
    let ram = ram(100 * GIB, &private());
    ram.write(100 * GIB - 1, &[7]).unwrap();
    // One page, or the huge page around it.
    assert!(resident_pages(&first(&ram)) <= 512);
}

#[test]
fn reserved_memory_must_be_there() {
    let overcommit = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
    if overcommit.trim() == "1" {
        eprintln!("not run: this host promises any amount of memory");
        return;
    }
    let error = refusal(
        64 << 40,
        &RamOptions {
            reserve: true,
            ..private()
        },
    );
    assert!(matches!(error, Error::Reserve { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the host cannot set aside 64 TiB for guest RAM: lower --memory size, or reserve=off to take memory as \
         the guest uses it"
    );
}

#[test]
fn what_the_process_may_not_map_is_refused() {
    alone(
        "mapping::tests::what_the_process_may_not_map_is_refused",
        || {
            let limit = libc::rlimit {
                rlim_cur: virtual_size() + GIB,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: the structure lives through the call.
            let result = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
            assert_eq!(result, 0);
            drop(ram(512 * MIB, &private()));
            for (options, reserve) in [
                (private(), false),
                (shared(), false),
                (
                    RamOptions {
                        reserve: true,
                        ..private()
                    },
                    true,
                ),
            ] {
                let error = refusal(2 * GIB, &options);
                assert_eq!(matches!(error, Error::Reserve { .. }), reserve, "{error:?}");
                assert_eq!(matches!(error, Error::Map { .. }), !reserve, "{error:?}");
                assert!(error.to_string().contains("2 GiB"), "{error}");
            }
        },
    );
}

#[test]
fn more_than_the_address_space_is_refused() {
    for size in [1 << 47, 1 << 60, (1 << 63) - 4096] {
        let error = refusal(size, &private());
        assert!(matches!(error, Error::Map { .. }), "{error:?}");
        assert!(error.to_string().contains("lower --memory size"), "{error}");
    }
}

#[test]
fn missing_huge_pages_are_counted() {
    // No host has 64 TiB of them.
    for size in [None, Some(2 * MIB)] {
        let error = refusal(64 << 40, &huge(size));
        let Error::HugePagePool {
            page_size,
            needed,
            free,
            total,
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((page_size, needed), (2 * MIB, 32 << 20));
        assert!(free < needed);
        let enough = total + needed - free;
        assert_eq!(
            error.to_string(),
            format!(
                "too few free 2 MiB huge pages on this host (need {needed}, free {free}): echo {enough} > \
                 /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages, or hugepages=off"
            )
        );
    }
}

#[test]
fn huge_pages_that_no_host_has_are_refused() {
    for size in [1, 2048, 4096, 8192, 1 << 40, 1 << 63] {
        let error = refusal(GIB, &huge(Some(size)));
        assert!(
            matches!(error, Error::HugePagesUnsupported { .. }),
            "{size:#x}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("(it has 2 MiB") && text.contains("hugepages=off"),
            "{text}"
        );
    }
}

#[test]
fn ram_is_whole_huge_pages() {
    let text = refusal(3 * MIB, &huge(Some(2 * MIB))).to_string();
    assert!(text.contains("not a multiple of its 2 MiB pages"), "{text}");
    let text = refusal(GIB + 2 * MIB, &huge(Some(GIB))).to_string();
    assert!(text.contains("not a multiple of its 1 GiB pages"), "{text}");
}

#[test]
fn huge_pages_back_the_guest_and_are_set_aside_at_start() {
    let Some(_surplus) = Surplus::of(8) else {
        return;
    };
    for size in [None, Some(2 * MIB)] {
        let regions = [
            RegionSpec {
                start: 0,
                size: 8 * MIB,
            },
            RegionSpec {
                start: GIB,
                size: 4 * MIB,
            },
        ];
        let ram = GuestRam::new(
            &regions,
            &RamOptions {
                prefault: true,
                ..huge(size)
            },
        )
        .unwrap();
        let mapping = first(&ram);
        assert!(
            has(&mapping, "ht") && has(&mapping, "dd"),
            "{:?}",
            flags(&mapping)
        );
        assert!(
            smaps(&mapping)
                .iter()
                .any(|line| line.starts_with("KernelPageSize:") && line.contains("2048 kB"))
        );
        assert_eq!(mapping.page_size(), 2 * MIB);
        assert!(mapping.huge_pages() && !mapping.transparent_huge_pages());
        assert_eq!(
            mapping.file().unwrap().0.metadata().unwrap().len(),
            12 * MIB
        );
        assert!(mapping.file().unwrap().0.set_len(0).is_err());

        // 2 are left: the second region does not fit, and the first is given back.
        let more = GuestRam::new(
            &[
                regions[1],
                RegionSpec {
                    start: 0,
                    size: 2 * MIB,
                },
            ],
            &huge(size),
        )
        .unwrap_err();
        assert!(
            matches!(more, Error::HugePagePool { needed: 3, .. }),
            "{more:?}"
        );
        drop(GuestRam::new(&[regions[1]], &huge(size)).unwrap());

        ram.prefault().unwrap().join().unwrap();
        assert_eq!(resident_pages(&mapping), 2048);
        ram.write(GIB + 4 * MIB - 1, &[1]).unwrap();
    }
}

#[test]
fn memory_that_cannot_be_allocated_is_an_error_not_a_signal() {
    // A file without pages, as if the host had none left.
    let file = crate::shared_file::SharedFile::new(None, 4 * MIB, 4096)
        .unwrap()
        .file;
    let file = Some(FileOffset::new(file, 0));
    let options = shared();
    let size = 4 << 20;
    let mapping = Mapping::new(Wanted {
        start: 0,
        size,
        page_size: 4096,
        file,
        base: None,
        options: &options,
    })
    .unwrap();
    let error = mapping.allocate(0, size).unwrap_err();
    assert!(matches!(error, Error::Prefault { .. }), "{error:?}");
    assert!(
        error.to_string().contains("4 MiB") && error.to_string().contains("prefault=off"),
        "{error}"
    );
}

#[test]
fn slices_are_within() {
    let mapping = first(&ram(4096, &private()));
    assert_eq!(mapping.slice(0, 4096).unwrap().len(), 4096);
    assert_eq!(mapping.slice(4096, 0).unwrap().len(), 0);
    for (offset, count) in [
        (1, 4096),
        (4096, 1),
        (4097, 0),
        (u64::MAX, 1),
        (1, usize::MAX),
    ] {
        assert!(
            mapping.slice(offset, count).is_none(),
            "{count:#x} at {offset:#x}"
        );
    }
}
