//! Safety nets: targets that nobody means to hit, each of which has to be allowed by name.

use crate::spec::safety::Net;
use std::{collections::BTreeSet, fmt, path::Path, time::Duration};

/// A run that may be longer has to be allowed.
pub const DURATION_CAP: Duration = Duration::from_secs(3600);
/// More of what fits a pattern, in percent, has to be allowed.
pub const TARGETS_CAP_PERCENT: usize = 80;

/// What one of the nets has caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Which.
    pub net: Net,
    /// What it is, in words.
    pub what: String,
}

/// A process of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its name, of at most 15 bytes.
    pub comm: String,
}

/// What the nets look at.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The targets.
    pub cgroups: &'a [&'a Path],
    /// If a pattern fits several: how many there are to choose from.
    pub matching: Option<usize>,
    /// The processes in them and below.
    pub processes: &'a [Process],
    /// This process, its parent, and so on up to the first.
    pub lineage: &'a [i32],
    /// How long.
    pub duration: Option<Duration>,
}

/// What could happen.
const fn reason(net: Net) -> &'static str {
    match net {
        Net::Init => "a fault there can stop the whole host",
        Net::Own => "a fault there can keep kchaos from letting go",
        Net::Login => "a fault there can take away the terminal that this was started from",
        Net::Sshd => "a fault there can cut off everybody who could help",
        Net::Kubelet => "a fault there makes the node unready, and its pods are moved away",
        Net::ContainerRuntime => "a fault there hits every container of the host",
        Net::SystemService => "the rest of the system cannot do without it",
        Net::WholeSlice => "that is everything of its kind on this host",
        Net::LongRun => "forgotten runs hurt the most",
        Net::MostTargets => "what is hit needs others that are not, to be compared with and to take over",
    }
}

/// Names of processes, as the kernel cuts them, that this net is about.
const fn names(net: Net) -> &'static [&'static str] {
    match net {
        Net::Sshd => &["sshd", "sshd-session", "sshd-auth", "dropbear"],
        Net::Kubelet => &["kubelet", "k3s", "k3s-server", "k3s-agent", "microk8s"],
        Net::ContainerRuntime => &["dockerd", "containerd", "crio", "podman"],
        Net::SystemService => &[
            "systemd",
            "systemd-journal",
            "systemd-udevd",
            "systemd-logind",
            "systemd-network",
            "systemd-resolve",
            "systemd-timesyn",
            "systemd-oomd",
            "dbus-daemon",
            "dbus-broker",
            "dbus-broker-lau",
            "NetworkManager",
            "polkitd",
        ],
        _ => &[],
    }
}

/// What it catches, in words.
fn catches(net: Net, scene: &Scene<'_>) -> Option<String> {
    let named = |process: &Process| format!("{} (process {})", process.comm, process.pid);
    let first = |is: &dyn Fn(&Process) -> bool| scene.processes.iter().find(|process| is(process)).map(named);
    match net {
        Net::Init => first(&|process| process.pid == 1),
        Net::Own => scene.lineage.first().and_then(|own| first(&|process| process.pid == *own)),
        Net::Login => {
            let ancestors = scene.lineage.get(1..).unwrap_or_default();
            first(&|process| process.pid != 1 && ancestors.contains(&process.pid))
        }
        Net::Sshd | Net::Kubelet | Net::ContainerRuntime | Net::SystemService => {
            first(&|process| process.pid != 1 && names(net).contains(&&*process.comm))
        }
        Net::WholeSlice => {
            let whole =
                ["system.slice", "user.slice", "machine.slice", "kubepods.slice", "kubepods", "docker"];
            let mut names = scene.cgroups.iter().filter_map(|cgroup| cgroup.file_name()?.to_str());
            names.find(|name| whole.contains(name)).map(str::to_owned)
        }
        Net::LongRun => {
            let duration = scene.duration.filter(|duration| *duration > DURATION_CAP)?;
            Some(format!("{} s, of more than {} s", duration.as_secs(), DURATION_CAP.as_secs()))
        }
        Net::MostTargets => {
            let (hit, matching) = (scene.cgroups.len(), scene.matching?);
            let most = hit * 100 > matching * TARGETS_CAP_PERCENT;
            most.then(|| format!("{hit} of {matching} targets that fit, more than {TARGETS_CAP_PERCENT}%"))
        }
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reason) = (self.net.name(), reason(self.net));
        match self.net {
            Net::LongRun => {
                write!(f, "a run of {}: {reason}; if that is meant, add --allow {name}", self.what)
            }
            Net::MostTargets => write!(
                f,
                "{}, would be hit: {reason}; hit fewer, as with --select 50%, or add --allow {name}",
                self.what
            ),
            _ => write!(
                f,
                "the target has {} in it: {reason}; if that is meant, add --allow {name}",
                self.what
            ),
        }
    }
}

