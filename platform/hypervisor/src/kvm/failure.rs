//! Texts for what KVM cannot go on with, for the person who reads the log.

use std::fmt::Write;

use kvm_bindings as kvm;

use super::exit::RunPage;

/// Why the guest cannot go on. `rip` is the guest's instruction pointer, if it can be had.
pub(super) fn describe(page: &RunPage, rip: Option<u64>) -> Box<str> {
    let mut text = match page.reason() {
        kvm::KVM_EXIT_INTERNAL_ERROR => {
            let (kind, data) = page.internal_error();
            return internal_error(kind, &data, rip).into();
        }
        kvm::KVM_EXIT_FAIL_ENTRY => {
            let (reason, cpu) = page.entry_failure();
            format!(
                "the host's processor {cpu} refused to enter the guest with reason {reason:#x}; \
                 the guest's registers are probably not valid together"
            )
        }
        kvm::KVM_EXIT_MEMORY_FAULT => {
            let (address, size) = page.memory_fault();
            format!(
                "{size:#x} bytes of guest memory at {address:#x} cannot be used: the host could not provide \
                 them (out of memory or huge pages, a truncated file, or a hardware memory error)"
            )
        }
        other => format!(
            "the host's KVM stopped the guest with exit reason {other}, which is not handled here"
        ),
    };
    append_rip(&mut text, rip);
    text.into()
}

fn append_rip(text: &mut String, rip: Option<u64>) {
    if let Some(rip) = rip {
        // Writing to a string does not fail.
        let _ = write!(text, "; the guest was at {rip:#x}");
    }
}

/// The text for an internal error of KVM: its kind and data as in `struct kvm_run`.
pub(super) fn internal_error(kind: u32, data: &[u64], rip: Option<u64>) -> String {
    let what = match kind {
        kvm::KVM_INTERNAL_ERROR_EMULATION => return emulation_error(data, rip),
        kvm::KVM_INTERNAL_ERROR_SIMUL_EX => "met an exception while it delivered another one",
        kvm::KVM_INTERNAL_ERROR_DELIVERY_EV => {
            "left the guest in the middle of delivering an interrupt or exception"
        }
        kvm::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            "does not know the reason for which the processor left the guest"
        }
        other => &format!("reports internal error {other}"),
    };
    let mut text = format!("the host's KVM {what}");
    append_rip(&mut text, rip);
    if !data.is_empty() {
        let numbers: Vec<_> = data.iter().map(|number| format!("{number:#x}")).collect();
        let _ = write!(text, " (details: {})", numbers.join(" "));
    }
    text
}

fn emulation_error(data: &[u64], rip: Option<u64>) -> String {
    let bytes = instruction(data).unwrap_or_else(|| "of unknown bytes".to_owned());
    let mut text = format!("the host's KVM could not emulate the instruction {bytes}");
    if let Some(rip) = rip {
        let _ = write!(text, " at {rip:#x}");
    }
    text
}

/// The instruction's bytes, if the kernel gave them: flags, then a length byte and up to 15 bytes
/// (`struct emulation_failure` in `kvm_run`). They are what the kernel had fetched, which can be more than the
/// instruction.
fn instruction(data: &[u64]) -> Option<String> {
    let (flags, rest) = data.split_first()?;
    if flags & u64::from(kvm::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0
        || rest.len() < 2
    {
        return None;
    }
    let bytes: Vec<u8> = rest
        .iter()
        .take(2)
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let (&length, bytes) = bytes.split_first()?;
    let known = &bytes[..usize::from(length).min(bytes.len())];
    let text: Vec<_> = known.iter().map(|byte| format!("{byte:02x}")).collect();
    (!text.is_empty()).then(|| text.join(" "))
}

#[cfg(test)]
mod tests;
