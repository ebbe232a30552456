//! What of RAM was written since somebody looked last.
//!
//! RAM that lies over a sealed file goes on in private pages, which nobody else can be given. For others to go on from
//! it once more, what was written since is copied to another file, a [`Layer`] above the first one:
//!
//! ```text
//!  guest ──▶ private pages ──▶ sealed file          before
//!              └─ copied ──▶ layer (sealed) ◀── private pages ◀── child (and the sealed file below)
//! ```
//!
//! The guest's own pages stay what they are. The kernel protects them when it is asked what was written
//! (`PAGEMAP_SCAN`, Documentation/admin-guide/mm/pagemap.rst), so that the next answer has only what was written after:
//! most is copied while the guest runs, and only the rest while it stands still.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::layers::coarse;
use crate::mapping::{Watcher, merge};
use crate::ram::host_page_size;
use crate::shared_file::{self, SharedFile};
use crate::{Error, GuestRam, Layer};

/// Most parts of one layer: whoever maps it has as many mappings. Where what was written is in more places, a layer has
/// what is between some of them, too.
pub(crate) const MOST_DRAFT_PARTS: usize = 4096;

/// Tells what of RAM was written. There can be one for RAM.
#[derive(Debug)]
pub struct Watch {
    ram: GuestRam,
    watcher: Watcher,
    /// What was found and is in no layer yet, in bytes of the file of all RAM.
    found: Vec<Range<u64>>,
    /// Parts of layers that are to be replaced.
    replaced: Vec<Range<u64>>,
}

/// A layer that is being made.
#[derive(Debug)]
pub struct Draft {
    file: File,
    parts: Vec<Range<u64>>,
    /// What was found and is in this one.
    taken: Vec<Range<u64>>,
}

impl Watch {
    /// Begins to watch RAM that lies over a file. The first look finds all that differs from it, or was ever touched.
    ///
    /// # Errors
    /// [`Error::NoBase`] if it lies over none, [`Error::Changes`] where a process cannot see its page map (Landlock),
    /// [`Error::Watch`] on kernels before Linux 6.7.
    pub fn new(ram: &GuestRam) -> Result<Self, Error> {
        if ram
            .regions()
            .any(|region| region.mapping().base().is_none())
        {
            return Err(Error::NoBase);
        }
        Ok(Self {
            ram: ram.clone(),
            watcher: Watcher::new()?,
            found: Vec::new(),
            replaced: Vec::new(),
        })
    }

    /// Finds what was written since the last look. What is written at the same time is found now or by the next one.
    /// Transfers by the kernel that are under way may go unnoticed: only what is found when there are none is sure.
    ///
    /// # Errors
    /// [`Error::Watch`] if the kernel does not tell.
    pub fn look(&mut self) -> Result<(), Error> {
        for (region, range) in self.ram.regions().zip(self.ram.ranges()) {
            let mapping = region.mapping();
            let mut parts = self.watcher.written(mapping)?;
            parts.extend(mapping.take_given_back());
            let shift = range.offset;
            let parts = parts.into_iter();
            self.found
                .extend(parts.map(|part| part.start + shift..part.end + shift));
        }
        self.found = merge(std::mem::take(&mut self.found));
        Ok(())
    }

