//! CPU time of a monitor, by the kernel's clocks.

use std::path::PathBuf;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::error::{Context as _, Result};
use crate::run;

/// Clock ticks of `stat` in a second (proc(5)); a constant on every architecture here.
const TICKS: f64 = 100.0;

/// CPU seconds of a process since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cpu {
    /// All threads, ended ones too.
    pub(super) total: f64,
    /// Threads of vCPUs, with the guest.
    vcpus: f64,
    /// Of that, what the kernel did: sampled at each tick of its timer, which at some ten ticks is a guess.
    pub(super) vcpus_system: f64,
}

impl Cpu {
    /// Reads it. A vCPU's thread is called `vcpu…` or `CPU …/KVM`.
    pub(super) fn of(process: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(process).unwrap_or(0));
        let clock = clock_getcpuclockid(pid)
            .and_then(clock_gettime)
            .context(|| format!("no CPU time of process {process}"))?;
        let nanoseconds = u32::try_from(clock.tv_nsec()).unwrap_or(0);
        let seconds = u32::try_from(clock.tv_sec()).unwrap_or(0);
        let mut cpu = Self {
            total: f64::from(seconds) + f64::from(nanoseconds) / 1e9,
            ..Self::default()
        };
        let folder = PathBuf::from(format!("/proc/{process}/task"));
        let threads =
            std::fs::read_dir(&folder).context(|| format!("cannot list {}", folder.display()))?;
        for thread in threads.flatten() {
            let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if !name.starts_with("vcpu") && !name.starts_with("CPU ") {
                continue;
            }
            let text = run::read_text(&thread.path().join("schedstat"))?;
            cpu.vcpus += number(&text, 0) / 1e9;
            let text = run::read_text(&thread.path().join("stat"))?;
            // The name is in parentheses and may have spaces in it.
            let rest = text.rsplit(')').next().unwrap_or_default();
            cpu.vcpus_system += number(rest, 12) / TICKS;
        }
        Ok(cpu)
    }

    /// Threads that are no vCPU's.
    pub(super) fn others(self) -> f64 {
        (self.total - self.vcpus).max(0.0)
    }

    /// What passed since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            total: self.total - before.total,
            vcpus: self.vcpus - before.vcpus,
            vcpus_system: self.vcpus_system - before.vcpus_system,
        }
    }
}

fn number(text: &str, index: usize) -> f64 {
    let word = text.split_whitespace().nth(index);
    word.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_this_process_passes() {
        let before = Cpu::of(std::process::id()).unwrap();
        let sum = (0..5_000_000_u64).fold(0_u64, |sum, value| sum.rotate_left(1) ^ value);
        assert_ne!(std::hint::black_box(sum), 1);
        let passed = Cpu::of(std::process::id()).unwrap().since(before);
        // No thread here is a vCPU's.
        assert!(passed.total > 0.0 && passed.others() > 0.0);
    }
}
