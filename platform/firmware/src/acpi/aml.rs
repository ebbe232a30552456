//! The DSDT's AML (ACPI 6.5, chapters 19 and 20): devices, processors and the power-off state.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope, Usize,
};
use acpi_tables::{Aml, AmlSink};

use super::{Platform, Processor};
use crate::{AcpiId, Node, Resource};

/// Name of the device that holds the processors.
pub(super) const PROCESSORS: &str = "CPUS";
/// One letter and three hexadecimal digits make a processor's name; letters go from `C` to `Z`.
pub(super) const MAX_PROCESSORS: usize = ((b'Z' - b'C') as usize + 1) << 12;

/// SLP_TYP of the S5 state: what the guest writes to the sleep control register to power off.
const S5_SLEEP_TYPE: u8 = 5;
/// Bytes one I/O port descriptor can describe, kept even so that the next one stays aligned.
const PORTS_PER_DESCRIPTOR: u16 = 0x80;

/// Renders everything that follows the DSDT's header.
pub(super) fn dsdt_body(platform: &Platform<'_>) -> Vec<u8> {
    let nodes: Vec<NodeDevice> = platform.nodes.iter().map(NodeDevice).collect();
    let processors = Processors(platform.vcpus);
    let mut devices: Vec<&dyn Aml> = Vec::with_capacity(platform.nodes.len() + 1);
    devices.extend(nodes.iter().map(|node| node as &dyn Aml));
    devices.push(&processors);

    let mut body = Vec::new();
    Scope::new("_SB_".into(), devices).to_aml_bytes(&mut body);
    Name::new("_S5_".into(), &Package::new(vec![&S5_SLEEP_TYPE])).to_aml_bytes(&mut body);
    body
}

/// A name as AML stores it: always four characters.
pub(super) fn padded(name: &str) -> String {
    format!("{name:_<4}")
}

/// A node that was checked; an unchecked one could not be rendered.
struct NodeDevice<'a>(&'a Node);

impl Aml for NodeDevice<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let node = self.0;
        let hid = match node.acpi_id {
            AcpiId::Eisa(id) => Name::new("_HID".into(), &EISAName::new(id)),
            AcpiId::Text(id) => Name::new("_HID".into(), &id),
        };
        let uid = node.uid.map(|uid| Name::new("_UID".into(), &uid));
        let description = node.description.map(|text| Name::new("_DDN".into(), &text));
        let descriptors: Vec<Box<dyn Aml>> = node
            .resources
            .iter()
            .flat_map(Resource::descriptors)
            .collect();
        let resources = (!descriptors.is_empty()).then(|| {
            let children = descriptors.iter().map(AsRef::as_ref).collect();
            Name::new("_CRS".into(), &ResourceTemplate::new(children))
        });

        let mut members: Vec<&dyn Aml> = vec![&hid];
        for member in [&uid, &description, &resources].into_iter().flatten() {
            members.push(member);
        }
        for object in &node.objects {
            members.push(object.as_ref());
        }
        Device::new(padded(node.name).as_str().into(), members).to_aml_bytes(sink);
    }
}

impl Resource {
    /// The resource descriptors (ACPI 6.5, 6.4) for this resource. Its range was checked before.
    fn descriptors(&self) -> Vec<Box<dyn Aml>> {
        match *self {
            Self::Ports { base, len } => (0..len)
                .step_by(usize::from(PORTS_PER_DESCRIPTOR))
                .map(|offset| {
                    let count = (len - offset).min(PORTS_PER_DESCRIPTOR).to_le_bytes()[0];
                    let first = base + offset;
                    Box::new(IO::new(first, first, 0, count)) as Box<dyn Aml>
                })
                .collect(),
            Self::Mmio { base, len } => {
                let last = base + (len - 1);
                match (u32::try_from(base), u32::try_from(len), u32::try_from(last)) {
                    (Ok(base), Ok(len), Ok(_)) => {
                        vec![Box::new(Memory32Fixed::new(true, base, len))]
                    }
                    _ => vec![Box::new(QWordMemory { base, last, len })],
                }
            }
            Self::Interrupt {
                gsi,
                level,
                active_low,
                shared,
            } => {
                vec![Box::new(Interrupt::new(
                    true, !level, active_low, shared, gsi,
                ))]
            }
        }
    }
}

/// Memory above 4 GiB that a device uses (ACPI 6.5, 6.4.3.5.1). The library's descriptor says that a device
/// hands the range on to its children, which only a bridge does.
struct QWordMemory {
    base: u64,
    last: u64,
    len: u64,
}

impl Aml for QWordMemory {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const DESCRIPTOR: u8 = 0x8a;
        const LENGTH: u16 = 43;
        const MEMORY: u8 = 0;
        /// Consumer; minimum and maximum are fixed.
        const FLAGS: u8 = 1 | 1 << 2 | 1 << 3;
        /// Not cacheable.
        const READ_WRITE: u8 = 1;
        sink.byte(DESCRIPTOR);
        sink.word(LENGTH);
        sink.vec(&[MEMORY, FLAGS, READ_WRITE]);
        // Granularity, first, last, translation offset, length.
        for field in [0, self.base, self.last, 0, self.len] {
            sink.qword(field);
        }
    }
}

/// The container of all processors, and in it a device for each (ACPI 6.5, 8.4).
struct Processors<'a>(&'a [Processor]);

impl Aml for Processors<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = Name::new("_HID".into(), &"ACPI0010");
        let devices: Vec<ProcessorDevice> = self
            .0
            .iter()
            .enumerate()
            .map(|(uid, processor)| ProcessorDevice {
                uid,
                enabled: processor.enabled,
            })
            .collect();
        let mut members: Vec<&dyn Aml> = vec![&hid];
        members.extend(devices.iter().map(|device| device as &dyn Aml));
        Device::new(PROCESSORS.into(), members).to_aml_bytes(sink);
    }
}

/// One processor: what ties its UID in the MADT to the namespace.
struct ProcessorDevice {
    uid: Usize,
    enabled: bool,
}

impl Aml for ProcessorDevice {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = Name::new("_HID".into(), &"ACPI0007");
        let uid = Name::new("_UID".into(), &self.uid);
        // Absence of _STA means present and working; 0 means neither (ACPI 6.5, 6.3.7).
        let absent = Name::new("_STA".into(), &0u8);
        let mut members: Vec<&dyn Aml> = vec![&hid, &uid];
        if !self.enabled {
            members.push(&absent);
        }
        let name = processor_name(self.uid);
        Device::new(name.as_str().into(), members).to_aml_bytes(sink);
    }
}

/// `C000` to `CFFF`, then `D000` and so on.
fn processor_name(uid: usize) -> String {
    let letter = u8::try_from(uid >> 12).map_or('Z', |block| char::from(b'C' + block));
    format!("{letter}{:03X}", uid & 0xfff)
}
