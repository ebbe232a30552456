//! Picks kernel modules for an initramfs, each after those that it depends on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::run;

/// The modules of one kernel, as its `modules.dep` lists them.
#[derive(Debug)]
pub(crate) struct Modules {
    folder: PathBuf,
    /// Module name → its file and the files it depends on, all relative to the folder.
    files: HashMap<String, (String, Vec<String>)>,
    builtin: Vec<String>,
}

impl Modules {
    /// Reads `modules.dep` and `modules.builtin` of `lib/modules/VERSION`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let dep = run::read_text(&folder.join("modules.dep"))?;
        let builtin = run::read_text(&folder.join("modules.builtin")).unwrap_or_default();
        let files = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                (module_name(file), (file.to_owned(), needs))
            })
            .collect();
        let builtin = builtin.lines().map(module_name).collect();
        Ok(Self {
            folder: folder.to_owned(),
            files,
            builtin,
        })
    }

    /// Files of these modules and all they need, in an order in which they load.
    ///
    /// # Errors
    /// When the kernel has a module neither as a file nor built in.
    pub(crate) fn in_load_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in names {
            self.add(&module_name(name), &mut order)?;
        }
        Ok(order
            .into_iter()
            .map(|file| self.folder.join(file))
            .collect())
    }

    fn add(&self, name: &str, order: &mut Vec<String>) -> Result<()> {
        let Some((file, needs)) = self.files.get(name) else {
            if self.builtin.iter().any(|builtin| builtin == name) {
                return Ok(());
            }
            return Err(Error::Malformed {
                path: self.folder.clone(),
                problem: format!("this kernel has no module {name}"),
            });
        };
        if order.contains(file) {
            return Ok(());
        }
        // modules.dep has the closure, nearest first: what is needed by all others is last.
        for need in needs.iter().rev() {
            self.add(&module_name(need), order)?;
        }
        order.push(file.clone());
        Ok(())
    }
}

/// A module's content, unpacked: `insmod` of busybox does not read compressed ones.
pub(crate) fn content(file: &Path) -> Result<Vec<u8>> {
    let unpack = |tool: &str| run::output(run::program(tool).arg("-dcq").arg(file));
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => unpack("xz"),
        Some("zst") => unpack("zstd"),
        Some("gz") => unpack("gzip"),
        _ => run::read(file),
    }
}

/// `kernel/net/9p/9pnet-virtio.ko.xz` → `9pnet_virtio`: the kernel does not tell `-` from `_`.
pub(crate) fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> (tempfile::TempDir, Modules) {
        let dir = tempfile::tempdir().unwrap();
        let dep = "k/kvm-amd.ko.xz: k/ccp.ko k/kvm.ko k/irqbypass.ko\nk/ccp.ko:\n\
                   k/kvm.ko: k/irqbypass.ko\nk/irqbypass.ko:\n";
        std::fs::write(dir.path().join("modules.dep"), dep).unwrap();
        std::fs::write(dir.path().join("modules.builtin"), "k/virtio.ko\n").unwrap();
        let modules = Modules::read(dir.path()).unwrap();
        (dir, modules)
    }

    #[test]
    fn what_is_needed_loads_first_and_once() {
        let (_dir, modules) = modules();
        let order: Vec<String> = modules
            .in_load_order(&["kvm_amd", "kvm", "virtio"])
            .unwrap()
            .iter()
            .map(|path| module_name(&path.to_string_lossy()))
            .collect();
        assert_eq!(order, ["irqbypass", "kvm", "ccp", "kvm_amd"]);
    }

    #[test]
    fn an_unknown_module_is_named() {
        let (_dir, modules) = modules();
        let error = modules.in_load_order(&["nonsense"]).unwrap_err();
        assert!(error.to_string().contains("nonsense"));
    }
}
