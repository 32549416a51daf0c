//! From names to their cgroups.

use super::{
    cgroup::{Cgroup, Error, Hierarchy, children},
    containers, kernel, process,
};
use crate::spec::{
    glob,
    target::{Container, ContainerId, ContainerName, Target, Unit},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

impl Hierarchy {
    /// The cgroups of targets that exist, by path: each once, and none that lies below another one, with which it is hit
    /// anyway. All that is wrong is told.
    pub fn resolve_all(&self, targets: &[Target]) -> Result<Vec<Cgroup>, Vec<Error>> {
        let (mut found, mut errors) = (BTreeMap::<PathBuf, Cgroup>::new(), vec![]);
        kernel::allow_descriptors(targets.len());
        for target in targets {
            match self.resolve(target, targets.len() + found.len()) {
                Ok(cgroups) => {
                    for cgroup in cgroups {
                        // Named in both ways, it is named.
                        let path = cgroup.path().to_path_buf();
                        if cgroup.is_named() || !found.contains_key(&path) {
                            found.insert(path, cgroup);
                        }
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        let mut roots: Vec<Cgroup> = vec![];
        // What lies below a path comes right behind it.
        for (path, cgroup) in found {
            if roots.last().is_none_or(|root| !path.starts_with(root.path())) {
                roots.push(cgroup);
            }
        }
        if errors.is_empty() { Ok(roots) } else { Err(errors) }
    }

    /// The cgroups of one target: at least one. `others` more are held open.
    fn resolve(&self, target: &Target, others: usize) -> Result<Vec<Cgroup>, Error> {
        match target {
            Target::Pods(pods) => return self.of_pods(target, pods),
            Target::Tree(pid) => return self.of_tree(*pid),
            _ => {}
        }
        if !target.is_pattern() {
            return Ok(vec![self.resolve_one(target)?]);
        }
        let (paths, remedy) = match target {
            Target::Unit(unit) => (self.find_all(|name| is_of_unit(name, unit)), "systemctl list-units"),
            Target::Cgroup(pattern) => (self.fitting(pattern)?, "systemd-cgls"),
            Target::Process(_) | Target::Tree(_) | Target::Container(_) | Target::Pods(_) | Target::Fresh => {
                (vec![], "")
            }
        };
        kernel::allow_descriptors(others + paths.len());
        let mut found = vec![];
        for path in paths {
            match self.open(&path) {
                Ok(cgroup) => found.push(cgroup),
                // It went after it was listed.
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() { Err(Error::NoTarget { target: target.to_string(), remedy }) } else { Ok(found) }
    }

    /// The cgroup that a target stands for which is no pattern.
    fn resolve_one(&self, target: &Target) -> Result<Cgroup, Error> {
        match target {
            Target::Cgroup(path) => self.open(path),
            Target::Unit(unit) => self.only(target, |name| is_of_unit(name, unit), "systemctl list-units"),
            Target::Container(Container::Id(id)) => self.of_container(target, id),
            Target::Container(Container::Name(name)) => self.of_named(name),
            Target::Container(Container::Either(id, name)) => match self.of_container(target, id) {
                Err(nobody @ Error::NoTarget { .. }) => self.of_named(name).map_err(|error| match error {
                    Error::Container(containers::Problem::Unknown(_)) => nobody,
                    other => other,
                }),
                found => found,
            },
            Target::Process(pid) => self.of_process(*pid),
            Target::Tree(_) | Target::Pods(_) | Target::Fresh => {
                Err(Error::NoTarget { target: target.to_string(), remedy: "name a target" })
            }
        }
    }

    fn of_container(&self, target: &Target, id: &ContainerId) -> Result<Cgroup, Error> {
        self.only(target, |name| is_of_container(name, id), "docker ps, podman ps or crictl ps")
    }

    /// The cgroup of the container that its runtime knows by this name.
    fn of_named(&self, name: &ContainerName) -> Result<Cgroup, Error> {
        let id = containers::id(name, |id| !self.find_all(|name| is_of_container(name, id)).is_empty())?;
        let found = self.of_container(&Target::Container(Container::Id(id.clone())), &id);
        found.map_err(|error| match error {
            Error::NoTarget { target, remedy } => {
                Error::NoTarget { target: format!("{target}, which is called {}", name.text()), remedy }
            }
            other => other,
        })
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
    pub(super) fn find_all(&self, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
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

    /// Cgroups whose path fits a pattern, name by name; `**` stands for any number of names. Never the root.
    fn fitting(&self, pattern: &Path) -> Result<Vec<PathBuf>, Error> {
        let below =
            pattern.strip_prefix(self.mount()).or_else(|_| pattern.strip_prefix("/")).unwrap_or(pattern);
        let mut found = BTreeSet::from([self.mount().to_path_buf()]);
        for part in below.components() {
            match part {
                Component::Normal(name) => found = one_name_on(found, name.as_bytes()),
                Component::CurDir => {}
                _ => {
                    let (path, mount) = (pattern.display().to_string(), self.mount().display().to_string());
                    return Err(Error::NotACgroup { path, mount });
                }
            }
        }
        found.remove(self.mount());
        Ok(found.into_iter().collect())
    }

    /// The cgroup of a process, which is still in it when it is open.
    fn of_process(&self, pid: u32) -> Result<Cgroup, Error> {
        let missing = || Error::NoTarget { target: format!("process {pid}"), remedy: "ps" };
        let before = self.path_of_process(pid).ok_or_else(missing)?;
        let cgroup = self.open(&before)?.unnamed();
        if self.path_of_process(pid).as_deref() == Some(&*before) { Ok(cgroup) } else { Err(missing()) }
    }

    /// The cgroups of a process and of what descends from it.
    fn of_tree(&self, root: u32) -> Result<Vec<Cgroup>, Error> {
        let mut found = vec![self.of_process(root)?];
        let others = process::trees(&[root]).into_iter().filter_map(|pid| u32::try_from(pid).ok());
        let paths: BTreeSet<_> = others.filter_map(|pid| self.path_of_process(pid)).collect();
        // Who has gone meanwhile is not missed.
        found.extend(paths.iter().filter_map(|path| Some(self.open(path).ok()?.unnamed())));
        Ok(found)
    }

    /// The directory of the cgroup that a process is in.
    pub fn path_of_process(&self, pid: u32) -> Option<PathBuf> {
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(self.mount().join(unified(&table)?))
    }
}

/// From directories to those that fit the next name of a pattern.
fn one_name_on(directories: BTreeSet<PathBuf>, name: &[u8]) -> BTreeSet<PathBuf> {
    if name == b"**" {
        let mut found = directories.clone();
        let mut to_visit: Vec<_> = directories.into_iter().collect();
        while let Some(directory) = to_visit.pop() {
            to_visit.extend(children(&directory).into_iter().filter(|child| found.insert(child.clone())));
        }
        return found;
    }
    let fits = |path: &PathBuf| path.file_name().is_some_and(|own| glob::fits(name, own.as_bytes()));
    directories.iter().flat_map(|directory| children(directory)).filter(fits).collect()
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
    let is = |name: &str| {
        name == unit.name() || unit.is_pattern() && glob::fits(unit.name().as_bytes(), name.as_bytes())
    };
    is(name) || name.strip_prefix('_').is_some_and(is)
}

/// As Docker, containerd, CRI-O and Podman name cgroups: with systemd `docker-ID.scope` (`cri-containerd-`, `crio-`,
/// `libpod-`), by themselves `ID`, and with a colon between. Not those of their helpers (`crio-conmon-ID.scope`).
pub(super) fn is_of_container(name: &str, id: &ContainerId) -> bool {
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
        let unit = "web@".parse().unwrap();
        assert!(is_of_unit("web@1.service", &unit) && !is_of_unit("web@1.scope", &unit));
        assert!(!is_of_unit("my-web@1.service", &unit));
    }

    #[test]
    fn paths_fit_patterns_name_by_name() {
        let base = tempfile::tempdir().unwrap();
        for path in ["a/web-1", "a/web-2/web-3", "a/db", "b/web-4", "web-5"] {
            fs::create_dir_all(base.path().join(path)).unwrap();
        }
        let mounts = format!("none {} cgroup2 rw 0 0\n", base.path().display());
        let hierarchy = Hierarchy::from_mounts(&mounts).unwrap();
        let fitting = |pattern: &str| -> Vec<String> {
            let found = hierarchy.fitting(Path::new(pattern)).unwrap();
            found.iter().map(|path| path.strip_prefix(base.path()).unwrap().display().to_string()).collect()
        };
        assert_eq!(fitting("a/web-*"), ["a/web-1", "a/web-2"]);
        assert_eq!(fitting("/*/web-[0-9]"), ["a/web-1", "a/web-2", "b/web-4"]);
        assert_eq!(fitting("**/web-*"), ["a/web-1", "a/web-2", "a/web-2/web-3", "b/web-4", "web-5"]);
        assert_eq!(fitting("a/**").len(), 5);
        assert_eq!(fitting("**").len(), 8);
        assert_eq!(fitting("c/*"), [""; 0]);
        assert_eq!(fitting(&format!("{}/b/*", base.path().display())), ["b/web-4"]);
        assert!(hierarchy.fitting(Path::new("a/../*")).is_err());
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
