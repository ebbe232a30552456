//! What runs in a machine and what it finds there: kernels, firmware, memory, legacy devices.
//!
//! What takes no Linux is asked by guests of a few instructions ([`tiny`]); each Linux guest answers all that
//! its configuration is good for.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "boot/linux.rs"]
mod linux;
#[path = "boot/tiny.rs"]
mod tiny;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use linux::{assert_memory, kernel_with, run};
use testkit::cpio::Archive;
use testkit::payload::{DEBUG_CONSOLE, Payload};
use testkit::{Exit, Signal, Vm, env};
use tiny::{SECONDS, START_INFO, Tiny, copy, debug_console, memory_map, refusal, u32_at, u64_at};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Longest boot of a stock guest in an emulated host.
const BOOT_SECONDS: u64 = 120;

/// Where PVH has its list of modules.
const MODULES: u32 = 0x6040;
const COMMAND_LINE: u32 = 0x2_0000;

#[test]
fn kernel_and_firmware_start_a_pvh_image() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let payload = Payload::new().print_e9("started").power_off();
    payload.elf().write(&image).unwrap();
    for option in ["--kernel", "--firmware"] {
        let mut vm = Vm::builder()
            .arg(option, &image)
            .memory("size=64M")
            .arg("--debug-console", debug_console(folder.path()))
            .spawn()
            .unwrap();
        assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0), "{option}");
        let printed = std::fs::read_to_string(folder.path().join("debug")).unwrap();
        assert_eq!(printed, "started", "{option}");
    }
}

#[test]
fn what_cannot_be_started_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        std::fs::write(folder.path().join(name), content).unwrap();
    };
    let good = Payload::new().power_off().build();
    let mut without_note = good.clone();
    let note = good.windows(4).position(|bytes| bytes == b"Xen\0").unwrap();
    without_note[note..note + 3].copy_from_slice(b"abc");
    file("good", &good);
    file("without-note", &without_note);
    file("truncated", &good[..0x400]);
    file("raw", &[0xff; 1 << 16]);
    file("empty", b"");
    let cases = [
        ("without-note", "without a PVH entry point"),
        ("truncated", "truncated"),
        ("raw", "neither an ELF file with a PVH note nor a bzImage"),
        ("empty", "is empty"),
        ("absent", "No such file"),
        ("", "not a regular file"),
    ];
    for option in ["--kernel", "--firmware"] {
        for (name, reason) in cases {
            let log = refusal(&[(option, &folder.path().join(name))]);
            assert!(
                log.contains(reason) && log.contains(&option[2..]),
                "{option} {name}: {log}"
            );
        }
    }
    let good = folder.path().join("good");
    let log = refusal(&[("--kernel", &good), ("--firmware", &good)]);
    assert!(
        log.contains("--firmware") && log.contains("--kernel"),
        "{log}"
    );
}

#[test]
fn firmware_alone_drops_command_line_and_initramfs_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    copy(Payload::new(), START_INFO, 56)
        .power_off()
        .elf()
        .write(&image)
        .unwrap();
    let mut vm = Vm::builder()
        .arg("--firmware", &image)
        .cmdline("dropped")
        .initramfs(&image)
        .memory("size=64M")
        .arg("--debug-console", debug_console(folder.path()))
        .spawn()
        .unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    for option in ["--cmdline", "--initramfs"] {
        let warning = format!("{option} has no effect together with --firmware");
        assert!(vm.stderr().contains(&warning), "{}", vm.stderr());
    }
    let info = std::fs::read(folder.path().join("debug")).unwrap();
    assert_eq!(u32_at(&info, 12), 0, "modules");
}

#[test]
fn the_memory_map_has_ram_below_and_above_the_hole() {
    // Type 1 is RAM, 2 is reserved.
    let ecam = (0xe800_0000, 256 * MIB, 2);
    let low = |end: u64| vec![(0, 0xa_0000, 1), (MIB, end - MIB, 1), ecam];
    let with_high = |size: u64| [low(3 * GIB), vec![(4 * GIB, size, 1)]].concat();
    let cases = [
        ("size=128M", low(128 * MIB)),
        ("size=3G", low(3 * GIB)),
        ("size=3074M", with_high(2 * MIB)),
        ("size=5G", with_high(2 * GIB)),
    ];
    for (memory, expected) in cases {
        let map = memory_map(memory);
        assert_eq!(map, expected, "{memory}");
    }
}

