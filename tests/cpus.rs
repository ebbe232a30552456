//! `--cpus`: what the guest is told of its processors, and where their threads run on the host.
//!
//! A payload that executes `cpuid` shows what the guest is told, on any KVM. Linux guests show that
//! a kernel draws the right conclusions; they are few, and each is asked everything that one
//! configuration can show. The vendor is the host's: what is specific to the other one is tested by
//! `arch`, with the tables of several processors.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use rustix::process::Pid;
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie};
use testkit::payload::{DEBUG_CONSOLE, Payload};
use testkit::{Builder, Exit, Vm};

/// Executes `cpuid` for each leaf and subleaf and prints EAX, EBX, ECX and EDX as bytes.
fn cpuid_payload(leaves: &[(u32, u32)]) -> Payload {
    leaves
        .iter()
        .fold(Payload::new(), |payload, (leaf, subleaf)| {
            let payload = payload
                .raw(&[0xb8])
                .raw(&leaf.to_le_bytes()) // mov eax, leaf
                .raw(&[0xb9])
                .raw(&subleaf.to_le_bytes()) // mov ecx, subleaf
                .raw(&[0x0f, 0xa2]) // cpuid
                .raw(&[0x89, 0xcf, 0x89, 0xd6]); // mov edi, ecx; mov esi, edx
            let payload = payload.out_eax_bytes(DEBUG_CONSOLE);
            let payload = payload.raw(&[0x89, 0xd8]).out_eax_bytes(DEBUG_CONSOLE); // mov eax, ebx
            let payload = payload.raw(&[0x89, 0xf8]).out_eax_bytes(DEBUG_CONSOLE); // mov eax, edi
            payload.raw(&[0x89, 0xf0]).out_eax_bytes(DEBUG_CONSOLE) // mov eax, esi
        })
}

/// What the first processor answers; an error is what the monitor said.
fn try_cpuid(cpus: &str, leaves: &[(u32, u32)]) -> Result<Vec<[u32; 4]>, String> {
    let folder = tempfile::tempdir().unwrap();
    let [kernel, output] = ["payload", "output"].map(|name| folder.path().join(name));
    let payload = cpuid_payload(leaves).power_off();
    payload.elf().write(&kernel).unwrap();
    let mut vm = Vm::builder()
        .kernel(&kernel)
        .cpus(cpus)
        .arg("--debug-console", format!("file={}", output.display()))
        .spawn()
        .unwrap();
    match vm.wait_exit(60).unwrap() {
        Exit::Code(0) => {}
        Exit::Code(1) => return Err(vm.stderr()),
        other => panic!("{cpus}: {other:?}\n{}", vm.stderr()),
    }
    let bytes = std::fs::read(&output).unwrap();
    assert_eq!(bytes.len(), leaves.len() * 16, "{cpus}");
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let registers = bytes.chunks(16).map(|leaf| {
        let mut words = leaf.chunks(4).map(word);
        std::array::from_fn(|_| words.next().unwrap())
    });
    Ok(registers.collect())
}

fn cpuid(cpus: &str, leaf: u32) -> [u32; 4] {
    try_cpuid(cpus, &[(leaf, 0)]).unwrap_or_else(|text| panic!("{cpus}: {text}"))[0]
}

/// The monitor's words about a configuration that cannot be.
fn refused(cpus: &str) -> String {
    let answer = try_cpuid(cpus, &[(0, 0)]);
    answer.expect_err(&format!("{cpus} is refused"))
}

/// A guest that says "ready" and then only waits, with this many boot processors that do nothing.
fn waiting(cpus: &str, change: impl Fn(Builder) -> Builder) -> Vm {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("payload");
    let payload = Payload::new().print_e9("ready\n");
    payload.elf().write(&kernel).unwrap();
    let builder = Vm::builder()
        .kernel(&kernel)
        .cpus(cpus)
        .arg("--debug-console", "tty");
    let mut vm = change(builder).spawn().unwrap();
    vm.wait_for("ready", 60).unwrap();
    vm
}

