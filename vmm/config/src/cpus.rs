//! `--cpus`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Check, Problem, require};

const OPTION: &str = "--cpus";

/// Most processors a machine can have on x86_64 with KVM.
const MOST_VCPUS: u32 = 8192;

/// The machine's processors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpusConfig {
    /// Number of processors at boot.
    #[serde(default = "one")]
    #[schemars(extend("x-flag" = "boot"))]
    pub boot_vcpus: u32,
    /// Most processors the machine can have later. Default: as many as at boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag" = "max", "x-flag-default" = "=boot"))]
    pub max_vcpus: Option<u32>,
    /// What the guest sees of threads, cores, dies and packages. Their product must be `max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag-syntax" = "colon"))]
    pub topology: Option<CpuTopology>,
    /// Offer the Microsoft Hyper-V interface to the guest.
    #[serde(default)]
    pub kvm_hyperv: bool,
    /// Most bits of a guest physical address; the host's number if that is less.
    #[serde(default = "default_phys_bits")]
    pub max_phys_bits: u8,
    /// Host processors that each processor's thread may run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-flag-syntax" = "pairs"))]
    pub affinity: Option<Vec<CpuAffinity>>,
    /// Processor features that a guest gets only on request.
    #[serde(default)]
    #[schemars(extend("x-flag-syntax" = "true-set"))]
    pub features: CpuFeatures,
    /// Let the guest run virtual machines of its own.
    #[serde(default = "yes")]
    pub nested: bool,
    /// Which threads may share a host core with a processor of this machine.
    #[serde(default)]
    pub core_scheduling: CoreScheduling,
    /// Named set of processor features.
    #[serde(default)]
    #[schemars(extend(
        "x-flag-hidden" = true,
        "x-flag-case" = true,
        "x-flag-values" = { "Host": "Host" }
    ))]
    pub profile: CpuProfileName,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn default_phys_bits() -> u8 {
    46
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self {
            boot_vcpus: one(),
            max_vcpus: None,
            topology: None,
            kvm_hyperv: false,
            max_phys_bits: default_phys_bits(),
            affinity: None,
            features: CpuFeatures::default(),
            nested: true,
            core_scheduling: CoreScheduling::default(),
            profile: CpuProfileName::default(),
        }
    }
}

/// Threads, cores, dies and packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuTopology {
    /// Threads of each core: 1 or 2.
    pub threads_per_core: u16,
    /// Cores of each die.
    pub cores_per_die: u16,
    /// Dies of each package.
    pub dies_per_package: u16,
    /// Packages of the machine.
    pub packages: u16,
}

/// The host processors of one of the machine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuAffinity {
    /// The machine's processor, from 0.
    pub vcpu: u32,
    /// Host processors, from 0.
    pub host_cpus: Vec<usize>,
}

/// Features that are off unless asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuFeatures {
    /// Intel Advanced Matrix Extensions.
    #[serde(default)]
    pub amx: bool,
}

/// Which threads may share a host core (Linux core scheduling).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CoreScheduling {
    /// Processors of this machine share cores with each other only.
    #[default]
    Vm,
    /// Each processor shares its core with nobody.
    Vcpu,
    /// The host's scheduler decides.
    Off,
}

/// Named sets of processor features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CpuProfileName {
    /// What the host's processor has.
    #[default]
    Host,
}

impl CpusConfig {
    /// Most processors the machine can have.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max_vcpus.unwrap_or(self.boot_vcpus)
    }

    /// The topology as `arch` wants it.
    #[must_use]
    pub fn arch_topology(&self) -> Option<arch::Topology> {
        self.topology.map(|t| arch::Topology {
            threads_per_core: t.threads_per_core,
            cores_per_die: t.cores_per_die,
            dies_per_package: t.dies_per_package,
            packages: t.packages,
        })
    }

    /// Checks what can be known before the machine is built.
    ///
    /// # Errors
    /// The first problem found.
    pub fn check(&self) -> Check {
        let (boot, max) = (self.boot_vcpus, self.max());
        require(boot > 0, OPTION, || {
            "boot=0: a machine needs at least one processor".into()
        })?;
        require(max >= boot, OPTION, || {
            format!("max={max} is lower than boot={boot}: raise max or leave it out")
        })?;
        require(max <= MOST_VCPUS, OPTION, || {
            format!("max={max} is above the limit of {MOST_VCPUS} processors")
        })?;
        require((32..=64).contains(&self.max_phys_bits), OPTION, || {
            format!("max_phys_bits={}: must be 32 to 64", self.max_phys_bits)
        })?;
        if let Some(topology) = &self.topology {
            topology.check(max)?;
        }
        self.check_affinity(max)
    }

    fn check_affinity(&self, max: u32) -> Check {
        let list = self.affinity.as_deref().unwrap_or_default();
        for (index, entry) in list.iter().enumerate() {
            let vcpu = entry.vcpu;
            require(vcpu < max, OPTION, || {
                format!(
                    "affinity names processor {vcpu}, but max={max}: the last one is {}",
                    max - 1
                )
            })?;
            require(!entry.host_cpus.is_empty(), OPTION, || {
                format!("affinity of processor {vcpu} is empty: name at least one host processor")
            })?;
            require(
                list[..index].iter().all(|other| other.vcpu != vcpu),
                OPTION,
                || format!("affinity names processor {vcpu} twice"),
            )?;
        }
        Ok(())
    }
}

