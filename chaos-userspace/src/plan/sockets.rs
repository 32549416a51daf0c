//! What of the target's traffic its faults do not reach: sockets that it uses but did not create, and ways past the hooks.

use super::{Mechanism, Plan, explain::escaped};
use crate::{
    host::{
        cgroup::{Cgroup, Hierarchy},
        namespace::NetworkNamespace,
        process,
        sockets::{Held, diag, is_rdma},
    },
    spec::Fault,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
};

/// Examples that are told of each kind.
const EXAMPLES_MAX: usize = 5;

/// Sockets that processes of the target hold and that were created outside of it, or before their process came into it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ForeignSockets {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub examples: Vec<ForeignSocket>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignSocket {
    /// `tcp`, `udp` or `raw`.
    pub protocol: &'static str,
    /// Where it is bound.
    pub local: SocketAddr,
    /// The other end, if it is connected.
    pub remote: Option<SocketAddr>,
    /// A process of the target that holds it.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Where it was created; nothing if that cgroup is gone.
    pub created_in: Option<PathBuf>,
    /// The id of that cgroup.
    pub cgroup_id: u64,
}

/// A way by which traffic of the target passes the hooks, and that it uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bypass {
    /// `unix`, `packet`, `xdp`, `vsock`, `rdma`, `devices` or `sockmap`.
    pub way: &'static str,
    /// How many sockets, files or programs.
    pub count: usize,
    /// Some of them in words.
    pub examples: Vec<String>,
    /// What that means.
    pub effect: &'static str,
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Escapes {
    /// Sockets from elsewhere.
    pub foreign: ForeignSockets,
    /// Ways past the hooks.
    pub bypasses: Vec<Bypass>,
    /// What could not be looked at.
    pub problems: Vec<String>,
}

/// Whether a plan chooses by sockets: only then it matters who created them.
pub fn matter(plan: &Plan) -> bool {
    plan.rules.iter().any(|rule| {
        matches!(rule.fault, Fault::Network(_))
            || rule.mechanisms.iter().any(|mechanism| matches!(mechanism, Mechanism::Socket(_)))
    })
}

/// Looks at what these processes of the targets hold.
pub fn look(hierarchy: &Hierarchy, targets: &[Cgroup], processes: &[i32]) -> Escapes {
    let held = Held::by(processes);
    let (mut tables, mut escapes) = (Tables::default(), Escapes::default());
    if !held.sockets.is_empty() {
        // Sockets can be passed on between namespaces; those of services come from that of their manager.
        let mut namespaces = NetworkNamespace::of_processes(processes);
        let known: BTreeSet<_> = namespaces.iter().map(NetworkNamespace::inode).collect();
        let own = NetworkNamespace::current().into_iter().filter(|own| !known.contains(&own.inode()));
        namespaces.extend(own);
        for namespace in &namespaces {
            match namespace.within(Tables::read) {
                Ok((table, problems)) => {
                    tables.add(table);
                    escapes.problems.extend(problems);
                }
                Err(error) => escapes.problems.push(format!("sockets of a network namespace: {error}")),
            }
        }
    }
    let own: BTreeSet<_> = targets.iter().flat_map(Cgroup::ids_below).collect();
    escapes.foreign = foreign(&held, &tables, &own, hierarchy);
    escapes.bypasses = bypasses(&held, &tables);
    match sockmap() {
        Ok(sockmap) => escapes.bypasses.extend(sockmap.filter(|_| !held.sockets.is_empty())),
        Err(problem) => escapes.problems.push(problem),
    }
    escapes.problems.sort();
    escapes.problems.dedup();
    escapes
}

/// Sockets of some network namespaces.
#[derive(Debug, Default)]
struct Tables {
    inet: Vec<diag::InetSocket>,
    unix: Vec<diag::UnixSocket>,
    packet: Vec<u64>,
    xdp: Vec<u64>,
    vsock: Vec<u64>,
}

impl Tables {
    /// Those of the calling thread's, and what could not be read.
    fn read() -> (Self, Vec<String>) {
        let mut problems = vec![];
        let tables = Self {
            inet: told("TCP and UDP", diag::inet(), &mut problems),
            unix: told("Unix", diag::unix(), &mut problems),
            packet: told("packet", diag::packet(), &mut problems),
            xdp: told("AF_XDP", diag::xdp(), &mut problems),
            vsock: told("vsock", diag::vsock(), &mut problems),
        };
        (tables, problems)
    }

    fn add(&mut self, other: Self) {
        self.inet.extend(other.inet);
        self.unix.extend(other.unix);
        self.packet.extend(other.packet);
        self.xdp.extend(other.xdp);
        self.vsock.extend(other.vsock);
    }
}