/// The first value of a line `name : value` of the host's `/proc/cpuinfo`.
fn host_cpuinfo(name: &str) -> String {
    value(&std::fs::read_to_string("/proc/cpuinfo").unwrap(), name)
}

fn value(cpuinfo: &str, name: &str) -> String {
    let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let found = pairs.map(|(key, value)| (key.trim(), value.trim()));
    let mut found = found.filter(|(key, _)| *key == name);
    found.next().expect(name).1.to_owned()
}

fn has_flag(flags: &str, flag: &str) -> bool {
    flags.split_whitespace().any(|known| known == flag)
}

/// Whether the host's KVM lets guests run virtual machines, as `kvm_amd` or `kvm_intel` says.
fn host_nests() -> bool {
    let flags = host_cpuinfo("flags");
    [("svm", "kvm_amd"), ("vmx", "kvm_intel")]
        .iter()
        .any(|(flag, module)| {
            let parameter = format!("/sys/module/{module}/parameters/nested");
            let value = std::fs::read_to_string(parameter).unwrap_or_default();
            has_flag(&flags, flag) && ["1", "Y"].contains(&value.trim())
        })
}

fn host_address_bits() -> u32 {
    let sizes = host_cpuinfo("address sizes");
    sizes.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_brand_string_is_the_hosts() {
    let leaves = [0x8000_0002, 0x8000_0003, 0x8000_0004].map(|leaf| (leaf, 0));
    let words = try_cpuid("boot=1", &leaves).unwrap().concat();
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let brand = String::from_utf8(bytes).unwrap();
    assert_eq!(
        brand.trim_end_matches('\0').trim(),
        host_cpuinfo("model name")
    );
}

#[test]
fn addresses_have_at_most_the_bits_that_were_asked_for() {
    let host = host_address_bits();
    for (cpus, asked) in [
        ("boot=1", 46),
        ("boot=1,max_phys_bits=36", 36),
        ("boot=1,max_phys_bits=52", 52),
    ] {
        let bits = cpuid(cpus, 0x8000_0008)[0] & 0xff;
        assert_eq!(bits, asked.min(host), "{cpus} on a host with {host}");
    }
}

#[test]
fn nested_virtualisation_is_there_unless_turned_off() {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    for (cpus, expected) in [("boot=1", host_nests()), ("boot=1,nested=off", false)] {
        let answers = try_cpuid(cpus, &[(1, 0), (0x8000_0001, 0)]).unwrap();
        let found = answers[0][2] & VMX != 0 || answers[1][2] & SVM != 0;
        assert_eq!(found, expected, "{cpus}: {answers:x?}");
    }
}

#[test]
fn the_hypervisor_says_who_it_is_and_how_fast_its_clock_runs() {
    let answers = try_cpuid("boot=1", &[(1, 0), (0x4000_0000, 0), (0x4000_0010, 0)]).unwrap();
    assert_ne!(answers[0][2] & 1 << 31, 0, "a hypervisor is present");
    let [last, name @ ..] = answers[1];
    assert_eq!(
        name.map(u32::to_le_bytes).as_flattened(),
        b"KVMKVMKVM\0\0\0"
    );
    assert!(last >= 0x4000_0010, "{last:#x}");
    let [tsc_khz, bus_khz, ..] = answers[2];
    assert!(
        (100_000..10_000_000).contains(&tsc_khz),
        "{tsc_khz} kHz of the time stamp counter"
    );
    assert_eq!(bus_khz, 1_000_000, "KVM's APIC timer counts nanoseconds");
}

#[test]
fn hyperv_is_offered_on_request_or_refused_by_a_kvm_without_it() {
    match try_cpuid(
        "boot=2,max=4,kvm_hyperv=on",
        &[0x4000_0000, 0x4000_0001, 0x4000_0005, 0x4000_0100].map(|leaf| (leaf, 0)),
    ) {
        Ok(answers) => {
            let name = |registers: &[u32; 4]| registers.map(u32::to_le_bytes).concat();
            assert_eq!(
                &name(&answers[1])[..4],
                b"Hv#1",
                "the interface's signature"
            );
            assert_eq!(answers[2][0], 4, "processors that there can be");
            assert_eq!(&name(&answers[3])[4..], b"KVMKVMKVM\0\0\0", "KVM's own");
        }
        Err(text) => assert!(
            text.contains("Hyper-V") && text.contains("kvm_hyperv=off"),
            "{text}"
        ),
    }
}

#[test]
fn amx_is_had_or_refused_by_name() {
    const AMX_TILE: u32 = 1 << 24;
    assert_eq!(cpuid("boot=1", 7)[3] & AMX_TILE, 0, "never by itself");
    match try_cpuid("boot=1,features=amx", &[(7, 0)]) {
        Ok(answers) => assert_ne!(answers[0][3] & AMX_TILE, 0),
        Err(text) => assert!(
            text.contains("no AMX for guests") && text.contains("leave out the CPU feature amx"),
            "{text}"
        ),
    }
}

#[test]
fn impossible_processors_are_refused() {
    let cases: &[(&str, &[&str])] = &[
        ("boot=0", &["boot=0", "at least one"]),
        ("boot=4,max=2", &["max=2", "boot=4"]),
        ("boot=1,max=8193", &["max=8193", "8192"]),
        (
            "boot=4,topology=4:1:1:1",
            &["4:1:1:1", "one or two threads"],
        ),
        ("boot=4,topology=2:1:1:1", &["2 processors", "max=4"]),
        ("boot=1,topology=1:1:0:1", &["1:1:0:1", "zero"]),
        ("boot=1,max_phys_bits=31", &["max_phys_bits=31"]),
        ("boot=1,max_phys_bits=35", &["35", "max_phys_bits"]),
        ("boot=2,affinity=[2@[0]]", &["processor 2"]),
        ("boot=2,affinity=[0@[0],0@[1]]", &["processor 0 twice"]),
        ("boot=1,profile=Nehalem", &["Nehalem", "Host"]),
        ("boot=1,features=sgx", &["sgx", "amx"]),
    ];
    for (cpus, parts) in cases {
        let text = refused(cpus);
        for part in *parts {
            assert!(text.contains(part), "{cpus}: no {part:?} in: {text}");
        }
    }
}

/// A line of the status of the thread of that name.
fn thread_status(vm: &Vm, thread: &str, line: &str) -> String {
    let task = thread_folder(vm, thread);
    value(&std::fs::read_to_string(task.join("status")).unwrap(), line)
}

fn thread_folder(vm: &Vm, thread: &str) -> std::path::PathBuf {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", vm.pid())).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let found = tasks.find(|task| {
        std::fs::read_to_string(task.join("comm"))
            .unwrap()
            .trim_end()
            == thread
    });
    found.unwrap_or_else(|| panic!("no thread {thread}"))
}

