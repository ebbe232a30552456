//! The registers of the controller of PCI's slots, in the platform's area.

use std::sync::Arc;

use device::{Error, Host, Kind, Region, Result};
use firmware::Node;
use pci::{HOT_PLUG_LEN, HotPlugState, Pci};

use crate::Acpi;

/// The controller of one machine, on the bus.
#[derive(Debug)]
pub(crate) struct Slots {
    region: Region,
    pci: Arc<Pci>,
}

impl Slots {
    /// Nothing on a board without PCI.
    pub(crate) fn new(host: &mut Host<'_>) -> Result<Option<Self>> {
        let Some(pci) = host.service::<Pci>() else {
            return Ok(None);
        };
        let region = host.platform_mmio(HOT_PLUG_LEN, pci.hot_plug())?;
        pci.hot_plug().lock().on_eject(host.attention());
        Ok(Some(Self { region, pci }))
    }

    /// Tells the machine again of what the guest is done with.
    pub(crate) fn announce(&self) {
        self.pci.hot_plug().lock().announce();
    }

    pub(crate) fn save(&self) -> HotPlugState {
        self.pci.hot_plug().lock().save()
    }

    pub(crate) fn restore(&self, state: &HotPlugState) -> Result<()> {
        let restored = self.pci.hot_plug().lock().restore(state);
        restored.map_err(|error| Error::BadState {
            kind: Acpi::NAMES.kind,
            why: error.to_string(),
        })
    }

    pub(crate) fn node(&self) -> Node {
        self.pci.hot_plug_node(self.region.start())
    }
}
