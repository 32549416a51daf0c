//! From a name to its cgroup.

use super::cgroup::{Cgroup, Error, Hierarchy, children};
use crate::spec::target::{ContainerId, Target, Unit};
use std::{
    fs,
    path::{Path, PathBuf},
};

impl Hierarchy {
    /// The cgroup of a target that exists.
    pub fn resolve(&self, target: &Target) -> Result<Cgroup, Error> {
        match target {
            Target::Cgroup(path) => self.open(path),
            Target::Unit(unit) => self.only(target, |name| is_of_unit(name, unit), "systemctl list-units"),
            Target::Container(id) => {
                self.only(target, |name| is_of_container(name, id), "docker ps, podman ps or crictl ps")
            }
            Target::Process(pid) => self.of_process(*pid),
            Target::Fresh => Err(Error::NoTarget { target: target.to_string(), remedy: "name a target" }),
        }
    }

    /// The one cgroup whose name fits.
    fn only(
        &self,
        target: &Target,
        fits: impl Fn(&str) -> bool,
        list: &'static str,
    ) -> Result<Cgroup, Error> {
        let mut found = self.find_all(fits);
        found.sort();
        match &found[..] {
            [] => Err(Error::NoTarget { target: target.to_string(), remedy: list }),
            [one] => self.open(one),
            several => Err(Error::SeveralTargets {
                target: target.to_string(),
                paths: several.iter().map(|path| path.display().to_string()).collect(),
            }),
        }
    }

    /// Cgroups whose name fits, not those below one.
    fn find_all(&self, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let mut found = vec![];
        let mut to_visit = vec![self.mount().to_path_buf()];
        while let Some(directory) = to_visit.pop() {
            let is_one = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(&fits);
            let (fitting, others): (Vec<_>, Vec<_>) = children(&directory).into_iter().partition(is_one);
            found.extend(fitting);
            to_visit.extend(others);
        }
        found
    }

    /// The cgroup of a process, which is still in it when it is open.
    fn of_process(&self, pid: u32) -> Result<Cgroup, Error> {
        let missing = || Error::NoTarget { target: format!("process {pid}"), remedy: "ps" };
        let before = self.path_of_process(pid).ok_or_else(missing)?;
        let cgroup = self.open(&before)?;
        if self.path_of_process(pid).as_deref() == Some(&*before) { Ok(cgroup) } else { Err(missing()) }
    }

    /// The directory of the cgroup that a process is in.
    pub fn path_of_process(&self, pid: u32) -> Option<PathBuf> {
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(self.mount().join(unified(&table)?))
    }
}

/// The cgroup v2 path, below the mount, in a table with the format of /proc/PID/cgroup. One outside of the reader's cgroup
/// namespace begins with `/..`, and one that has been removed has that behind its name.
fn unified(table: &str) -> Option<&Path> {
    let path = table.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/');
    (!path.starts_with("..") && !path.ends_with(" (deleted)")).then(|| Path::new(path))
}

/// systemd puts `_` before names that could be taken for a file of the cgroup file system (`cg_needs_escape`,
/// src/basic/cgroup-util.c).
fn is_of_unit(name: &str, unit: &Unit) -> bool {
    name == unit.name() || name.strip_prefix('_') == Some(unit.name())
}

/// As Docker, containerd, CRI-O and Podman name cgroups: with systemd `docker-ID.scope` (`cri-containerd-`, `crio-`,
/// `libpod-`), by themselves `ID`, and with a colon between. Not those of their helpers (`crio-conmon-ID.scope`).
fn is_of_container(name: &str, id: &ContainerId) -> bool {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let known = ["docker-", "cri-containerd-", "crio-", "libpod-", "nerdctl-"];
    let own = known.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let own = own.rsplit_once(':').map_or(own, |(_, last)| last);
    own.len() == 64 && own.chars().all(|c| c.is_ascii_hexdigit()) && own.starts_with(id.digits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_their_table() {
        assert_eq!(
            unified("9:pids:/a\n0::/system.slice/a.service\n"),
            Some(Path::new("system.slice/a.service"))
        );
        assert_eq!(unified("0::/\n"), Some(Path::new("")));
        assert_eq!(unified("1:cpu:/a\n"), None);
        assert_eq!(unified("0::/../other\n"), None);
        assert_eq!(unified("0::/a (deleted)\n"), None);
    }

    #[test]
    fn units_are_found_by_their_directory() {
        let unit = "cgroup.service".parse().unwrap();
        assert!(is_of_unit("_cgroup.service", &unit) && is_of_unit("cgroup.service", &unit));
        assert!(!is_of_unit("my-cgroup.service", &unit));
    }

    #[test]
    fn containers_are_found_with_every_driver() {
        let whole = format!("{}{}", "0123456789ab", "c".repeat(52));
        let id = "0123456789ab".parse().unwrap();
        for name in [
            whole.clone(),
            format!("docker-{whole}.scope"),
            format!("cri-containerd-{whole}.scope"),
            format!("crio-{whole}.scope"),
            format!("libpod-{whole}.scope"),
            format!("kubepods-besteffort-pod1:cri-containerd:{whole}"),
        ] {
            assert!(is_of_container(&name, &id), "{name}");
        }
        for name in [
            format!("crio-conmon-{whole}.scope"),
            format!("libpod-conmon-{whole}.scope"),
            format!("x{whole}"),
            "0123456789ab".to_owned(),
            format!("docker-{}.scope", "d".repeat(64)),
        ] {
            assert!(!is_of_container(&name, &id), "{name}");
        }
    }
}
