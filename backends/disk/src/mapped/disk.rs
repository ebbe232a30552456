//! An opened image as a disk.

use std::io;
use std::sync::Arc;

use super::Mapping;
use super::lane::MappedFormat;
use super::parent::Layer;
use crate::damage::Damage;
use crate::image::Image;
use crate::pieces::FormatLane;
use crate::port::choose;
use crate::raw::file_lane;
use crate::{Disk, Engine, Error, ImageType, Lane, OpenOptions, PassedOver, Topology};

/// A disk whose bytes are where a format says.
pub(crate) struct MappedDisk {
    mapping: Arc<dyn Mapping>,
    file: Arc<Image>,
    /// What lies behind a differencing image.
    parent: Option<Arc<Layer>>,
    engine: Engine,
    passed_over: Vec<PassedOver>,
    damage: Arc<Damage>,
}

/// The file of an image, opened and locked as the options say.
///
/// # Errors
/// What opening of files gives.
pub(crate) fn open_file(options: &OpenOptions) -> Result<Arc<Image>, Error> {
    let options = OpenOptions {
        image_type: ImageType::Raw,
        ..options.clone()
    };
    Ok(Arc::new(Image::open(&options)?))
}

impl MappedDisk {
    pub(crate) fn share(
        mapping: Arc<dyn Mapping>,
        file: Arc<Image>,
        parent: Option<Layer>,
        options: &OpenOptions,
    ) -> Arc<dyn Disk> {
        let (engine, passed_over) = choose(options);
        Arc::new(Self {
            mapping,
            file,
            parent: parent.map(Arc::new),
            engine,
            passed_over,
            damage: Arc::default(),
        })
    }
}

impl Disk for MappedDisk {
    fn capacity(&self) -> u64 {
        self.mapping.capacity()
    }

    fn topology(&self) -> Topology {
        let logical_block = self
            .mapping
            .logical_block()
            .max(self.file.topology.logical_block);
        let physical = self.mapping.physical_block();
        Topology {
            logical_block,
            physical_block: physical
                .max(self.file.topology.physical_block)
                .max(logical_block),
            minimum_io: 0,
            optimal_io: 0,
        }
    }

    fn engine(&self) -> Engine {
        self.engine
    }

    fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    fn is_read_only(&self) -> bool {
        self.file.read_only
    }

    fn can_write_zeroes(&self) -> bool {
        self.file.can_write_zeroes()
    }

    fn can_discard(&self) -> bool {
        self.file.can_discard()
    }

    fn damage(&self) -> Option<String> {
        self.damage.found().map(str::to_owned)
    }

    fn lane(&self, depth: u16) -> io::Result<Box<dyn Lane>> {
        let below = file_lane(&self.file, self.engine, depth)?;
        let format = MappedFormat {
            mapping: Arc::clone(&self.mapping),
            parent: self.parent.clone(),
            piece: Vec::new(),
            read_only: self.file.read_only,
            damage: Arc::clone(&self.damage),
        };
        Ok(Box::new(FormatLane::new(below, format)))
    }

    fn resize(&self, capacity: u64) -> io::Result<()> {
        if self.file.read_only {
            return Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "the image was opened with readonly=on",
            ));
        }
        if capacity == 0 || !capacity.is_multiple_of(self.mapping.logical_block().into()) {
            return Err(super::impossible(format!(
                "{capacity} bytes are not a number of sectors of {} bytes",
                self.mapping.logical_block()
            )));
        }
        self.damage.refuse_changes()?;
        self.mapping.begin_change()?;
        self.mapping.resize(capacity).inspect_err(|error| {
            self.damage.note(error);
        })
    }

    fn identity(&self) -> io::Result<(u64, u64, u64)> {
        self.file.identity()
    }
}