fn told<T>(what: &str, answer: io::Result<Vec<T>>, problems: &mut Vec<String>) -> Vec<T> {
    answer.unwrap_or_else(|error| {
        problems.push(format!("{what} sockets: this kernel does not list them ({error})"));
        vec![]
    })
}

fn foreign(held: &Held, tables: &Tables, own: &BTreeSet<u64>, hierarchy: &Hierarchy) -> ForeignSockets {
    let from_elsewhere: Vec<_> = tables
        .inet
        .iter()
        .filter_map(|socket| {
            let cgroup = socket.cgroup.filter(|cgroup| !own.contains(cgroup))?;
            Some((socket, *held.sockets.get(&socket.inode)?, cgroup))
        })
        .collect();
    let paths = if from_elsewhere.is_empty() { BTreeMap::new() } else { hierarchy.paths_by_id() };
    let example = |(socket, pid, cgroup_id): &(&diag::InetSocket, i32, u64)| ForeignSocket {
        protocol: socket.protocol,
        local: socket.local,
        remote: Some(socket.remote).filter(|remote| remote.port() != 0 || !remote.ip().is_unspecified()),
        pid: *pid,
        comm: process::comm(*pid).unwrap_or_default(),
        created_in: paths.get(cgroup_id).cloned(),
        cgroup_id: *cgroup_id,
    };
    ForeignSockets {
        count: from_elsewhere.len(),
        examples: from_elsewhere.iter().take(EXAMPLES_MAX).map(example).collect(),
    }
}

fn bypasses(held: &Held, tables: &Tables) -> Vec<Bypass> {
    let holder = |pid: i32| escaped(&process::comm(pid).unwrap_or_else(|| pid.to_string()));
    let mut found = vec![];
    let mut add = |way, effect, all: Vec<String>| {
        if !all.is_empty() {
            let (count, examples) = (all.len(), all.into_iter().take(EXAMPLES_MAX).collect());
            found.push(Bypass { way, count, examples, effect });
        }
    };
    let by_inode: BTreeMap<_, _> = tables.unix.iter().map(|socket| (socket.inode, socket)).collect();
    let outside = |inode: &u64, pid: &i32| {
        let socket = by_inode.get(inode)?;
        let peer = socket.peer.filter(|peer| !held.sockets.contains_key(peer))?;
        let name = by_inode.get(&peer).and_then(|peer| peer.name.as_ref()).or(socket.name.as_ref());
        let name = name.map_or_else(|| "without a name".to_owned(), |name| escaped(name));
        Some(format!("{name} of {}", holder(*pid)))
    };
    add(
        "unix",
        "what they carry comes to no network device",
        held.sockets.iter().filter_map(|(inode, pid)| outside(inode, pid)).collect(),
    );
    let of = |inodes: &[u64]| -> Vec<String> {
        let pids: BTreeMap<_, _> =
            inodes.iter().filter_map(|inode| Some((inode, held.sockets.get(inode)?))).collect();
        pids.into_values().map(|pid| format!("of {}", holder(*pid))).collect()
    };
    add(
        "packet",
        "they get what arrives before it is judged, and can send past the queueing disciplines (PACKET_QDISC_BYPASS), \
         where nothing is judged",
        of(&tables.packet),
    );
    add("xdp", "what they carry comes to no hook", of(&tables.xdp));
    add("vsock", "what they carry comes to no network device", of(&tables.vsock));
    let (rdma, others): (Vec<_>, Vec<_>) = held.devices.iter().partition(|(path, _)| is_rdma(path));
    let in_words = |files: Vec<(&PathBuf, &i32)>| -> Vec<String> {
        files.into_iter().map(|(path, pid)| format!("{} of {}", path.display(), holder(*pid))).collect()
    };
    add("rdma", "what the adapter carries comes to no hook", in_words(rdma));
    add("devices", "packets that come and go by them belong to no socket of the target", in_words(others));
    found
}

/// Programs that pass on what sockets send, past all devices. The kernel does not tell which sockets are in their maps.
fn sockmap() -> Result<Option<Bypass>, String> {
    use aya::programs::loaded_programs;
    use aya_obj::generated::bpf_prog_type::{BPF_PROG_TYPE_SK_MSG, BPF_PROG_TYPE_SK_SKB};
    let mut names = vec![];
    for program in loaded_programs() {
        let program = program.map_err(|error| format!("programs of sockmaps: {error}"))?;
        if matches!(program.program_type(), BPF_PROG_TYPE_SK_MSG | BPF_PROG_TYPE_SK_SKB) {
            names.push(escaped(program.name_as_str().unwrap_or("without a name")));
        }
    }
    let bypass = || Bypass {
        way: "sockmap",
        count: names.len(),
        examples: names.iter().take(EXAMPLES_MAX).cloned().collect(),
        effect: "connections of this host that such a program joins come to no network device; whose they are cannot be seen",
    };
    Ok((!names.is_empty()).then(bypass))
}

