//! Interrupts: which message each interrupt number delivers, and the descriptors that signal them.
//!
//! The kernel has one table per machine from interrupt numbers (GSIs) to messages. It can only be replaced as a
//! whole, and replacing it waits until no processor reads the old one, so it is done only when it changes. The
//! first [`IOAPIC_PINS`] numbers are the pins of the I/O APIC, each [`Msi`] has one of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::convert;
use super::numbers::Numbers;
use super::vm::{Machine, event, lock};
use crate::grant::{Revoke, Route};
use crate::{Error, IOAPIC_PINS, IrqLine, Msi, MsiMessage, Result};

/// Interrupt numbers in the kernel's table (`KVM_MAX_IRQ_ROUTES`, `include/linux/kvm_host.h`).
const MAX_ROUTES: u32 = 4096;

type Table = BTreeMap<u32, MsiMessage>;

/// The table, and which numbers are free for [`Msi`]s.
pub(super) struct Routes {
    table: Table,
    free: Numbers,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(),
            free: Numbers::new(IOAPIC_PINS, MAX_ROUTES),
        }
    }

    /// Changes one entry. `apply` gives the table to the kernel; it is not called if nothing changes, and the
    /// change is undone if it fails.
    pub(super) fn set(
        &mut self,
        gsi: u32,
        message: Option<MsiMessage>,
        apply: impl FnOnce(&Table) -> Result<()>,
    ) -> Result<()> {
        let before = self.replace(gsi, message);
        if before == message {
            return Ok(());
        }
        let result = apply(&self.table);
        if result.is_err() {
            self.replace(gsi, before);
        }
        result
    }

    fn replace(&mut self, gsi: u32, message: Option<MsiMessage>) -> Option<MsiMessage> {
        match message {
            Some(message) => self.table.insert(gsi, message),
            None => self.table.remove(&gsi),
        }
    }

    /// Frees the number of an [`Msi`]. Its entry stays in the kernel's table until the next change: nothing
    /// signals it any more, and the number's next owner is connected only after it has set its own.
    fn release(&mut self, gsi: u32) {
        self.table.remove(&gsi);
        self.free.give_back(gsi);
    }
}

/// Gives the table to the kernel.
pub(super) fn apply(fd: &VmFd, table: &Table) -> Result<()> {
    let entries: Vec<_> = table
        .iter()
        .map(|(&gsi, &message)| entry(gsi, message))
        .collect();
    let routing =
        KvmIrqRouting::from_entries(&entries).map_err(|_| Error::NoMsiRoute(MAX_ROUTES))?;
    fd.set_gsi_routing(&routing)
        .map_err(Error::ioctl("KVM_SET_GSI_ROUTING"))
}

fn entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = convert::halves(message);
    let msi = kvm_irq_routing_msi {
        address_lo,
        address_hi,
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

struct Pin {
    machine: Arc<Machine>,
    gsi: u32,
    event: Arc<EventFd>,
}

/// A line into a pin. `gsi` has been checked.
pub(super) fn irq_line(machine: &Arc<Machine>, gsi: u32) -> Result<IrqLine> {
    let event = event()?;
    machine
        .fd
        .register_irqfd(&event, gsi)
        .map_err(Error::ioctl("KVM_IRQFD"))?;
    let pin = Pin {
        machine: Arc::clone(machine),
        gsi,
        event: Arc::clone(&event),
    };
    Ok(IrqLine {
        gsi,
        event,
        owner: Box::new(pin),
    })
}

impl Revoke for Pin {
    fn revoke(&self) {
        // If this fails, the kernel lets go when the descriptor is closed.
        let _ = self.machine.fd.unregister_irqfd(&self.event, self.gsi);
    }
}

struct MsiRoute {
    machine: Arc<Machine>,
    gsi: u32,
    event: Arc<EventFd>,
    /// Whether the kernel listens to `event`. It does from the first message on.
    connected: Mutex<bool>,
}

/// A message signalled interrupt without a message.
pub(super) fn msi(machine: &Arc<Machine>) -> Result<Msi> {
    let event = event()?;
    let gsi = lock(&machine.routes)
        .free
        .take()
        .ok_or(Error::NoMsiRoute(MAX_ROUTES - IOAPIC_PINS))?;
    let route = MsiRoute {
        machine: Arc::clone(machine),
        gsi,
        event: Arc::clone(&event),
        connected: Mutex::new(false),
    };
    Ok(Msi {
        event,
        owner: Box::new(route),
    })
}

impl Route for MsiRoute {
    fn set(&self, message: Option<MsiMessage>) -> Result<()> {
        let mut connected = lock(&self.connected);
        self.machine.set_route(self.gsi, message)?;
        if message.is_some() && !*connected {
            // Signals until now are lost, as promised: the kernel would deliver them when it is connected.
            // "Nothing to read" is the usual answer.
            let _ = self.event.read();
            self.machine
                .fd
                .register_irqfd(&self.event, self.gsi)
                .map_err(Error::ioctl("KVM_IRQFD"))?;
            *connected = true;
        }
        Ok(())
    }
}

impl Revoke for MsiRoute {
    fn revoke(&self) {
        let connected = lock(&self.connected);
        let gone = !*connected
            || self
                .machine
                .fd
                .unregister_irqfd(&self.event, self.gsi)
                .is_ok();
        if gone {
            lock(&self.machine.routes).release(self.gsi);
        }
    }
}

#[cfg(test)]
mod tests;