#[test]
fn command_line_and_initramfs_are_where_pvh_says() {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = folder.path().join("initramfs");
    // Not a whole number of pages.
    std::fs::write(&initramfs, vec![0x5a; 10_000]).unwrap();
    let file = initramfs.to_str().unwrap();
    let line = "a=b ".repeat(500) + "end";
    for (memory, top) in [("size=64M", 64 * MIB), ("size=5G", 3 * GIB)] {
        let size = u32::try_from(line.len() + 1).unwrap();
        let at = top - 3 * 4096;
        let payload = copy(Payload::new(), START_INFO, 56);
        let payload = copy(payload, MODULES, 16);
        let payload = copy(payload, COMMAND_LINE, size);
        let payload = copy(payload, u32::try_from(at).unwrap(), 10_000);
        let words = ["--memory", memory, "--cmdline", &line, "--initramfs", file];
        let printed = Tiny::run(payload, &words);
        let (info, rest) = printed.split_at(56);
        assert_eq!(
            (u32_at(info, 12), u64_at(info, 16)),
            (1, MODULES.into()),
            "modules"
        );
        assert_eq!(u64_at(info, 24), COMMAND_LINE.into());
        // Page aligned, ending at the top of the RAM below 4 GiB.
        assert_eq!((u64_at(rest, 0), u64_at(rest, 8)), (at, 10_000), "{memory}");
        let (text, content) = rest[16..].split_at(line.len() + 1);
        assert_eq!(text, (line.clone() + "\0").as_bytes(), "{memory}");
        assert!(
            content.iter().all(|byte| *byte == 0x5a),
            "{memory}: initramfs"
        );
    }
}

#[test]
fn the_payload_is_loaded_while_the_machine_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = folder.path().join("initramfs");
    // Takes long enough to be seen, and no space.
    std::fs::File::create(&initramfs)
        .unwrap()
        .set_len(256 * MIB)
        .unwrap();
    let words = [
        "--memory",
        "size=1G",
        "--initramfs",
        initramfs.to_str().unwrap(),
    ];
    let mut tiny = Tiny::start(Payload::new().print_e9("x").power_off(), &words);
    let process = PathBuf::from(format!("/proc/{}", tiny.vm.pid()));
    let entries = |name: &str| {
        let entries = std::fs::read_dir(process.join(name)).into_iter().flatten();
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect::<Vec<_>>()
    };
    let is_loading = || {
        let names = entries("task")
            .into_iter()
            .map(|task| std::fs::read_to_string(task.join("comm")));
        names
            .filter_map(Result::ok)
            .any(|name| name == "payload_loader\n")
    };
    let has_processor = || {
        let links = entries("fd")
            .into_iter()
            .filter_map(|fd| std::fs::read_link(fd).ok());
        links
            .into_iter()
            .any(|link| link.to_string_lossy().contains("kvm-vcpu"))
    };
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    // Loading last: then the processor was there while it went on.
    while !(has_processor() && is_loading()) {
        assert!(
            tiny.printed().is_empty(),
            "the guest runs: no processor was made while loading"
        );
        assert!(Instant::now() < deadline && tiny.vm.is_running().unwrap());
    }
    assert_eq!(tiny.vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    assert_eq!(tiny.printed(), b"x");
}

#[test]
fn the_firmware_debug_port_prints_to_standard_output_at_once() {
    let payload = Payload::new().print(0x402, "PEI\nDXE");
    let payload = payload.in_u8(0x402).out_al(DEBUG_CONSOLE);
    let mut tiny = Tiny::start(payload, &[]);
    // No end of line: the guest may be stuck in the middle of one.
    tiny.vm.wait_for("PEI\nDXE", SECONDS).unwrap();
    assert_eq!(
        tiny.wait_printed(1),
        [0xe9],
        "what reading the port answers"
    );
}

