//! An opened image as a disk.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::epoch::Visitor;
use super::lane::QcowFormat;
use super::read::Qcow2;
use crate::image::{Image, SECTOR};
use crate::pieces::FormatLane;
use crate::raw::file_lane;
use crate::{Disk, Engine, Lane, PassedOver, Topology};

pub(crate) struct QcowDisk {
    pub(crate) image: Arc<Qcow2>,
    /// The image's file.
    pub(crate) file: Arc<Image>,
    /// Where its data is: the same, or another one.
    pub(crate) data: Arc<Image>,
    pub(crate) engine: Engine,
    pub(crate) passed_over: Vec<PassedOver>,
    /// Held while the size changes.
    pub(crate) resizing: Mutex<()>,
}

impl Disk for QcowDisk {
    fn capacity(&self) -> u64 {
        self.image.map().size() / SECTOR * SECTOR
    }

    fn topology(&self) -> Topology {
        Topology {
            logical_block: 512,
            physical_block: self.data.topology.physical_block.max(512),
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
        self.image.writer.is_none()
    }

    fn can_write_zeroes(&self) -> bool {
        self.image.writer.is_some()
    }

    fn can_discard(&self) -> bool {
        self.image
            .writer
            .as_ref()
            .is_some_and(|writer| writer.gives_back)
    }

    fn damage(&self) -> Option<String> {
        self.image.damage.found().map(str::to_owned)
    }

    fn lane(&self, depth: u16) -> io::Result<Box<dyn Lane>> {
        let below = file_lane(&self.data, self.engine, depth)?;
        let epochs = match &self.image.writer {
            Some(writer) => Arc::clone(&writer.epochs),
            None => Arc::default(),
        };
        let (image, data) = (Arc::clone(&self.image), Arc::clone(&self.data));
        let format = QcowFormat::new(image, data, Visitor::new(epochs));
        Ok(Box::new(FormatLane::new(below, format)))
    }

    fn resize(&self, capacity: u64) -> io::Result<()> {
        if self.image.writer.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "the image was opened with readonly=on",
            ));
        }
        // One after the other.
        let _alone = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        self.image.resize(capacity)
    }

    fn identity(&self) -> io::Result<(u64, u64, u64)> {
        self.file.identity()
    }
}
