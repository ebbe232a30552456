//! How the guest's firmware fills and empties slots (ACPI 6.5, 6.3): a device for each slot, and the controller.
//!
//! The event device calls `PSCN` of the controller, which calls `PCNT` of each host bridge. That reads what happened
//! and notifies the slots that it concerns. When the guest is done with a device it calls `_EJ0` of the slot.

use acpi_tables::aml::{
    Acquire, And, Arg, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule,
    If, Local, Method, MethodCall, Mutex, Name, Notify, OpRegion, OpRegionSpace, Path, Release,
    ShiftLeft, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use firmware::{AcpiId, Node, Resource};

use crate::SLOTS;
use crate::acpi::name_of;
use crate::hotplug::{EJECT, HOT_PLUG_LEN, INSERTED, LEAVING, SELECT};
use crate::segment::Pci;

/// Name of the controller, and the path of its members.
const CONTROLLER: &str = "PHPR";
/// Device check and ejection request (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECTION_REQUEST: u8 = 3;
/// A mutex is waited for without limit.
const NO_TIMEOUT: u16 = 0xffff;

// The registers follow each other without holes, as the field says.
const _: () = assert!(INSERTED == 0 && LEAVING == 4 && EJECT == 8 && SELECT == 12);

impl Pci {
    /// The controller for the DSDT, with its registers at this guest physical address. What it calls is in
    /// [`Pci::nodes`].
    #[must_use]
    pub fn hot_plug_node(&self, registers: u64) -> Node {
        let mut node = Node::new(CONTROLLER, AcpiId::Eisa("PNP0A06"));
        // Other controllers of the platform are of the same kind.
        node.uid = Some(1);
        node.resources = vec![Resource::Mmio {
            base: registers,
            len: HOT_PLUG_LEN,
        }];
        let segments = self.segments().map(|segment| segment.number()).collect();
        node.objects = vec![Box::new(Controller {
            registers,
            segments,
        })];
        node
    }
}

/// Path of a member of the controller.
fn controller(member: &str) -> Path {
    Path::new(&format!("\\_SB_.{CONTROLLER}.{member}"))
}

/// The controller's members.
struct Controller {
    registers: u64,
    segments: Vec<u16>,
}

impl Aml for Controller {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let space = OpRegionSpace::SystemMemory;
        OpRegion::new("PCST".into(), space, &self.registers, &HOT_PLUG_LEN).to_aml_bytes(sink);
        let names = [*b"PCIU", *b"PCID", *b"B0EJ", *b"PSEG"];
        Field::new(
            "PCST".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            names.map(|name| FieldEntry::Named(name, 32)).to_vec(),
        )
        .to_aml_bytes(sink);
        // Which segment is selected is everybody's.
        Mutex::new("BLCK".into(), 0).to_aml_bytes(sink);
        Eject.to_aml_bytes(sink);
        let calls: Vec<MethodCall<'_>> = self
            .segments
            .iter()
            .map(|number| {
                let path = format!("\\_SB_.{}.PCNT", name_of(*number));
                MethodCall::new(Path::new(&path), Vec::new())
            })
            .collect();
        let calls = calls.iter().map(|call| call as &dyn Aml).collect();
        Method::new("PSCN".into(), 0, true, calls).to_aml_bytes(sink);
    }
}

/// `PCEJ(slot, segment)`: the guest is done with what is in a slot.
struct Eject;

impl Aml for Eject {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (register, select) = (Path::new("B0EJ"), Path::new("PSEG"));
        let (slot, segment, bit) = (Arg(0), Arg(1), Local(0));
        Method::new(
            "PCEJ".into(),
            2,
            true,
            vec![
                &ShiftLeft::new(&bit, &1u8, &slot),
                &Acquire::new("BLCK".into(), NO_TIMEOUT),
                &Store::new(&select, &segment),
                &Store::new(&register, &bit),
                &Release::new("BLCK".into()),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The slots of a host bridge, and the method that looks what happened to them. Members of the bridge.
pub(super) struct Slots {
    pub(super) segment: u16,
}

fn slot_name(device: u8) -> String {
    format!("S{device:03}")
}

impl Aml for Slots {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        // Slot 0 is the bridge's own.
        for device in 1..SLOTS {
            self.slot(device, sink);
        }
        self.scan(sink);
    }
}

impl Slots {
    fn slot(&self, device: u8, sink: &mut dyn AmlSink) {
        let (slot, segment) = (Path::new("_SUN"), Path::new("_SEG"));
        let call = MethodCall::new(controller("PCEJ"), vec![&slot, &segment]);
        Device::new(
            slot_name(device).as_str().into(),
            vec![
                // Number for users, and address: device and function (ACPI 6.5, 6.1.11 and 6.1.1).
                &Name::new("_SUN".into(), &device),
                &Name::new("_ADR".into(), &(u32::from(device) << 16)),
                &Method::new("_EJ0".into(), 1, true, vec![&call]),
            ],
        )
        .to_aml_bytes(sink);
    }

    /// `PCNT()`.
    fn scan(&self, sink: &mut dyn AmlSink) {
        let (inserted, leaving) = (controller("PCIU"), controller("PCID"));
        let (up, down) = (Local(0), Local(1));
        let select = controller("PSEG");
        let lock = || controller("BLCK");
        let head = [
            Box::new(Acquire::new(lock(), NO_TIMEOUT)) as Box<dyn Aml>,
            Box::new(Store::new(&select, &self.segment)),
            // Reading clears.
            Box::new(Store::new(&up, &inserted)),
            Box::new(Store::new(&down, &leaving)),
            Box::new(Release::new(lock())),
        ];
        let tell: Vec<Tell> = (1..SLOTS).map(Tell).collect();
        let mut body: Vec<&dyn Aml> = head.iter().map(AsRef::as_ref).collect();
        body.extend(tell.iter().map(|tell| tell as &dyn Aml));
        Method::new("PCNT".into(), 0, true, body).to_aml_bytes(sink);
    }
}

/// Notifies one slot of what happened to it.
struct Tell(u8);

impl Aml for Tell {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let slot = Path::new(&slot_name(self.0));
        let bit = 1u32 << self.0;
        // What is to go before what has come: they may be the same slot.
        for (bits, event) in [(Local(1), EJECTION_REQUEST), (Local(0), DEVICE_CHECK)] {
            // A target of zero is none.
            let concerned = And::new(&ZERO, &bits, &bit);
            let notify = Notify::new(&slot, &event);
            If::new(&concerned, vec![&notify]).to_aml_bytes(sink);
        }
    }
}
