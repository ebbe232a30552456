//! Features and configuration fields of a disk (VIRTIO 1.3, 5.2.3 and 5.2.4).

use disk::{Disk, Topology};
use memory::MOST_VECTORS;

use crate::request::{MOST_SECTORS, MOST_SEGMENTS, SECTOR};

/// Features, as masks (VIRTIO 1.3, 5.2.3).
pub(crate) mod feature {
    /// `seg_max` is valid.
    pub(crate) const SEG_MAX: u64 = 1 << 2;
    /// The disk is read-only.
    pub(crate) const RO: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub(crate) const BLK_SIZE: u64 = 1 << 6;
    /// There are flush requests.
    pub(crate) const FLUSH: u64 = 1 << 9;
    /// `topology` is valid.
    pub(crate) const TOPOLOGY: u64 = 1 << 10;
    /// `writeback` is valid and can be written.
    pub(crate) const CONFIG_WCE: u64 = 1 << 11;
    /// `num_queues` is valid.
    pub(crate) const MQ: u64 = 1 << 12;
    /// There are discard requests.
    pub(crate) const DISCARD: u64 = 1 << 13;
    /// There are write zeroes requests.
    pub(crate) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Length of the fields, up to those of features that are offered.
pub(crate) const CONFIG_LEN: u32 = 60;
/// Offset of `writeback`, the one field that a driver can write.
pub(crate) const WRITEBACK: u32 = 32;

/// Descriptors of a request that are not data: header and status.
const FRAME: u16 = 2;

/// The device's own features.
pub(crate) fn features(disk: &dyn Disk, sparse: bool, queues: usize) -> u64 {
    use feature::*;
    let mut features = SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | CONFIG_WCE;
    if queues > 1 {
        features |= MQ;
    }
    if disk.is_read_only() {
        return features | RO;
    }
    if disk.can_write_zeroes() {
        features |= WRITE_ZEROES;
    }
    if sparse && disk.can_discard() {
        features |= DISCARD;
    }
    features
}

/// What the fields are made of.
pub(crate) struct Fields {
    /// Bytes.
    pub(crate) capacity: u64,
    pub(crate) topology: Topology,
    pub(crate) writeback: bool,
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
    /// Zeros may give space back.
    pub(crate) sparse: bool,
    pub(crate) features: u64,
}

impl Fields {
    /// The bytes that a driver sees. Fields of features that are not offered are 0.
    pub(crate) fn image(&self) -> [u8; CONFIG_LEN as usize] {
        let mut image = [0; CONFIG_LEN as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        let topology = &self.topology;
        let block = topology.logical_block.max(512);
        put(0, &(self.capacity / SECTOR).to_le_bytes());
        put(12, &seg_max(self.queue_size).to_le_bytes());
        put(20, &block.to_le_bytes());
        // Exponent of the number of logical blocks per physical one.
        let blocks = topology.physical_block / block;
        put(
            24,
            &[blocks
                .checked_ilog2()
                .and_then(|log| log.try_into().ok())
                .unwrap_or(0)],
        );
        // Both in logical blocks.
        let minimum = u16::try_from(topology.minimum_io / block).unwrap_or(u16::MAX);
        put(26, &minimum.to_le_bytes());
        put(28, &(topology.optimal_io / block).to_le_bytes());
        put(32, &[u8::from(self.writeback)]);
        put(34, &self.queues.to_le_bytes());
        if self.features & feature::DISCARD != 0 {
            put(36, &MOST_SECTORS.to_le_bytes());
            put(40, &MOST_SEGMENTS.to_le_bytes());
            // In sectors. What is smaller than a physical block gives no space back.
            let alignment = topology.physical_block.max(block) / 512;
            put(44, &alignment.to_le_bytes());
        }
        if self.features & feature::WRITE_ZEROES != 0 {
            put(48, &MOST_SECTORS.to_le_bytes());
            put(52, &MOST_SEGMENTS.to_le_bytes());
            put(56, &[u8::from(self.sparse)]);
        }
        image
    }
}

/// The most buffers of data in a request: no more than descriptors, nor than a system call takes.
fn seg_max(queue_size: u16) -> u32 {
    let most = u32::try_from(MOST_VECTORS).unwrap_or(u32::MAX);
    u32::from(queue_size - FRAME.min(queue_size)).min(most - u32::from(FRAME))
}
