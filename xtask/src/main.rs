//! Developer commands of kchaos: `cargo xtask COMMAND`.

mod apt;
mod bpf;
mod build;
mod command;
mod linker;
mod lint;
mod paths;
mod setup;
mod toolchain;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Developer commands of kchaos")]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Find or install what building needs, and say what was done
    Setup,
    /// Build the kernel programs, then the kchaos binary
    Build {
        /// With optimisations
        #[arg(long)]
        release: bool,
    },
    /// Set up, build and run kchaos as root: cargo xtask run -- exec ...
    Run {
        /// Arguments of kchaos
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Formatting and clippy, for the host and for the kernel programs; warnings are errors
    Lint,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Cmd::Setup => setup::run(),
        Cmd::Build { release } => build::build(release).map(|_| ()),
        Cmd::Run { args } => build::run(&args),
        Cmd::Lint => lint::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
