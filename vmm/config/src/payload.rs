//! `--kernel`, `--initramfs`, `--cmdline`, `--firmware`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Check, require};

/// What the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PayloadConfig {
    /// Firmware image with a PVH entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// Linux kernel: an ELF file with a PVH entry point, or a bzImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Command line of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Initial RAM file system of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
}

impl PayloadConfig {
    /// Checks that there is exactly one thing to run.
    ///
    /// # Errors
    /// If there is none, or two.
    pub fn check(&self) -> Check {
        require(
            self.kernel.is_some() || self.firmware.is_some(),
            "--kernel",
            || "the machine has nothing to run: give --kernel or --firmware".into(),
        )?;
        require(
            self.kernel.is_none() || self.firmware.is_none(),
            "--firmware",
            || "given together with --kernel: a machine starts one or the other".into(),
        )
    }

    /// Drops what firmware has no use for, and names it.
    pub fn settle(&mut self) -> Vec<&'static str> {
        let mut dropped = Vec::new();
        if self.firmware.is_some() {
            if self.cmdline.take().is_some() {
                dropped.push("--cmdline");
            }
            if self.initramfs.take().is_some() {
                dropped.push("--initramfs");
            }
        }
        dropped
    }

    /// Files of the host that the machine reads.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.firmware, &self.kernel, &self.initramfs]
            .into_iter()
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_to_run() {
        let none = PayloadConfig::default();
        assert!(
            none.check()
                .unwrap_err()
                .to_string()
                .contains("nothing to run")
        );
        let kernel = PayloadConfig {
            kernel: Some("k".into()),
            ..none.clone()
        };
        assert_eq!(kernel.check(), Ok(()));
        let both = PayloadConfig {
            firmware: Some("f".into()),
            ..kernel
        };
        assert!(
            both.check()
                .unwrap_err()
                .to_string()
                .starts_with("--firmware: given together")
        );
    }

    #[test]
    fn firmware_drops_what_it_cannot_use_and_says_so() {
        let mut config = PayloadConfig {
            firmware: Some("f".into()),
            cmdline: Some("quiet".into()),
            initramfs: Some("i".into()),
            ..PayloadConfig::default()
        };
        assert_eq!(config.settle(), ["--cmdline", "--initramfs"]);
        assert_eq!(config.files().collect::<Vec<_>>(), ["f"]);
        let mut kernel = PayloadConfig {
            kernel: Some("k".into()),
            ..config
        };
        kernel.firmware = None;
        kernel.cmdline = Some("quiet".into());
        assert!(kernel.settle().is_empty());
        assert!(kernel.cmdline.is_some());
    }
}
