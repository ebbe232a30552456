//! What the guest begins with, read into its memory while the rest of the machine is built.

use std::fs::File;
use std::path::Path;
use std::thread::JoinHandle;

use config::{PayloadConfig, VmConfig};
use firmware::payload::{self, Loaded};
use memory::GuestRam;
use telemetry::trace;

use crate::{Error, Result};

/// Reads kernel or firmware into the guest's memory on a thread of its own, while the rest is built.
pub(crate) struct Loader(JoinHandle<std::result::Result<Loaded, firmware::Error>>);

impl Loader {
    pub(crate) fn start(config: &VmConfig, ram: &GuestRam) -> Result<Self> {
        let request = open_payload(config.payload.as_ref())?;
        let ram = ram.clone();
        std::thread::Builder::new()
            .name(payload::THREAD.into())
            .spawn(move || {
                let _step = trace::step("payload");
                payload::load(&request, &ram, &[])
            })
            .map(Self)
            .map_err(Error::thread(payload::THREAD))
    }

    pub(crate) fn finish(self) -> Result<Loaded> {
        let loaded = self
            .0
            .join()
            .map_err(|_| Error::Panicked(payload::THREAD.into()))?;
        loaded.map_err(Error::Payload)
    }
}

fn open_payload(payload: Option<&PayloadConfig>) -> Result<payload::Request> {
    let none = PayloadConfig::default();
    let payload = payload.unwrap_or(&none);
    payload.check()?;
    Ok(payload::Request {
        kernel: open("--kernel", payload.kernel.as_deref())?,
        firmware: open("--firmware", payload.firmware.as_deref())?,
        initramfs: open("--initramfs", payload.initramfs.as_deref())?,
        cmdline: payload.cmdline.clone(),
    })
}

fn open(option: &'static str, path: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = path else { return Ok(None) };
    File::open(path).map(Some).map_err(|source| Error::Open {
        option,
        path: path.display().to_string(),
        source,
    })
}
