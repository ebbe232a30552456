//! Makes images.

use std::io;

use super::header::{BackingName, Header};
use super::narrow;
use crate::storage::Storage;

/// Bytes of a header of version 3, with the type of compression.
const HEADER_LENGTH: u32 = 112;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTERNAL_DATA: u32 = 0x4441_5441;
const EXTERNAL_DATA_BIT: u64 = 1 << 2;
const EXTENDED_L2_BIT: u64 = 1 << 4;
/// The data file is a raw image (autoclear).
const RAW_DATA_BIT: u64 = 1 << 1;

/// What an image is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateOptions {
    /// 2 or 3.
    pub(crate) version: u32,
    /// Of the disk, in bytes.
    pub(crate) size: u64,
    /// Clusters have 2 to the power of this bytes: 9 to 21.
    pub(crate) cluster_bits: u32,
    /// Refcounts have 2 to the power of this bits: 0 to 6, and 4 with version 2.
    pub(crate) refcount_order: u32,
    pub(crate) extended_l2: bool,
    pub(crate) external_data: Option<String>,
    pub(crate) backing: Option<BackingName>,
}

impl CreateOptions {
    /// An image as most are: version 3, clusters of 64 KiB, refcounts of 16 bits.
    pub(crate) fn new(size: u64) -> Self {
        Self {
            version: 3,
            size,
            cluster_bits: 16,
            refcount_order: 4,
            extended_l2: false,
            external_data: None,
            backing: None,
        }
    }
}

/// Where what is in an image at first.
struct Layout {
    l1_entries: u64,
    table: u64,
    blocks: u64,
    l1: u64,
}

impl Layout {
    fn new(options: &CreateOptions) -> Self {
        let cluster = 1_u64 << options.cluster_bits;
        let entry_bits = if options.extended_l2 { 4 } else { 3 };
        let span = 1_u64 << (2 * options.cluster_bits - entry_bits);
        let l1_entries = options.size.div_ceil(span).max(1);
        let l1 = (8 * l1_entries).div_ceil(cluster);
        let per_block = 1_u64 << (options.cluster_bits + 3 - options.refcount_order);
        let (mut table, mut blocks) = (1, 1);
        loop {
            let needed = (1 + table + blocks + l1).div_ceil(per_block);
            let long = (8 * needed).div_ceil(cluster);
            if (table, blocks) == (long, needed) {
                break;
            }
            (table, blocks) = (table.max(long), blocks.max(needed));
            if needed <= blocks && long <= table {
                break;
            }
        }
        Self {
            l1_entries,
            table,
            blocks,
            l1,
        }
    }

    fn clusters(&self) -> u64 {
        1 + self.table + self.blocks + self.l1
    }
}

/// Makes an image in an empty file. The header is last: before it is there the file is none.
///
/// # Errors
/// If there cannot be such an image, or the file cannot be written.
pub(crate) fn create(storage: &dyn Storage, options: &CreateOptions) -> io::Result<()> {
    check(options).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    let cluster = 1_u64 << options.cluster_bits;
    let layout = Layout::new(options);
    storage.set_length(0)?;
    storage.set_length(layout.clusters() * cluster)?;
    let table = cluster;
    let blocks = table + layout.table * cluster;
    let entries = (0..layout.blocks).flat_map(|number| (blocks + number * cluster).to_be_bytes());
    storage.write(table, &entries.collect::<Vec<u8>>())?;
    storage.write(blocks, &ones(layout.clusters(), options.refcount_order))?;
    storage.flush()?;
    let head = head(options, &layout, blocks + layout.blocks * cluster);
    Header::parse(&head, storage.length())
        .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    storage.write(0, &head)?;
    storage.flush()
}

fn check(options: &CreateOptions) -> Result<(), String> {
    if !(9..=21).contains(&options.cluster_bits) {
        return Err("clusters have 512 bytes to 2 MiB".into());
    }
    if options.refcount_order > 6 || (options.version == 2 && options.refcount_order != 4) {
        return Err("refcounts have 1 to 64 bits, and 16 in version 2".into());
    }
    if options.version == 2 && (options.extended_l2 || options.external_data.is_some()) {
        return Err("version 2 has neither extended L2 entries nor data files".into());
    }
    if options.size > i64::MAX as u64 {
        return Err(format!("{} bytes are too many", options.size));
    }
    Ok(())
}

/// The first refcounts, each of them 1.
fn ones(count: u64, order: u32) -> Vec<u8> {
    let bits = narrow(count << order);
    let mut bytes = vec![0; bits.div_ceil(8)];
    let width = 1_usize << order;
    for number in 0..narrow(count) {
        let first = number * width;
        match width {
            8.. => bytes[(first + width) / 8 - 1] = 1,
            _ => bytes[first / 8] |= 1 << (first % 8),
        }
    }
    bytes
}

fn head(options: &CreateOptions, layout: &Layout, l1: u64) -> Vec<u8> {
    let mut head = b"QFI\xfb".to_vec();
    head.extend(options.version.to_be_bytes());
    // The name of the backing file comes later.
    head.extend([0; 12]);
    head.extend(options.cluster_bits.to_be_bytes());
    head.extend(options.size.to_be_bytes());
    head.extend(0_u32.to_be_bytes());
    // Both are as long as tables that fit into a file.
    head.extend(
        u32::try_from(layout.l1_entries)
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    head.extend(l1.to_be_bytes());
    head.extend((1_u64 << options.cluster_bits).to_be_bytes());
    head.extend(
        u32::try_from(layout.table)
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    head.extend([0; 12]);
    if options.version >= 3 {
        let (mut features, mut autoclear) = (0, 0);
        if options.extended_l2 {
            features |= EXTENDED_L2_BIT;
        }
        if options.external_data.is_some() {
            features |= EXTERNAL_DATA_BIT;
            // What is not there in the data file is zeros, if nothing is behind it.
            autoclear = if options.backing.is_some() {
                0
            } else {
                RAW_DATA_BIT
            };
        }
        head.extend(u64::to_be_bytes(features));
        head.extend(0_u64.to_be_bytes());
        head.extend(u64::to_be_bytes(autoclear));
        head.extend(options.refcount_order.to_be_bytes());
        head.extend(HEADER_LENGTH.to_be_bytes());
        head.extend([0; 8]);
    }
    let mut extension = |kind: u32, data: &str| {
        head.extend(kind.to_be_bytes());
        head.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        head.extend(data.bytes());
        head.resize(head.len().next_multiple_of(8), 0);
    };
    if let Some(BackingName {
        format: Some(format),
        ..
    }) = &options.backing
    {
        extension(BACKING_FORMAT, format);
    }
    if let Some(name) = &options.external_data {
        extension(EXTERNAL_DATA, name);
    }
    head.extend([0; 8]);
    if let Some(BackingName { name, .. }) = &options.backing {
        let at = (head.len() as u64).to_be_bytes();
        head[8..16].copy_from_slice(&at);
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
        head[16..20].copy_from_slice(&length);
        head.extend(name.bytes());
    }
    head
}
