//! The static programs that run on test machines: kchaos, the victim, the init and the integration tests.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{cargo, say};
use crate::{bpf, paths};

/// Paths of the built programs.
pub struct Artifacts {
    pub init: PathBuf,
    pub kchaos: PathBuf,
    pub victim: PathBuf,
    pub tests: Vec<TestProgram>,
}

/// One file of the package's tests.
pub struct TestProgram {
    pub name: String,
    pub file: PathBuf,
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a release is built with takes minutes for half a hundred programs, each time anew, and tests nothing more.
const QUICKLY: [&str; 4] = [
    "profile.release.lto=\"off\"",
    "profile.release.debug=false",
    "profile.release.codegen-units=16",
    "profile.release.incremental=true",
];

/// Builds them, optimised: emulated machines are slow enough.
pub fn build() -> Result<Artifacts> {
    build_of("integration-tests")
}

/// The same with the test programs of another package.
pub fn build_of(package: &str) -> Result<Artifacts> {
    bpf::build()?;
    say(format!("building kchaos and the test programs of {package} (static)"));
    let programs =
        compile(&["build", "--package=chaos-userspace", "--package=integration-tests", "--bins"], "bin")?;
    let tests = compile(&["test", "--no-run", &format!("--package={package}"), "--test=*"], "test")?;
    let program = |name: &str| {
        let found = programs.iter().find(|(known, _)| known == name);
        found.map(|(_, file)| file.clone()).with_context(|| format!("cargo built no program {name}"))
    };
    Ok(Artifacts {
        init: program("vm-init")?,
        kchaos: program("kchaos")?,
        victim: program("victim")?,
        tests: tests.into_iter().map(|(name, file)| TestProgram { name, file }).collect(),
    })
}

/// Runs cargo and reads from its messages where it put the programs of one kind.
fn compile(args: &[&str], kind: &str) -> Result<Vec<(String, PathBuf)>> {
    let output = cargo()
        .args(args)
        .args(["--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .args(QUICKLY.iter().flat_map(|setting| ["--config", setting]))
        .env("CARGO_TARGET_DIR", paths::target().join("vm"))
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed; see above", args.join(" "));
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).unwrap_or_default();
        let is_kind =
            message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|have| have == kind));
        if let (true, Some(name), Some(file)) =
            (is_kind, message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.push((name.to_owned(), PathBuf::from(file)));
        }
    }
    found.sort();
    Ok(found)
}
