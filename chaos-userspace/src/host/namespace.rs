//! Network namespaces: where the target's packets leave.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
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
    fn open(path: &str) -> io::Result<Self> {
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
            if let Ok(namespace) = Self::open(&format!("/proc/{pid}/ns/net")) {
                found.entry(namespace.inode).or_insert(namespace);
            }
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
