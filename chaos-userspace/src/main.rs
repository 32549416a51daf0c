//! The `kchaos` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    chaos_userspace::cli::main()
}
