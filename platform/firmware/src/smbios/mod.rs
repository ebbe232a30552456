//! SMBIOS tables (DMTF DSP0134, version 3.2): what `dmidecode` shows in the guest.
//!
//! A guest searches the area from [`ADDRESS`] for the entry point (5.2.2), which names the address and the
//! size of the structures; here they follow it directly. A structure is a header, fields, and then the
//! strings its fields refer to by number, each ended by NUL and all ended by one more NUL (6.1.3).

#[cfg(test)]
mod tests;

use crate::Error;
use crate::bytes::checksum;

/// Guest physical address of the entry point.
pub const ADDRESS: u64 = arch::layout::SMBIOS_START;
/// The most bytes [`build`] returns. The area ends at 1 MiB and has the MP table behind SMBIOS.
pub const MAX_SIZE: usize = 0xe000;

/// Size of the 64-bit entry point.
const ENTRY_POINT: usize = 24;
/// Alignment of the structures behind the entry point.
const STRUCTURES_AT: usize = 32;

/// What the machine says about itself; `None` leaves a field unspecified, or at its default where it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `system_manufacturer`, by default `Cloud Hypervisor`.
    pub manufacturer: Option<String>,
    /// `system_product_name`, by default `cloud-hypervisor`.
    pub product_name: Option<String>,
    /// `system_version`.
    pub version: Option<String>,
    /// `system_serial_number`.
    pub serial_number: Option<String>,
    /// `system_uuid`, in the form `01234567-89ab-cdef-0123-456789abcdef`.
    pub uuid: Option<String>,
    /// `system_sku_number`.
    pub sku_number: Option<String>,
    /// `system_family`.
    pub family: Option<String>,
    /// `chassis_asset_tag`; without it there is no chassis structure.
    pub chassis_asset_tag: Option<String>,
    /// `oem_strings`: free text for software in the guest, at most 255.
    pub oem_strings: Vec<String>,
}

/// Renders the entry point and the structures, to be written at [`ADDRESS`].
///
/// # Errors
/// A text that is empty or has a NUL, a malformed UUID, too many OEM strings, or more text than fits.
pub fn build(identity: &Identity) -> Result<Vec<u8>, Error> {
    let mut structures = Structures::default();
    bios(&mut structures);
    system(&mut structures, identity)?;
    if let Some(tag) = &identity.chassis_asset_tag {
        chassis(&mut structures, text("chassis_asset_tag", tag)?);
    }
    oem_strings(&mut structures, &identity.oem_strings)?;
    structures.push(127, &[], &[]);

    let size = STRUCTURES_AT + structures.bytes.len();
    if size > MAX_SIZE {
        return Err(Error::SmbiosTooLarge {
            size,
            max: MAX_SIZE,
        });
    }
    let mut bytes = entry_point(structures.bytes.len());
    bytes.resize(STRUCTURES_AT, 0);
    bytes.append(&mut structures.bytes);
    Ok(bytes)
}

