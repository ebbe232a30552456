//! What is done to images that no machine uses.

use std::io;

use super::create::{CreateOptions, create};
use super::header::BackingName;
use crate::ImageType;
use crate::mapped::impossible;
use crate::storage::Storage;
use crate::tools::NewImage;

/// Makes an image with clusters of the size that is asked for, or 64 KiB.
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
    let backing = match &new.backing {
        None => None,
        Some(backing) => {
            let format = match backing.image_type {
                ImageType::Raw => "raw",
                ImageType::Qcow2 => "qcow2",
                other => {
                    return Err(impossible(format!(
                        "raw and qcow2 can lie behind qcow2, not {}",
                        other.word()
                    )));
                }
            };
            Some(BackingName {
                name: backing.name.clone(),
                format: Some(format.to_owned()),
            })
        }
    };
    let options = CreateOptions {
        version: if new.version2 { 2 } else { 3 },
        extended_l2: new.extended_l2,
        backing,
        cluster_bits: cluster.trailing_zeros(),
        ..CreateOptions::new(new.size)
    };
    create(storage, &options)
}
