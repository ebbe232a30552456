//! What may follow the header (QCOW2 specification, "Header extensions").

use std::collections::BTreeMap;

use super::header::be32;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const EXTERNAL_DATA: u32 = 0x4441_5441;
/// Bytes of an entry of the table of feature names: type, bit, name.
const FEATURE_NAME: usize = 48;
const INCOMPATIBLE: u8 = 0;

/// The extensions that change what a reader does. Others are passed over, as the specification asks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    pub(crate) backing_format: Option<String>,
    pub(crate) external_data: Option<String>,
    /// By bit, of incompatible features.
    pub(crate) feature_names: BTreeMap<u8, String>,
}

/// Text that can be part of a path or a message.
pub(crate) fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

impl Extensions {
    /// Reads what is between `first` and `end` in the first cluster of an image.
    ///
    /// # Errors
    /// If one of them is not within that, or is not text where it has to be.
    pub(crate) fn parse(head: &[u8], first: usize, end: u64) -> Result<Self, String> {
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(head.len());
        let head = &head[..end];
        let mut found = Self::default();
        let mut at = first;
        while let (Some(kind), Some(length)) = (be32(head, at), be32(head, at + 4)) {
            if kind == END {
                break;
            }
            let start = at + 8;
            let data = start
                .checked_add(length as usize)
                .and_then(|end| head.get(start..end))
                .ok_or_else(|| format!("its header extension {kind:#x} is cut off"))?;
            let word = || text(data).ok_or(format!("its header extension {kind:#x} is not text"));
            match kind {
                BACKING_FORMAT => found.backing_format = Some(word()?),
                EXTERNAL_DATA => found.external_data = Some(word()?),
                FEATURE_NAMES => found.take_names(data),
                _ => {}
            }
            at = start + data.len().next_multiple_of(8);
        }
        Ok(found)
    }

    fn take_names(&mut self, table: &[u8]) {
        for entry in table.chunks_exact(FEATURE_NAME) {
            let [INCOMPATIBLE, bit, name @ ..] = entry else {
                continue;
            };
            let name = name.split(|byte| *byte == 0).next().and_then(text);
            if let Some(name) = name {
                self.feature_names.insert(*bit, name);
            }
        }
    }
}
