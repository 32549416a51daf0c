//! bpf-linker, built against an LLVM that reads the bitcode of the compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::apt;
use crate::command::{cargo, read, run, say};
use crate::paths::find_program;
use crate::toolchain::Toolchain;

/// One way to build the linker.
struct Build {
    version: &'static str,
    feature: String,
    /// Root of the LLVM it is linked against; without one it loads the LLVM of the compiler when it runs.
    llvm: Option<PathBuf>,
}

/// The version for an LLVM development package.
const LINKED: &str = "0.13.0";
/// The LLVM versions it can be built against.
const LINKED_LLVMS: [u32; 3] = [21, 22, 23];

/// The last version that can load the LLVM inside a rustup toolchain, for systems without that package.
const LOADING: &str = "0.10.3";
const LOADING_LLVMS: [u32; 2] = [21, 22];

/// Whether some build of the linker reads the bitcode of this LLVM: newer reads older.
pub fn supports(llvm: u32) -> bool {
    LINKED_LLVMS.iter().any(|&known| known >= llvm)
}

/// Finds a linker for the bitcode of this compiler in `tools`, else builds one there.
pub fn find_or_install(tools: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let linker = tools.join("bin/bpf-linker");
    if linker.is_file() && fits(tools, toolchain) && runs(&linker, toolchain) {
        return Ok(linker);
    }
    let build = choose(toolchain)?;
    apt::ensure_tools(&[apt::Tool { program: "cc", package: "gcc" }])?;
    let Build { version, feature, llvm } = &build;
    say(format!("building bpf-linker {version} with {feature} (one to two minutes, once)"));
    let mut install = cargo();
    install
        .args(["install", "--locked", "--force", "--quiet", "--version", version, "--no-default-features"])
        .args(["--features", feature, "bpf-linker", "--root"])
        .arg(tools)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    if let Some(llvm) = llvm {
        install.env("LLVM_PREFIX", llvm).env("RUSTFLAGS", format!("-L {}/lib", llvm.display()));
    }
    run(&mut install)
        .context("bpf-linker could not be built; its BUILDING.md names the libraries LLVM may need")?;
    Ok(linker)
}

fn choose(toolchain: &Toolchain) -> Result<Build> {
    let llvm = toolchain.llvm;
    if let Some(with) = find_llvm(llvm)? {
        return Ok(Build { version: LINKED, feature: format!("llvm-{with}"), llvm: Some(prefix(with)) });
    }
    if toolchain.own_libraries().is_some() && LOADING_LLVMS.contains(&llvm) {
        say(format!("no package llvm-{llvm}-dev: the linker will load the LLVM of {}", toolchain.origin));
        return Ok(Build { version: LOADING, feature: format!("rust-llvm-{llvm}"), llvm: None });
    }
    bail!("bpf-linker needs LLVM {llvm} or newer, and the package sources have none: install llvm-{llvm}-dev")
}

fn prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// The nearest LLVM that reads this one's bitcode: installed, else from the package sources.
fn find_llvm(llvm: u32) -> Result<Option<u32>> {
    let fitting: Vec<u32> = LINKED_LLVMS.into_iter().filter(|&known| known >= llvm).collect();
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
fn runs(linker: &Path, toolchain: &Toolchain) -> bool {
    let mut command = Command::new(linker);
    toolchain.show_libraries(command.arg("--version"));
    read(&mut command).is_ok()
}

/// Whether cargo recorded a build that reads this compiler's bitcode.
fn fits(tools: &Path, toolchain: &Toolchain) -> bool {
    features(tools).is_some_and(|(version, features)| {
        features.iter().any(|feature| match version.as_str() {
            LINKED => llvm_of(feature, "llvm-").is_some_and(|llvm| llvm >= toolchain.llvm),
            LOADING => {
                llvm_of(feature, "rust-llvm-") == Some(toolchain.llvm) && toolchain.own_libraries().is_some()
            }
            _ => false,
        })
    })
}

fn llvm_of(feature: &str, prefix: &str) -> Option<u32> {
    feature.strip_prefix(prefix)?.parse().ok()
}

/// Version and features of the installed linker.
fn features(tools: &Path) -> Option<(String, Vec<String>)> {
    let record: Value = serde_json::from_slice(&fs::read(tools.join(".crates2.json")).ok()?).ok()?;
    let mut installs = record["installs"].as_object()?.iter();
    let (name, install) = installs.find(|(name, _)| name.starts_with("bpf-linker "))?;
    let version = name.split(' ').nth(1)?.to_owned();
    let features = install["features"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned);
    Some((version, features.collect()))
}
