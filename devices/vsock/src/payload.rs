//! Where the data of a packet is.

use memory::IoVectors;
use virtio::Buffer;

use crate::packet::HEADER_LEN;

/// No further packet is added to so many parts of memory. One has at most a queue full of parts, and the kernel takes
/// [`memory::MOST_VECTORS`].
pub(crate) const MANY_VECTORS: usize = 256;

/// Adds the `len` bytes after the header.
///
/// # Errors
/// If they are not RAM.
pub(crate) fn add(
    buffers: &[Buffer],
    len: u32,
    vectors: &mut IoVectors,
) -> Result<(), memory::Error> {
    let (mut header, mut left) = (HEADER_LEN, len);
    for buffer in buffers {
        let before = header.min(buffer.len);
        header -= before;
        let count = (buffer.len - before).min(left);
        if count > 0 {
            vectors.push(buffer.address + u64::from(before), count)?;
            left -= count;
        }
    }
    Ok(())
}
