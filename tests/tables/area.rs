//! Copies the tables out of a machine and takes them apart.

use std::process::Command;

use testkit::payload::Payload;
use testkit::{Builder, Exit, Vm};

/// Root pointer of ACPI; the tables follow.
const RSDP: usize = 0xa_0000;
/// SMBIOS; the MP table follows.
pub(crate) const SMBIOS: usize = 0xf_0000;
/// Size of the header of every ACPI table.
pub(crate) const HEADER: usize = 36;

/// Where programs are: the tests' own path may lack what is for the administrator.
pub(crate) const TOOLS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a machine with these options has in its BIOS area.
pub(crate) struct Area {
    acpi: Vec<u8>,
    /// From the SMBIOS entry point on.
    pub(crate) smbios: Vec<u8>,
}

impl Area {
    /// Starts a machine with these words on the command line; reads `acpi` bytes from the root pointer on, and
    /// 2 KiB from the SMBIOS entry point on.
    pub(crate) fn read(acpi: u32, words: &[&str]) -> Self {
        Self::try_read(acpi, words).unwrap_or_else(|log| panic!("{words:?}: {log}"))
    }

    /// The same; the error is the log of a monitor that refuses.
    pub(crate) fn try_read(acpi: u32, words: &[&str]) -> Result<Self, String> {
        const SMBIOS_BYTES: u32 = 2048;
        let folder = tempfile::tempdir().unwrap();
        let (kernel, output) = (folder.path().join("kernel"), folder.path().join("output"));
        let payload = copy(Payload::new(), RSDP, acpi);
        let payload = copy(payload, SMBIOS, SMBIOS_BYTES).power_off();
        payload.elf().write(&kernel).unwrap();
        let builder = Vm::builder()
            .kernel(kernel)
            .memory("size=64M")
            .arg("--debug-console", format!("file={}", output.display()));
        let vm = words.iter().copied().fold(builder, Builder::flag).spawn();
        let mut vm = vm.unwrap();
        if vm.wait_exit(60).unwrap() != Exit::Code(0) {
            return Err(vm.stderr());
        }
        let mut bytes = std::fs::read(output).unwrap();
        let acpi = usize::try_from(acpi).unwrap();
        assert_eq!(bytes.len(), acpi + 2048, "{words:?}");
        let smbios = bytes.split_off(acpi);
        Ok(Self {
            acpi: bytes,
            smbios,
        })
    }

    /// The ACPI table at an address, which its own length and checksum have to agree with.
    fn table(&self, address: u64) -> Table {
        let start = usize::try_from(address).unwrap() - RSDP;
        let length = usize::try_from(u32_at(&self.acpi, start + 4)).unwrap();
        let bytes = self.acpi[start..start + length].to_vec();
        let name = String::from_utf8(bytes[..4].to_vec()).unwrap();
        assert_eq!(sum(&bytes), 0, "checksum of {name}");
        Table {
            name,
            address,
            bytes,
        }
    }

    /// All tables behind the root pointer, the XSDT first.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let rsdp = &self.acpi[..HEADER];
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(
            (sum(&rsdp[..20]), sum(rsdp)),
            (0, 0),
            "checksums of the RSDP"
        );
        assert_eq!(
            (&rsdp[9..15], rsdp[15]),
            (&b"CLOUDH"[..], 2),
            "OEM id, revision"
        );
        let xsdt = self.table(u64_at(rsdp, 24));
        let named = xsdt.bytes[HEADER..].chunks_exact(8);
        let mut tables: Vec<Table> = named
            .map(|address| self.table(u64_at(address, 0)))
            .collect();
        let fadt = tables.iter().find(|table| table.name == "FACP").unwrap();
        tables.push(self.table(u64_at(&fadt.bytes, 140)));
        tables.insert(0, xsdt);
        tables
    }

    pub(crate) fn acpi_table(&self, name: &str) -> Table {
        let table = self.tables().into_iter().find(|table| table.name == name);
        table.unwrap_or_else(|| panic!("no {name}"))
    }

    /// The SMBIOS structures, without the entry point.
    pub(crate) fn structures(&self) -> &[u8] {
        assert_eq!(&self.smbios[..5], b"_SM3_");
        let length = usize::from(self.smbios[6]);
        assert_eq!(
            sum(&self.smbios[..length]),
            0,
            "checksum of the entry point"
        );
        let start = usize::try_from(u64_at(&self.smbios, 16)).unwrap() - SMBIOS;
        let size = usize::try_from(u32_at(&self.smbios, 12)).unwrap();
        &self.smbios[start..start + size]
    }

    /// What `dmidecode` makes of it.
    pub(crate) fn dmidecode(&self, arguments: &[&str]) -> String {
        // The form of `dmidecode --dump-bin`: the structures at 32, and the entry point says so.
        let mut dump = self.smbios[..24].to_vec();
        dump[16..24].copy_from_slice(&32_u64.to_le_bytes());
        dump[5] = dump[5].wrapping_sub(sum(&dump));
        dump.resize(32, 0);
        dump.extend_from_slice(self.structures());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dump");
        std::fs::write(&file, dump).unwrap();
        let mut command = Command::new("dmidecode");
        command.env("PATH", TOOLS);
        let output = command
            .arg("--from-dump")
            .arg(file)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for complaint in [
            "Wrong",
            "Invalid",
            "BROKEN",
            "BAD INDEX",
            "OUT OF SPEC",
            "TRUNCATED",
        ] {
            assert!(
                !text.contains(&format!("<{complaint}")) && !text.contains(complaint),
                "{text}"
            );
        }
        text
    }
}

/// One ACPI table.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Processors of a MADT: UID, APIC id, flags.
pub(crate) fn processors(madt: &Table) -> Vec<(u32, u32, u32)> {
    let mut found = Vec::new();
    let mut rest = &madt.bytes[HEADER + 8..];
    while let [kind, length, ..] = *rest {
        match kind {
            0 => found.push((rest[2].into(), rest[3].into(), u32_at(rest, 4))),
            9 => found.push((u32_at(rest, 12), u32_at(rest, 4), u32_at(rest, 8))),
            _ => {}
        }
        rest = &rest[usize::from(length)..];
    }
    found
}

/// Copies guest memory to the debug console.
fn copy(payload: Payload, from: usize, size: u32) -> Payload {
    let from = u32::try_from(from).unwrap();
    // mov esi, from; mov ecx, size; mov dx, 0xe9; cld; rep outsb
    let payload = payload.raw(&[0xbe]).raw(&from.to_le_bytes());
    let payload = payload.raw(&[0xb9]).raw(&size.to_le_bytes());
    payload.raw(&[0x66, 0xba, 0xe9, 0, 0xfc, 0xf3, 0x6e])
}

pub(crate) fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
