//! From pods to their cgroups.

use super::{
    cgroup::{Cgroup, Error, Hierarchy},
    containers::{self, Hit},
    target::is_of_container,
};
use crate::spec::{pod::Pods, target::Target};
use std::path::{Path, PathBuf};

impl Hierarchy {
    /// The cgroups of all that is meant of pods; at least one.
    pub(super) fn of_pods(&self, target: &Target, pods: &Pods) -> Result<Vec<Cgroup>, Error> {
        let hits = containers::pods(pods)?;
        let ids: Vec<_> = hits.iter().flat_map(|hit| &hit.containers).collect();
        let all = self.find_all(|name| ids.iter().any(|id| is_of_container(name, id)));
        let paths: Result<Vec<_>, _> = hits.iter().map(|hit| paths_of(target, hit, &all)).collect();
        paths?.into_iter().flatten().map(|path| self.open(&path)).collect()
    }
}

/// The cgroup of a whole pod, if all its containers are in one that is called by it: a container that is started again has
/// another id, but the same pod. Otherwise those of the containers.
fn paths_of(target: &Target, hit: &Hit, all: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut paths = vec![];
    for id in &hit.containers {
        let is_its = |path: &&PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_of_container(name, id))
        };
        let found: Vec<_> = all.iter().filter(is_its).collect();
        match &found[..] {
            [path] => paths.push((*path).clone()),
            [] => {
                let target = format!("{target}: container {} of pod {:?}", id.digits(), hit.pod);
                return Err(Error::NoTarget { target, remedy: "crictl ps" });
            }
            several => {
                let target = format!("{target}: container {}", id.digits());
                let paths = several.iter().map(|path| path.display().to_string()).collect();
                return Err(Error::SeveralTargets { target, paths });
            }
        }
    }
    let parent = paths.first().and_then(|path| path.parent()).map(Path::to_path_buf);
    match (&hit.uid, parent) {
        (Some(uid), Some(parent))
            if is_of_pod(&parent, uid) && paths.iter().all(|path| path.parent() == Some(&*parent)) =>
        {
            Ok(vec![parent])
        }
        _ => Ok(paths),
    }
}

/// As the node agent names the cgroups of pods: `podUID`, and with systemd `kubepods-burstable-podUID.slice`, where `-` would
/// be another level (`escapeSystemdCgroupName`, pkg/kubelet/cm/cgroup_manager_linux.go).
fn is_of_pod(path: &Path, uid: &str) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let by_systemd = |name: &str| {
        let own = name.rsplit_once('-').map_or(name, |(_, own)| own);
        own == format!("pod{}", uid.replace('-', "_"))
    };
    !uid.is_empty() && (name == format!("pod{uid}") || name.strip_suffix(".slice").is_some_and(by_systemd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{pod::PodName, target::ContainerId};

    const UID: &str = "0f2a-11";

    fn found(uid: Option<&str>, all: &[&str]) -> Vec<String> {
        let PodName(pods) = "shop/web".parse().unwrap();
        let containers = ["a", "b"].map(|digit| ContainerId::whole(&digit.repeat(64)).unwrap()).to_vec();
        let hit = Hit { pod: "shop/web".to_owned(), uid: uid.map(str::to_owned), containers };
        let all: Vec<_> = all
            .iter()
            .map(|path| PathBuf::from(path.replace("A", &"a".repeat(64)).replace("B", &"b".repeat(64))))
            .collect();
        match paths_of(&Target::Pods(pods), &hit, &all) {
            Ok(paths) => paths.iter().map(|path| path.display().to_string()).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn a_pod_has_a_cgroup_with_either_driver() {
        let slice = "/kubepods-burstable-pod0f2a_11.slice";
        let systemd = [format!("{slice}/cri-containerd-A.scope"), format!("{slice}/cri-containerd-B.scope")];
        assert_eq!(found(Some(UID), &systemd.each_ref().map(|path| &**path)), [slice]);
        let guaranteed =
            ["/kubepods-pod0f2a_11.slice/crio-A.scope", "/kubepods-pod0f2a_11.slice/crio-B.scope"];
        assert_eq!(found(Some(UID), &guaranteed), ["/kubepods-pod0f2a_11.slice"]);
        assert_eq!(
            found(Some(UID), &["/kubepods/pod0f2a-11/A", "/kubepods/pod0f2a-11/B"]),
            ["/kubepods/pod0f2a-11"]
        );
    }

    #[test]
    fn where_it_has_none_its_containers_are_meant() {
        for all in [["/k8s.io/A", "/k8s.io/B"], ["/podother/A", "/podother/B"], ["/pod0f2a-11/A", "/x/B"]] {
            assert_eq!(found(Some(UID), &all).len(), 2, "{all:?}");
        }
        // One container is named: the pod is not meant.
        assert_eq!(found(None, &["/pod0f2a-11/A", "/pod0f2a-11/B"]).len(), 2);
        assert!(found(Some(UID), &["/k8s.io/A"])[0].contains(&"b".repeat(64)));
        assert!(found(Some(UID), &["/k8s.io/A", "/x/A", "/k8s.io/B"])[0].contains("several"));
    }
}
