//! The software image of the virtual machines: one ext4 file made by debootstrap, read-only, shared by all kernels.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::{self, Tool};
use crate::command::{as_root, run, run_long, say};
use crate::matrix::Image;
use crate::{debian, paths};

/// Changes when the way images are made does.
const RECIPE: u32 = 1;

/// Finds or makes the image.
pub fn obtain(image: &Image) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (RECIPE, &image.suite, image.size_mib, &image.packages).hash(&mut hasher);
    let dir = paths::cache()?.join("images");
    let file = dir.join(format!("{:016x}.ext4", hasher.finish()));
    let _lock = paths::lock("images")?;
    if !file.is_file() {
        fs::create_dir_all(&dir)?;
        make(image, &file).context("the software image of the virtual machines could not be made")?;
    }
    Ok(file)
}

fn make(image: &Image, file: &Path) -> Result<()> {
    apt::ensure_tools(&[
        Tool { program: "debootstrap", package: "debootstrap" },
        Tool { program: "mke2fs", package: "e2fsprogs" },
    ])?;
    debian::ensure_keyring()?;
    let (tree, log) = (file.with_extension("tree"), file.with_extension("log"));
    run(as_root("rm").arg("-rf").arg(&tree))?;
    say(format!(
        "making the software image: {} packages and what they need (a few minutes, once)",
        image.packages.len()
    ));
    let debootstrap = apt::program("debootstrap")?;
    run_long(
        as_root(debootstrap)
            .args(["--variant=minbase", "--foreign", "--arch=amd64"])
            .arg(format!("--include={}", image.packages.join(",")))
            .arg(&image.suite)
            .arg(&tree)
            .arg(debian::mirror()),
        "software image: download",
        &log,
    )?;
    refuse_services(&tree)?;
    run_long(
        as_root(apt::program("chroot")?).arg(&tree).arg("/debootstrap/debootstrap").arg("--second-stage"),
        "software image: installation",
        &log,
    )?;
    run(as_root("rm").arg("-rf").arg(tree.join("var/cache/apt/archives")).arg(tree.join("usr/share/doc")))?;
    let fresh = file.with_extension("fresh");
    if fresh.exists() {
        fs::remove_file(&fresh)?;
    }
    // It is only ever mounted read-only: no journal.
    run(as_root(apt::program("mke2fs")?)
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(&tree)
        .arg(&fresh)
        .arg(format!("{}M", image.size_mib)))
    .context("if the file system is too small, raise size_mib in tests/matrix.toml")?;
    run(as_root("chmod").arg("644").arg(&fresh))?;
    run(as_root("rm").arg("-rf").arg(&tree))?;
    fs::rename(&fresh, file)?;
    Ok(())
}

/// Packages start their services when installed; they would run on this machine.
fn refuse_services(tree: &Path) -> Result<()> {
    let policy = paths::target().join("policy-rc.d");
    fs::create_dir_all(paths::target())?;
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    run(as_root("mkdir").arg("-p").arg(tree.join("usr/sbin")))?;
    run(as_root("cp").arg(&policy).arg(tree.join("usr/sbin/policy-rc.d")))?;
    Ok(fs::remove_file(&policy)?)
}
