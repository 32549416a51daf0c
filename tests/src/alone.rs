//! A target and somebody beside it, alone in a network namespace with nothing but loopback, and files of theirs.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use tempfile::TempDir;

use crate::cgroup::{Cgroup, TestCgroup};
use crate::netns::NetNs;
use crate::spawn::Place;

/// The places, which go with this value.
pub struct Alone {
    // First, so that nobody is left who uses the files.
    /// What all cgroups of the test are below.
    pub cgroup: TestCgroup,
    _netns: NetNs,
    /// The cgroup of the target.
    pub target_cgroup: Cgroup,
    /// Where kchaos runs.
    pub runner: Place,
    /// In the target.
    pub target: Place,
    /// In a sibling cgroup, which faults must not reach.
    pub beside: Place,
    /// A directory that everybody may write to.
    pub files: TempDir,
}

impl Alone {
    /// In this namespace.
    pub fn in_netns(netns: NetNs) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let inside = Place::default().in_netns(&netns);
        let runner = inside.clone().in_cgroup(&cgroup.child("runner")?);
        let target_cgroup = cgroup.child("target")?;
        let target = inside.clone().in_cgroup(&target_cgroup);
        let beside = inside.in_cgroup(&cgroup.child("beside")?);
        let files = tempfile::tempdir()?;
        std::fs::set_permissions(files.path(), PermissionsExt::from_mode(0o777))?;
        Ok(Self { cgroup, _netns: netns, target_cgroup, runner, target, beside, files })
    }

    /// The path of one of the files.
    pub fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// A new file for what a program says.
    pub fn log(&self, name: &str) -> Result<File> {
        Ok(File::create(self.files.path().join(name))?)
    }
}
