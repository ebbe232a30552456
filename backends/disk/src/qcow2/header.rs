//! The header of an image (QCOW2 specification, "Header").

use super::extensions::{Extensions, text};
use super::unpack::Compression;

/// The longest header and what follows it in the first cluster: the largest cluster.
pub(crate) const LONGEST_HEAD: usize = 1 << 21;
/// Bytes of a header that every version has.
const SHORTEST_HEAD: usize = 72;
/// The longest name of a backing file.
const LONGEST_NAME: u32 = 1023;

/// Bits that a reader has to know (`incompatible_features`).
pub(crate) const DIRTY: u64 = 1 << 0;
pub(crate) const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

/// A file that lies behind an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackingName {
    pub(crate) name: String,
    /// `raw`, `qcow2` or what else the image says; none if it does not.
    pub(crate) format: Option<String>,
}

/// What a reader needs of the header; all of it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// The size of a cluster is 2 to the power of this: 9 to 21.
    pub(crate) cluster_bits: u32,
    /// Of the disk, in bytes.
    pub(crate) size: u64,
    pub(crate) l1_offset: u64,
    pub(crate) l1_entries: u64,
    /// Entries of L2 tables have 16 bytes, and clusters 32 parts.
    pub(crate) extended_l2: bool,
    /// What compressed clusters are compressed with.
    pub(crate) compression: Compression,
    /// The guest's data is in this file, not in the image.
    pub(crate) external_data: Option<String>,
    pub(crate) backing: Option<BackingName>,
    pub(crate) counts: CountsHeader,
}

/// What only a writer needs of the header. Not checked: a reader takes images whose refcounts are wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CountsHeader {
    pub(crate) incompatible: u64,
    pub(crate) autoclear: u64,
    /// A refcount has 2 to the power of this bits: 0 to 6.
    pub(crate) order: u32,
    pub(crate) table_offset: u64,
    pub(crate) table_clusters: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl Header {
    /// Reads the header from the first bytes of an image, at most [`LONGEST_HEAD`], whose file has `length` bytes.
    ///
    /// # Errors
    /// What is wrong with it, or asks for more than there is here, in words.
    pub(crate) fn parse(head: &[u8], length: u64) -> Result<Self, String> {
        if !head.starts_with(b"QFI\xfb") || head.len() < SHORTEST_HEAD {
            return Err("it does not begin with a header of QCOW2".into());
        }
        let field = |at| be32(head, at).ok_or("its header is cut off");
        let wide = |at| be64(head, at).ok_or("its header is cut off");
        let (version, incompatible, header_length, cluster_bits) = layout(head)?;
        let first_cluster = &head[..head.len().min(1 << cluster_bits)];
        let (name_offset, name_length) = (wide(8)?, field(16)?);
        let end = if name_offset == 0 {
            u64::MAX
        } else {
            name_offset
        };
        let extensions = Extensions::parse(first_cluster, header_length as usize, end)?;
        check_features(incompatible, &extensions)?;
        if field(32)? != 0 {
            return Err("it is encrypted, which cannot be read".into());
        }
        let compression = compression(first_cluster, version, header_length, incompatible)?;
        let header = Self {
            version,
            cluster_bits,
            size: wide(24)?,
            l1_offset: wide(40)?,
            l1_entries: field(36)?.into(),
            extended_l2: incompatible & EXTENDED_L2 != 0,
            compression,
            external_data: match incompatible & EXTERNAL_DATA != 0 {
                false => None,
                true => Some(
                    extensions
                        .external_data
                        .ok_or("its data is in another file, whose name it does not say")?,
                ),
            },
            backing: match name_offset {
                0 => None,
                at => Some(BackingName {
                    name: backing_name(first_cluster, at, name_length)?,
                    format: extensions.backing_format,
                }),
            },
            counts: CountsHeader {
                incompatible,
                autoclear: if version == 2 { 0 } else { wide(88)? },
                order: if version == 2 { 4 } else { field(96)? },
                table_offset: wide(48)?,
                table_clusters: field(56)?,
                snapshots: field(60)?,
                snapshots_offset: wide(64)?,
            },
        };
        header.check_tables(length)?;
        Ok(header)
    }

    /// Number of bytes of a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// 2 to the power of this are the entries of an L2 table.
    pub(crate) fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.extended_l2 { 4 } else { 3 }
    }

    /// Bytes of the disk that an L2 table is for.
    pub(crate) fn span(&self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits())
    }

    /// Number of bytes of an entry of an L2 table.
    pub(crate) fn entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Where in its L2 table the entry for this byte of the disk is.
    pub(crate) fn entry_offset(&self, offset: u64) -> u64 {
        let number = (offset >> self.cluster_bits) & ((1 << self.l2_bits()) - 1);
        number * self.entry_size()
    }

    /// Parts of a cluster that are allocated each by itself.
    pub(crate) fn parts(&self) -> u32 {
        if self.extended_l2 { 32 } else { 1 }
    }

    /// Number of bytes of a part of a cluster.
    pub(crate) fn part(&self) -> u64 {
        self.cluster() / u64::from(self.parts())
    }

    /// Whether an entry can say that bytes are zeros.
    pub(crate) fn has_zero_flag(&self) -> bool {
        self.version >= 3
    }

    fn check_tables(&self, length: u64) -> Result<(), String> {
        if self.extended_l2 && self.cluster_bits < 14 {
            return Err("its clusters are too small to have 32 parts".into());
        }
        if i64::try_from(self.size).is_err() {
            return Err(format!("its size of {} bytes is too large", self.size));
        }
        if self.size.div_ceil(self.span()) > self.l1_entries {
            return Err(format!(
                "its L1 table of {} entries is too short for {} bytes",
                self.l1_entries, self.size
            ));
        }
        let table_end = self.l1_offset.checked_add(8 * self.l1_entries);
        if self.l1_entries != 0
            && (!self.l1_offset.is_multiple_of(self.cluster())
                || table_end.is_none_or(|end| end > length))
        {
            return Err(format!(
                "its L1 table at {:#x} is not within the file, or not at the begin of a cluster",
                self.l1_offset
            ));
        }
        Ok(())
    }
}

