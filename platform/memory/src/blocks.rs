//! RAM's contents in files, read a block at a time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::contents::check_size;
use crate::layers::pieces;
use crate::mapping::data;
use crate::{Error, Layer};

/// What is read at a time, in bytes: more than a page, because whoever touches one soon touches those beside it.
pub(crate) const BLOCK: u64 = 64 << 10;

/// A file of RAM's contents, or of a layer, and what is said of it when it cannot be read.
#[derive(Clone, Debug)]
pub struct SavedFile {
    /// As long as RAM.
    pub file: Arc<File>,
    /// Its name, for errors.
    pub path: PathBuf,
}

/// All of RAM in a file and layers above it, the lowest first.
#[derive(Debug)]
pub struct Blocks {
    size: u64,
    base: SavedFile,
    layers: Vec<SavedFile>,
    /// What comes from which layer, and not from the base.
    pieces: Vec<(Range<u64>, usize)>,
    /// A bit for each block that is not empty.
    filled: Vec<u64>,
}

impl Blocks {
    /// Looks at which blocks there is something in. `size` is that of RAM; `parts` belong to the layers, one list each.
    ///
    /// # Errors
    /// [`Error::ContentsSize`], [`Error::LayerPart`] or [`Error::Pieces`] if these are no contents of RAM,
    /// [`Error::Contents`] if the kernel does not tell where the file has something.
    pub fn new(
        size: u64,
        base: SavedFile,
        layers: Vec<(SavedFile, Vec<Range<u64>>)>,
    ) -> Result<Self, Error> {
        check_size(&base.file, size)?;
        let (layers, lists): (Vec<SavedFile>, Vec<Layer>) = layers
            .into_iter()
            .map(|(saved, parts)| {
                let file = Arc::clone(&saved.file);
                (saved, Layer { file, parts })
            })
            .unzip();
        let pieces = pieces(size, &lists)?;
        let count = usize::try_from(size.div_ceil(BLOCK).div_ceil(64));
        let filled = vec![0; count.map_err(|_| Error::Pieces { most: usize::MAX })?];
        let mut blocks = Self {
            size,
            base,
            layers,
            pieces,
            filled,
        };
        let parts = data(&blocks.base.file, 0, size).map_err(|source| Error::Contents {
            act: "look through",
            source,
        })?;
        for part in &parts {
            blocks.fill(part);
        }
        for (piece, _) in blocks.pieces.clone() {
            blocks.fill(&piece);
        }
        Ok(blocks)
    }

    fn fill(&mut self, part: &Range<u64>) {
        for block in part.start / BLOCK..part.end.div_ceil(BLOCK) {
            let word = usize::try_from(block / 64).ok();
            if let Some(word) = word.and_then(|at| self.filled.get_mut(at)) {
                *word |= 1 << (block % 64);
            }
        }
    }

    /// Sum of all regions' sizes, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// How many blocks there are; the last one may be shorter.
    pub(crate) fn count(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// Its place in the file.
    pub(crate) fn range(&self, block: u64) -> Range<u64> {
        let start = block * BLOCK;
        start..(start + BLOCK).min(self.size)
    }

    /// It may have other bytes than zeros.
    pub(crate) fn is_filled(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64).ok();
        let word = word.and_then(|at| self.filled.get(at));
        word.is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// Reads a block that is filled into a buffer, which is as long as it then.
    ///
    /// # Errors
    /// [`Error::SavedBlock`] if a file cannot be read there.
    pub(crate) fn read(&self, block: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let range = self.range(block);
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        buffer.clear();
        buffer.resize(length, 0);
        self.base.read(range.start, buffer)?;
        let first = self
            .pieces
            .partition_point(|(piece, _)| piece.end <= range.start);
        let pieces = self.pieces[first..].iter();
        for (piece, layer) in pieces.take_while(|(piece, _)| piece.start < range.end) {
            let (start, end) = (piece.start.max(range.start), piece.end.min(range.end));
            let inside = |at: u64| usize::try_from(at - range.start).unwrap_or(length);
            if let (Some(saved), Some(part)) = (
                self.layers.get(*layer),
                buffer.get_mut(inside(start)..inside(end)),
            ) {
                saved.read(start, part)?;
            }
        }
        Ok(())
    }
}

impl SavedFile {
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_exact_at(buffer, at);
        read.map_err(|error| Error::SavedBlock {
            path: self.path.clone(),
            start: at,
            end: at + buffer.len() as u64,
            source: match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the file is shorter"),
                _ => error,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;

    #[test]
    fn a_block_is_what_lies_above_each_other() {
        let file = |fill: u8, at: u64, count: usize| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(5 * BLOCK / 2).unwrap();
            file.write_all_at(&vec![fill; count], at).unwrap();
            SavedFile {
                file: Arc::new(file),
                path: format!("/{fill}").into(),
            }
        };
        let base = file(1, 0, 4096);
        let layers = vec![
            // Zeros of a layer hide what is below.
            (file(2, 8192, 4096), once(0..12288).collect()),
            (
                file(3, 2 * BLOCK, 4096),
                once(2 * BLOCK..2 * BLOCK + 4096).collect(),
            ),
        ];
        let blocks = Blocks::new(5 * BLOCK / 2, base.clone(), layers).unwrap();
        let filled = [0, 1, 2].map(|block| blocks.is_filled(block));
        assert_eq!((blocks.count(), filled), (3, [true, false, true]));
        let mut bytes = Vec::new();
        blocks.read(0, &mut bytes).unwrap();
        let page = |bytes: &[u8], at: usize| (bytes[at * 4096], bytes[at * 4096 + 4095]);
        assert_eq!(
            [0, 1, 2, 3].map(|at| page(&bytes, at)),
            [(0, 0), (0, 0), (2, 2), (0, 0)]
        );
        blocks.read(2, &mut bytes).unwrap();
        assert_eq!(
            (bytes.len() as u64, page(&bytes, 0), page(&bytes, 1)),
            (BLOCK / 2, (3, 3), (0, 0))
        );
        base.file.set_len(0).unwrap();
        let error = blocks.read(0, &mut bytes).unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("/1") && text.contains("shorter"), "{text}");
    }
}
