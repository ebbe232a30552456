//! How the guest's firmware tables describe PCI.
//!
//! A host bridge is a device of the namespace (`PNP0A08`): its `_CRS` lists what it passes on to its bus, and
//! that is where an operating system puts BARs. The MCFG table says where configuration space is, and a
//! motherboard device (`PNP0C02`) reserves that memory, without which Linux does not use it (PCI Firmware
//! specification 3.2, 4.1.2).

use std::sync::Arc;

use acpi_tables::aml::{AddressSpace, AddressSpaceCacheable, EISAName, IO, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};
use arch::layout;
use firmware::{AcpiId, Node, Resource};

use crate::segment::{Pci, Segment};
use crate::window::Window;

mod hotplug;
#[cfg(test)]
mod tests;

/// ACPI names of the host bridges, `PC00` to `PCFF`: `PC` and the segment's number.
static NAMES: [[u8; 4]; 256] = names();

const fn names() -> [[u8; 4]; 256] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut names = [*b"PC00"; 256];
    let mut number = 0;
    while number < names.len() {
        names[number][2] = DIGITS[number >> 4];
        names[number][3] = DIGITS[number & 0xf];
        number += 1;
    }
    names
}

/// Name of the host bridge of a segment. There are fewer segments than names.
fn name_of(segment: u16) -> &'static str {
    let name = NAMES.get(usize::from(segment));
    name.map_or("PC__", |name| std::str::from_utf8(name).unwrap_or("PC__"))
}

/// The name of the device that reserves configuration space.
const MOTHERBOARD: &str = "MBRD";
/// Buses of a segment.
const LAST_BUS: u16 = 0;

impl Pci {
    /// Host bridges with their slots, and the reservation of configuration space, for the DSDT. It also has
    /// [`Pci::hot_plug_node`], which the slots refer to.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = self.segments().map(bridge).collect();
        let mut board = Node::new(MOTHERBOARD, AcpiId::Eisa("PNP0C02"));
        board.uid = Some(0);
        let segments = u64::try_from(nodes.len()).unwrap_or(u64::MAX);
        board.resources = vec![Resource::Mmio {
            base: layout::ECAM_START,
            len: segments.saturating_mul(layout::ECAM_SEGMENT_SIZE),
        }];
        nodes.push(board);
        nodes
    }

    /// The MCFG table without its header (PCI Firmware specification 3.2, 4.1.2): revision 1.
    #[must_use]
    pub fn mcfg(&self) -> Vec<u8> {
        let mut body = vec![0; 8];
        for segment in self.segments() {
            body.extend(segment.ecam().to_le_bytes());
            body.extend(segment.number().to_le_bytes());
            // First and last bus, then 4 bytes that are reserved.
            body.extend([0; 6]);
        }
        body
    }
}

fn bridge(segment: &Arc<Segment>) -> Node {
    let mut node = Node::new(name_of(segment.number()), AcpiId::Eisa("PNP0A08"));
    node.uid = Some(segment.number().into());
    node.fdt_compatible = Some("pci-host-ecam-generic");
    node.objects = vec![
        Box::new(Bridge {
            segment: segment.number(),
            memory: [segment.memory32(), segment.memory64()].map(Window::range),
            io: segment.io().is_some(),
        }),
        Box::new(hotplug::Slots {
            segment: segment.number(),
        }),
    ];
    node
}

/// The members of a host bridge beyond its name.
struct Bridge {
    segment: u16,
    memory: [std::ops::Range<u64>; 2],
    io: bool,
}

impl Aml for Bridge {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Name::new("_CID".into(), &EISAName::new("PNP0A03")).to_aml_bytes(sink);
        Name::new("_SEG".into(), &self.segment).to_aml_bytes(sink);
        // Base bus number; devices' accesses see the processors' caches.
        Name::new("_BBN".into(), &0u8).to_aml_bytes(sink);
        Name::new("_CCA".into(), &1u8).to_aml_bytes(sink);
        let bus = AddressSpace::new_bus_number(0, LAST_BUS);
        let memory: Vec<AddressSpace<u64>> = self
            .memory
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| {
                let kind = AddressSpaceCacheable::NotCacheable;
                AddressSpace::new_memory(kind, true, range.start, range.end - 1, None)
            })
            .collect();
        let config = layout::PORT_PCI_CONFIG;
        let after = config + layout::PORT_PCI_CONFIG_COUNT;
        // The bridge's own: not passed on.
        let ports = IO::new(
            config,
            config,
            1,
            layout::PORT_PCI_CONFIG_COUNT.to_le_bytes()[0],
        );
        let io = [
            AddressSpace::new_io(0, config - 1, None),
            AddressSpace::new_io(after, 0xffff, None),
        ];
        let mut resources: Vec<&dyn Aml> = vec![&bus];
        resources.extend(memory.iter().map(|range| range as &dyn Aml));
        if self.io {
            resources.push(&ports);
            resources.extend(io.iter().map(|range| range as &dyn Aml));
        }
        Name::new("_CRS".into(), &ResourceTemplate::new(resources)).to_aml_bytes(sink);
    }
}
