//! RAM's contents in files, read a block at a time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::contents::{check_size, share, write_block};
use crate::layers::pieces;
use crate::mapping::data;
use crate::{Error, Layer, Written};

/// What is read at a time, in bytes: more than a page, because whoever touches one soon touches those beside it.
pub(crate) const BLOCK: u64 = 64 << 10;

/// A file of RAM's contents, or of a layer, and what is said of it when it cannot be read.
#[derive(Clone, Debug)]
pub struct SavedFile {
    /// As long as RAM.
    pub file: Arc<File>,
    /// Its name, for errors.
    pub path: PathBuf,
    /// [`Written::sums`](crate::Written::sums) of it, ascending: blocks that are not among them are empty, whatever is in
    /// the file. Without them nothing is checked.
    pub sums: Option<Arc<[(u32, u32)]>>,
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
        match blocks.base.sums.clone() {
            Some(sums) => {
                for (block, _) in sums.iter() {
                    let start = u64::from(*block) * BLOCK;
                    blocks.fill(&(start..start + BLOCK));
                }
            }
            None => {
                for part in &blocks.base.parts(size)? {
                    blocks.fill(part);
                }
            }
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

    /// Blocks that may have other bytes than zeros, in order.
    pub(crate) fn filled(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.count()).filter(|block| self.is_filled(*block))
    }

    /// Reads a block that is filled into a buffer, which is as long as it then.
    ///
    /// # Errors
    /// [`Error::SavedBlock`] if a file cannot be read there, [`Error::SavedSum`] if it is damaged there.
    pub(crate) fn read(&self, block: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let range = self.range(block);
        self.base.read(&range, buffer)?;
        let first = self
            .pieces
            .partition_point(|(piece, _)| piece.end <= range.start);
        let pieces = self.pieces[first..].iter();
        // The block of a layer, of which more pieces may be wanted.
        let (mut above, mut from) = (Vec::new(), None);
        for (piece, layer) in pieces.take_while(|(piece, _)| piece.start < range.end) {
            let Some(saved) = self.layers.get(*layer) else {
                continue;
            };
            if from != Some(*layer) {
                saved.read(&range, &mut above)?;
                from = Some(*layer);
            }
            let (start, end) = (piece.start.max(range.start), piece.end.min(range.end));
            let inside = |at: u64| usize::try_from(at - range.start).unwrap_or(0);
            let part = inside(start)..inside(end);
            if let (Some(target), Some(bytes)) = (buffer.get_mut(part.clone()), above.get(part)) {
                target.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Reads all of all files and compares it with their checksums. Files without are only read. What the files have
    /// where nothing should be is damage, too.
    ///
    /// # Errors
    /// [`Error::SavedBlock`] or [`Error::SavedSum`] for the first place that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        for saved in self.layers.iter().chain([&self.base]) {
            let mut wanted = vec![false; usize::try_from(self.count()).unwrap_or(0)];
            let mut want = |block: u64| {
                if let Some(flag) = usize::try_from(block)
                    .ok()
                    .and_then(|at| wanted.get_mut(at))
                {
                    *flag = true;
                }
            };
            for part in saved.parts(self.size)? {
                (part.start / BLOCK..part.end.div_ceil(BLOCK)).for_each(&mut want);
            }
            for (block, _) in saved.sums.iter().flat_map(|sums| sums.iter()) {
                want(u64::from(*block));
            }
            let one = |at: usize, buffer: &mut Vec<u8>, _: &mut ()| {
                if !wanted[at] {
                    return Ok(());
                }
                let range = self.range(at as u64);
                saved.read(&range, buffer)?;
                if saved.sums.is_some() && saved.sum(&range).is_none() {
                    saved.read_from(&range, buffer)?;
                    if buffer.iter().any(|byte| *byte != 0) {
                        return Err(saved.damaged(&range));
                    }
                }
                Ok(())
            };
            share(wanted.len(), one)?;
        }
        Ok(())
    }

    /// Writes all of RAM to an empty file, which has the size of RAM afterwards: what lies above each other is one then.
    ///
    /// # Errors
    /// [`Error::SavedBlock`], [`Error::SavedSum`]; [`Error::Contents`] if the file cannot be written.
    pub fn write_to(&self, file: &File) -> Result<Written, Error> {
        let failed = |source| Error::Contents {
            act: "write",
            source,
        };
        file.set_len(self.size).map_err(failed)?;
        let filled: Vec<u64> = self.filled().collect();
        let one = |at: usize, buffer: &mut Vec<u8>, done: &mut (u64, Vec<(u32, u32)>)| {
            self.read(filled[at], buffer)?;
            let written = write_block(file, 0, filled[at], buffer, Some(&mut done.1));
            done.0 += written.map_err(failed)?;
            Ok(())
        };
        let mut written = Written {
            size: self.size,
            ..Written::default()
        };
        for (data, sums) in share(filled.len(), one)? {
            written.data += data;
            written.sums.extend(sums);
        }
        written.sums.sort_unstable();
        Ok(written)
    }
}

impl SavedFile {
    /// Where it is no hole.
    fn parts(&self, size: u64) -> Result<Vec<Range<u64>>, Error> {
        data(&self.file, 0, size).map_err(|source| Error::Contents {
            act: "look through",
            source,
        })
    }

    /// The checksum of a block.
    fn sum(&self, range: &Range<u64>) -> Option<u32> {
        let sums = self.sums.as_ref()?;
        let number = u32::try_from(range.start / BLOCK).ok()?;
        let at = sums
            .binary_search_by_key(&number, |(block, _)| *block)
            .ok()?;
        sums.get(at).map(|(_, sum)| *sum)
    }

    fn damaged(&self, range: &Range<u64>) -> Error {
        Error::SavedSum {
            path: self.path.clone(),
            start: range.start,
            end: range.end,
        }
    }

    /// Reads a block, and checks it.
    fn read(&self, range: &Range<u64>, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let sum = self.sum(range);
        if self.sums.is_some() && sum.is_none() {
            buffer.clear();
            buffer.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
            return Ok(());
        }
        self.read_from(range, buffer)?;
        if sum.is_some_and(|sum| crc32fast::hash(buffer) != sum) {
            return Err(self.damaged(range));
        }
        Ok(())
    }

    fn read_from(&self, range: &Range<u64>, buffer: &mut Vec<u8>) -> Result<(), Error> {
        buffer.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
        let read = self.file.read_exact_at(buffer, range.start);
        read.map_err(|error| Error::SavedBlock {
            path: self.path.clone(),
            start: range.start,
            end: range.end,
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
                sums: None,
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
