//! Processes as /proc shows them.

use nix::unistd::{Pid, SysconfVar, sysconf};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{FromRawFd as _, OwnedFd},
    time::Duration,
};

/// The name of a process, of at most 15 bytes.
pub fn comm(pid: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end_matches('\n').to_owned())
}

/// All that can be seen.
pub fn all() -> io::Result<Vec<i32>> {
    let names = fs::read_dir("/proc")?.map(|entry| entry.map(|entry| entry.file_name()));
    names.filter_map(|name| name.map(|name| name.to_str()?.parse().ok()).transpose()).collect()
}

/// A descriptor that polls readable once the process has ended.
pub fn pidfd(process: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor (with O_CLOEXEC) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// This process, its parent, and so on up to the first that can be seen.
pub fn lineage() -> Vec<i32> {
    lineage_of(std::process::id() as i32)
}

/// The same of another process.
pub fn lineage_of(process: i32) -> Vec<i32> {
    let mut lineage = vec![process];
    while let Some(parent) = lineage.last().and_then(|pid| parent(*pid)).filter(|parent| *parent > 0) {
        // Ids are reused: whoever died meanwhile must not lead in circles.
        if lineage.contains(&parent) {
            break;
        }
        lineage.push(parent);
    }
    lineage
}

/// Processes and what descends from them, as far as it can be seen: whose parent has died is another one's child.
pub fn trees(roots: &[u32]) -> BTreeSet<i32> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    for pid in all().unwrap_or_default() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut to_visit: Vec<_> = roots.iter().filter_map(|root| i32::try_from(*root).ok()).collect();
    while let Some(pid) = to_visit.pop() {
        if start(pid).is_some() && found.insert(pid) {
            to_visit.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    behind_name(&stat(pid)?)?.nth(1)?.parse().ok()
}

/// When a process started, in clock ticks since boot; none for a zombie, which holds nothing any more.
pub fn start(pid: i32) -> Option<u64> {
    let stat = stat(pid)?;
    let mut fields = behind_name(&stat)?;
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether a process is stopped, by a signal or a tracer.
pub fn is_stopped(pid: i32) -> bool {
    let stat = stat(pid);
    let state = stat.as_deref().and_then(behind_name).and_then(|mut fields| fields.next());
    matches!(state, Some("T" | "t"))
}

/// User and system time that a process has used (fields 14 and 15 of proc_pid_stat(5)).
pub fn processor_time(pid: i32) -> Option<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(Duration::from_secs_f64(ticks(&stat(pid)?)? as f64 / per_second as f64))
}

fn ticks(stat: &str) -> Option<u64> {
    let mut fields = behind_name(stat)?.skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// Memory that a process holds (field 2 of proc_pid_statm(5)).
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * page)
}

fn stat(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// Field 3 and what follows. The name before them may contain anything; the last parenthesis ends it.
fn behind_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_stands_behind_the_name() {
        assert_eq!(behind_name("7 (a) b) (c) S 42 7 7 0").and_then(|mut fields| fields.nth(1)), Some("42"));
        assert!(behind_name("7 (a").is_none());
    }

    #[test]
    fn what_a_process_costs_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9 10 11";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (a"), None);
        let own = std::process::id() as i32;
        assert!(processor_time(own).is_some() && resident_bytes(own).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(processor_time(i32::MAX), None);
    }

    #[test]
    fn a_tree_has_its_root_and_what_descends_from_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, id) = (std::process::id(), child.id());
        let (ours, of_child) = (trees(&[own]), trees(&[id]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ours.contains(&(own as i32)) && ours.contains(&(id as i32)));
        assert_eq!(of_child, BTreeSet::from([id as i32]));
        assert_eq!(trees(&[id, u32::MAX]), BTreeSet::new());
    }

    #[test]
    fn our_lineage_begins_with_us_and_our_parent() {
        let lineage = lineage();
        assert_eq!(lineage[0], std::process::id() as i32);
        assert_eq!(lineage.get(1).copied(), Some(std::os::unix::process::parent_id() as i32));
    }
}