impl ForeignSockets {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.count > 0
    }
}

/// For people: a sentence without its end.
impl fmt::Display for ForeignSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets = if self.count == 1 { "1 socket" } else { &*format!("{} sockets", self.count) };
        let examples: Vec<_> = self.examples.iter().map(ToString::to_string).collect();
        let more = self.count - self.examples.len();
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        write!(
            f,
            "the target uses {sockets} that it did not create, whose packets are not hit: {}{more}; open them in the \
             target, or name the cgroup where they were created as well",
            examples.join("; ")
        )
    }
}

impl fmt::Display for ForeignSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.local)?;
        if let Some(remote) = self.remote {
            write!(f, " to {remote}")?;
        }
        write!(f, " held by {} ({}), created in ", escaped(&self.comm), self.pid)?;
        match &self.created_in {
            Some(path) => write!(f, "{}", super::explain::shown(path)),
            None => write!(f, "a cgroup that is gone (if that was below the target, they are hit)"),
        }
    }
}

/// For people: a sentence without its end.
impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.way {
            "unix" => "Unix sockets that are connected outside of it",
            "packet" => "packet sockets",
            "xdp" => "AF_XDP sockets",
            "vsock" => "sockets to virtual machines",
            "rdma" => "files of RDMA",
            "sockmap" => return write!(f, "sockmap programs are loaded ({}): {}", self.named(), self.effect),
            _ => "files of virtual devices",
        };
        write!(f, "the target has {} {what} ({}): {}", self.count, self.named(), self.effect)
    }
}

impl Bypass {
    fn named(&self) -> String {
        let more = self.count - self.examples.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        self.examples.join(", ") + &more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet(inode: u64, cgroup: u64) -> diag::InetSocket {
        let (local, remote) = (([127, 0, 0, 1], 80).into(), ([0, 0, 0, 0], 0).into());
        diag::InetSocket { inode, protocol: "tcp", local, remote, cgroup: Some(cgroup) }
    }

    #[test]
    fn sockets_from_elsewhere_are_told_apart() {
        let base = tempfile::tempdir().unwrap();
        let mounts = format!("none {} cgroup2 rw 0 0\n", base.path().display());
        let hierarchy = Hierarchy::from_mounts(&mounts).unwrap();
        let held = Held { sockets: (1..=9).map(|inode| (inode, i32::MAX)).collect(), ..Held::default() };
        let mut tables =
            Tables { inet: vec![inet(1, 100), inet(2, 200), inet(20, 200)], ..Tables::default() };
        let own = BTreeSet::from([100]);
        let found = foreign(&held, &tables, &own, &hierarchy);
        assert_eq!((found.count, found.examples[0].cgroup_id, found.examples[0].remote), (1, 200, None));
        let text = found.to_string();
        assert!(text.contains("1 socket that") && text.contains("tcp 127.0.0.1:80 held by"), "{text}");
        tables.inet.extend((3..=9).map(|inode| inet(inode, 200)));
        let found = foreign(&held, &tables, &own, &hierarchy);
        assert_eq!((found.count, found.examples.len()), (8, EXAMPLES_MAX));
        assert!(found.to_string().contains("and 3 more"), "{found}");
        assert!(!foreign(&held, &tables, &BTreeSet::from([100, 200]), &hierarchy).any());
    }

    #[test]
    fn ways_past_the_hooks_are_only_those_in_use() {
        let unix =
            |inode, peer, name: Option<&str>| diag::UnixSocket { inode, peer, name: name.map(str::to_owned) };
        let tables = Tables {
            unix: vec![
                unix(1, Some(2), None),
                unix(2, Some(1), None),
                unix(3, Some(30), None),
                unix(30, Some(3), Some("/run/a\u{1b}b")),
                unix(4, None, Some("/run/own")),
            ],
            packet: vec![5, 50],
            xdp: vec![60],
            ..Tables::default()
        };
        let held = Held {
            sockets: (1..=5).map(|inode| (inode, i32::MAX)).collect(),
            devices: [("/dev/infiniband/uverbs0".into(), i32::MAX)].into(),
        };
        let found = bypasses(&held, &tables);
        assert_eq!(
            found.iter().map(|bypass| (bypass.way, bypass.count)).collect::<Vec<_>>(),
            [("unix", 1), ("packet", 1), ("rdma", 1)]
        );
        assert!(found[0].examples[0].starts_with("/run/a\\u{1b}b of"), "{found:?}");
        assert!(found[0].to_string().contains("1 Unix sockets that are connected outside"), "{}", found[0]);
        assert_eq!(bypasses(&Held::default(), &tables), []);
    }
}
