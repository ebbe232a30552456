//! What is done to images that no machine uses.

use std::io;
use std::sync::Arc;

use super::check::check;
use super::create::{CreateOptions, create};
use super::header::{Header, LONGEST_HEAD};
use crate::mapped::impossible;
use crate::storage::Storage;
use crate::tools::{Findings, NewImage};

/// Looks at every table of an image.
///
/// # Errors
/// Why it cannot be looked at, in words.
pub(crate) fn findings(storage: &Arc<dyn Storage>, repair: bool) -> Result<Findings, String> {
    if repair {
        return Err(
            "nothing of it is put right here yet: qemu-img check -r, or a conversion, does".into(),
        );
    }
    let length = usize::try_from(storage.length()).unwrap_or(LONGEST_HEAD);
    let mut head = vec![0; length.min(LONGEST_HEAD)];
    let count = storage
        .read(0, &mut head)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    head.truncate(count);
    let header = Header::parse(&head, storage.length())?;
    let report = check(&header, storage).map_err(|error| error.to_string())?;
    let cluster = header.cluster();
    Ok(Findings {
        errors: report.errors,
        repairs: 0,
        leaks: report.leaks.saturating_mul(cluster),
        used: report.data.saturating_mul(cluster),
        notes: report.words,
    })
}

/// Makes an image of version 3 with clusters of the size that is asked for, or 64 KiB.
///
/// # Errors
/// If there cannot be such an image, or it cannot be written.
pub(crate) fn make(storage: &dyn Storage, new: &NewImage) -> io::Result<()> {
    let cluster = new.block.unwrap_or(64 << 10);
    if !cluster.is_power_of_two() {
        return Err(impossible(format!(
            "clusters have a power of two of bytes, not {cluster}"
        )));
    }
    if new.size == 0 || !new.size.is_multiple_of(512) {
        return Err(impossible(format!(
            "{} bytes are not a number of sectors of 512 bytes",
            new.size
        )));
    }
    let options = CreateOptions {
        version: 3,
        size: new.size,
        cluster_bits: cluster.trailing_zeros(),
        refcount_order: 4,
        extended_l2: false,
        external_data: None,
        backing: None,
    };
    create(storage, &options)
}