#[test]
fn threads_run_on_the_host_processors_that_were_named_only() {
    let here = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = value(&here, "Cpus_allowed_list");
    if all != "0-1" && !all.starts_with("0-") {
        eprintln!("skipped: this process may run on {all} only");
        return;
    }
    let vm = waiting("boot=3,affinity=[0@[1],1@[0],2@[0-1]]", |vm| vm);
    for (thread, expected) in [
        ("vcpu0", "1"),
        ("vcpu1", "0"),
        ("vcpu2", "0-1"),
        ("vmm", &all),
    ] {
        assert_eq!(thread_status(&vm, thread, "Cpus_allowed_list"), *expected);
    }
    let vm = waiting("boot=2,affinity=[1@[0]]", |vm| vm);
    assert_eq!(thread_status(&vm, "vcpu0", "Cpus_allowed_list"), *all);
    // Refused as a whole: a part of the guest must not run first.
    let text = refused("boot=2,affinity=[1@[4000]]");
    assert!(
        text.contains("vcpu1") && text.contains("host CPU 4000"),
        "{text}"
    );
}

/// The thread's core scheduling cookie; an error where the host has no core scheduling.
fn cookie(vm: &Vm, thread: &str) -> rustix::io::Result<u64> {
    let id = thread_status(vm, thread, "Pid").parse().unwrap();
    core_scheduling_cookie(Pid::from_raw(id).unwrap(), CoreSchedulingScope::Thread)
}

