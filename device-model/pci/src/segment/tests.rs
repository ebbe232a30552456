use super::*;

fn plan(segments: u16) -> Layout {
    Layout {
        segments,
        memory32: layout::MMIO32_START..layout::MMIO32_START + layout::MMIO32_SIZE,
        memory64: 0x10_0000_0000..0x400_0000_0000,
    }
}

fn pci(segments: u16) -> Pci {
    Pci::new(&Bus::new("ports"), &Bus::new("memory"), &plan(segments)).unwrap()
}

fn error(result: Result<Slot>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_lowest_free_slot_is_given_after_the_bridge() {
    let pci = pci(1);
    let segment = pci.segment(0).unwrap();
    let slots: Vec<Slot> = (1..32).map(|_| segment.take(None).unwrap()).collect();
    let numbers: Vec<u8> = slots.iter().map(|slot| slot.address().device).collect();
    assert_eq!(numbers, (1..32).collect::<Vec<u8>>());
    assert_eq!(
        error(segment.take(None)),
        "all 32 PCI slots of segment 0 are taken: use another pci_segment"
    );
    drop(slots);
    assert_eq!(segment.take(None).unwrap().address().device, 1);
}

#[test]
fn slots_asked_for_by_number_are_kept_for_who_asks() {
    let pci = pci(2);
    let segment = pci.segment(1).unwrap();
    for slot in [1, 3, 200] {
        segment.keep(slot);
    }
    let first = segment.take(None).unwrap();
    let second = segment.take(None).unwrap();
    let third = segment.take(Some(3)).unwrap();
    assert_eq!(
        [&first, &second, &third].map(|slot| slot.address().device),
        [2, 4, 3]
    );
    let text = error(segment.take(Some(3)));
    assert!(
        text.starts_with("PCI slot 0001:00:03.0 cannot be had: another device is there"),
        "{text}"
    );
    assert!(error(segment.take(Some(0))).contains("host bridge"));
    assert!(error(segment.take(Some(32))).contains("0 to 31"));
}

#[test]
fn a_slot_that_was_asked_for_by_number_is_anybodys_when_its_device_is_gone() {
    let pci = pci(1);
    let segment = pci.segment(0).unwrap();
    segment.keep(1);
    drop(segment.take(Some(1)).unwrap());
    assert_eq!(segment.take(None).unwrap().address().device, 1);
}

#[test]
fn a_segment_that_does_not_exist_is_named() {
    let pci = pci(2);
    assert_eq!(
        pci.segment(2).unwrap_err().to_string(),
        "there is no PCI segment 2, only 2 (0 to 1): choose a smaller pci_segment or raise --platform \
         num_pci_segments"
    );
    let make = |segments| Pci::new(&Bus::new("p"), &Bus::new("m"), &plan(segments));
    assert!(matches!(make(0), Err(Error::SegmentCount(0))));
    assert!(matches!(make(97), Err(Error::SegmentCount(97))));
}

#[test]
fn ninety_six_segments_share_the_windows_without_overlap() {
    let pci = pci(96);
    for windows in [
        pci.segments()
            .map(|segment| segment.memory32().range())
            .collect::<Vec<_>>(),
        pci.segments()
            .map(|segment| segment.memory64().range())
            .collect::<Vec<_>>(),
        pci.segments()
            .map(|segment| segment.ecam()..segment.ecam() + (1 << 20))
            .collect::<Vec<_>>(),
    ] {
        assert!(windows.iter().all(|window| !window.is_empty()));
        assert!(windows.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
    let last = pci.segment(95).unwrap();
    assert_eq!(last.memory64().range().start % (4 << 30), 0);
    // Room for a virtio device with 32-bit registers in each of them.
    assert!(last.memory32().allocate(0x8_0000, 0x8_0000).is_ok());
    assert!(last.ecam() + (1 << 20) <= layout::ECAM_START + layout::ECAM_SIZE);
}

#[test]
fn too_little_memory_for_the_segments_is_refused_with_a_hint() {
    let small = Layout {
        memory64: 0x1_0000_0000..0x2_0000_0000,
        ..plan(2)
    };
    let error = Pci::new(&Bus::new("p"), &Bus::new("m"), &small).unwrap_err();
    assert!(error.to_string().contains("max_phys_bits"), "{error}");
}

#[test]
fn dropping_pci_gives_the_buses_back() {
    let (ports, memory) = (Bus::new("ports"), Bus::new("memory"));
    for _ in 0..2 {
        drop(Pci::new(&ports, &memory, &plan(3)).unwrap());
    }
    assert!(!memory.read(layout::ECAM_START, &mut [0; 4]));
}
