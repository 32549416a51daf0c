//! Whoever is nobody's target, and must not notice.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use chaos_userspace::host::cgroup::Hierarchy;
use integration_tests::cgroup::{TestCgroup, mount_point};

/// This process in a cgroup four levels deep, as a service's or a container's is. It is nobody's target.
pub struct Bystander {
    cgroup: TestCgroup,
    path: PathBuf,
    /// The level of its cgroup, at which strangers are to be.
    pub level: u32,
}

impl Bystander {
    /// Moves this process there, until the value is dropped.
    pub fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let deep = cgroup.child("slice")?.child("service")?.child("payload")?;
        deep.adopt(std::process::id())?;
        let level = Hierarchy::find()?.open(deep.path())?.level();
        Ok(Self { cgroup, path: deep.path().to_owned(), level })
    }

    /// Its cgroup.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its cgroup is below, for others beside it.
    pub fn cgroup(&self) -> &TestCgroup {
        &self.cgroup
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // Out of the cgroup that is removed with everything in it.
        let _ignored = leave();
    }
}

/// Does something as a process of that cgroup: sockets made meanwhile stay the cgroup's, this process does not.
pub fn while_in<T>(cgroup: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    enter(cgroup)?;
    let result = work();
    leave()?;
    result
}

/// To the root of the hierarchy.
fn leave() -> Result<()> {
    enter(&mount_point()?)
}

fn enter(cgroup: &Path) -> Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("entering {}", cgroup.display()))
}
