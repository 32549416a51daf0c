//! Network namespaces: where the target's packets leave.

use super::process;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    thread,
};

/// A network namespace held by an open descriptor.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    inode: u64,
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl NetworkNamespace {
    fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// A new one without a name: it lives as long as this value, and what is in it goes with it.
    pub fn anonymous() -> io::Result<Self> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                Self::current()
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread in the new network namespace died")))
        })
    }

    /// That of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Its number, as `readlink /proc/PID/ns/net` shows it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Those of `processes`, each once. Processes that have gone are left out.
    pub fn of_processes(processes: &[i32]) -> Vec<Self> {
        let mut found = BTreeMap::new();
        for pid in processes {
            if let Ok(namespace) = Self::open(format!("/proc/{pid}/ns/net")) {
                found.entry(namespace.inode).or_insert(namespace);
            }
        }
        found.into_values().collect()
    }

    /// Those that are mounted somewhere, as `ip netns` and container runtimes do: they outlive their processes.
    pub fn mounted() -> Vec<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found = BTreeMap::new();
        for namespace in mounts.lines().filter_map(mount_point).filter_map(|path| Self::open(&path).ok()) {
            found.entry(namespace.inode).or_insert(namespace);
        }
        found.into_values().collect()
    }

    /// Those with one of these numbers that some process holds open: nobody else may be in them.
    pub fn open_somewhere(inodes: &BTreeSet<u64>) -> Vec<Self> {
        let names: BTreeSet<PathBuf> = inodes.iter().map(|inode| format!("net:[{inode}]").into()).collect();
        let mut found = BTreeMap::new();
        for pid in process::all() {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let paths = descriptors.map(|descriptor| descriptor.path());
            let named = paths.filter(|path| fs::read_link(path).is_ok_and(|name| names.contains(&name)));
            // The number may be another's by now.
            let namespaces = named.filter_map(|path| Self::open(path).ok());
            found.extend(
                namespaces
                    .filter(|one| inodes.contains(&one.inode))
                    .map(|namespace| (namespace.inode, namespace)),
            );
        }
        found.into_values().collect()
    }

    /// Runs `work` inside, on a thread of its own: entering a namespace changes the whole thread.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(&self.file, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread inside the network namespace died")))
        })
    }
}

/// Where a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)) has mounted a network namespace.
fn mount_point(line: &str) -> Option<PathBuf> {
    let mut fields = line.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    root.starts_with("net:[").then(|| unescaped(point).into())
}

/// The bytes of a path in which blanks and the like stand as `\040` (`mangle_path`, fs/seq_file.c).
fn unescaped(text: &str) -> OsString {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(3).unwrap_or(("", part));
        bytes.extend(u8::from_str_radix(code, 8));
        bytes.extend(rest.as_bytes());
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_namespace_is_found_by_its_number() {
        let held = NetworkNamespace::current().unwrap();
        let found = NetworkNamespace::open_somewhere(&[held.inode()].into());
        assert_eq!(found.iter().map(NetworkNamespace::inode).collect::<Vec<_>>(), [held.inode()]);
        assert!(NetworkNamespace::open_somewhere(&[1].into()).is_empty());
    }

    #[test]
    fn mounted_namespaces_are_found_by_their_root() {
        let line = r"423 26 0:4 net:[4026532281] /run/netns/a\040b rw shared:5 - nsfs nsfs rw";
        assert_eq!(mount_point(line), Some("/run/netns/a b".into()));
        assert_eq!(mount_point("26 1 0:24 / /run rw - tmpfs tmpfs rw"), None);
        assert_eq!(mount_point(""), None);
    }
}