impl CpuTopology {
    fn check(self, max: u32) -> Check {
        let parts = [
            self.threads_per_core,
            self.cores_per_die,
            self.dies_per_package,
            self.packages,
        ];
        require(parts.iter().all(|part| *part > 0), OPTION, || {
            format!("topology={self}: no part can be zero")
        })?;
        require(self.threads_per_core <= 2, OPTION, || {
            format!("topology={self}: a core has one or two threads")
        })?;
        let product: u64 = parts.iter().map(|part| u64::from(*part)).product();
        if product == u64::from(max) {
            return Ok(());
        }
        Err(Problem::new(
            OPTION,
            format!(
                "topology={self} makes {product} processors, but max={max}: they must be equal"
            ),
        ))
    }
}

impl std::fmt::Display for CpuTopology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            threads_per_core,
            cores_per_die,
            dies_per_package,
            packages,
        } = self;
        write!(
            f,
            "{threads_per_core}:{cores_per_die}:{dies_per_package}:{packages}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> CpusConfig {
        keyvalue::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        read(text).check().unwrap_err().to_string()
    }

    #[test]
    fn reads_every_key() {
        let config = read(
            "boot=2,max=8,topology=2:2:1:2,kvm_hyperv=on,max_phys_bits=40,\
             affinity=[0@[0,1],1@[2-3]],features=amx,nested=off,core_scheduling=vcpu,profile=Host",
        );
        assert_eq!(config.check(), Ok(()));
        assert_eq!((config.boot_vcpus, config.max()), (2, 8));
        assert_eq!(config.topology.unwrap().to_string(), "2:2:1:2");
        assert!(config.kvm_hyperv && config.features.amx && !config.nested);
        let affinity = config.affinity.unwrap();
        assert_eq!(affinity[0].host_cpus, [0, 1]);
        assert_eq!(
            affinity[1],
            CpuAffinity {
                vcpu: 1,
                host_cpus: vec![2, 3]
            }
        );
        assert_eq!(config.core_scheduling, CoreScheduling::Vcpu);
    }

    #[test]
    fn nothing_said_is_one_processor() {
        assert_eq!(read(""), CpusConfig::default());
        assert_eq!(read("boot=3").max(), 3);
        assert_eq!(CpusConfig::default().max_phys_bits, 46);
    }

    #[test]
    fn json_uses_the_api_names() {
        let config: CpusConfig =
            serde_json::from_str(r#"{"boot_vcpus":1,"max_vcpus":2,"core_scheduling":"Off"}"#)
                .unwrap();
        assert_eq!(config.max(), 2);
        assert!(serde_json::from_str::<CpusConfig>(r#"{"boot":1}"#).is_err());
    }

    #[test]
    fn each_impossible_value_is_named() {
        for (text, part) in [
            ("boot=0", "boot=0"),
            ("boot=4,max=2", "max=2 is lower than boot=4"),
            ("max=8193", "limit of 8192"),
            ("max_phys_bits=20", "max_phys_bits=20"),
            ("topology=1:0:1:1", "no part can be zero"),
            ("boot=4,topology=4:1:1:1", "one or two threads"),
            ("boot=4,topology=2:1:1:1", "makes 2 processors, but max=4"),
            ("affinity=[1@[0]]", "names processor 1, but max=1"),
            ("affinity=[0@[0],0@[1]]", "twice"),
        ] {
            let message = refused(text);
            assert!(
                message.starts_with("--cpus: ") && message.contains(part),
                "{text}: {message}"
            );
        }
        assert_eq!(read("max=8192").check(), Ok(()));
    }

    #[test]
    fn unknown_words_are_refused() {
        for text in [
            "features=avx",
            "core_scheduling=core",
            "profile=host",
            "bot=1",
            "boot=x",
        ] {
            assert!(keyvalue::from_str::<CpusConfig>(text).is_err(), "{text}");
        }
    }
}
