//! `cargo xtask setup`: everything that building the kernel programs needs, found or installed, remembered in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::command::say;
use crate::toolchain::{self, Toolchain};
use crate::{linker, paths};

/// What compiles and links the kernel programs.
#[derive(Serialize, Deserialize)]
pub struct BpfTools {
    pub toolchain: Toolchain,
    pub linker: PathBuf,
}

/// The command: says what there is.
pub fn run() -> Result<()> {
    let tools = ensure()?;
    say(format!(
        "kernel programs: {} ({}, LLVM {})",
        tools.toolchain.version, tools.toolchain.origin, tools.toolchain.llvm
    ));
    say(format!("bpf-linker: {}", tools.linker.display()));
    say("ready");
    Ok(())
}

/// Finds or installs; quiet and quick when all is there.
pub fn ensure() -> Result<BpfTools> {
    let cache = paths::cache()?;
    let record = cache.join("bpf-tools.json");
    if let Some(known) = recorded(&record) {
        return Ok(known);
    }
    let _lock = paths::lock("setup")?;
    if let Some(known) = recorded(&record) {
        return Ok(known);
    }
    let toolchain = toolchain::find_or_install()?;
    let linker = linker::find_or_install(&cache.join("tools"), &toolchain)?;
    let tools = BpfTools { toolchain, linker };
    fs::write(&record, serde_json::to_vec_pretty(&tools)?)
        .with_context(|| format!("cannot write {}", record.display()))?;
    Ok(tools)
}

/// What an earlier run found, if it is all still there.
fn recorded(record: &Path) -> Option<BpfTools> {
    let known: BpfTools = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    (known.toolchain.is_current() && known.linker.is_file()).then_some(known)
}
