//! The project's own commands; `cargo xtask help` lists them.
//!
//! Progress goes to standard error. Standard output belongs to what the user asked for: the output
//! of a command in a guest, the last line of a test run.

#![forbid(unsafe_code)]

mod apt;
mod args;
mod bare;
mod bench;
mod boot;
mod clients;
mod debian;
mod docs;
mod error;
mod guest;
mod kernel;
mod kvm;
mod layers;
mod lints;
mod modules;
mod nested;
mod project;
mod release;
mod run;
mod terminal;
mod test;
mod trace;
mod workspace;

use std::process::ExitCode;

use error::{Error, Result};
use project::Project;

const USAGE: &str = "\
cargo xtask COMMAND

  boot                 boots a stock Linux guest and gives you its shell
    --exec SCRIPT      runs a script in the guest instead; its output, its exit status
    --cpus N, --memory SIZE, --kernel PATH, --initramfs PATH, --binary PATH
    --debian           Debian from a disk with network, instead of a kernel with busybox
    --uefi             with --debian: through UEFI firmware and the disk's own GRUB
    --nested           uses the emulated host even where this machine's KVM would do
    -v                 shows the kernel's messages
  test [FILTER…]       everything that is checked before a push; with filters (a theme such as
                       boot, a test such as boot::NAME, or a part of any name) only those tests
    --full             runs the slow tests too
    --binary PATH      tests this monitor instead of building one
  bench api            measures how long requests of the API take
  bench startup        measures from the start of the process to the guest's first instruction
    --runs N, --peer NAME=PATH, --binary PATH
  clients              runs clients from PyPI against the API: one made of docs/openapi.json, schemathesis,
                       a validator, a parser of metrics; also a step of test --full
    --binary PATH
  layers               checks that crates depend downwards only
  lints                checks the rules that no other tool knows
  trace FILE           draws what a monitor with the feature tracing wrote about its start, as FILE.svg
    -o PATH
  docs                 builds the reference of every crate
  nested -- COMMAND…   runs a command in an emulated host whose /dev/kvm runs a stock kernel
  help                 shows this

Environment: CH_CACHE moves the cache of downloads (default: .cache in the repository).";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_else(|| "help".to_owned());
    match dispatch(&command, arguments.collect()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            error::print_chain(&error);
            ExitCode::from(if matches!(error, Error::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

/// Runs one command and returns the exit status.
fn dispatch(command: &str, arguments: Vec<String>) -> Result<u8> {
    let project = Project::find()?;
    match command {
        "boot" => boot::command(&project, arguments),
        "bench" => bench::command(&project, arguments),
        "test" => test::command(&project, arguments),
        "run-tests" => test::guests::run_programs(&project, &arguments),
        "clients" => clients::command(&project, arguments),
        "layers" => layers::check(&project).map(|()| 0),
        "lints" => lints::check(&project).map(|()| 0),
        "trace" => trace::command(arguments),
        "docs" => docs::build(&project).map(|()| 0),
        "nested" => nested::command(&project, &arguments),
        "help" | "--help" | "-h" => {
            eprintln!("{USAGE}");
            Ok(0)
        }
        other => Err(Error::Usage(format!("unknown command {other}\n\n{USAGE}"))),
    }
}
