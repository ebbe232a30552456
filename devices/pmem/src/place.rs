//! Where the guest finds the memory.

use std::fmt;

use device::Result;
use pci::Window;

use crate::ALIGN;

/// Maps the memory at a guest physical address, for as long as the answer lives.
pub type Map = Box<dyn Fn(u64) -> Result<Box<dyn Send>> + Send>;

/// Guest physical addresses and what is mapped there. Dropping it gives both back.
pub struct Place {
    // The memory goes before its addresses are another's to have.
    mapped: Option<Box<dyn Send>>,
    span: pci::Span,
    map: Map,
}

impl Place {
    /// Maps `size` bytes at the highest free place of `window`.
    ///
    /// # Errors
    /// If there is no such place, or `map` fails.
    pub fn new(window: &Window, size: u64, map: Map) -> Result<Self> {
        let span = window.reserve(size, ALIGN)?;
        let mapped = Some(map(span.start())?);
        Ok(Self { mapped, span, map })
    }

    /// First guest physical address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.span.start()
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.span.size()
    }

    /// Moves it, or leaves it where it is. The guest does not run.
    pub(crate) fn move_to(&mut self, start: u64) -> Result<()> {
        let before = self.start();
        if start == before {
            return Ok(());
        }
        self.span.move_to(start)?;
        self.mapped = None;
        match (self.map)(start) {
            Ok(mapped) => {
                self.mapped = Some(mapped);
                Ok(())
            }
            Err(error) => {
                // Both were its own a moment ago.
                self.span.move_to(before)?;
                self.mapped = Some((self.map)(before)?);
                Err(error)
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("start", &format_args!("{:#x}", self.start()))
            .field("size", &format_args!("{:#x}", self.size()))
            .finish_non_exhaustive()
    }
}
