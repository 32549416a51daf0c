//! bpf-linker, built against an LLVM that reads the bitcode of the compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::apt;
use crate::command::{cargo, read, run, say};
use crate::paths::find_program;

/// The version we build with.
pub const VERSION: &str = "0.13.0";

/// The LLVM versions it can be built against.
const LLVMS: [u32; 3] = [21, 22, 23];

/// Whether some build of the linker reads the bitcode of this LLVM: newer reads older.
pub fn supports(llvm: u32) -> bool {
    LLVMS.iter().any(|&known| known >= llvm)
}

/// Finds a linker for bitcode of this LLVM in `tools`, else builds one there.
pub fn find_or_install(tools: &Path, llvm: u32) -> Result<PathBuf> {
    let linker = tools.join("bin/bpf-linker");
    if linker.is_file() && built_against(tools).is_some_and(|built| built >= llvm) && runs(&linker) {
        return Ok(linker);
    }
    let Some(with) = find_llvm(llvm)? else {
        // No LLVM to build against: a released binary has its own inside.
        if let Some(found) = find_program("bpf-linker") {
            say(format!("no LLVM {llvm} development package; using {}", found.display()));
            return Ok(found);
        }
        bail!(
            "bpf-linker needs LLVM {llvm} or newer: install llvm-{llvm}-dev, or a released binary of bpf-linker \
             {VERSION} on PATH (cargo binstall bpf-linker@{VERSION})"
        );
    };
    apt::ensure_tools(&[apt::Tool { program: "cc", package: "gcc" }])?;
    say(format!("building bpf-linker {VERSION} against LLVM {with} (one to two minutes, once)"));
    let prefix = prefix(with);
    run(cargo()
        .args(["install", "--locked", "--force", "--quiet", "--version", VERSION, "--no-default-features"])
        .arg(format!("--features=llvm-{with}"))
        .arg("--root")
        .arg(tools)
        .arg("bpf-linker")
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTFLAGS", format!("-L {}/lib", prefix.display()))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR"))
    .context("bpf-linker could not be built; its BUILDING.md names the libraries LLVM may need")?;
    Ok(linker)
}

fn prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// The nearest LLVM that reads this one's bitcode: installed, else from the package sources.
fn find_llvm(llvm: u32) -> Result<Option<u32>> {
    let fitting: Vec<u32> = LLVMS.into_iter().filter(|&known| known >= llvm).collect();
    let installed = |&version: &u32| prefix(version).join("include/llvm-c/Core.h").is_file();
    if let Some(&version) = fitting.iter().find(|version| installed(version)) {
        return Ok(Some(version));
    }
    if find_program("apt-get").is_none() {
        return Ok(None);
    }
    apt::update()?;
    for version in fitting {
        let package = format!("llvm-{version}-dev");
        if apt::offers(&package) {
            apt::install(&[&package])?;
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// A linker whose LLVM was uninstalled or upgraded away does not start.
fn runs(linker: &Path) -> bool {
    read(Command::new(linker).arg("--version")).is_ok_and(|version| version.trim().ends_with(VERSION))
}

/// What cargo recorded about the installed linker.
fn built_against(tools: &Path) -> Option<u32> {
    let record: Value = serde_json::from_slice(&fs::read(tools.join(".crates2.json")).ok()?).ok()?;
    let installs = record.get("installs")?.as_object()?;
    let (_, install) =
        installs.iter().find(|(name, _)| name.starts_with(&format!("bpf-linker {VERSION} ")))?;
    let features = install.get("features")?.as_array()?;
    features.iter().filter_map(Value::as_str).find_map(|feature| feature.strip_prefix("llvm-")?.parse().ok())
}
