//! Memory for what `O_DIRECT` does not take as it comes.

use std::fmt;

/// Bytes of a buffer.
pub(crate) const SIZE: usize = 128 << 10;
/// The most buffers that a lane has.
const MOST: usize = 8;
/// No alignment that a file asks for is larger.
const ALIGNMENT: usize = 64 << 10;

/// `SIZE` bytes, aligned.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    first: usize,
}

impl Buffer {
    fn new(alignment: usize) -> Self {
        let bytes = vec![0; SIZE + alignment];
        let first = bytes.as_ptr().align_offset(alignment).min(alignment);
        Self { bytes, first }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.first..self.first + SIZE]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffer")
    }
}

/// A lane's buffers, made when they are first needed.
#[derive(Debug)]
pub(crate) struct Buffers {
    alignment: usize,
    made: usize,
    free: Vec<Buffer>,
}

impl Buffers {
    pub(crate) fn new(alignment: u32) -> Self {
        let alignment = (alignment as usize).clamp(1, ALIGNMENT);
        Self {
            alignment,
            made: 0,
            free: Vec::new(),
        }
    }

    /// One that nobody uses; none if all are in use.
    pub(crate) fn take(&mut self) -> Option<Buffer> {
        self.free.pop().or_else(|| {
            (self.made < MOST).then(|| {
                self.made += 1;
                Buffer::new(self.alignment)
            })
        })
    }

    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_limited() {
        for alignment in [1, 512, 4096, 1 << 16] {
            let mut buffers = Buffers::new(alignment);
            let mut taken: Vec<_> = std::iter::from_fn(|| buffers.take()).collect();
            assert_eq!(taken.len(), MOST);
            for buffer in &mut taken {
                let bytes = buffer.bytes();
                assert_eq!(
                    (bytes.len(), bytes.as_ptr().addr() % alignment as usize),
                    (SIZE, 0)
                );
            }
            buffers.give_back(taken.remove(0));
            assert!(buffers.take().is_some() && buffers.take().is_none());
        }
    }
}
