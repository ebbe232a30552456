//! Doorbells: guest writes that signal a descriptor without leaving the kernel (`KVM_IOEVENTFD`).

use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use super::vm::Machine;
use crate::grant::Revoke;
use crate::{Address, Doorbell, DoorbellValue, Error, Result};

struct Listener {
    machine: Arc<Machine>,
    address: Address,
    value: DoorbellValue,
    event: Arc<EventFd>,
}

/// Has the kernel signal a descriptor.
pub(super) fn listen(
    machine: &Arc<Machine>,
    address: Address,
    value: DoorbellValue,
    event: Arc<EventFd>,
) -> Result<Doorbell> {
    let at = place(address);
    let fd = &machine.fd;
    match value {
        DoorbellValue::Any => fd.register_ioevent(&event, &at, NoDatamatch),
        DoorbellValue::U16(value) => fd.register_ioevent(&event, &at, value),
        DoorbellValue::U32(value) => fd.register_ioevent(&event, &at, value),
    }
    .map_err(Error::ioctl("KVM_IOEVENTFD"))?;
    let listener = Listener {
        machine: Arc::clone(machine),
        address,
        value,
        event: Arc::clone(&event),
    };
    Ok(Doorbell {
        address,
        event,
        owner: Box::new(listener),
    })
}

fn place(address: Address) -> IoEventAddress {
    match address {
        Address::Mmio(address) => IoEventAddress::Mmio(address),
        Address::Port(port) => IoEventAddress::Pio(port.into()),
    }
}

impl Revoke for Listener {
    fn revoke(&self) {
        let at = place(self.address);
        let fd = &self.machine.fd;
        // If this fails, the kernel lets go when the descriptor is closed.
        let _ = match self.value {
            DoorbellValue::Any => fd.unregister_ioevent(&self.event, &at, NoDatamatch),
            DoorbellValue::U16(value) => fd.unregister_ioevent(&self.event, &at, value),
            DoorbellValue::U32(value) => fd.unregister_ioevent(&self.event, &at, value),
        };
    }
}