#[test]
fn core_scheduling_is_had_refused_or_said_to_have_no_effect() {
    const NONE: &str = "the host's kernel has no core scheduling";
    let vm = waiting("boot=2,core_scheduling=off", |vm| vm.flag("-v"));
    assert!(!vm.stderr().contains(NONE), "{}", vm.stderr());
    let unset = cookie(&vm, "vcpu0");
    let vm = waiting("boot=2", |vm| vm.flag("-v"));
    if unset.is_ok() {
        let own = cookie(&vm, "vcpu0").unwrap();
        assert_ne!(Ok(own), unset, "core_scheduling=vm is the default");
        assert_eq!(cookie(&vm, "vcpu1"), Ok(own));
        let vm = waiting("boot=2,core_scheduling=vcpu", |vm| vm);
        assert_ne!(cookie(&vm, "vcpu0"), cookie(&vm, "vcpu1"));
    } else {
        assert!(vm.stderr().contains(NONE), "{}", vm.stderr());
        let text = refused("boot=2,core_scheduling=vcpu");
        assert!(
            text.contains("CONFIG_SCHED_CORE") && text.contains("core_scheduling=off"),
            "{text}"
        );
    }
}

#[test]
fn as_many_processors_are_possible_as_kvm_permits_and_no_more() {
    for cpus in ["boot=1,max=255", "boot=1,max=300"] {
        cpuid(cpus, 0);
    }
    waiting("boot=300", |vm| vm);
    // The kernel's limit is a build option, 1024 as a rule.
    if let Err(text) = try_cpuid("boot=1,max=8192", &[(0, 0)]) {
        assert!(
            text.contains("--cpus: max=8192") && text.contains("this host gives a machine at most"),
            "{text}"
        );
    }
}

/// Reads the same files in the guest as on the host: `index level type size` for each cache.
const CACHES: &str = "cd /sys/devices/system/cpu/cpu0/cache && for i in index*; do \
                      echo $i $(cat $i/level) $(cat $i/type) $(cat $i/size); done";

#[test]
fn linux_has_two_processors_of_four_possible_and_knows_the_host_by_name() {
    let mut vm = Vm::linux().cpus("boot=2,max=4").spawn().unwrap();
    let mut run = |script: &str| vm.run(script).unwrap().stdout;
    assert_eq!(run("nproc").trim(), "2");
    let cpus = "cd /sys/devices/system/cpu; cat possible online";
    assert_eq!(run(cpus), "0-3\n0-1\n");
    let cpuinfo = run("cat /proc/cpuinfo");
    assert_eq!(value(&cpuinfo, "model name"), host_cpuinfo("model name"));
    assert_eq!(value(&cpuinfo, "vendor_id"), host_cpuinfo("vendor_id"));
    let bits = host_address_bits().min(46);
    let sizes = value(&cpuinfo, "address sizes");
    assert!(
        sizes.starts_with(&format!("{bits} bits physical")),
        "{sizes}"
    );
    let flags = value(&cpuinfo, "flags");
    for flag in [
        "hypervisor",
        "x2apic",
        "tsc_deadline_timer",
        "tsc_known_freq",
    ] {
        assert!(has_flag(&flags, flag), "no {flag} in {flags}");
    }
    let nests = has_flag(&flags, "svm") || has_flag(&flags, "vmx");
    assert_eq!(nests, host_nests(), "{flags}");
    // The leaf's frequency against the one that KVM's clock gave the kernel.
    let mhz: f64 = value(&cpuinfo, "cpu MHz").parse().unwrap();
    let told = f64::from(cpuid("boot=1", 0x4000_0010)[0]) / 1000.0;
    assert!((mhz / told - 1.0).abs() < 0.01, "{mhz} MHz, {told} told");
    let clock = run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
    assert!(["kvm-clock", "tsc"].contains(&clock.trim()), "{clock}");
    if Path::new("/sys/devices/system/cpu/cpu0/cache/index0").exists() {
        let mut host = std::process::Command::new("sh");
        let host = host.args(["-c", CACHES]).output().unwrap().stdout;
        assert_eq!(run(CACHES), String::from_utf8(host).unwrap());
    }
    vm.power_off().unwrap();
}

