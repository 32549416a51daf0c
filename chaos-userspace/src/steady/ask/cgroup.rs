//! Asking the kernel about the target: its cgroups and its network namespace.

use crate::experiment::document_steady::{CgroupMeasure, NetworkMeasure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// The target, and what it was when the experiment began.
#[derive(Clone, Debug)]
pub struct Target {
    cgroups: Vec<PathBuf>,
    proc: PathBuf,
    before: Arc<Mutex<Before>>,
}

/// What changes are counted from.
#[derive(Debug, Default)]
struct Before {
    oom_kills: Grown,
    network: [f64; 3],
    cpu: Grown,
    cpu_at: Option<(Instant, f64)>,
    alive: BTreeSet<i32>,
    exits: u64,
}

/// Counters that begin anew with a cgroup of the same path, and what they have grown by since they were first read.
#[derive(Debug, Default)]
struct Grown {
    /// By path: of which cgroup, and what it was.
    last: BTreeMap<PathBuf, (u64, f64)>,
    by: f64,
}

impl Grown {
    /// By now. What one that has gone had come to is kept.
    fn read(&mut self, cgroups: &[PathBuf], file: &str, name: &str) -> Result<f64, String> {
        for cgroup in cgroups {
            let Ok(id) = fs::metadata(cgroup).map(|directory| directory.ino()) else { continue };
            let now = match value(&cgroup.join(file), |text| field(text, name)) {
                Ok(now) => now,
                // It went meanwhile.
                Err(_) if !cgroup.exists() => continue,
                Err(problem) => return Err(problem),
            };
            self.by += match self.last.insert(cgroup.clone(), (id, now)) {
                Some((before, last)) if before == id && last <= now => now - last,
                Some(_) => now,
                None => 0.0,
            };
        }
        Ok(self.by)
    }
}

const NETWORK: [(NetworkMeasure, &str); 3] = [
    (NetworkMeasure::TcpRetransmits, "RetransSegs"),
    (NetworkMeasure::TcpFailedConnects, "AttemptFails"),
    (NetworkMeasure::TcpResets, "EstabResets"),
];

impl Target {
    /// Of these cgroups, whose counters begin now. `proc` is where procfs is.
    pub fn new(cgroups: Vec<PathBuf>, proc: &Path) -> Self {
        let target = Self { cgroups, proc: proc.to_owned(), before: Arc::default() };
        {
            let (mut oom_kills, mut cpu) = (Grown::default(), Grown::default());
            // Without the controller there is no answer later either, which says why.
            let _ = oom_kills.read(&target.cgroups, "memory.events", "oom_kill");
            let _ = cpu.read(&target.cgroups, "cpu.stat", "usage_usec");
            let network = NETWORK.map(|(_, name)| target.counter(name).unwrap_or(0.0));
            let cpu_at = Some((Instant::now(), 0.0));
            let alive = target.alive().unwrap_or_default();
            let mut before = target.before.lock().unwrap_or_else(PoisonError::into_inner);
            *before = Before { oom_kills, network, cpu, cpu_at, alive, exits: 0 };
        }
        target
    }

    /// Reads a value of its cgroups.
    pub fn read(&self, measure: CgroupMeasure) -> Result<f64, String> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        match measure {
            CgroupMeasure::Cpu => {
                let microseconds = before.cpu.read(&self.cgroups, "cpu.stat", "usage_usec")?;
                let (now, seconds) = (Instant::now(), microseconds / 1e6);
                let Some((then, used)) = before.cpu_at.replace((now, seconds)) else { return Ok(0.0) };
                let elapsed = now.duration_since(then).as_secs_f64();
                Ok(if elapsed > 0.0 { (seconds - used).max(0.0) * 100.0 / elapsed } else { 0.0 })
            }
            CgroupMeasure::Memory => self.sum("memory.current", |text| text.trim().parse().ok()),
            CgroupMeasure::OomKills => before.oom_kills.read(&self.cgroups, "memory.events", "oom_kill"),
            CgroupMeasure::CpuPressure => self.pressure("cpu.pressure"),
            CgroupMeasure::MemoryPressure => self.pressure("memory.pressure"),
            CgroupMeasure::IoPressure => self.pressure("io.pressure"),
            CgroupMeasure::Processes => Ok(self.look(&mut before)?.len() as f64),
            CgroupMeasure::Exits => {
                self.look(&mut before)?;
                Ok(before.exits as f64)
            }
        }
    }

    /// Who is there now; who is not any more has exited. Whatever one probe has seen counts for the others.
    fn look<'a>(&self, before: &'a mut Before) -> Result<&'a BTreeSet<i32>, String> {
        let alive = self.alive()?;
        before.exits += before.alive.difference(&alive).count() as u64;
        before.alive = alive;
        Ok(&before.alive)
    }

    /// Reads a counter of its network namespace, from the beginning on.
    pub fn network(&self, measure: NetworkMeasure) -> Result<f64, String> {
        let place = NETWORK.iter().position(|(known, _)| *known == measure).unwrap_or(0);
        let now = self.counter(NETWORK[place].1)?;
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(now - before.network[place])
    }

    fn sum(&self, file: &str, read: impl Fn(&str) -> Option<f64>) -> Result<f64, String> {
        self.cgroups.iter().map(|cgroup| value(&cgroup.join(file), &read)).sum()
    }

    fn pressure(&self, file: &str) -> Result<f64, String> {
        let some = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("some "))?;
            line.split(' ').find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
        };
        let all: Result<Vec<f64>, _> =
            self.cgroups.iter().map(|cgroup| value(&cgroup.join(file), some)).collect();
        Ok(all?.into_iter().fold(0.0, f64::max))
    }

    fn alive(&self) -> Result<BTreeSet<i32>, String> {
        let mut all = BTreeSet::new();
        // One that has gone has no processes until it is made anew.
        for cgroup in &self.cgroups {
            match collect(cgroup, &mut all) {
                Err(error) if cgroup.exists() => return Err(format!("{}: {error}", cgroup.display())),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Those of these threads, each with its process, that are there, and the target's.
    pub fn threads_among(&self, threads: impl Iterator<Item = (i32, i32)>) -> BTreeSet<i32> {
        // A target that has gone has no threads.
        let alive = self.alive().unwrap_or_default();
        let is_there = |tgid: i32, tid: i32| self.proc.join(format!("{tgid}/task/{tid}")).exists();
        let of_target = threads.filter(|(tgid, tid)| alive.contains(tgid) && is_there(*tgid, *tid));
        of_target.map(|(_, tid)| tid).collect()
    }

    /// A counter of TCP, by its name in the heading of /proc/PID/net/snmp.
    fn counter(&self, name: &str) -> Result<f64, String> {
        let alive = self.alive()?;
        let Some(pid) = alive.first() else {
            return Err("the target has no process to ask for its namespace".to_owned());
        };
        let path = self.proc.join(pid.to_string()).join("net/snmp");
        value(&path, |text| {
            let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:"));
            let (heading, values) = (tcp.next()?, tcp.next()?);
            let place = heading.split(' ').position(|word| word == name)?;
            values.split(' ').nth(place)?.parse().ok()
        })
    }
}

/// Processes of a cgroup and all below it.
fn collect(cgroup: &Path, all: &mut BTreeSet<i32>) -> io::Result<()> {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    all.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that goes while it is looked at has no processes.
            let _ = collect(&entry.path(), all);
        }
    }
    Ok(())
}

fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn value(path: &Path, read: impl Fn(&str) -> Option<f64>) -> Result<f64, String> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!(
            "{} is not there: the cgroup has gone, or its controller is not enabled (cgroup.subtree_control)",
            path.display()
        ),
        _ => format!("{}: {error}", path.display()),
    })?;
    read(&text).ok_or_else(|| format!("{} has no such value", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_target_is_read() {
        let root = tempfile::tempdir().unwrap();
        let (cgroup, proc) = (root.path().join("cgroup"), root.path().join("proc"));
        let below = cgroup.join("below");
        for path in [&below, &proc.join("7/net")] {
            fs::create_dir_all(path).unwrap();
        }
        let write = |name: &str, text: &str| fs::write(cgroup.join(name), text).unwrap();
        let snmp = |retransmits: u32| {
            let text =
                format!("Ip: a\nIp: 1\nTcp: AttemptFails EstabResets RetransSegs\nTcp: 1 2 {retransmits}\n");
            fs::write(proc.join("7/net/snmp"), text).unwrap();
        };
        write("cgroup.procs", "7\n8\n");
        fs::write(below.join("cgroup.procs"), "9\n").unwrap();
        write("memory.current", "4096\n");
        write("memory.events", "oom 5\noom_kill 2\n");
        write("cpu.stat", "usage_usec 1000000\nuser_usec 1\n");
        write("io.pressure", "some avg10=12.50 avg60=0.00 total=1\nfull avg10=99.00 avg60=0.00 total=1\n");
        snmp(10);
        let target = Target::new(vec![cgroup.clone()], &proc);
        assert_eq!(target.read(CgroupMeasure::Memory), Ok(4096.0));
        assert_eq!(target.read(CgroupMeasure::Processes), Ok(3.0));
        assert_eq!(target.read(CgroupMeasure::IoPressure), Ok(12.5));
        assert_eq!(target.read(CgroupMeasure::OomKills), Ok(0.0));
        write("memory.events", "oom 5\noom_kill 5\n");
        assert_eq!(target.read(CgroupMeasure::OomKills), Ok(3.0));
        fs::write(below.join("cgroup.procs"), "10\n").unwrap();
        assert_eq!(target.read(CgroupMeasure::Exits), Ok(1.0));
        assert_eq!(target.read(CgroupMeasure::Exits), Ok(1.0));
        snmp(14);
        assert_eq!(target.network(NetworkMeasure::TcpRetransmits), Ok(4.0));
        assert_eq!(target.network(NetworkMeasure::TcpResets), Ok(0.0));
        write("cpu.stat", "usage_usec 9000000\n");
        assert!(target.read(CgroupMeasure::Cpu).unwrap() > 100.0);
        assert!(target.read(CgroupMeasure::MemoryPressure).unwrap_err().contains("controller"));
        // It is restarted: what it did before is not forgotten, and what it does now is added.
        fs::remove_dir_all(&cgroup).unwrap();
        assert_eq!(target.read(CgroupMeasure::Processes), Ok(0.0));
        assert_eq!(target.read(CgroupMeasure::Exits), Ok(4.0));
        assert_eq!(target.read(CgroupMeasure::OomKills), Ok(3.0));
        assert!(target.read(CgroupMeasure::Memory).unwrap_err().contains("has gone"));
        fs::create_dir(&cgroup).unwrap();
        write("cgroup.procs", "11\n");
        write("memory.events", "oom_kill 1\n");
        write("cpu.stat", "usage_usec 0\n");
        assert_eq!(target.read(CgroupMeasure::OomKills), Ok(4.0));
        assert_eq!(target.read(CgroupMeasure::OomKills), Ok(4.0));
        assert_eq!(target.read(CgroupMeasure::Cpu), Ok(0.0));
        assert_eq!(target.read(CgroupMeasure::Exits), Ok(4.0));
    }
}
