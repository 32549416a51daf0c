//! Cgroups of the tests, all below one that is removed with everything in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::patience::wait_for;
use crate::spawn::Place;

/// Where the cgroup v2 hierarchy is mounted; on hybrid hosts beside the v1 hierarchies.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    find_mount(&mounts, "cgroup2").context("no cgroup v2 hierarchy is mounted")
}

/// Where some cgroup v1 hierarchy is mounted, if any.
pub fn v1_mount_point() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(find_mount(&mounts, "cgroup"))
}

fn find_mount(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (filesystem.split(' ').next() == Some(kind))
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))
            .flatten()
    })
}

/// A cgroup that lives as long as the [`TestCgroup`] it was made below.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A cgroup somebody else made.
    pub fn existing(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Directory of the cgroup.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a cgroup below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("creating cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Names of the cgroups below.
    pub fn children(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(|| format!("reading {}", self.path.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Processes in this cgroup alone.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let procs = self.path.join("cgroup.procs");
        let text = fs::read_to_string(&procs).with_context(|| format!("reading {}", procs.display()))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Moves a process here.
    pub fn adopt(&self, pid: u32) -> Result<()> {
        let procs = self.path.join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("moving {pid} into {}", procs.display()))
    }

    /// Whether it is still there.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Ends everything in it and removes it.
    pub fn remove(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        for name in self.children()? {
            Self { path: self.path.join(name) }.remove()?;
        }
        let what = format!("cgroup {} to become empty", self.path.display());
        wait_for(&what, || {
            for pid in self.pids().unwrap_or_default() {
                ensure!(pid > 1, "refusing to end process {pid} of {}", self.path.display());
                // It may be gone already; the loop sees.
                let _ignored = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            Ok((fs::remove_dir(&self.path).is_ok() || !self.exists()).then_some(()))
        })
        .map(|_| ())
    }
}

/// The cgroup of one test; everything below it goes when the test ends.
pub struct TestCgroup {
    root: Cgroup,
}

impl TestCgroup {
    /// Makes a fresh cgroup in the root of the hierarchy.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = mount_point()?.join(format!("kctest-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("creating cgroup {}", path.display()))?;
        Ok(Self { root: Cgroup { path } })
    }

    /// The cgroup itself.
    pub fn root(&self) -> &Cgroup {
        &self.root
    }

    /// Makes a cgroup below.
    pub fn child(&self, name: &str) -> Result<Cgroup> {
        self.root.child(name)
    }

    /// Lets memory be counted and limited in what is directly below these cgroups, from the test's own on. Only where the
    /// machine's controllers are ours to enable.
    pub fn enable_memory(&self, further: &[&Cgroup]) -> Result<()> {
        let root = self.root.path().parent().context("no root")?;
        for above in [root, self.root.path()].into_iter().chain(further.iter().map(|cgroup| cgroup.path())) {
            let control = above.join("cgroup.subtree_control");
            fs::write(&control, "+memory").with_context(|| control.display().to_string())?;
        }
        Ok(())
    }

    /// A cgroup below, for kchaos itself: beside the target.
    pub fn runner(&self) -> Result<Place> {
        Ok(Place::default().in_cgroup(&self.child("runner")?))
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        if let Err(error) = self.root.remove() {
            eprintln!("could not remove the test's cgroup: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_apart_by_version() {
        let mounts = "30 20 0:26 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n\
                      31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(mounts, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_mount(mounts, "cgroup"), Some(PathBuf::from("/sys/fs/cgroup/pids")));
        assert_eq!(find_mount("", "cgroup2"), None);
    }
}
