//! One platform device, described for whichever firmware interface renders it.

use std::fmt;

use acpi_tables::Aml;

/// Neutral description of one platform device.
///
/// It says what the device is and what it uses, not how a table spells that. A device that needs more than
/// resources in ACPI (a `_EVT` method, an operation region) adds those as [`objects`](Self::objects).
pub struct Node {
    /// ACPI name below `\_SB`: one to four of `A`-`Z`, `0`-`9` and `_`, not starting with a digit; unique in
    /// the machine. Shorter names are padded with `_`.
    pub name: &'static str,
    /// What ACPI calls this kind of device (`_HID`).
    pub acpi_id: AcpiId,
    /// What a flattened device tree calls it (`compatible`); `None` if it has no node there.
    pub fdt_compatible: Option<&'static str>,
    /// Tells several devices of the same kind apart (`_UID`).
    pub uid: Option<u32>,
    /// Logical name that the system may show, such as `COM1` (`_DDN`).
    pub description: Option<&'static str>,
    /// Ports, memory and interrupts that it uses (`_CRS`).
    pub resources: Vec<Resource>,
    /// Further members of the device in ACPI, each rendered as given.
    pub objects: Vec<Box<dyn Aml + Send>>,
}

impl Node {
    /// A device that has a name and a kind, and nothing else yet.
    pub fn new(name: &'static str, acpi_id: AcpiId) -> Self {
        Self {
            name,
            acpi_id,
            fdt_compatible: None,
            uid: None,
            description: None,
            resources: Vec::new(),
            objects: Vec::new(),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("acpi_id", &self.acpi_id)
            .field("fdt_compatible", &self.fdt_compatible)
            .field("uid", &self.uid)
            .field("description", &self.description)
            .field("resources", &self.resources)
            .field("objects", &self.objects.len())
            .finish()
    }
}

/// The kind of a device in ACPI (ACPI 6.5, 6.1.5 `_HID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcpiId {
    /// A PNP id that is stored compressed: three capital letters and four hexadecimal digits (`PNP0501`).
    Eisa(&'static str),
    /// An id that is stored as text (`ACPI0013`): capital letters and digits.
    Text(&'static str),
}

/// One thing that a device occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// I/O ports `base` to `base + len - 1`; at least one, and none above 0xffff.
    Ports {
        /// First port.
        base: u16,
        /// Number of ports.
        len: u16,
    },
    /// Memory-mapped registers; at least one byte, and not past the end of the address space.
    Mmio {
        /// Guest physical address of the first byte.
        base: u64,
        /// Size in bytes.
        len: u64,
    },
    /// An interrupt line.
    Interrupt {
        /// Global system interrupt number.
        gsi: u32,
        /// Level-triggered; edge-triggered otherwise.
        level: bool,
        /// Asserted when low; when high otherwise.
        active_low: bool,
        /// Several devices may be on this line.
        shared: bool,
    },
}

impl Resource {
    /// An edge-triggered, active-high interrupt line of one device, as on the ISA bus.
    pub const fn edge(gsi: u32) -> Self {
        Self::Interrupt {
            gsi,
            level: false,
            active_low: false,
            shared: false,
        }
    }
}
