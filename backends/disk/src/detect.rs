//! Formats by their signature.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ImageType;

/// Length of the head that is looked at.
const HEAD: usize = 512;

/// What the first bytes, or for VHD the last ones, say that the image is; [`ImageType::Raw`] if nothing.
pub(crate) fn detect(file: &File, size: u64) -> io::Result<ImageType> {
    let mut head = [0; HEAD];
    let count = read(file, &mut head, 0)?;
    let head = &head[..count];
    // "QFI" and 0xfb (QCOW2 specification, header bytes 0 to 3); "vhdxfile" ([MS-VHDX] 2.2.1); "KDMV", or the text of
    // a descriptor file (Virtual Disk Format 5.0, sections 3 and 5).
    let known: [(&[u8], ImageType); 4] = [
        (b"QFI\xfb", ImageType::Qcow2),
        (b"vhdxfile", ImageType::Vhdx),
        (b"KDMV", ImageType::FlatVmdk),
        (b"# Disk DescriptorFile", ImageType::FlatVmdk),
    ];
    if let Some((_, image_type)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Ok(*image_type);
    }
    // A VHD of fixed size has nothing but its last sector ("conectix", VHD specification 1.0, "Hard Disk Footer
    // Format"); others have a copy in the first one.
    let mut cookie = [0; 8];
    let footer = size.saturating_sub(512);
    let count = read(file, &mut cookie, footer)?;
    if head.starts_with(b"conectix") || cookie[..count] == *b"conectix" {
        return Ok(ImageType::FixedVhd);
    }
    Ok(ImageType::Raw)
}

fn read(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
