//! Compressed clusters (QCOW2 specification, "Compressed Clusters Descriptor").
//!
//! What is compressed was perhaps made to do harm. A stream is followed until the cluster is full, and no further, so
//! that memory does not follow from what the stream says: a few clusters, and the window of zstd, which is limited.

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest window of a zstd frame that is decompressed. `zstd` itself uses at most this for levels up to 19, and
/// 8 MiB are what RFC 8878 (3.1.1.1.2) asks every decoder for.
const WINDOW: u64 = 8 << 20;

/// How the clusters of an image are compressed ("compression_type").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// RFC 1951, without a header.
    Deflate,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Gives the one cluster of `cluster` bytes that `packed` begins with, or at least its first `needed` bytes if that is
    /// less work. Behind it may be anything: the number of bytes is known in sectors only.
    ///
    /// # Errors
    /// Why that cannot be done, in words.
    pub(crate) fn unpack(
        self,
        packed: &[u8],
        cluster: usize,
        needed: usize,
    ) -> Result<Vec<u8>, String> {
        match self {
            Self::Deflate => inflate(packed, needed.min(cluster)),
            Self::Zstd => unzstd(packed, cluster),
        }
    }
}

/// The first bytes of a stream.
fn inflate(packed: &[u8], count: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; count];
    let mut stream = Decompress::new(false);
    let result = stream.decompress(packed, &mut bytes, FlushDecompress::None);
    result.map_err(|error| error.to_string())?;
    if stream.total_out() != count as u64 {
        return Err("it is too short".into());
    }
    Ok(bytes)
}

/// One frame, or some behind each other.
fn unzstd(mut packed: &[u8], cluster: usize) -> Result<Vec<u8>, String> {
    let words = |error: ruzstd::decoding::errors::FrameDecoderError| error.to_string();
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW);
    let mut bytes = Vec::with_capacity(cluster);
    while bytes.len() < cluster {
        decoder.init(&mut packed).map_err(words)?;
        // One more than fit: the frame has to end there.
        let most = BlockDecodingStrategy::UptoBytes(cluster - bytes.len() + 1);
        let is_finished = decoder.decode_blocks(&mut packed, most).map_err(words)?;
        let part = decoder.collect().unwrap_or_default();
        if !is_finished || part.len() > cluster - bytes.len() {
            return Err("it is too long".into());
        }
        bytes.extend(part);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame without size and with a window of `1 << (10 + log)` bytes (RFC 8878, 3.1.1.1).
    fn frame(log: u8, blocks: &[(u8, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, log << 3];
        for (number, (kind, size, content)) in blocks.iter().enumerate() {
            let last = u32::from(number + 1 == blocks.len());
            let header = last | u32::from(*kind) << 1 | size << 3;
            bytes.extend(&header.to_le_bytes()[..3]);
            bytes.extend(*content);
        }
        bytes
    }

    #[test]
    fn frames_of_zstd_fill_a_cluster_and_no_more() {
        // Raw bytes and a byte that is repeated, in one frame and in two; what follows is not looked at.
        let one = frame(7, &[(0, 3, b"abc"), (1, 509, b"x")]);
        let two = [frame(0, &[(0, 3, b"abc")]), frame(0, &[(1, 509, b"x")])].concat();
        for packed in [one, two] {
            let packed = [&packed[..], b"anything"].concat();
            let bytes = Compression::Zstd.unpack(&packed, 512, 1).unwrap();
            assert!(bytes.starts_with(b"abcxx") && bytes.len() == 512 && bytes[511] == b'x');
            let shorter = Compression::Zstd.unpack(&packed[..12], 512, 1);
            assert!(shorter.is_err(), "{shorter:?}");
        }
    }

    #[test]
    fn a_stream_of_deflate_is_followed_as_far_as_it_is_needed() {
        let bytes: Vec<u8> = (0_u32..4096).map(|at| (at / 7).to_le_bytes()[0]).collect();
        let mut packed = Vec::with_capacity(8192);
        let mut stream = flate2::Compress::new(flate2::Compression::best(), false);
        stream
            .compress_vec(&bytes, &mut packed, flate2::FlushCompress::Finish)
            .unwrap();
        for needed in [1, 512, 4095, 4096, 9999] {
            let part = Compression::Deflate.unpack(&packed, 4096, needed).unwrap();
            assert!(part == bytes[..needed.min(4096)], "{needed}");
        }
        // What is lost behind that is not missed, and is missed as soon as it is needed.
        let cut = &packed[..packed.len() / 2];
        assert!(Compression::Deflate.unpack(cut, 4096, 100).is_ok());
        assert!(Compression::Deflate.unpack(cut, 4096, 4096).is_err());
        assert!(Compression::Deflate.unpack(&packed, 8192, 4097).is_err());
    }

    #[test]
    fn what_a_stream_of_zstd_says_does_not_make_memory_of_it() {
        let unpack = |packed: &[u8]| Compression::Zstd.unpack(packed, 512, 1).unwrap_err();
        // 128 KiB from each four bytes.
        let block: (u8, u32, &[u8]) = (1, 1 << 17, b"x");
        let bomb = frame(7, &vec![block; 100_000]);
        assert_eq!(unpack(&bomb), "it is too long");
        // 8 MiB are the largest window.
        let blocks: &[(u8, u32, &[u8])] = &[(1, 512, b"x")];
        assert!(Compression::Zstd.unpack(&frame(13, blocks), 512, 1).is_ok());
        let error = unpack(&frame(14, blocks));
        assert!(error.contains("window"), "{error}");
        // Frames with nothing in them end with the bytes.
        let empty = frame(0, &[(0, 0, b"")]).repeat(1000);
        assert!(!unpack(&empty).is_empty());
        // One that is not the last has to be followed.
        assert!(!unpack(&frame(0, blocks)[..6]).is_empty());
        assert!(!unpack(b"").is_empty());
    }
}
