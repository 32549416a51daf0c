//! A target in a network namespace with nothing but loopback, and what was there before anything ran on it.

use anyhow::{Result, ensure};

use crate::cgroup::{Cgroup, TestCgroup};
use crate::kernel_objects::KernelObjects;
use crate::netns::NetNs;
use crate::spawn::{Place, Victim};

/// The places, which go with this value.
pub struct Ground {
    // First, so that nobody is left in the namespace.
    /// What all cgroups of the test are below.
    pub cgroup: TestCgroup,
    /// The target.
    pub target: Cgroup,
    /// Where kchaos runs.
    pub runner: Place,
    /// The namespace of all of them.
    pub netns: NetNs,
    /// What was loaded and attached before.
    pub objects: KernelObjects,
    furniture: String,
}

impl Ground {
    /// Makes one.
    pub fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = cgroup.child("target")?;
        let netns = NetNs::new()?.with_clsact_where_needed()?;
        let runner = cgroup.runner()?.in_netns(&netns);
        let furniture = netns.furniture()?;
        Ok(Self { cgroup, target, runner, netns, objects: KernelObjects::now()?, furniture })
    }

    /// Starts a victim in one of the cgroups.
    pub fn victim(&self, cgroup: &Cgroup, arguments: &str) -> Result<Victim> {
        Victim::start(&Place::default().in_cgroup(cgroup).in_netns(&self.netns), arguments)
    }

    /// Everything is as it was before.
    pub fn check_clean(&self) -> Result<()> {
        KernelObjects::now()?.since(&self.objects).wait_gone()?;
        let furniture = self.netns.furniture()?;
        ensure!(furniture == self.furniture, "left behind: {furniture} instead of {}", self.furniture);
        Ok(())
    }
}
