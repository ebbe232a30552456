//! What the hypervisor can give to processors, asked for once.

use std::sync::{Arc, Mutex, PoisonError};

use arch::CpuidEntry;
use hypervisor::Hypervisor;

use crate::Result;

/// The hypervisor's list of `CPUID` answers. The kernel takes a third of a millisecond to make it, a fifth of
/// the time to the guest's first instruction: so it is asked for while the machine's memory is mapped, and not
/// again on a reset.
pub(crate) struct Features {
    hypervisor: Arc<dyn Hypervisor>,
    known: Mutex<Option<Arc<[CpuidEntry]>>>,
}

impl Features {
    pub(crate) fn new(hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self {
            hypervisor,
            known: Mutex::new(None),
        }
    }

    /// The list. Whoever comes while another thread asks waits for that answer.
    pub(crate) fn get(&self) -> Result<Arc<[CpuidEntry]>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = &*known {
            return Ok(Arc::clone(list));
        }
        let list: Arc<[CpuidEntry]> = self.hypervisor.supported_cpuid()?.into();
        *known = Some(Arc::clone(&list));
        Ok(list)
    }
}
