//! Writes shell completions and the man page into a folder: `generate-docs FOLDER`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap_complete::{Shell, generate_to};
use cloud_hypervisor::cli::{Help, command};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("usage: generate-docs FOLDER")?;
    fs::create_dir_all(&folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command(Help::Yes), "cloud-hypervisor", &folder)?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command(Help::Yes)).render(&mut page)?;
    fs::write(folder.join("cloud-hypervisor.1"), page)?;
    Ok(())
}
