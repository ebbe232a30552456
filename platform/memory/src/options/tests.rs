use super::*;

fn spec(start: u64, size: u64) -> RegionSpec {
    RegionSpec { start, size }
}

fn message(result: Result<(Vec<RegionSpec>, u64), Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_command_line() {
    let RamOptions {
        shared,
        hugepages,
        prefault,
        thp,
        mergeable,
        reserve,
    } = RamOptions::default();
    assert!(thp);
    assert!(!shared && !prefault && !mergeable && !reserve && hugepages.is_none());
}

#[test]
fn options_that_exclude_each_other_are_refused_by_name() {
    let shared = RamOptions {
        shared: true,
        mergeable: true,
        ..RamOptions::default()
    };
    let text = shared.check().unwrap_err().to_string();
    assert!(text.contains("shared=off or mergeable=off"), "{text}");

    let huge = RamOptions {
        hugepages: Some(HugePages::default()),
        mergeable: true,
        ..RamOptions::default()
    };
    let text = huge.check().unwrap_err().to_string();
    assert!(text.contains("hugepages=off or mergeable=off"), "{text}");

    for size in [0, 3, 3 << 20] {
        let odd = RamOptions {
            hugepages: Some(HugePages { size: Some(size) }),
            ..RamOptions::default()
        };
        assert!(matches!(odd.check(), Err(Error::HugePageSize { size: told }) if told == size));
    }
}

#[test]
fn only_shared_memory_is_allocated_to_reserve_it() {
    let reserve = RamOptions {
        reserve: true,
        ..RamOptions::default()
    };
    assert!(!reserve.populate());
    assert!(
        RamOptions {
            shared: true,
            ..reserve.clone()
        }
        .populate()
    );
    let huge = RamOptions {
        hugepages: Some(HugePages::default()),
        shared: true,
        ..reserve
    };
    assert!(!huge.populate());
    assert!(
        RamOptions {
            prefault: true,
            ..huge
        }
        .populate()
    );
}

#[test]
fn regions_are_sorted_and_summed() {
    let (sorted, total) = check_layout(&[spec(1 << 32, 0x3000), spec(0, 0x1000)]).unwrap();
    assert_eq!(sorted, [spec(0, 0x1000), spec(1 << 32, 0x3000)]);
    assert_eq!(total, 0x4000);
}

#[test]
fn adjoining_regions_do_not_overlap() {
    check_layout(&[spec(0, 0x1000), spec(0x1000, 0x1000)]).unwrap();
    assert_eq!(
        message(check_layout(&[spec(0x1000, 0x1000), spec(0, 0x1001)])),
        "the RAM regions at guest addresses 0x0 and 0x1000 overlap"
    );
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    assert!(message(check_layout(&[])).contains("--memory size"));
    assert!(message(check_layout(&[spec(0x1000, 0)])).contains("0x1000 is empty"));
    let beyond = message(check_layout(&[spec(0xffff_ffff_ffff_0000, 0x10000)]));
    assert_eq!(
        beyond,
        "64 KiB of RAM at guest address 0xffffffffffff0000 do not fit in the address space: lower --memory size"
    );
    assert!(matches!(
        check_layout(&[spec(0, 1 << 63)]),
        Err(Error::TooLarge { start: 0, .. })
    ));
    let each_fits = [
        spec(0, (1 << 62) + 0x1000),
        spec(1 << 63, (1 << 62) + 0x1000),
    ];
    assert!(
        matches!(check_layout(&each_fits), Err(Error::TooLarge { start, .. }) if start == 1 << 63)
    );
}

#[test]
fn regions_are_whole_pages() {
    check_pages(&[spec(0x1000, 2 << 20)], 2 << 20, 0x1000).unwrap();
    assert_eq!(
        check_pages(&[spec(0x800, 0x1000)], 0x1000, 0x1000)
            .unwrap_err()
            .to_string(),
        "the RAM region at guest address 0x800 does not start at a multiple of the 4 KiB page"
    );
    assert_eq!(
        check_pages(&[spec(0, 0x1800)], 0x1000, 0x1000)
            .unwrap_err()
            .to_string(),
        "the RAM region at guest address 0x0 has 6144 bytes, which is not a multiple of its 4 KiB pages: \
         change --memory size"
    );
    let huge = check_pages(&[spec(0, 3 << 20)], 2 << 20, 0x1000)
        .unwrap_err()
        .to_string();
    assert!(
        huge.ends_with("2 MiB pages: change --memory size or hugepage_size"),
        "{huge}"
    );
}
