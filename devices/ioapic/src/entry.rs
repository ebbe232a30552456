//! A redirection entry (82093AA, 3.2.4) and the message it stands for (Intel SDM volume 3A, 11.11).

use hypervisor::MsiMessage;

const VECTOR: u64 = 0xff;
/// Delivery mode, three bits, at the same place in the message's data.
const DELIVERY_MODE: u64 = 0x700;
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Destination, eight bits from 56; below it seven bits that a guest which knows that it runs on KVM uses for
/// the bits from 8 on of a destination (Linux `Documentation/virt/kvm/x86/cpuid.rst`,
/// `KVM_FEATURE_MSI_EXT_DEST_ID`).
const DESTINATION: u64 = 0xfffe_0000_0000_0000;
/// Bits that software can set: not the delivery status (12) and the remote IRR (14).
const WRITABLE: u64 = DESTINATION | 0x0001_afff;

/// Start of the range that messages are written to.
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MESSAGE_LOGICAL: u64 = 1 << 2;
/// From the destination's place in an entry to that in a message's address.
const DESTINATION_SHIFT: u64 = 44;
/// "Assert", for level-triggered messages.
const MESSAGE_ASSERT: u32 = 1 << 14;

/// What one pin's interrupt becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(u64);

impl Default for Entry {
    /// Masked, as after reset.
    fn default() -> Self {
        Self(MASKED)
    }
}

impl Entry {
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits & (WRITABLE | REMOTE_IRR))
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// One of the two registers that the guest sees.
    pub(crate) fn half(self, upper: bool) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        u32::from_le_bytes(if upper { [e, f, g, h] } else { [a, b, c, d] })
    }

    /// The entry after the guest writes one of its registers.
    pub(crate) fn with_half(self, upper: bool, value: u32) -> Self {
        let value = u64::from(value);
        let written = if upper {
            self.0 & 0xffff_ffff | value << 32
        } else {
            self.0 & !0xffff_ffff | value
        };
        let mut bits = written & WRITABLE;
        // The remote IRR is the hardware's; an edge-triggered entry has none.
        if bits & LEVEL != 0 {
            bits |= self.0 & REMOTE_IRR;
        }
        Self(bits)
    }

    /// The message for the local APICs; `None` while masked.
    pub(crate) fn message(self) -> Option<MsiMessage> {
        if self.0 & MASKED != 0 {
            return None;
        }
        let mut address = MESSAGE_ADDRESS | (self.0 & DESTINATION) >> DESTINATION_SHIFT;
        if self.0 & LOGICAL != 0 {
            address |= MESSAGE_LOGICAL;
        }
        let low = u16::try_from(self.0 & (VECTOR | DELIVERY_MODE | LEVEL)).unwrap_or(0);
        let mut data = u32::from(low);
        if self.0 & LEVEL != 0 {
            data |= MESSAGE_ASSERT;
        }
        Some(MsiMessage { address, data })
    }

    /// The guest ended the interrupt with this vector.
    pub(crate) fn end_of_interrupt(&mut self, vector: u8) {
        if self.0 & LEVEL != 0 && self.0 & VECTOR == u64::from(vector) {
            self.0 &= !REMOTE_IRR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bits: u64) -> Option<(u64, u32)> {
        Entry::from_bits(bits)
            .message()
            .map(|message| (message.address, message.data))
    }

    #[test]
    fn messages_follow_the_manual() {
        assert_eq!(Entry::default().message(), None);
        assert_eq!(message(0x31), Some((0xfee0_0000, 0x31)));
        // Destination 5, physical, fixed delivery.
        assert_eq!(message(0x0500_0000_0000_0040), Some((0xfee0_5000, 0x40)));
        // Logical, lowest priority, level.
        assert_eq!(message(0x0300_0000_0000_8951), Some((0xfee0_3004, 0xc151)));
        assert_eq!(message(0x0300_0000_0001_8951), None);
        // Destination 0x1234: the upper bits are in the extension.
        assert_eq!(message(0x3424_0000_0000_0040), Some((0xfee3_4240, 0x40)));
    }

    #[test]
    fn halves_are_independent_and_read_only_bits_stay() {
        let entry = Entry::default()
            .with_half(true, 0xff00_1234)
            .with_half(false, 0xffff_ffff);
        assert_eq!(entry.half(true), 0xff00_0000);
        assert_eq!(entry.with_half(true, u32::MAX).half(true), 0xfffe_0000);
        assert_eq!(entry.half(false), 0x0001_afff);
        let asserted = Entry::from_bits(LEVEL | REMOTE_IRR | 0x20);
        assert_eq!(
            asserted.with_half(false, 0x8021).bits(),
            LEVEL | REMOTE_IRR | 0x21
        );
        assert_eq!(asserted.with_half(false, 0x21).bits(), 0x21);
    }

    #[test]
    fn the_end_of_an_interrupt_clears_its_own_remote_irr() {
        let mut entry = Entry::from_bits(LEVEL | REMOTE_IRR | 0x20);
        entry.end_of_interrupt(0x21);
        assert_eq!(entry.bits() & REMOTE_IRR, REMOTE_IRR);
        entry.end_of_interrupt(0x20);
        assert_eq!(entry.bits() & REMOTE_IRR, 0);
    }
}
