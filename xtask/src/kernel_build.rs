//! `cargo xtask kernel`: kernels with error injection, which no distribution's package offers, from Debian's source
//! packages and a configuration fragment of ours.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::command::{run, run_long, say};
use crate::debian::Suite;
use crate::matrix::{self, Package};
use crate::paths;

/// What building a kernel needs.
const PACKAGES: [&str; 12] = [
    "bc",
    "bison",
    "cpio",
    "dwarves",
    "flex",
    "gcc",
    "kmod",
    "libelf-dev",
    "libssl-dev",
    "make",
    "rsync",
    "xz-utils",
];

/// The command: builds the kernel of this name, or all of ours.
pub fn run_command(name: Option<&str>) -> Result<()> {
    let matrix = matrix::read()?;
    let mut built = 0;
    for kernel in matrix.kernels.iter().filter(|kernel| name.is_none_or(|name| kernel.name == name)) {
        if let Some(source) = &kernel.source {
            let image = build(&kernel.name, source)?;
            say(format!("{}: {}", kernel.name, image.display()));
            built += 1;
        }
    }
    if built == 0 {
        bail!("tests/matrix.toml has no kernel {} with a `source`", name.unwrap_or_default());
    }
    Ok(())
}

/// Finds or builds a kernel; the result is kept as long as source package name and fragment stay the same.
pub fn build(name: &str, source: &Package) -> Result<PathBuf> {
    let fragment = format!("{}{}", fragment_file("common")?, fragment_file(name)?);
    let mut hasher = DefaultHasher::new();
    (&source.suite, &source.name, &fragment).hash(&mut hasher);
    let dir = paths::cache()?.join("kernels").join(format!("{name}-{:016x}", hasher.finish()));
    let image = dir.join("bzImage");
    if image.is_file() {
        return Ok(image);
    }
    fs::create_dir_all(&dir)?;
    install_tools()?;
    let tree = dir.join("tree");
    if !tree.join("Makefile").is_file() {
        unpack(source, &dir, &tree)?;
    }
    configure(&tree, &fragment)?;
    say(format!("building {name} (15 to 30 minutes on two cores, once)"));
    let jobs = thread::available_parallelism().map_or(2, usize::from);
    run_long(
        make(&tree).arg(format!("-j{jobs}")).arg("bzImage"),
        &format!("kernel {name}"),
        &dir.join("build.log"),
    )?;
    fs::copy(tree.join(".config"), dir.join("config"))?;
    fs::copy(tree.join("arch/x86/boot/bzImage"), dir.join("fresh"))?;
    fs::remove_dir_all(&tree)?;
    fs::rename(dir.join("fresh"), &image)?;
    Ok(image)
}

fn fragment_file(name: &str) -> Result<String> {
    let file = paths::root().join("xtask/kernel").join(format!("{name}.config"));
    fs::read_to_string(&file).with_context(|| format!("cannot read the configuration {}", file.display()))
}

fn install_tools() -> Result<()> {
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|package| !apt::is_installed(package)).collect();
    if missing.is_empty() { Ok(()) } else { apt::install(&missing) }
}

fn unpack(source: &Package, dir: &Path, tree: &Path) -> Result<()> {
    say(format!("fetching {} of {}", source.name, source.suite));
    let package = dir.join("package");
    Suite::open(&source.suite)?.unpack(std::slice::from_ref(&source.name), &package)?;
    let archive = package.join("usr/src").join(format!("{}.tar.xz", source.name));
    fs::create_dir_all(tree)?;
    run(Command::new("tar").arg("-xJf").arg(&archive).args(["--strip-components=1", "-C"]).arg(tree))?;
    Ok(fs::remove_dir_all(&package)?)
}

/// The smallest configuration with our fragment on top; every option of the fragment must have survived.
fn configure(tree: &Path, fragment: &str) -> Result<()> {
    let log = tree.join("kchaos-config.log");
    run_long(make(tree).arg("tinyconfig"), "kernel configuration", &log)?;
    let merged = format!("{}\n{fragment}", fs::read_to_string(tree.join(".config"))?);
    fs::write(tree.join(".config"), merged)?;
    run_long(make(tree).arg("olddefconfig"), "kernel configuration", &log)?;
    let lost = lost_options(fragment, &fs::read_to_string(tree.join(".config"))?);
    if !lost.is_empty() {
        bail!("this kernel does not take these options of the fragment: {}", lost.join(", "));
    }
    Ok(())
}

/// Options of the fragment that the final configuration does not have as wanted.
fn lost_options(fragment: &str, config: &str) -> Vec<String> {
    let is_off = |line: &str| {
        let name = line.trim_start_matches("# ").trim_end_matches(" is not set");
        !config.lines().any(|have| have.starts_with(&format!("{name}=")))
    };
    fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_") || line.ends_with(" is not set"))
        .filter(
            |line| {
                if line.starts_with('#') { !is_off(line) } else { !config.lines().any(|have| have == *line) }
            },
        )
        .map(str::to_owned)
        .collect()
}

fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(tree).env_remove("MAKEFLAGS");
    make
}

#[cfg(test)]
mod tests {
    use super::lost_options;

    #[test]
    fn an_option_that_did_not_survive_is_named() {
        let fragment = "# why\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=y\n";
        assert_eq!(lost_options(fragment, config), ["CONFIG_B=y", "# CONFIG_D is not set"]);
    }
}