/// The version, the features that a reader has to know, the length of the header, and the size of clusters as a power
/// of two: what says how to read the rest.
fn layout(head: &[u8]) -> Result<(u32, u64, u32, u32), String> {
    let field = |at| be32(head, at).ok_or("its header is cut off");
    let wide = |at| be64(head, at).ok_or("its header is cut off");
    let version = field(4)?;
    let (incompatible, header_length) = match version {
        2 => (0, 72),
        3 => (wide(72)?, field(100)?),
        _ => return Err(format!("its version {version} is neither 2 nor 3")),
    };
    let cluster_bits = field(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(format!(
            "its clusters have 2^{cluster_bits} bytes, not 2^9 to 2^21"
        ));
    }
    let cluster = 1_u64 << cluster_bits;
    let least = if version == 2 { 72 } else { 104 };
    if header_length < least
        || !header_length.is_multiple_of(8)
        || u64::from(header_length) > cluster
    {
        return Err(format!("its header has {header_length} bytes"));
    }
    Ok((version, incompatible, header_length, cluster_bits))
}

/// Refuses what is not known, by the name that the image has for it.
fn check_features(incompatible: u64, extensions: &Extensions) -> Result<(), String> {
    let unknown = incompatible & !KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let names: Vec<String> = (0..64_u8)
        .filter(|bit| unknown & (1 << bit) != 0)
        .map(|bit| match extensions.feature_names.get(&bit) {
            Some(name) => format!("{name:?} (bit {bit})"),
            None => format!("bit {bit}"),
        })
        .collect();
    Err(format!(
        "it has features that are not known here: {}",
        names.join(", ")
    ))
}

/// What clusters are compressed with. Refuses what is not known.
fn compression(
    head: &[u8],
    version: u32,
    header_length: u32,
    incompatible: u64,
) -> Result<Compression, String> {
    // The field is there only in headers that are long enough, and is 0 in others.
    let compression = match version == 3 && header_length > 104 {
        true => *head.get(104).ok_or("its header is cut off")?,
        false => 0,
    };
    if (compression != 0) != (incompatible & COMPRESSION_TYPE != 0) {
        return Err("its compression type and the feature bit of it contradict each other".into());
    }
    match compression {
        0 => Ok(Compression::Deflate),
        1 => Ok(Compression::Zstd),
        other => Err(format!("its compression type {other} is not known")),
    }
}

fn backing_name(head: &[u8], at: u64, length: u32) -> Result<String, String> {
    let wrong = "the name of its backing file is not within its first cluster, or is too long";
    if length == 0 || length > LONGEST_NAME {
        return Err(wrong.into());
    }
    let bytes = usize::try_from(at).ok().and_then(|at| {
        let end = at.checked_add(length as usize)?;
        head.get(at..end)
    });
    text(bytes.ok_or(wrong)?).ok_or_else(|| "the name of its backing file is not text".into())
}
