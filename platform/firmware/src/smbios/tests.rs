use std::fs;
use std::process::Command;

use super::*;
use crate::bytes::{u32_at, u64_at};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn full() -> Identity {
    let text = |text: &str| Some(text.to_owned());
    Identity {
        manufacturer: text("Some Maker"),
        product_name: text("Some Product"),
        version: text("7.1"),
        serial_number: text("SN-42"),
        uuid: text(UUID),
        sku_number: text("SKU-1"),
        family: text("Virtual Family"),
        chassis_asset_tag: text("ASSET-9"),
        oem_strings: vec!["first".to_owned(), "second, with = signs".to_owned()],
    }
}

/// What `dmidecode` says about the tables. Its dump file has the entry point at 0 and the rest where the entry
/// point says, so that address is changed to one in the file.
fn dmidecode(tables: &[u8]) -> String {
    let mut dump = tables.to_vec();
    dump[16..24].copy_from_slice(&(STRUCTURES_AT as u64).to_le_bytes());
    dump[5] = 0;
    dump[5] = checksum(&dump[..ENTRY_POINT]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), dump).unwrap();
    // Not everyone has /usr/sbin in the path.
    let output = Command::new("dmidecode")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .arg("--from-dump")
        .arg(file.path())
        .output()
        .expect("dmidecode is installed (Debian package dmidecode)");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{text}");
    for complaint in [
        "BROKEN",
        "Wrong",
        "truncated",
        "<BAD",
        "Invalid",
        "OUT OF SPEC",
    ] {
        assert!(!text.contains(complaint), "{text}");
    }
    text
}

#[test]
fn dmidecode_shows_every_field() {
    let text = dmidecode(&build(&full()).unwrap());
    for line in [
        "SMBIOS 3.2.0 present",
        "Vendor: cloud-hypervisor",
        "System is a virtual machine",
        "Manufacturer: Some Maker",
        "Product Name: Some Product",
        "Version: 7.1",
        "Serial Number: SN-42",
        "UUID: 01234567-89ab-cdef-0123-456789abcdef",
        "SKU Number: SKU-1",
        "Family: Virtual Family",
        "Asset Tag: ASSET-9",
        "String 1: first",
        "String 2: second, with = signs",
        "DMI type 127",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(
        text.contains("5 structures") || text.matches("Handle 0x").count() == 5,
        "{text}"
    );
}

#[test]
fn dmidecode_shows_the_defaults() {
    let text = dmidecode(&build(&Identity::default()).unwrap());
    assert!(text.contains("Manufacturer: Cloud Hypervisor"), "{text}");
    assert!(text.contains("Product Name: cloud-hypervisor"), "{text}");
    assert!(text.contains("Serial Number: Not Specified"), "{text}");
    assert!(
        !text.contains("Chassis Information"),
        "only with an asset tag: {text}"
    );
    assert!(!text.contains("OEM Strings"), "{text}");
}

#[test]
fn entry_point_leads_to_the_end_of_the_structures() {
    let bytes = build(&full()).unwrap();
    let entry = &bytes[..ENTRY_POINT];
    assert_eq!(&entry[..5], b"_SM3_");
    assert_eq!(
        entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
        0
    );
    assert_eq!(u64_at(entry, 16), Some(0xf_0020));
    assert_eq!(
        u32_at(entry, 12),
        u32::try_from(bytes.len() - STRUCTURES_AT).ok()
    );
    // Type 127, of 4 bytes and without strings, is last.
    let end = &bytes[bytes.len() - 6..];
    assert_eq!((end[0], end[1], end[4], end[5]), (127, 4, 0, 0));
}

#[test]
fn uuids_are_checked() {
    let build_with = |uuid: &str| {
        build(&Identity {
            uuid: Some(uuid.to_owned()),
            ..full()
        })
    };
    assert_eq!(
        build_with(&UUID.to_uppercase()).unwrap(),
        build_with(UUID).unwrap(),
        "case does not matter"
    );
    for bad in [
        "",
        "0123",
        "0123456789abcdef0123456789abcdef",
        "01234567-89ab-cdef-0123-456789abcdeg",
        "01234567-89ab-cdef-0123-456789abcdef0",
        "+1234567-89ab-cdef-0123-456789abcdef",
        "0123456-789ab-cdef-0123-456789abcdef",
        "01234567-89ab-cdef-0123-4567\u{e9}9abcde",
        "{01234567-89ab-cdef-0123-456789abcdef}",
    ] {
        let error = build_with(bad).unwrap_err();
        assert!(error.to_string().contains("system_uuid"), "{bad}: {error}");
    }
}

#[test]
fn texts_that_smbios_cannot_carry_name_their_option() {
    type Set = fn(&mut Identity, String);
    let fields: [(&str, Set); 8] = [
        ("system_manufacturer", |id, text| {
            id.manufacturer = Some(text);
        }),
        ("system_product_name", |id, text| {
            id.product_name = Some(text);
        }),
        ("system_version", |id, text| id.version = Some(text)),
        ("system_serial_number", |id, text| {
            id.serial_number = Some(text);
        }),
        ("system_sku_number", |id, text| id.sku_number = Some(text)),
        ("system_family", |id, text| id.family = Some(text)),
        ("chassis_asset_tag", |id, text| {
            id.chassis_asset_tag = Some(text);
        }),
        ("oem_strings", |id, text| id.oem_strings.push(text)),
    ];
    for (option, set) in fields {
        for bad in ["", "a\0b"] {
            let mut identity = full();
            set(&mut identity, bad.to_owned());
            let error = build(&identity).unwrap_err().to_string();
            assert!(error.contains(&format!("--platform {option}:")), "{error}");
        }
    }
}

#[test]
fn sizes_are_limited() {
    let most = Identity {
        oem_strings: vec!["x".to_owned(); 255],
        ..Identity::default()
    };
    assert!(dmidecode(&build(&most).unwrap()).contains("String 255: x"));
    let more = Identity {
        oem_strings: vec!["x".to_owned(); 256],
        ..Identity::default()
    };
    assert!(matches!(
        build(&more),
        Err(Error::OemStringCount { count: 256 })
    ));

    let size = build(&Identity {
        oem_strings: vec!["x".to_owned()],
        ..full()
    })
    .unwrap()
    .len();
    let fitting = "x".repeat(MAX_SIZE - size + 1);
    let most = Identity {
        oem_strings: vec![fitting.clone()],
        ..full()
    };
    assert_eq!(build(&most).unwrap().len(), MAX_SIZE);
    let more = Identity {
        oem_strings: vec![fitting + "x"],
        ..full()
    };
    assert!(matches!(build(&more), Err(Error::SmbiosTooLarge { .. })));
}
