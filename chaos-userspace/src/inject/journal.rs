//! What persists by nature, written down before it is made: so that a guardian, a later `kchaos clean` or the next
//! start can undo it.

use super::clsact;
use crate::host::{cgroup, namespace::NetworkNamespace, process};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Where journals lie; readable by root alone.
pub const DIRECTORY: &str = "/run/kchaos";

/// What a journal is called that is being written.
pub const EXTENSION_UNFINISHED: &str = "new";

/// Makes it if it is not there.
pub fn make_directory() -> io::Result<()> {
    if Path::new(DIRECTORY).is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY)
}

/// One engine's journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The run.
    pub run: String,
    /// Its owner.
    pub owner: Process,
    /// The cgroup made for a command.
    pub cgroup: Option<PathBuf>,
    /// Targets whose packets are judged.
    pub packets_of: Vec<PathBuf>,
    /// Filters on devices.
    pub filters: Vec<Filter>,
}

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (field 22 of /proc/PID/stat).
    pub start: u64,
}

impl Process {
    /// The calling process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, start: process::start(pid as i32).unwrap_or(0) }
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        process::start(self.pid as i32) == Some(self.start)
    }
}

/// A clsact filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Inode of the network namespace of its device.
    pub namespace: u64,
    /// Index of its device.
    pub device: u32,
    /// Its handle.
    pub handle: u32,
    /// Whether the clsact qdisc was made for it, or for one of another engine before it.
    pub made_qdisc: bool,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => ": make room there, some KiB are enough",
        Some(libc::EROFS) => ": it has to be writable",
        _ => "",
    }
}

fn path_of(directory: &Path, run: &str) -> PathBuf {
    directory.join(format!("{run}.json"))
}

impl Journal {
    /// Where it is written.
    pub fn path(&self) -> PathBuf {
        path_of(Path::new(DIRECTORY), &self.run)
    }

    /// Whether there is anything to undo, or for others to know.
    pub fn is_empty(&self) -> bool {
        self.cgroup.is_none() && self.filters.is_empty() && self.packets_of.is_empty()
    }

    /// Writes it, whole or not at all.
    pub fn write(&self) -> io::Result<()> {
        make_directory()
            .and_then(|()| self.write_in(Path::new(DIRECTORY)))
            .map_err(|error| io::Error::new(error.kind(), format!("{DIRECTORY}: {error}{}", remedy(&error))))
    }

    fn write_in(&self, directory: &Path) -> io::Result<()> {
        let path = path_of(directory, &self.run);
        let new = path.with_extension(EXTENSION_UNFINISHED);
        let written = fs::write(&new, serde_json::to_vec(self)?).and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _never_made = fs::remove_file(&new);
        }
        written
    }

    /// Reads one.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// All journals there are. Unreadable ones are returned by path.
    pub fn all() -> Vec<Result<Self, PathBuf>> {
        let Ok(entries) = fs::read_dir(DIRECTORY) else { return vec![] };
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| Self::read(&path).map_err(|_| path))
            .collect()
    }

    /// Those of the other engines that live.
    pub fn live() -> Vec<Self> {
        let own = Process::current();
        let all = Self::all().into_iter().flatten();
        all.filter(|journal| journal.owner != own && journal.owner.is_alive()).collect()
    }

    /// Whether a clsact qdisc goes with it.
    pub fn made_qdisc(&self, namespace: u64, device: u32) -> bool {
        self.filters
            .iter()
            .any(|filter| filter.made_qdisc && filter.namespace == namespace && filter.device == device)
    }

    /// A target of this one whose packets that one judges, or the other way round: a cgroup has those of its
    /// descendants.
    pub fn shares_packets_with(&self, other: &Self) -> Option<&Path> {
        let own: BTreeSet<_> = self.packets_of.iter().map(PathBuf::as_path).collect();
        let others: BTreeSet<_> = other.packets_of.iter().map(PathBuf::as_path).collect();
        let own_path = |path: &Path| self.packets_of.iter().map(PathBuf::as_path).find(|own| *own == path);
        let below_others =
            own.iter().copied().find(|path| path.ancestors().any(|upper| others.contains(upper)));
        below_others.or_else(|| {
            others
                .iter()
                .flat_map(|path| path.ancestors())
                .find(|upper| own.contains(upper))
                .and_then(own_path)
        })
    }

    /// Removes it.
    pub fn erase(&self) {
        let _ = fs::remove_file(self.path());
    }

    /// Removes the filters. What could not be undone is returned in words. `held` are namespaces that the caller has open:
    /// one without processes has to be looked for where it is mounted, and among everybody's descriptors.
    pub fn undo_filters(&self, held: &[&NetworkNamespace]) -> Vec<String> {
        let inodes = self.filters.iter().map(|filter| filter.namespace);
        let sought: BTreeSet<u64> =
            inodes.filter(|inode| held.iter().all(|known| known.inode() != *inode)).collect();
        let (mut problems, mut found) = (vec![], vec![]);
        if !sought.is_empty() {
            match NetworkNamespace::find(&sought) {
                Ok(namespaces) => found = namespaces,
                Err(error) => problems.push(format!("looking for network namespaces: {error}")),
            }
        }
        for filter in &self.filters {
            let mut known = held.iter().copied().chain(&found);
            // Not to be found, it is gone.
            let Some(namespace) = known.find(|known| known.inode() == filter.namespace) else { continue };
            let removed = namespace
                .within(|| clsact::remove(filter.device, filter.handle, filter.made_qdisc))
                .and_then(|done| done);
            if let Err(error) = removed {
                problems.push(format!("clsact filter on device {}: {error}", filter.device));
            }
        }
        problems
    }

    /// Removes the cgroup if no process is left in it. `true` if it is gone.
    pub fn undo_cgroup(&self) -> bool {
        self.cgroup.as_deref().is_none_or(|path| cgroup::remove(path).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_told_apart_from_a_later_process() {
        let own = Process::current();
        assert!(own.is_alive());
        assert!(!Process { start: own.start + 1, ..own.clone() }.is_alive());
        assert!(!Process { pid: u32::MAX, start: 1 }.is_alive());
    }

    #[test]
    fn packets_are_shared_along_the_hierarchy() {
        let of = |path: &str| Journal { packets_of: vec![path.into()], ..Journal::default() };
        assert!(of("/a/b").shares_packets_with(&of("/a")).is_some());
        assert!(of("/a").shares_packets_with(&of("/a/b")).is_some());
        assert!(of("/a/b").shares_packets_with(&of("/a/bc")).is_none());
        assert!(of("/a").shares_packets_with(&Journal::default()).is_none());
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal { run: "abc".into(), ..Journal::default() };
        // In the way of the rename.
        fs::create_dir_all(directory.path().join("abc.json/x")).unwrap();
        assert!(journal.write_in(directory.path()).is_err());
        assert!(!directory.path().join("abc.new").exists());
    }

    #[test]
    fn a_journal_is_read_back() {
        let journal = Journal {
            run: "x".into(),
            owner: Process { pid: 1, start: 2 },
            cgroup: Some("/a".into()),
            packets_of: vec!["/b".into()],
            filters: vec![Filter { namespace: 3, device: 4, handle: 5, made_qdisc: true }],
        };
        let text = serde_json::to_string(&journal).unwrap();
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), journal);
    }
}