    /// Bytes that were found and not copied: pages that were only read may be among them.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        length(&self.found)
    }

    /// Everything that is private counts as found, and what lies in layers: for a layer that replaces them.
    ///
    /// # Errors
    /// As [`GuestRam::changed`].
    pub fn find_all(&mut self) -> Result<(), Error> {
        for (region, range) in self.ram.regions().zip(self.ram.ranges()) {
            let mapping = region.mapping();
            let shift = range.offset;
            let moved = |part: Range<u64>| part.start + shift..part.end + shift;
            self.found.extend(mapping.changed()?.into_iter().map(moved));
            self.replaced
                .extend(mapping.covered().into_iter().map(moved));
        }
        self.found = merge(std::mem::take(&mut self.found));
        self.replaced = merge(std::mem::take(&mut self.replaced));
        Ok(())
    }

    /// Begins a layer.
    ///
    /// # Errors
    /// [`Error::SharedFile`] if the host has no memory file for it.
    pub fn draft(&self) -> Result<Draft, Error> {
        let file = SharedFile::new(None, self.ram.size(), host_page_size())?;
        file.resize(self.ram.size())?;
        Ok(Draft {
            file: file.file,
            parts: Vec::new(),
            taken: Vec::new(),
        })
    }

    /// Copies what was found to the draft, over what it has of it; how many bytes.
    ///
    /// # Errors
    /// [`Error::Watch`] if the kernel does not tell what is private, [`Error::Contents`] if it has no memory.
    pub fn copy_to(&mut self, draft: &mut Draft) -> Result<u64, Error> {
        let mut fresh = Vec::new();
        for (region, range) in self.ram.regions().zip(self.ram.ranges()) {
            let (mapping, shift) = (region.mapping(), range.offset);
            let inside: Vec<_> = clip(&self.found, &(shift..shift + range.size)).collect();
            let kept = self.watcher.private(mapping, &inside)?.into_iter();
            let given_back = meet(&inside, &mapping.given_back());
            let kept = kept.chain(given_back);
            fresh.extend(kept.map(|part| part.start + shift..part.end + shift));
        }
        fresh.append(&mut self.replaced);
        let fresh = merge(fresh);
        let parts = coarse(
            merge(draft.parts.iter().chain(&fresh).cloned().collect()),
            MOST_DRAFT_PARTS,
        );
        // What is new, and what is between parts that have become one.
        let mut copied = without(&parts, &draft.parts);
        copied.extend(fresh);
        let copied = merge(copied);
        let bytes = self.ram.write_layer(&draft.file, &copied)?.data;
        draft.parts = parts;
        draft.taken = merge(draft.taken.iter().chain(&self.found).cloned().collect());
        self.found.clear();
        Ok(bytes)
    }

    /// The layer, which nobody can change any more.
    ///
    /// # Errors
    /// [`Error::Freeze`] if the kernel does not seal it.
    pub fn finish(&mut self, draft: Draft) -> Result<Layer, Error> {
        if let Err(source) = shared_file::seal(&draft.file) {
            self.take_back(draft);
            return Err(Error::Freeze { source });
        }
        Ok(Layer {
            file: Arc::new(draft.file),
            parts: draft.parts,
        })
    }

    /// What was copied to a draft that comes to nothing is for the next one.
    pub fn take_back(&mut self, draft: Draft) {
        self.found.extend(draft.taken);
        self.found = merge(std::mem::take(&mut self.found));
    }
}

impl Draft {
    /// Number of parts.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts.len()
    }
}

fn length(parts: &[Range<u64>]) -> u64 {
    parts.iter().map(|part| part.end - part.start).sum()
}

/// What of the parts is in a range, in bytes from the range's start.
fn clip<'a>(
    parts: &'a [Range<u64>],
    range: &'a Range<u64>,
) -> impl Iterator<Item = Range<u64>> + 'a {
    parts.iter().filter_map(|part| {
        let (start, end) = (part.start.max(range.start), part.end.min(range.end));
        (start < end).then(|| start - range.start..end - range.start)
    })
}

/// What is in both. Both ascend.
fn meet(some: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut some, mut others) = (some.iter().peekable(), others.iter().peekable());
    let mut both = Vec::new();
    while let (Some(one), Some(other)) = (some.peek(), others.peek()) {
        let (start, end) = (one.start.max(other.start), one.end.min(other.end));
        if start < end {
            both.push(start..end);
        }
        if one.end < other.end {
            some.next();
        } else {
            others.next();
        }
    }
    both
}

/// What is in the first and not in the second. Both ascend.
fn without(parts: &[Range<u64>], those: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    let mut those = those.iter().peekable();
    for part in parts {
        let mut start = part.start;
        while let Some(other) = those.peek().filter(|other| other.start < part.end) {
            if other.start > start {
                rest.push(start..other.start);
            }
            start = start.max(other.end);
            if other.end > part.end {
                break;
            }
            those.next();
        }
        if start < part.end {
            rest.push(start..part.end);
        }
    }
    rest
}

#[cfg(test)]
mod tests;
