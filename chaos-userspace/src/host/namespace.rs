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
            let thread = thread::Builder::new().spawn_scoped(scope, || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                Self::current()
            })?;
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

    /// Those with one of these numbers, wherever they are: of processes, mounted as `ip netns` and container runtimes do,
    /// or held open by somebody's descriptor alone, with nobody in them. One that is not among them is gone, or out of
    /// this process's sight. What keeps from looking everywhere, such as want of memory, is an error.
    pub fn find(inodes: &BTreeSet<u64>) -> io::Result<Vec<Self>> {
        let mut search = Search::of(inodes);
        let processes = process::all()?;
        for pid in &processes {
            search.follow(format!("/proc/{pid}/ns/net").as_ref())?;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        for (name, point) in mounts.lines().filter_map(mounted) {
            search.look_at(Path::new(name), &point)?;
        }
        for pid in processes {
            if search.is_over() {
                break;
            }
            for descriptor in unless_hindered(fs::read_dir(format!("/proc/{pid}/fd")))?.into_iter().flatten()
            {
                if let Some(descriptor) = unless_hindered(descriptor)? {
                    search.follow(&descriptor.path())?;
                }
            }
        }
        Ok(search.found.into_values().collect())
    }

    /// Runs `work` inside, on a thread of its own: entering a namespace changes the whole thread.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, || {
                nix::sched::setns(&self.file, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread inside the network namespace died")))
        })
    }
}

/// A search for namespaces by their names, `net:[NUMBER]`: what has another is not touched.
struct Search {
    names: BTreeSet<PathBuf>,
    found: BTreeMap<PathBuf, NetworkNamespace>,
}

impl Search {
    fn of(inodes: &BTreeSet<u64>) -> Self {
        Self { names: inodes.iter().copied().map(name).collect(), found: BTreeMap::new() }
    }

    fn is_over(&self) -> bool {
        self.found.len() == self.names.len()
    }

    /// Takes what a link of /proc leads to, if it is sought.
    fn follow(&mut self, link: &Path) -> io::Result<()> {
        match unless_hindered(fs::read_link(link))? {
            Some(name) => self.look_at(&name, link),
            None => Ok(()),
        }
    }

    fn look_at(&mut self, name: &Path, path: &Path) -> io::Result<()> {
        if !self.names.contains(name) || self.found.contains_key(name) {
            return Ok(());
        }
        // The descriptor, or the number, may be another's by now.
        if let Some(namespace) = unless_hindered(NetworkNamespace::open(path))?
            && self::name(namespace.inode) == name
        {
            self.found.insert(name.to_owned(), namespace);
        }
        Ok(())
    }
}

/// What a link of /proc and a mount call the namespace with this number.
fn name(inode: u64) -> PathBuf {
    format!("net:[{inode}]").into()
}

/// What is there, if it can be looked at; an error is what says nothing of it.
fn unless_hindered<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(there) => Ok(Some(there)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EINTR) => Err(error),
            _ => Ok(None),
        },
    }
}

/// Which network namespace a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)) has mounted, by its name, and where.
fn mounted(line: &str) -> Option<(&str, PathBuf)> {
    let mut fields = line.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    root.starts_with("net:[").then(|| (root, unescaped(point).into()))
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
        let found = NetworkNamespace::find(&[held.inode()].into()).unwrap();
        assert_eq!(found.iter().map(NetworkNamespace::inode).collect::<Vec<_>>(), [held.inode()]);
        assert!(NetworkNamespace::find(&[1].into()).unwrap().is_empty());
    }

    #[test]
    fn what_hinders_a_search_is_not_taken_for_an_absence() {
        let of = |errno| unless_hindered::<()>(Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(of(libc::ENOMEM).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        assert_eq!(of(libc::EMFILE).unwrap_err().raw_os_error(), Some(libc::EMFILE));
        assert_eq!(of(libc::ENOENT).unwrap(), None);
        assert_eq!(of(libc::ESRCH).unwrap(), None);
    }

    #[test]
    fn mounted_namespaces_are_found_by_their_root() {
        let line = r"423 26 0:4 net:[4026532281] /run/netns/a\040b rw shared:5 - nsfs nsfs rw";
        assert_eq!(mounted(line), Some(("net:[4026532281]", "/run/netns/a b".into())));
        assert_eq!(mounted("26 1 0:24 / /run rw - tmpfs tmpfs rw"), None);
        assert_eq!(mounted(""), None);
    }
}
