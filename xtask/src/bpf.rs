//! Compiles the kernel programs to one BPF object.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{cargo, run, say};
use crate::paths;
use crate::setup::{self, BpfTools};

const TARGET: &str = "bpfel-unknown-none";

/// Builds chaos-ebpf into `target/bpf/kchaos.bpf.o`.
pub fn build() -> Result<()> {
    let tools = setup::ensure()?;
    say("building the kernel programs");
    run(command(&tools, "build").arg("--release"))?;
    let built = paths::target().join("bpf-build").join(TARGET).join("release/kchaos");
    let object = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let wanted = paths::bpf_object();
    // Same content, same time stamp: the userspace build then has nothing to do.
    if fs::read(&wanted).ok().is_none_or(|old| old != object) {
        fs::create_dir_all(paths::target().join("bpf"))?;
        fs::write(&wanted, object).with_context(|| format!("cannot write {}", wanted.display()))?;
    }
    Ok(())
}

/// Clippy on the kernel programs.
pub fn lint() -> Result<()> {
    let tools = setup::ensure()?;
    let clippy = tools.toolchain.clippy()?;
    say("clippy on the kernel programs");
    // What cargo-clippy does, with the toolchain's own parts.
    run(command(&tools, "check")
        .arg("--release")
        .env("RUSTC_WORKSPACE_WRAPPER", clippy)
        .env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__"))
}

fn command(tools: &BpfTools, subcommand: &str) -> Command {
    let mut command = match &tools.toolchain.cargo {
        Some(own) => {
            let mut own = Command::new(own);
            own.current_dir(paths::root());
            own
        }
        None => cargo(),
    };
    command
        .args([subcommand, "--package", "chaos-ebpf", "--target", TARGET, "-Zbuild-std=core"])
        .env("CARGO_TARGET_DIR", paths::target().join("bpf-build"))
        .env("RUSTC", &tools.toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(tools))
        // Flags and wrappers meant for host code.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    tools.toolchain.show_libraries(&mut command);
    command
}

fn rustflags(tools: &BpfTools) -> OsString {
    let mut linker = OsString::from("-Clinker=");
    linker.push(&tools.linker);
    let flags: [OsString; 7] = [
        "--cfg".into(),
        format!("bpf_target_arch=\"{}\"", std::env::consts::ARCH).into(),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Block placement likes to put a loop's last block above its head, and then falls through into it. The
        // verifier of 5.10 accepts a way back only as a jump (`push_insn`, kernel/bpf/verifier.c).
        "-Clink-arg=--llvm-args=-disable-block-placement".into(),
        linker,
        "-Cembed-bitcode=yes".into(),
    ];
    flags.join("\x1f".as_ref())
}
