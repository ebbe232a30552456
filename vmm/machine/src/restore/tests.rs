use super::*;

fn entry(leaf: u32, ebx: u32, edx: u32) -> CpuidEntry {
    CpuidEntry {
        leaf,
        ebx,
        edx,
        ..CpuidEntry::default()
    }
}

#[test]
fn a_host_may_have_more_features_but_not_fewer() {
    let saved = [entry(1, 7, 0b101)];
    assert!(check_features(&saved, &[entry(1, 0, 0b111)]).is_ok());
    let error = check_features(&saved, &[entry(1, 0, 0b001)]).unwrap_err();
    assert!(error.to_string().contains("0x1.0, EDX bits 0x4"), "{error}");
}

#[test]
fn a_number_that_cannot_go_up_is_refused() {
    assert!(check_number(u32::MAX.into()).is_ok());
    let error = check_number(u64::MAX).unwrap_err();
    assert!(error.to_string().contains("18446744073709551615"));
}

fn wish(text: &str) -> Restore {
    keyvalue::from_str(text).unwrap()
}

#[test]
fn the_flag_and_its_modes() {
    let private = VmConfig::default();
    let mut shared = VmConfig::default();
    shared.memory.shared = true;
    let url = "source_url=file:///s";
    assert_eq!(wish(url).mode(&private).unwrap(), MemoryRestoreMode::Mapped);
    assert_eq!(wish(url).mode(&shared).unwrap(), MemoryRestoreMode::Copy);
    let mapped = wish(&format!("{url},memory_restore_mode=mapped,resume=on"));
    assert!(mapped.resume && mapped.mode(&shared).is_err());
    let both = wish(&format!("{url},memory_restore_mode=ondemand,prefault=on"));
    assert!(
        both.mode(&private)
            .unwrap_err()
            .to_string()
            .contains("prefault")
    );
}

#[test]
fn descriptors_are_lent_to_those_who_had_some() {
    let mut config = VmConfig::default();
    let nets = serde_json::json!([{"id": "a", "fds": [9, 9]}, {"id": "b", "tap": "t"}]);
    config.devices.insert("net".into(), nets);
    let lent = |text: &str| {
        let mut config = config.clone();
        let lent = wish(&format!("source_url=file:///s{text}")).lend_descriptors(&mut config);
        lent.map(|()| config.devices["net"][0]["fds"].clone())
    };
    assert_eq!(
        lent(",net_fds=[a@[3,4]]").unwrap(),
        serde_json::json!([3, 4])
    );
    for wrong in [
        "",
        ",net_fds=[a@[3]]",
        ",net_fds=[b@[3]]",
        ",net_fds=[a@[3,4],b@[5]]",
    ] {
        assert!(lent(wrong).is_err(), "{wrong}");
    }
}
