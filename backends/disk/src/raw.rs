//! Raw images: byte n of the disk is byte n of the file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::image::Image;
use crate::lane::{FileLane, ImageLane};
use crate::port::{Aio, Sync, Uring, choose};
use crate::{
    Disk, Engine, Error, ImageType, Lane, OpenOptions, PassedOver, Topology, qcow2, vhd, vhdx,
};

#[derive(Debug)]
struct RawDisk {
    image: Arc<Image>,
    engine: Engine,
    passed_over: Vec<PassedOver>,
}

/// Opens an image and locks it: for this disk alone, or shared with others that only read.
///
/// The lock and the file are given up when the disk and all its lanes are dropped.
///
/// # Errors
/// [`Error`], which says what in the options has to change.
pub fn open(options: &OpenOptions) -> Result<Arc<dyn Disk>, Error> {
    match options.image_type {
        ImageType::Qcow2 => return qcow2::open(options),
        ImageType::FixedVhd => return vhd::open(options),
        ImageType::Vhdx => return vhdx::open(options),
        ImageType::Raw | ImageType::FlatVmdk | ImageType::Unknown => {}
    }
    let image = Image::open(options)?;
    let (engine, passed_over) = choose(options);
    Ok(Arc::new(RawDisk {
        image: Arc::new(image),
        engine,
        passed_over,
    }))
}

/// The files that are opened with an image because it names them, and whether they are written: backing files, data
/// files and parents. None without [`OpenOptions::backing_files`], and for what cannot be opened: to open the disk says why.
#[must_use]
pub fn behind(options: &OpenOptions) -> Vec<(PathBuf, bool)> {
    let read = |paths: Vec<PathBuf>| paths.into_iter().map(|path| (path, false)).collect();
    match options.image_type {
        _ if !options.backing_files => Vec::new(),
        ImageType::Qcow2 => qcow2::behind(options),
        ImageType::FixedVhd => read(vhd::behind(options)),
        ImageType::Vhdx => read(vhdx::behind(options)),
        ImageType::Raw | ImageType::FlatVmdk | ImageType::Unknown => Vec::new(),
    }
}

/// A disk whose direct I/O is of blocks of this size, whatever the file system asks for.
#[cfg(test)]
pub(crate) fn open_with_blocks(options: &OpenOptions, block: u32) -> Arc<dyn Disk> {
    let mut image = Image::open(options).unwrap();
    image.alignment.memory = image.alignment.memory.max(512);
    image.alignment.offset = block;
    let (engine, passed_over) = choose(options);
    Arc::new(RawDisk {
        image: Arc::new(image),
        engine,
        passed_over,
    })
}

/// A lane of the file as it is.
pub(crate) fn file_lane(
    image: &Arc<Image>,
    engine: Engine,
    depth: u16,
) -> io::Result<Box<dyn FileLane>> {
    let image = || Arc::clone(image);
    Ok(match engine {
        Engine::IoUring => Box::new(ImageLane::new(image(), Uring::new(image(), depth)?, depth)?),
        Engine::Aio => Box::new(ImageLane::new(image(), Aio::new(image(), depth)?, depth)?),
        Engine::Sync => Box::new(ImageLane::new(image(), Sync::new(image())?, depth)?),
    })
}

impl Disk for RawDisk {
    fn capacity(&self) -> u64 {
        self.image.capacity()
    }

    fn topology(&self) -> Topology {
        self.image.topology
    }

    fn engine(&self) -> Engine {
        self.engine
    }

    fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    fn is_read_only(&self) -> bool {
        self.image.read_only
    }

    fn protects_first_sector(&self) -> bool {
        self.image.first_sector_protected
    }

    fn can_write_zeroes(&self) -> bool {
        self.image.can_write_zeroes()
    }

    fn can_discard(&self) -> bool {
        self.image.can_discard()
    }

    fn lane(&self, depth: u16) -> io::Result<Box<dyn Lane>> {
        Ok(file_lane(&self.image, self.engine, depth)?)
    }

    fn resize(&self, capacity: u64) -> io::Result<()> {
        self.image.resize(capacity)
    }

    fn identity(&self) -> io::Result<(u64, u64, u64)> {
        self.image.identity()
    }
}
