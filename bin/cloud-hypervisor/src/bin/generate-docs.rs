//! Writes shell completions and man pages of the monitor and of what belongs to it into a folder: `generate-docs FOLDER`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::{Shell, generate_to};
use cloud_hypervisor::cli::{Help, command};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("usage: generate-docs FOLDER")?;
    fs::create_dir_all(&folder)?;
    write(&folder, "cloud-hypervisor", command(Help::Yes))?;
    write(&folder, "ch-image", ch_image::cli::command())?;
    write(&folder, "ch-remote", ch_remote::cli::command())
}

fn write(folder: &Path, program: &str, mut command: Command) -> Result<(), Box<dyn Error>> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, program, folder)?;
    }
    // One page for the program and one for each subcommand but `help`.
    clap_mangen::generate_to(command.disable_help_subcommand(true), folder)?;
    Ok(())
}