#[test]
fn linux_has_threads_cores_and_packages_as_asked() {
    let mut vm = Vm::linux()
        .cpus("boot=4,topology=2:1:1:2,nested=off,max_phys_bits=37")
        .spawn()
        .unwrap();
    let mut run = |script: &str| vm.run(script).unwrap().stdout;
    let cpuinfo = run("cat /proc/cpuinfo");
    let flags = value(&cpuinfo, "flags");
    // AMD's kernels learn of threads by a leaf that comes with this flag, and QEMU's emulated
    // processor has neither; then threads look like cores.
    let threads = value(&cpuinfo, "vendor_id") != "AuthenticAMD" || has_flag(&flags, "topoext");
    let [per_core, per_socket] = if threads { ["2", "1"] } else { ["1", "2"] };
    let lscpu = run("lscpu");
    for (name, expected) in [
        ("CPU(s)", "4"),
        ("Thread(s) per core", per_core),
        ("Core(s) per socket", per_socket),
        ("Socket(s)", "2"),
    ] {
        assert_eq!(value(&lscpu, name), expected, "{name} in {lscpu}");
    }
    let topology = "cd /sys/devices/system/cpu; for i in 0 1 2 3; do cd cpu$i/topology; \
                    echo $(cat package_cpus_list physical_package_id); cd ../..; done";
    assert_eq!(run(topology), "0-1 0\n0-1 0\n2-3 1\n2-3 1\n");
    // No cache spans packages.
    let shared = run("cat /sys/devices/system/cpu/cpu3/cache/index*/shared_cpu_list");
    let inside = |list: &str| list == "3" || list == "2-3";
    assert!(shared.lines().all(inside), "{shared}");
    assert!(
        !has_flag(&flags, "svm") && !has_flag(&flags, "vmx"),
        "{flags}"
    );
    let sizes = value(&cpuinfo, "address sizes");
    assert!(sizes.starts_with("37 bits physical"), "{sizes}");
    vm.power_off().unwrap();
}

#[test]
fn linux_has_three_processors_and_runs_beside_hyperv() {
    let hyperv = try_cpuid("boot=1,kvm_hyperv=on", &[(0, 0)]).is_ok();
    let cpus = if hyperv {
        "boot=3,kvm_hyperv=on"
    } else {
        "boot=3"
    };
    let mut vm = Vm::linux().cpus(cpus).spawn().unwrap();
    let mut run = |script: &str| vm.run(script).unwrap().stdout;
    let lscpu = run("lscpu");
    for (name, expected) in [
        ("CPU(s)", "3"),
        ("Thread(s) per core", "1"),
        ("Core(s) per socket", "3"),
        ("Socket(s)", "1"),
    ] {
        assert_eq!(value(&lscpu, name), expected, "{name} in {lscpu}");
    }
    // Hyper-V's leaves have the signature "Linux KVM Hv", so that Linux goes on to KVM's own.
    let detected = run("dmesg | grep 'Hypervisor detected'");
    assert!(detected.contains("Hypervisor detected: KVM"), "{detected}");
    vm.power_off().unwrap();
}

#[test]
fn linux_starts_a_processor_whose_apic_id_needs_nine_bits() {
    // Nine of nine take four bits each of the APIC id, so the 82nd processor has 256.
    let mut vm = Vm::linux()
        .cpus("boot=82,max=162,topology=1:9:9:2")
        .extend_cmdline("maxcpus=1")
        .spawn()
        .unwrap();
    let script = "cd /sys/devices/system/cpu && echo 1 >cpu81/online && cat online && \
                  grep -A 30 'processor.*: 81' /proc/cpuinfo | grep '^apicid'";
    let answer = vm.run(script).unwrap();
    let words: Vec<&str> = answer.stdout.split_whitespace().collect();
    assert_eq!(words, ["0,81", "apicid", ":", "256"], "{answer:?}");
    vm.power_off().unwrap();
}