#[test]
fn the_debug_port_logs_ranges_codes_and_times() {
    let codes = [
        (0x00, "Firmware"),
        (0x1f, "Firmware"),
        (0x20, "Bootloader"),
        (0x41, "Kernel"),
        (0x7f, "Userspace"),
        (0x80, "Custom"),
        (0xff, "Custom"),
    ];
    let payload = codes.iter().fold(Payload::new(), |payload, (code, _)| {
        payload.out_u8(0x80, *code)
    });
    let mut tiny = Tiny::start(payload.power_off(), &[]);
    assert_eq!(tiny.vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
    let log = tiny.vm.stderr();
    let mut last = 0;
    for (line, (code, range)) in log.lines().zip(codes) {
        assert!(line.contains("> WARN:"), "{line}");
        let text = format!("[Debug I/O port: {range} code 0x{code:x}] ");
        let (_, time) = line
            .split_once(&text)
            .unwrap_or_else(|| panic!("{text}: {log}"));
        let (seconds, micros) = time
            .strip_suffix(" seconds")
            .unwrap()
            .split_once('.')
            .unwrap();
        assert_eq!(micros.len(), 6, "{line}");
        let micros = seconds.parse::<u64>().unwrap() * 1_000_000 + micros.parse::<u64>().unwrap();
        assert!(micros >= last && micros < 1_000_000 * SECONDS, "{line}");
        last = micros;
    }
    assert_eq!(log.lines().count(), codes.len(), "{log}");
}

#[test]
fn legacy_devices_answer_at_their_places() {
    let cmos = |payload: Payload, index: u8| {
        payload
            .out_u8(0x70, index)
            .in_u8(0x71)
            .out_al(DEBUG_CONSOLE)
    };
    let payload = Payload::new().in_u8(0x61).out_al(DEBUG_CONSOLE);
    // Version register of the I/O APIC.
    let payload = payload.write_u32(0xfec0_0000, 1).read_u32(0xfec0_0010);
    let payload = payload.out_eax_bytes(DEBUG_CONSOLE);
    // Memory above 16 MiB in units of 64 KiB, then century, year, month and day.
    let registers = [0x34, 0x35, 0x32, 0x09, 0x08, 0x07];
    let date = || {
        let output = std::process::Command::new("date")
            .args(["-u", "+%Y%m%d"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let before = date();
    let printed = Tiny::run(
        registers.into_iter().fold(payload, cmos),
        &["--memory", "size=80M"],
    );
    let after = date();
    assert_eq!(printed[0], 0x20, "port 0x61");
    assert_eq!(u32_at(&printed, 1), 0x0017_0011, "version of the I/O APIC");
    assert_eq!(
        u16::from_le_bytes([printed[5], printed[6]]),
        64 * 16,
        "64 MiB in CMOS"
    );
    let clock: String = printed[7..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!([before, after].contains(&clock), "clock says {clock}");
}

#[test]
fn the_pm_timer_runs_at_its_frequency() {
    const HZ: f64 = 3_579_545.0;
    // A letter on the serial port asks for the timer.
    let payload = Payload::new().forever(|payload| {
        let payload = payload.in_u8(0x3fd).raw(&[0xa8, 1, 0x74, 0xf7]); // test al, 1; jz back
        payload
            .in_u8(0x3f8)
            .in_u32(0x608)
            .out_eax_bytes(DEBUG_CONSOLE)
    });
    let mut tiny = Tiny::start(payload, &[]);
    let mut read = |count: usize| {
        let asked = Instant::now();
        tiny.vm.send("x").unwrap();
        let printed = tiny.wait_printed(4 * count);
        (u32_at(&printed, 4 * (count - 1)), asked, Instant::now())
    };
    read(1);
    let (first, asked, answered) = read(2);
    std::thread::sleep(Duration::from_millis(400));
    let (second, asked_again, answered_again) = read(3);
    let ticks = f64::from(second.wrapping_sub(first));
    let shortest = (asked_again - answered).as_secs_f64() * HZ;
    let longest = (answered_again - asked).as_secs_f64() * HZ;
    assert!(
        (shortest * 0.999..longest * 1.001).contains(&ticks),
        "{ticks} ticks, {shortest} to {longest} expected"
    );
    tiny.vm.signal(Signal::TERM).unwrap();
    assert_eq!(tiny.vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
}

#[test]
fn a_bzimage_boots_with_command_line_initramfs_and_legacy_devices() {
    let folder = tempfile::tempdir().unwrap();
    let initramfs = folder.path().join("initramfs");
    let mut content = std::fs::read(env::initramfs().unwrap()).unwrap();
    content.resize(content.len().next_multiple_of(512), 0);
    let mut own = Archive::new();
    own.file("own/file", 0o644, b"from the test\n");
    content.extend(own.finish());
    std::fs::write(&initramfs, content).unwrap();
    let line = "console=ttyS0 quiet panic=-1 testkit own.option=\"two words\"";
    let mut vm = Vm::linux()
        .cmdline(line)
        .initramfs(initramfs)
        .cpus("boot=2")
        .spawn()
        .unwrap();
    assert_eq!(run(&mut vm, "nproc"), "2\n");
    assert_eq!(run(&mut vm, "cat /proc/cmdline"), line.to_owned() + "\n");
    assert_eq!(run(&mut vm, "cat /own/file"), "from the test\n");
    // LEG-01 and LEG-05: the UART is a 16550A, and its interrupts come through the I/O APIC, pin 4.
    let ports = run(&mut vm, "cat /proc/tty/driver/serial");
    assert!(ports.contains("0: uart:16550A port:000003F8"), "{ports}");
    let interrupts = run(&mut vm, "cat /proc/interrupts");
    let line = interrupts.lines().find(|line| line.ends_with("ttyS0"));
    let line = line.unwrap_or_else(|| panic!("{interrupts}"));
    assert!(
        line.contains("IO-APIC") && line.contains("4-edge"),
        "{line}"
    );
    let mut counts = line.split_whitespace().skip(1).take(2);
    assert!(counts.any(|count| count != "0"), "{line}");
    // LEG-03: the clock tells the host's time.
    let clock = run(&mut vm, "cat /sys/class/rtc/rtc0/since_epoch");
    let clock: u64 = clock.trim().parse().unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now.abs_diff(clock) <= 5, "guest {clock}, host {now}");
    let shown = vm.run("hwclock -u").unwrap();
    assert_eq!(shown.status, 0, "{}", shown.stdout);
    vm.power_off().unwrap();
}

#[test]
fn a_vmlinux_boots_through_pvh_with_3_gib() {
    let kernel = env::vmlinux().unwrap();
    let mut vm = Vm::linux()
        .kernel(kernel)
        .memory("size=3G")
        .spawn()
        .unwrap();
    assert_eq!(run(&mut vm, "nproc"), "1\n");
    assert_memory(&mut vm, 3 * GIB, &["00100000-bfffffff"]);
    let flags = run(&mut vm, "grep -c -w la57 /proc/cpuinfo; true");
    assert_eq!(
        flags, "0\n",
        "five-level paging does not come with the PVH entry"
    );
    vm.power_off().unwrap();
}

#[test]
fn four_processors_5_gib_and_five_level_paging() {
    // mov eax, 7; xor ecx, ecx; cpuid; mov eax, ecx
    let payload = Payload::new().raw(&[0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0x89, 0xc8]);
    let leaf = Tiny::run(payload.out_eax_bytes(DEBUG_CONSOLE), &[]);
    let has_la57 = u32_at(&leaf, 0) >> 16 & 1 == 1;
    let mut vm = Vm::linux()
        .cpus("boot=4")
        .memory("size=5G")
        .spawn()
        .unwrap();
    assert_eq!(run(&mut vm, "nproc"), "4\n");
    let ranges = ["00100000-bfffffff", "100000000-17fffffff"];
    assert_memory(&mut vm, 5 * GIB, &ranges);
    // Linux shows the flag when it uses five levels.
    let flags = run(&mut vm, "grep -c -w la57 /proc/cpuinfo; true");
    assert_eq!(flags, if has_la57 { "4\n" } else { "0\n" });
    vm.power_off().unwrap();
}

#[test]
fn one_processor_with_128_mib_and_the_acpi_timer_as_its_clock() {
    let linux = Vm::linux()
        .memory("size=128M")
        .extend_cmdline("clocksource=acpi_pm");
    let mut vm = linux.spawn().unwrap();
    assert_eq!(run(&mut vm, "nproc"), "1\n");
    assert_memory(&mut vm, 128 * MIB, &["00100000-07ffffff"]);
    let clock = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
    assert_eq!(run(&mut vm, clock), "acpi_pm\n");
    // The guest's second is a second.
    let began = Instant::now();
    let slept = run(
        &mut vm,
        "read a b </proc/uptime; sleep 2; read c d </proc/uptime; echo $a $c",
    );
    let took = began.elapsed().as_secs_f64();
    let times: Vec<f64> = slept
        .split_whitespace()
        .map(|time| time.parse().unwrap())
        .collect();
    let guest = times[1] - times[0];
    assert!(
        guest >= 1.9 && guest <= took + 0.1,
        "guest {guest} s, host {took} s"
    );
    vm.power_off().unwrap();
}

#[test]
fn without_acpi_linux_finds_processors_and_interrupts_in_the_mp_table() {
    let kernel = kernel_with("CONFIG_X86_MPPARSE=y").expect("xtask fetches such a kernel");
    let linux = Vm::linux()
        .kernel(kernel)
        .cpus("boot=2")
        .memory("size=512M");
    let mut vm = linux.extend_cmdline("acpi=off").spawn().unwrap();
    vm.wait_ready(2 * BOOT_SECONDS).unwrap();
    assert_eq!(run(&mut vm, "nproc"), "2\n");
    assert_eq!(
        run(&mut vm, "ls /sys/firmware/acpi 2>/dev/null | wc -l"),
        "0\n"
    );
    let interrupts = run(&mut vm, "cat /proc/interrupts");
    let serial = interrupts.lines().find(|line| line.ends_with("ttyS0"));
    assert!(
        serial.is_some_and(|line| line.contains("IO-APIC")),
        "{interrupts}"
    );
    // Without ACPI there is no power-off.
    vm.signal(Signal::TERM).unwrap();
    assert_eq!(vm.wait_exit(SECONDS).unwrap(), Exit::Code(0));
}
