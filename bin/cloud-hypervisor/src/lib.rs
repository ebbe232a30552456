//! The monitor: from a command line to a running machine.
//!
//! [`main`] reads the command line ([`cli`]), prepares the process (log, events, ways out, Landlock) and hands
//! the machine to the driver thread of `machine`. What is left for the main thread is to wait for the end.
#![forbid(unsafe_code)]

#[cfg(not(feature = "kvm"))]
compile_error!("no hypervisor is selected: build with --features kvm");

pub mod cli;
mod error;
#[cfg(feature = "dhat-heap")]
mod heap;
mod run;
mod signals;

use std::process::ExitCode;

use telemetry::trace;

/// Exit status of a wrong command line.
const USAGE: u8 = 2;

/// Runs the monitor with the process's own command line.
#[must_use]
pub fn main() -> ExitCode {
    telemetry::start_clock();
    let step = trace::step("command line");
    let invocation = match cli::Invocation::read(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(cli::Stop::Done(text)) => return cli::print(&text),
        Err(cli::Stop::Usage(text)) => {
            eprint!("{text}");
            return ExitCode::from(USAGE);
        }
        Err(cli::Stop::Problem(problem)) => {
            telemetry::print_chain(&problem);
            return ExitCode::FAILURE;
        }
    };
    step.end();
    #[cfg(feature = "dhat-heap")]
    let _profile = match heap::start(&invocation) {
        Ok(profile) => profile,
        Err(problem) => {
            telemetry::print_chain(&problem);
            return ExitCode::FAILURE;
        }
    };
    let result = run::run(&invocation);
    // Of a start that failed.
    trace::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::print_chain(&error);
            ExitCode::FAILURE
        }
    }
}
