//! Linux in the hands of debuggers. What needs no Linux is in `remote::gdb` and `remote::core_dump`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::{Vm, env};

/// Longest that one session of gdb takes, in an emulated host too.
const LIMIT: Duration = Duration::from_secs(60);
/// Runs gdb with these commands on the guest; it must come to its end. What it printed.
fn gdb(socket: &Path, commands: &[String]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set confirm off", "-ex"]);
    gdb.arg(format!("target remote {}", socket.display()));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let piped = gdb.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success(), "{text}");
    text
}

/// Where the guest's kernel has these symbols: the distribution's package has no map, the kernel itself has one.
fn addresses<const N: usize>(vm: &mut Vm, symbols: [&str; N]) -> [u64; N] {
    symbols.map(|symbol| {
        let script = format!("grep -E ' [a-zA-Z] {symbol}$' /proc/kallsyms");
        let line = vm.run(&script).unwrap().stdout;
        let word = line.split_whitespace().next().unwrap_or_default();
        let address = u64::from_str_radix(word, 16);
        address.unwrap_or_else(|error| panic!("{symbol}: {line:?}: {error}"))
    })
}

// No breakpoints: QEMU's emulation of nested virtualisation neither loads the debug registers of a guest's guest nor
// stops it at INT3. Those of the processor are tested in `remote::gdb`.
#[test]
fn gdb_steps_through_the_start_of_a_stock_kernel_and_reads_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gdb");
    let mut vm = Vm::linux()
        .kernel(env::vmlinux().unwrap())
        .arg("--gdb", format!("path={}", socket.display()))
        .spawn()
        .unwrap();
    let commands = ["p/x $pc", "stepi", "p/x $pc", "stepi", "p/x $pc", "detach"];
    let said = gdb(&socket, &commands.map(str::to_owned));
    let places = said.lines().filter_map(|line| line.strip_prefix('$'));
    let places: Vec<_> = places
        .filter_map(|line| u64::from_str_radix(line.split_once("= 0x")?.1, 16).ok())
        .collect();
    let steps: Vec<_> = places
        .windows(2)
        .map(|two| two[1].wrapping_sub(two[0]))
        .collect();
    assert_eq!(steps.len(), 2, "{said}");
    let are_instructions = steps.iter().all(|bytes| (1..=15).contains(bytes));
    assert!(are_instructions, "{said}");
    // By the tables of the kernel, wherever it has put itself.
    let [banner] = addresses(&mut vm, ["linux_banner"]);
    let said = gdb(&socket, &[format!("x/s {banner:#x}"), "detach".to_owned()]);
    let release = vm.run("uname -r").unwrap().stdout;
    let version = format!("\"Linux version {} ", release.trim());
    assert!(said.contains(&version), "{version}: {said}");
    vm.power_off().unwrap();
}

/// What `crash` needs to find its way: the kernel's own note, of this very boot.
#[test]
fn a_core_dump_of_linux_has_what_its_kernel_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut vm = Vm::linux()
        .arg("--api-socket", path("api"))
        .spawn()
        .unwrap();
    let [start] = addresses(&mut vm, ["_stext"]);
    let release = vm.run("uname -r").unwrap().stdout;
    let core = path("core");
    let mut remote = Command::new(env::remote().unwrap());
    remote.args(["--api-socket", &path("api"), "coredump"]);
    let dumped = remote.arg(format!("file://{core}")).output().unwrap();
    assert!(dumped.status.success(), "{dumped:?}");
    let notes = Command::new("readelf").args(["-nW", &core]).output();
    let notes = String::from_utf8_lossy(&notes.unwrap().stdout).into_owned();
    assert_eq!(notes.matches("VMCOREINFO").count(), 1, "{notes}");
    // Of several pages, and before all memory.
    let mut head = vec![0; 16 << 10];
    File::open(&core).unwrap().read_exact(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head);
    for line in [
        format!("OSRELEASE={}", release.trim()),
        format!("SYMBOL(_stext)={start:x}"),
    ] {
        assert!(head.contains(&format!("{line}\n")), "{line}: {head}");
    }
    vm.power_off().unwrap();
}
