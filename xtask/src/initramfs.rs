//! The initramfs of a test machine: our init, kernel modules, kchaos, the victim, the test programs and their orders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc;
use serde_json::json;

use crate::artifacts::{Artifacts, TestProgram};
use crate::kernels;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;

/// What one machine runs.
pub struct Contents<'a> {
    pub artifacts: &'a Artifacts,
    /// Module files, dependencies first.
    pub modules: &'a [std::path::PathBuf],
    /// Test programs by name, with their arguments.
    pub tests: Vec<(&'a TestProgram, Vec<String>)>,
    /// Environment of the tests.
    pub environment: BTreeMap<&'static str, String>,
}

/// Writes the archive, uncompressed: unpacking costs an emulated machine more than reading.
pub fn write(contents: &Contents<'_>, to: &Path) -> Result<()> {
    let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut archive = Archive { out: BufWriter::new(file), inode: 0 };
    for dir in ["dev", "proc", "sys", "modules", "kchaos", "kchaos/tests"] {
        archive.add(dir, DIRECTORY, &[])?;
    }
    archive.add("init", PROGRAM, &read(&contents.artifacts.init)?)?;
    archive.add("kchaos/kchaos", PROGRAM, &read(&contents.artifacts.kchaos)?)?;
    archive.add("kchaos/victim", PROGRAM, &read(&contents.artifacts.victim)?)?;
    let mut tests = Vec::new();
    for (test, arguments) in &contents.tests {
        archive.add(&format!("kchaos/tests/{}", test.name), PROGRAM, &read(&test.file)?)?;
        tests.push(json!({"program": test.name, "arguments": arguments}));
    }
    let mut modules = Vec::new();
    for file in contents.modules {
        let name = file.file_name().context("module without name")?.to_string_lossy().into_owned();
        archive.add(&format!("modules/{name}"), DATA, &kernels::module_bytes(file)?)?;
        modules.push(name);
    }
    let orders = json!({"modules": modules, "tests": tests, "environment": contents.environment});
    archive.add("kchaos/run.json", DATA, &serde_json::to_vec(&orders)?)?;
    newc::trailer(archive.out)?.flush().with_context(|| format!("cannot write {}", to.display()))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

struct Archive {
    out: BufWriter<File>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(bytes.len()).with_context(|| format!("{name} has more than 4 GiB"))?;
        let mut entry =
            newc::Builder::new(name).ino(self.inode).mode(mode).nlink(1).write(&mut self.out, size);
        entry.write_all(bytes)?;
        entry.finish()?;
        Ok(())
    }
}