/// The 64-bit entry point (5.2.2).
fn entry_point(structures: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(STRUCTURES_AT + structures);
    bytes.extend(b"_SM3_");
    bytes.extend([0, ENTRY_POINT.to_le_bytes()[0]]);
    // Version 3.2, document revision 0, entry point revision 1, reserved.
    bytes.extend([3, 2, 0, 1, 0]);
    bytes.extend(u32::try_from(structures).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend((ADDRESS + STRUCTURES_AT as u64).to_le_bytes());
    bytes[5] = checksum(&bytes);
    bytes
}

/// BIOS information (7.1).
fn bios(structures: &mut Structures) {
    /// "BIOS characteristics are not supported", the only honest one.
    const NOT_SUPPORTED: u64 = 1 << 3;
    /// Extension byte 2: targeted content distribution is off, and the machine is a virtual one.
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    let mut fields = vec![1, 2, 0, 0, 0, 0];
    fields.extend(NOT_SUPPORTED.to_le_bytes());
    fields.extend([0, VIRTUAL_MACHINE]);
    // Releases of the firmware and of the embedded controller: not known; extended ROM size: none.
    fields.extend([0xff, 0xff, 0xff, 0xff, 0, 0]);
    structures.push(0, &fields, &["cloud-hypervisor", "0"]);
}

/// System information (7.2).
fn system(structures: &mut Structures, identity: &Identity) -> Result<(), Error> {
    let mut strings = Strings::default();
    let manufacturer = identity
        .manufacturer
        .as_deref()
        .or(Some("Cloud Hypervisor"));
    let product = identity
        .product_name
        .as_deref()
        .or(Some("cloud-hypervisor"));
    let mut fields = vec![
        strings.number("system_manufacturer", manufacturer)?,
        strings.number("system_product_name", product)?,
        strings.number("system_version", identity.version.as_deref())?,
        strings.number("system_serial_number", identity.serial_number.as_deref())?,
    ];
    // All zero: there is no UUID.
    fields.extend(identity.uuid.as_deref().map_or(Ok([0; 16]), parse_uuid)?);
    // Wake-up type: unknown.
    fields.push(2);
    fields.push(strings.number("system_sku_number", identity.sku_number.as_deref())?);
    fields.push(strings.number("system_family", identity.family.as_deref())?);
    structures.push(1, &fields, &strings.0);
    Ok(())
}

/// System enclosure (7.4).
fn chassis(structures: &mut Structures, asset_tag: &str) {
    // Manufacturer 1, type "other", no version, no serial number, asset tag 2.
    let mut fields = vec![1, 1, 0, 0, 2];
    // States on boot-up and of security: unknown.
    fields.extend([2, 2, 2, 2]);
    // OEM-defined; height and number of power cords not specified; no contained elements; no SKU.
    fields.extend([0; 9]);
    structures.push(3, &fields, &["Cloud Hypervisor", asset_tag]);
}

/// OEM strings (7.12).
fn oem_strings(structures: &mut Structures, strings: &[String]) -> Result<(), Error> {
    if strings.is_empty() {
        return Ok(());
    }
    let count = u8::try_from(strings.len()).map_err(|_| Error::OemStringCount {
        count: strings.len(),
    })?;
    let texts: Result<Vec<&str>, Error> = strings
        .iter()
        .map(|string| text("oem_strings", string))
        .collect();
    structures.push(11, &[count], &texts?);
    Ok(())
}

/// The structure table as it grows.
#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
}

impl Structures {
    /// Adds a structure: header, fields, strings.
    fn push(&mut self, kind: u8, fields: &[u8], strings: &[&str]) {
        let length = 4 + fields.len();
        self.bytes.extend([kind, length.to_le_bytes()[0]]);
        self.bytes.extend(self.count.to_le_bytes());
        self.bytes.extend(fields);
        for string in strings {
            self.bytes.extend(string.as_bytes());
            self.bytes.push(0);
        }
        // Even without strings the section ends with two NULs.
        self.bytes.extend(if strings.is_empty() {
            &[0, 0][..]
        } else {
            &[0]
        });
        self.count += 1;
    }
}

/// Strings of one structure, which fields refer to by number from 1; 0 is "none".
#[derive(Default)]
struct Strings<'a>(Vec<&'a str>);

impl<'a> Strings<'a> {
    fn number(&mut self, option: &'static str, string: Option<&'a str>) -> Result<u8, Error> {
        let Some(string) = string else { return Ok(0) };
        self.0.push(text(option, string)?);
        Ok(self.0.len().to_le_bytes()[0])
    }
}

/// Checks that SMBIOS can carry a text.
fn text<'a>(option: &'static str, text: &'a str) -> Result<&'a str, Error> {
    if text.is_empty() {
        Err(Error::IdentityEmpty { option })
    } else if text.contains('\0') {
        Err(Error::IdentityNul { option })
    } else {
        Ok(text)
    }
}

/// Reads the text form of a UUID. The first three fields are stored little-endian (7.2.1).
fn parse_uuid(text: &str) -> Result<[u8; 16], Error> {
    let malformed = || Error::IdentityUuid {
        text: text.to_owned(),
    };
    let groups: Vec<&str> = text.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
        return Err(malformed());
    }
    let digits = groups.concat();
    // from_str_radix would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(malformed());
    }
    let value = u128::from_str_radix(&digits, 16).map_err(|_| malformed())?;
    let mut bytes = value.to_be_bytes();
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Ok(bytes)
}
