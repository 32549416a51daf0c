//! Containers whose runtime has no daemon: Podman and CRI-O leave a `conmon` with each, whose flags name it.
//!
//! Podman's own state would tell as well, but lies in databases whose form changes (Bolt up to 4, SQLite from 5 on), while
//! `-c ID` and `-n NAME` are what conmon(8) promises.

use crate::{
    host::process,
    spec::target::{ContainerId, ContainerName},
};
use std::{collections::BTreeSet, fs};

/// Ids of the running containers of this name.
pub fn ids(name: &ContainerName) -> BTreeSet<ContainerId> {
    let conmons = process::all().into_iter().flatten().filter(|pid| is_trusted(*pid));
    conmons.filter_map(|pid| id(&command_line(pid)?, name)).collect()
}

fn command_line(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/cmdline")).ok()
}

/// Anybody may call a program `conmon`: only that of root is believed. All four of its user ids count, since a program that
/// is setuid can be started by any name.
fn is_trusted(pid: i32) -> bool {
    process::comm(pid).as_deref() == Some("conmon")
        && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_of_root(&status))
}

fn is_of_root(status: &str) -> bool {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    users.is_some_and(|users| users.split_ascii_whitespace().eq(["0"; 4]))
}

/// The container's id, by a command line as /proc has it, if the container is called so.
fn id(command_line: &[u8], name: &ContainerName) -> Option<ContainerId> {
    let text = std::str::from_utf8(command_line).ok()?;
    let words: Vec<_> = text.split('\0').collect();
    (value(&words, ["-n", "--name"])? == name.text())
        .then(|| ContainerId::whole(value(&words, ["-c", "--cid"])?))?
}

/// What stands behind the first of the flags, with whose values those before it do not collide: Podman and CRI-O write ids,
/// names and paths only before them.
fn value<'a>(words: &[&'a str], flags: [&str; 2]) -> Option<&'a str> {
    let at = words.iter().position(|word| flags.contains(word))?;
    words.get(at + 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8f1f2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcdef";

    fn found(words: &str, name: &str) -> Option<String> {
        let line = words.split(' ').collect::<Vec<_>>().join("\0") + "\0";
        id(line.as_bytes(), &name.parse().unwrap()).map(|id| id.digits().to_owned())
    }

    #[test]
    fn containers_are_found_by_the_flags_of_their_conmon() {
        let storage = "/var/lib/containers/storage/overlay-containers";
        let podman = format!(
            "/usr/bin/conmon --api-version 1 -c {ID} -u {ID} -r /usr/bin/crun -b {storage}/{ID}/userdata -p \
             /run/containers/pidfile -n web --exit-dir /run/libpod/exits --full-attach -s -l k8s-file:ctr.log"
        );
        assert_eq!(found(&podman, "web").as_deref(), Some(ID));
        assert_eq!(found(&podman, "we"), None);
        assert_eq!(found(&podman, "web-2"), None);
        let crio =
            format!("/usr/bin/conmon -b /run/{ID}/userdata -c {ID} --exit-dir /x -n k8s_web_pod_ns_1_0");
        assert_eq!(found(&crio, "k8s_web_pod_ns_1_0").as_deref(), Some(ID));
        assert_eq!(found("conmon -c 8f1f2c -n web", "web"), None);
        assert_eq!(found("conmon -c", "web"), None);
        assert_eq!(found("conmon -n", "web"), None);
        assert_eq!(id(b"conmon\0-n\0web\0-c\0\xff\0", &"web".parse().unwrap()), None);
    }

    #[test]
    fn only_those_of_root_are_believed() {
        assert!(is_of_root("Name:\tconmon\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n"));
        assert!(!is_of_root("Name:\tconmon\nUid:\t1000\t0\t0\t0\n"));
        assert!(!is_of_root("Name:\tconmon\n"));
    }
}
