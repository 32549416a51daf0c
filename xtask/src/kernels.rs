//! Kernels of the matrix: stock ones from packages, our own from a directory of built ones or from source.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Tool};
use crate::command::{read, run, say};
use crate::debian::Suite;
use crate::matrix::{Kernel, Package};
use crate::{kernel_build, paths};

/// A kernel ready to boot.
pub struct Bootable {
    pub image: PathBuf,
    /// `lib/modules/VERSION`, for a kernel with modules.
    pub modules: Option<PathBuf>,
}

/// Finds or fetches a kernel.
pub fn obtain(kernel: &Kernel) -> Result<Bootable> {
    let _lock = paths::lock("kernels")?;
    match (&kernel.package, &kernel.source) {
        (Some(package), _) => stock(package),
        (None, Some(source)) => own(&kernel.name, source),
        (None, None) => bail!("{}: neither package nor source", kernel.name),
    }
}

/// Where kernels are kept.
fn dir() -> Result<PathBuf> {
    Ok(paths::cache()?.join("kernels"))
}

fn stock(package: &Package) -> Result<Bootable> {
    let root = dir()?.join(format!("{}-{}", package.suite, package.name));
    if !root.is_dir() {
        apt::ensure_tools(&[
            Tool { program: "depmod", package: "kmod" },
            Tool { program: "xz", package: "xz-utils" },
        ])?;
        say(format!("fetching {} of {}", package.name, package.suite));
        let suite = Suite::open(&package.suite)?;
        // Recent suites split a kernel into image, binary and modules.
        let parts = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
        let packages =
            suite.closure(&package.name, |name| parts.iter().any(|part| name.starts_with(part)))?;
        let fresh = root.with_extension("fresh");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        suite.unpack(&packages, &fresh)?;
        // Packages leave this to their installation.
        let modules = modules_dir(&fresh)?;
        let version = modules.file_name().context("modules without version")?;
        let base = modules.ancestors().nth(3).context("modules at the root")?;
        run(Command::new(apt::program("depmod")?).arg("-b").arg(base).arg(version))?;
        fs::rename(&fresh, &root)?;
    }
    Ok(Bootable { image: vmlinuz(&root)?, modules: Some(modules_dir(&root)?) })
}

fn vmlinuz(root: &Path) -> Result<PathBuf> {
    only_entry(&root.join("boot"), |name| name.starts_with("vmlinuz-"))
        .or_else(|_| only_entry(&modules_dir(root)?, |name| name == "vmlinuz"))
}

fn modules_dir(root: &Path) -> Result<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|dir| only_entry(&root.join(dir), |_| true).ok())
        .with_context(|| format!("no modules in {}", root.display()))
}

fn only_entry(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!("{}: expected one kernel, found {}", dir.display(), found.len()),
    }
}

/// KCHAOS_KERNELS may name a directory with built kernels; else ours is built, once.
fn own(name: &str, source: &Package) -> Result<Bootable> {
    if let Some(dir) = env::var_os("KCHAOS_KERNELS") {
        let dir = paths::root().join(dir);
        let image = dir.join(name).join("bzImage");
        if image.is_file() {
            return Ok(Bootable { image, modules: None });
        }
        say(format!("{} has no {name}/bzImage; building that kernel", dir.display()));
    }
    Ok(Bootable { image: kernel_build::build(name, source)?, modules: None })
}

/// The files of these modules with all they depend on, dependencies first; names the kernel lacks are the second part.
pub fn module_files(modules: &Path, names: &[String]) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let text = |file: &str| {
        fs::read_to_string(modules.join(file))
            .with_context(|| format!("cannot read {}/{file}", modules.display()))
    };
    let (dep, builtin) = (text("modules.dep")?, text("modules.builtin")?);
    let lines: Vec<(&str, &str)> = dep.lines().filter_map(|line| line.split_once(':')).collect();
    let (mut order, mut missing) = (Vec::<PathBuf>::new(), Vec::new());
    for name in names {
        let Some((file, needs)) = lines.iter().find(|(file, _)| is_module(file, name)) else {
            if !builtin.lines().any(|file| is_module(file, name)) {
                missing.push(name.clone());
            }
            continue;
        };
        // modules.dep lists all needed modules, the innermost last.
        for file in needs.split_whitespace().rev().chain([*file]) {
            let file = modules.join(file);
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Ok((order, missing))
}

/// Module names use `_` where file names may have `-`.
fn is_module(file: &str, name: &str) -> bool {
    let stem =
        Path::new(file).file_name().and_then(|file| file.to_str()).and_then(|file| file.split('.').next());
    stem.is_some_and(|stem| stem.replace('-', "_") == name.replace('-', "_"))
}

/// The bytes of a module, decompressed: the initramfs has nothing to do that with.
pub fn module_bytes(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let plain = file.with_extension("");
    if !plain.is_file() {
        read(Command::new(program).args(["-d", "-q", "-k"]).arg(file))?;
    }
    fs::read(&plain).with_context(|| format!("cannot read {}", plain.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("modules.dep"),
            "kernel/a-b.ko.xz: kernel/c.ko kernel/d.ko\nkernel/c.ko: kernel/d.ko\nkernel/d.ko:\n",
        )
        .unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/e.ko\n").unwrap();
        let names = ["a_b", "c", "e", "nothing"].map(str::to_owned);
        let (files, missing) = module_files(dir.path(), &names).unwrap();
        let files: Vec<_> = files.iter().map(|file| file.strip_prefix(dir.path()).unwrap()).collect();
        assert_eq!(files, ["kernel/d.ko", "kernel/c.ko", "kernel/a-b.ko.xz"].map(Path::new));
        assert_eq!(missing, ["nothing"]);
    }
}
