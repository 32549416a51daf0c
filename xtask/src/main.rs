//! Developer commands of kchaos: `cargo xtask COMMAND`.

mod apt;
mod artifacts;
mod baseline;
mod bench;
mod bpf;
mod build;
mod command;
mod debian;
mod host;
mod image;
mod initramfs;
mod kernel_build;
mod kernels;
mod lines;
mod linker;
mod lint;
mod machine;
mod matrix;
mod paths;
mod places;
mod reach;
mod results;
mod room;
mod setup;
mod soak;
mod summary;
mod test;
mod toolchain;
mod unit;
mod vm;

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
    /// All lints and tests, here and in virtual machines: what CI runs
    Test {
        #[command(flatten)]
        jobs: vm::Jobs,
    },
    /// The integration tests with full sample sizes; figures go to target/soak
    Soak(soak::SoakOptions),
    /// Find out which system call fails where and by what, and write docs/kernel-support.md
    Reach(reach::Options),
    /// Measure how large the kernel programs are on every kernel, and write tests/baseline.json
    Baseline(baseline::Options),
    /// Measure what kchaos costs, here and in virtual machines, and write docs/benchmarks.md
    Bench(bench::Options),
    /// Run the integration tests on the kernels of tests/matrix.toml, in virtual machines
    Vm(vm::Options),
    /// Build the kernels with error injection from Debian's sources: 15 to 30 minutes each
    Kernel {
        /// Its name in tests/matrix.toml; all if not given
        name: Option<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Cmd::Setup => setup::run(),
        Cmd::Build { release } => build::build(release).map(|_| ()),
        Cmd::Run { args } => build::run(&args),
        Cmd::Lint => lint::run(),
        Cmd::Test { jobs } => test::run(jobs),
        Cmd::Soak(options) => soak::run(options),
        Cmd::Reach(options) => reach::run(options),
        Cmd::Baseline(options) => baseline::run(options),
        Cmd::Bench(options) => bench::run(options),
        Cmd::Vm(options) => vm::run(&options),
        Cmd::Kernel { name } => kernel_build::run_command(name.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