/// Everything that is caught and not allowed, and what is allowed and would have been caught.
pub fn check(scene: &Scene<'_>, allowed: &BTreeSet<Net>) -> (Vec<Caught>, Vec<Caught>) {
    let caught = Net::ALL.into_iter().filter_map(|net| Some(Caught { net, what: catches(net, scene)? }));
    caught.partition(|caught| !allowed.contains(&caught.net))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, comm: &str) -> Process {
        Process { pid, comm: comm.to_owned() }
    }

    fn scene<'a>(cgroups: &'a [&'a Path], processes: &'a [Process]) -> Scene<'a> {
        Scene { cgroups, matching: None, processes, lineage: &[30, 20, 10, 1], duration: None }
    }

    fn nets(scene: &Scene<'_>) -> Vec<&'static str> {
        check(scene, &BTreeSet::new()).0.iter().map(|caught| caught.net.name()).collect()
    }

    #[test]
    fn every_net_catches_its_own_and_can_be_allowed() {
        let cases = [
            (process(1, "systemd"), "init"),
            (process(30, "kchaos"), "self"),
            (process(20, "bash"), "login"),
            (process(10, "screen"), "login"),
            (process(99, "sshd"), "sshd"),
            (process(99, "sshd-session"), "sshd"),
            (process(99, "kubelet"), "kubelet"),
            (process(99, "containerd"), "container-runtime"),
            (process(99, "systemd-journal"), "system-service"),
        ];
        for (process, net) in cases {
            let processes = [self::process(98, "redis"), process];
            let cgroups = [Path::new("/sys/fs/cgroup/system.slice/a.service")];
            let scene = scene(&cgroups, &processes);
            assert_eq!(nets(&scene), [net]);
            let allowed = BTreeSet::from([net.parse().unwrap()]);
            let (refused, overridden) = check(&scene, &allowed);
            assert!(refused.is_empty() && overridden.len() == 1);
            let message = check(&scene, &BTreeSet::new()).0[0].to_string();
            assert!(
                message.contains(&format!("--allow {net}")) && message.contains(&processes[1].comm),
                "{message}"
            );
        }
    }

    #[test]
    fn ordinary_targets_and_runs_pass() {
        let processes = [process(99, "redis"), process(100, "sshd-keygen"), process(101, "containerd-shim")];
        let cgroups = [Path::new("/sys/fs/cgroup/system.slice/redis.service")];
        let mut scene = scene(&cgroups, &processes);
        assert_eq!(nets(&scene), [""; 0]);
        scene.duration = Some(DURATION_CAP);
        assert_eq!(nets(&scene), [""; 0]);
        scene.duration = Some(DURATION_CAP + Duration::from_secs(1));
        assert_eq!(nets(&scene), ["long-run"]);
        scene.duration = None;
        let slices = ["a", "system.slice"].map(Path::new);
        scene.cgroups = &slices;
        assert_eq!(nets(&scene), ["whole-slice"]);
        let pods = [Path::new("/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice")];
        scene.cgroups = &pods;
        assert_eq!(nets(&scene), [""; 0]);
    }

    #[test]
    fn most_of_what_fits_a_pattern_is_caught() {
        let five = ["a", "b", "c", "d", "e"].map(Path::new);
        let mut scene = scene(&five, &[]);
        assert_eq!(nets(&scene), [""; 0]);
        scene.matching = Some(5);
        assert_eq!(nets(&scene), ["most-targets"]);
        let message = check(&scene, &BTreeSet::new()).0[0].to_string();
        assert!(message.contains("5 of 5 targets") && message.contains("--select"), "{message}");
        scene.cgroups = &five[..4];
        assert_eq!(nets(&scene), [""; 0]);
    }
}
