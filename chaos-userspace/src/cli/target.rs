//! Flags that say who is hit.

use crate::spec::target::{ContainerId, Target, Unit};
use clap::Args;
use std::path::PathBuf;

/// Flags shared by `inject` and `plan`.
#[derive(Args, Clone, Debug, Default)]
#[group(multiple = false)]
pub struct Targets {
    /// A cgroup v2 directory, or its path below the mount, with everything below it
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    cgroup: Option<PathBuf>,

    /// The cgroup of a systemd unit: web.service, system-web.slice; web stands for web.service
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    unit: Option<Unit>,

    /// The cgroup that this process is in, with all its other processes
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Target")]
    pid: Option<u32>,

    /// The cgroup of a container: its id or the beginning of it, for Docker, containerd, CRI-O and Podman
    #[arg(long, value_name = "ID", help_heading = "Target")]
    container: Option<ContainerId>,
}

impl Targets {
    /// The target that is named, if any.
    pub fn named(&self) -> Option<Target> {
        let Self { cgroup, unit, pid, container } = self.clone();
        (cgroup.map(Target::Cgroup))
            .or(unit.map(Target::Unit))
            .or(pid.map(Target::Process))
            .or(container.map(Target::Container))
    }
}
