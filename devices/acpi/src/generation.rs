//! The generation id ("Virtual Machine Generation ID", Microsoft): 16 random bytes in the guest's memory.
//!
//! They stay for as long as the machine is the one that it was, through pauses and resets. A machine that comes from
//! another one's state has other bytes, and the guest is notified: Linux (`drivers/virt/vmgenid`) then mixes them into
//! its random numbers, so that copies do not have the same ones.
//!
//! The device is in every machine. One without it could never be told, as a guest reads its tables once.

use std::fmt;

use acpi_tables::aml::{Name, Package};
use acpi_tables::{Aml, AmlSink};
use arch::layout;
use device::{Error, Host, Result};
use firmware::{AcpiId, Node};
use memory::GuestRam;

/// What guests look for (`_CID`, `_DDN`).
const COMPATIBLE: &str = "VM_Gen_Counter";
/// The same in the length that ACPI allows, as newer hosts have it beside the first (`_CID`).
const COMPATIBLE_SHORT: &str = "VMGENCTR";
/// Its own name (`_HID`), which the specification leaves to the maker and guests do not look at.
const HARDWARE_ID: &str = "CHVG0001";

/// The bytes, for the machine after a reset.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id([u8; 16]);

impl Id {
    /// Another one than all before.
    fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        let failed = |source: std::io::Error| Error::Backend {
            what: "cannot get random bytes for the VM's generation id".into(),
            source: source.into(),
        };
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes, flags) {
            Ok(16) => Ok(Self(bytes)),
            Ok(_) => Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// The id of one machine.
pub(crate) struct Generation {
    ram: GuestRam,
    id: Id,
    /// The guest has not been told of it.
    is_news: bool,
}

impl Generation {
    pub(crate) fn new(host: &mut Host<'_>) -> Result<Self> {
        let inherited = host.inherit::<Id>();
        Ok(Self {
            ram: host.ram().clone(),
            id: inherited.map_or_else(Id::random, Ok)?,
            is_news: false,
        })
    }

    /// The machine is another one from here on.
    pub(crate) fn renew(&mut self) -> Result<()> {
        self.id = Id::random()?;
        self.is_news = true;
        Ok(())
    }

    /// Puts the id where the guest reads it. True if the guest is to be notified.
    pub(crate) fn tell(&mut self) -> Result<bool> {
        let written = self.ram.write(layout::GENERATION_ID_START, &self.id.0);
        written.map_err(|source| Error::Backend {
            what: "cannot write the VM's generation id".into(),
            source: source.into(),
        })?;
        Ok(std::mem::take(&mut self.is_news))
    }

    pub(crate) fn leave(&self) -> Id {
        self.id
    }

    pub(crate) fn node() -> Node {
        let mut node = Node::new("VGEN", AcpiId::Text(HARDWARE_ID));
        node.uid = Some(0);
        node.description = Some(COMPATIBLE);
        node.objects = vec![Box::new(Objects)];
        node
    }
}

/// It is the guest's secret.
impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").finish_non_exhaustive()
    }
}

/// The general names of the device, and where its bytes are: the lower and the upper half of the address.
struct Objects;

impl Aml for Objects {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let names = Package::new(vec![&COMPATIBLE, &COMPATIBLE_SHORT]);
        Name::new("_CID".into(), &names).to_aml_bytes(sink);
        let low = layout::GENERATION_ID_START & 0xffff_ffff;
        let high = layout::GENERATION_ID_START >> 32;
        let address = Package::new(vec![&low, &high]);
        Name::new("ADDR".into(), &address).to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use memory::{RamOptions, RegionSpec};

    use super::*;

    #[test]
    fn the_node_says_where_the_id_is() {
        let mut bytes = Vec::new();
        Objects.to_aml_bytes(&mut bytes);
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(holds(b"_CID\x12\x1c\x02\x0dVM_Gen_Counter\0\x0dVMGENCTR\0"));
        // A package of two: 0xef000 as a double word, and zero (ACPI 6.5, 20.2.5.4).
        assert!(holds(b"ADDR\x12\x08\x02\x0c\x00\xf0\x0e\x00\x00"));
    }

    #[test]
    fn a_copy_has_another_id_and_a_reset_keeps_it() {
        let spec = RegionSpec {
            start: 0,
            size: 1 << 20,
        };
        let ram = GuestRam::new(&[spec], &RamOptions::default()).unwrap();
        let in_memory = || {
            let mut bytes = [0; 16];
            ram.read(layout::GENERATION_ID_START, &mut bytes).unwrap();
            Id(bytes)
        };
        let mut generation = Generation {
            ram: ram.clone(),
            id: Id::random().unwrap(),
            is_news: false,
        };
        assert!(!generation.tell().unwrap(), "it has always been this one");
        let first = generation.leave();
        assert!(in_memory() == first);
        generation.renew().unwrap();
        assert!(
            in_memory() == first,
            "nothing changes before the guest goes on"
        );
        assert!(generation.tell().unwrap(), "the guest is to be notified");
        assert!(!generation.tell().unwrap(), "once");
        assert!(generation.leave() != first && in_memory() == generation.leave());
    }
}
