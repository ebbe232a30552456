//! The generic event device (ACPI 6.5, 5.6.9): how the platform tells the guest of events.
//!
//! One byte says what happened, and an edge on an interrupt line that there is something to read. The guest's
//! interpreter runs `_EVT`, which reads the byte, whereby it is cleared, and notifies the device that it is about.

use acpi_tables::aml::{
    And, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local, Method,
    MethodCall, Notify, OpRegion, OpRegionSpace, Path, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use device::{Host, Region, Result, Shared, Target};
use firmware::{AcpiId, Node, Resource};
use hypervisor::IrqLine;

/// A slot of PCI was filled, or is to be emptied.
pub(crate) const PCI: u8 = 4;
/// The power button was pressed.
pub(crate) const POWER_BUTTON: u8 = 8;
/// The machine is a copy of another one, with an id of its own.
pub(crate) const GENERATION: u8 = 16;
/// Notification of a button that was pressed (ACPI 6.5, 4.8.2.2.1.2).
const PRESSED: u8 = 0x80;

/// Notification of an id that has changed ("Virtual Machine Generation ID", Microsoft: the value 0x80).
const CHANGED: u8 = 0x80;

/// Name of the power button's device.
const BUTTON: &str = "PWRB";
/// The method that looks what happened to PCI's slots.
const SCAN_SLOTS: &str = "\\_SB_.PHPR.PSCN";
/// Bytes of the register.
const LEN: u64 = 1;

/// What happened since the guest looked last.
#[derive(Debug, Default)]
pub(crate) struct Happened(u8);

impl Target for Happened {
    /// Whoever reads it has taken note.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(std::mem::take(&mut self.0));
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

/// The event device of one machine.
#[derive(Debug)]
pub(crate) struct Events {
    region: Region,
    happened: Shared<Happened>,
    line: IrqLine,
}

impl Events {
    pub(crate) fn new(host: &mut Host<'_>) -> Result<Self> {
        let happened = Shared::new(Happened::default());
        Ok(Self {
            region: host.platform_mmio(LEN, &happened)?,
            happened,
            line: host.irq()?,
        })
    }

    /// Something happened.
    pub(crate) fn raise(&self, event: u8) -> Result<()> {
        self.happened.lock().0 |= event;
        Ok(self.line.trigger()?)
    }

    /// Interrupts the guest if there is something that it has not taken note of.
    pub(crate) fn announce(&self) -> Result<()> {
        if self.pending() != 0 {
            self.line.trigger()?;
        }
        Ok(())
    }

    /// What the guest has not taken note of yet.
    pub(crate) fn pending(&self) -> u8 {
        self.happened.lock().0
    }

    pub(crate) fn set_pending(&self, events: u8) {
        self.happened.lock().0 = events;
    }

    /// The event device and the devices that it tells about. With `pci` it tells the controller of PCI's slots.
    pub(crate) fn nodes(&self, pci: bool) -> Vec<Node> {
        let mut events = Node::new("GED_", AcpiId::Text("ACPI0013"));
        events.uid = Some(0);
        events.resources = vec![Resource::edge(self.line.gsi())];
        events.objects = vec![Box::new(Methods {
            register: self.region.start(),
            pci,
        })];
        let mut button = Node::new(BUTTON, AcpiId::Eisa("PNP0C0C"));
        button.uid = Some(0);
        vec![events, button]
    }
}

/// The register and what is done with it, in the guest's language.
struct Methods {
    register: u64,
    /// There is a controller of PCI's slots.
    pci: bool,
}

impl Aml for Methods {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let space = OpRegionSpace::SystemMemory;
        OpRegion::new("EVRG".into(), space, &self.register, &LEN).to_aml_bytes(sink);
        Field::new(
            "EVRG".into(),
            FieldAccessType::Byte,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![FieldEntry::Named(*b"EVNT", 8)],
        )
        .to_aml_bytes(sink);
        let register = Path::new("EVNT");
        let take = Store::new(&HAPPENED, &register);
        let button = Path::new("\\_SB_.PWRB");
        let press = Notify::new(&button, &PRESSED);
        let scan = MethodCall::new(Path::new(SCAN_SLOTS), Vec::new());
        let on_button = On(POWER_BUTTON, &press);
        let generation = Path::new("\\_SB_.VGEN");
        let change = Notify::new(&generation, &CHANGED);
        let on_change = On(GENERATION, &change);
        let on_pci = On(PCI, &scan);
        let mut body: Vec<&dyn Aml> = vec![&take, &on_button, &on_change];
        if self.pci {
            body.push(&on_pci);
        }
        // One argument: the interrupt, of which there is one.
        Method::new("_EVT".into(), 1, true, body).to_aml_bytes(sink);
    }
}

/// What the method has read from the register.
const HAPPENED: Local = Local(0);

/// What is done if an event is among those that happened.
struct On<'a>(u8, &'a dyn Aml);

impl Aml for On<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        // A target of zero is none.
        let is_it = And::new(&ZERO, &HAPPENED, &self.0);
        If::new(&is_it, vec![self.1]).to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_takes_note_and_writing_does_nothing() {
        let mut happened = Happened(POWER_BUTTON);
        happened.write(0, &[0xff]);
        let mut data = [0xff];
        happened.read(0, &mut data);
        assert_eq!(data, [POWER_BUTTON]);
        happened.read(0, &mut data);
        assert_eq!(data, [0]);
    }

    #[test]
    fn the_method_names_the_button_and_the_register() {
        let mut bytes = Vec::new();
        Methods {
            register: 0x3f_fff0_0010,
            pci: true,
        }
        .to_aml_bytes(&mut bytes);
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        // DefOpRegion with a 64-bit address, then the method with one argument, serialized.
        assert!(holds(
            b"\x5b\x80EVRG\x00\x0e\x10\x00\xf0\xff\x3f\x00\x00\x00"
        ));
        assert!(holds(b"_EVT\x09"));
        // Notify (\_SB.PWRB, 0x80): ACPI 6.5, 20.2.5.3.
        assert!(holds(b"\x86\\\x2e_SB_PWRB\x0a\x80"));
        assert!(holds(b"\x86\\\x2e_SB_VGEN\x0a\x80"));
        // If (And (Local0, 4)) { \_SB.PHPR.PSCN () }
        assert!(holds(b"\x7b\x60\x0a\x04\x00\\\x2f\x03_SB_PHPRPSCN"));
    }

    #[test]
    fn without_pci_nobody_looks_at_its_slots() {
        let mut bytes = Vec::new();
        Methods {
            register: 0x1000,
            pci: false,
        }
        .to_aml_bytes(&mut bytes);
        assert!(!bytes.windows(4).any(|window| window == b"PHPR"));
    }
}
