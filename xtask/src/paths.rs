//! Where things live: the workspace, its build products, and the cache that survives them.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Root of the workspace this xtask was built from.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Build products of the xtask commands. Not moved by CARGO_TARGET_DIR: `.cargo/config.toml` names the BPF object here.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The BPF object that the userspace build embeds.
pub fn bpf_object() -> PathBuf {
    target().join("bpf/kchaos.bpf.o")
}

/// Tools, kernels and images, shared by all checkouts of one user.
pub fn cache() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("KCHAOS_CACHE") {
        return std::path::absolute(&dir).with_context(|| format!("KCHAOS_CACHE={}", dir.display()));
    }
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither KCHAOS_CACHE nor HOME is set; set one")?)
            .join(".cache"),
    };
    Ok(base.join("kchaos"))
}

/// Waits until no other xtask makes the same part of the cache; holds it until dropped.
pub fn lock(part: &str) -> Result<File> {
    let (path, file) = lock_file(part)?;
    if file.try_lock().is_err() {
        crate::command::say(format!("waiting for another xtask ({})", path.display()));
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

fn lock_file(name: &str) -> Result<(PathBuf, File)> {
    let dir = cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, file))
}

/// Waits until one of `places` of the whole machine is free, whichever xtask holds the others; holds it until dropped.
pub fn lock_one_of(part: &str, places: usize) -> Result<File> {
    let open = |place| lock_file(&format!("{part}-{place}")).map(|(_, file)| file);
    let mut files = (0..places.max(1)).map(open).collect::<Result<Vec<_>>>()?;
    loop {
        if let Some(at) = files.iter().position(|file| file.try_lock().is_ok()) {
            return Ok(files.swap_remove(at));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Finds a program like a root shell would: PATH, then the sbin directories.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
