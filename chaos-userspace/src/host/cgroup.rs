//! The cgroup v2 hierarchy.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

/// Prefix of the name of every cgroup that kchaos makes.
pub const FRESH_PREFIX: &str = "kchaos-";

/// What can go wrong with cgroups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No hierarchy to select by.
    #[error(
        "cgroup v2 is not mounted: mount it (mount -t cgroup2 none /sys/fs/cgroup) or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NotMounted,
    /// The path leads to a v1 hierarchy.
    #[error("{path} is a cgroup v1 directory: only cgroup v2 can be a target; it is mounted at {mount}")]
    Version1 {
        /// As given.
        path: String,
        /// Where v2 is.
        mount: String,
    },
    /// The path does not exist below the mount.
    #[error("cgroup {path} does not exist (looked for {full}): list them with systemd-cgls")]
    Missing {
        /// As given.
        path: String,
        /// As looked for.
        full: String,
    },
    /// The path is something else.
    #[error("{path} is not a cgroup directory below {mount}")]
    NotACgroup {
        /// As given.
        path: String,
        /// Where v2 is.
        mount: String,
    },
    /// What is told and written down of targets is text.
    #[error(
        "{path:?} is not UTF-8, and cannot be a target: choose a pattern that leaves it out, or its parent"
    )]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// The root contains every process.
    #[error("the root cgroup contains every process of this host: name a cgroup below it")]
    Root,
    /// Nothing is called so.
    #[error("{target}: no cgroup of this host belongs to it; it may not run (list them with {remedy})")]
    NoTarget {
        /// What was looked for.
        target: String,
        /// How to see what there is.
        remedy: &'static str,
    },
    /// More than one is called so.
    #[error("{target}: several cgroups are called so; name one with --cgroup: {}", paths.join(", "))]
    SeveralTargets {
        /// What was looked for.
        target: String,
        /// All that were found.
        paths: Vec<String>,
    },
    /// A container's name does not lead to one.
    #[error(transparent)]
    Container(#[from] super::containers::Problem),
    /// A read or write failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { what, path, source }
}

/// Whether a cgroup v1 hierarchy is in a table with the format of /proc/mounts.
pub fn has_version_1(mounts: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup"))
}

/// The mounted hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// Finds the mount, also beside v1 hierarchies.
    pub fn find() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mounts");
        Self::from_mounts(&fs::read_to_string(path).map_err(io_error("reading", path))?)
    }

    /// Finds the mount in a table with the format of /proc/mounts. The first one wins.
    pub fn from_mounts(mounts: &str) -> Result<Self, Error> {
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                let (_, mount, kind) = (fields.next()?, fields.next()?, fields.next()?);
                (kind == "cgroup2").then(|| Self { mount: PathBuf::from(mount.replace("\\040", " ")) })
            })
            .next()
            .ok_or(Error::NotMounted)
    }

    /// Where it is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The cgroup of the calling process.
    pub fn own(&self) -> Result<PathBuf, Error> {
        let path = Path::new("/proc/self/cgroup");
        let table = fs::read_to_string(path).map_err(io_error("reading", path))?;
        let own = table.lines().find_map(|line| line.strip_prefix("0::")).ok_or(Error::NotMounted)?;
        Ok(self.mount.join(own.trim_start_matches('/')))
    }

    /// Opens the cgroup a user names: the path of its directory, or its path below the mount with or without the
    /// leading slash.
    pub fn open(&self, named: &Path) -> Result<Cgroup, Error> {
        let shown = named.display().to_string();
        let mount = || self.mount.display().to_string();
        if named.components().any(|part| part == Component::ParentDir) {
            return Err(Error::NotACgroup { path: shown, mount: mount() });
        }
        let full = if named.starts_with(&self.mount) {
            named.to_path_buf()
        } else {
            if named.join("cgroup.procs").exists() && named.is_absolute() {
                return Err(Error::Version1 { path: shown, mount: mount() });
            }
            self.mount.join(named.strip_prefix("/").unwrap_or(named))
        };
        if full == self.mount {
            return Err(Error::Root);
        }
        if !full.is_dir() {
            return Err(Error::Missing { path: shown, full: full.display().to_string() });
        }
        Cgroup::open(&self.mount, full)
    }

    /// Makes a cgroup below the caller's own.
    pub fn make_fresh(&self, run: &str) -> Result<Cgroup, Error> {
        let path = self.own()?.join(format!("{FRESH_PREFIX}{run}"));
        fs::create_dir(&path).map_err(io_error("creating cgroup", &path))?;
        Cgroup::open(&self.mount, path).map(Cgroup::unnamed)
    }

    /// All cgroups that kchaos made and that are still there.
    pub fn fresh(&self) -> Vec<PathBuf> {
        let mut found = vec![];
        let mut to_visit = vec![self.mount.clone()];
        while let Some(directory) = to_visit.pop() {
            let below = children(&directory);
            let is_fresh = |path: &&PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FRESH_PREFIX))
            };
            found.extend(below.iter().filter(is_fresh).cloned());
            to_visit.extend(below);
        }
        found
    }
}

impl Hierarchy {
    /// All cgroups that there are, by id.
    pub fn paths_by_id(&self) -> BTreeMap<u64, PathBuf> {
        with_ids(self.mount.clone()).collect()
    }
}

/// A cgroup and all below it, with their ids.
fn with_ids(top: PathBuf) -> impl Iterator<Item = (u64, PathBuf)> {
    let mut to_visit = vec![top];
    std::iter::from_fn(move || {
        loop {
            let path = to_visit.pop()?;
            to_visit.extend(children(&path));
            // One that went meanwhile is left out.
            if let Ok(found) = fs::metadata(&path) {
                return Some((found.ino(), path));
            }
        }
    })
}

/// Opens a directory below the mount, of the same file system, without following any link.
fn open_beneath(mount: &Path, path: &Path) -> io::Result<File> {
    let below = path.strip_prefix(mount).map_err(io::Error::other)?;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    Ok(openat2(File::open(mount)?, below, how)?.into())
}

/// Processes of a cgroup and its descendants; none if it has gone.
pub fn processes(cgroup: &Path) -> Vec<i32> {
    let mut found = vec![];
    let mut to_visit = vec![cgroup.to_path_buf()];
    while let Some(directory) = to_visit.pop() {
        if let Ok(list) = fs::read_to_string(directory.join("cgroup.procs")) {
            found.extend(list.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        to_visit.extend(children(&directory));
    }
    found
}

/// The cgroups right below one; none if it has gone.
pub(super) fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// A cgroup held by an open descriptor, so that it cannot be mistaken for a later one of the same name.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
    level: u32,
    directory: File,
    named: bool,
}

impl Cgroup {
    fn open(mount: &Path, path: PathBuf) -> Result<Self, Error> {
        if path.to_str().is_none() {
            return Err(Error::NotText { path });
        }
        let directory = open_beneath(mount, &path).map_err(io_error("opening cgroup", &path))?;
        let not_one =
            || Error::NotACgroup { path: path.display().to_string(), mount: mount.display().to_string() };
        let kind =
            nix::sys::statfs::fstatfs(&directory).map_err(|e| io_error("opening cgroup", &path)(e.into()))?;
        if kind.filesystem_type() != nix::sys::statfs::CGROUP2_SUPER_MAGIC {
            return Err(not_one());
        }
        let id = directory.metadata().map_err(io_error("reading", &path))?.ino();
        let below = path.strip_prefix(mount).map_err(|_| not_one())?;
        let level = below.components().count() as u32;
        Ok(Self { id, level, directory, path, named: true })
    }

    /// The same, known by a process that is in it or because it was made, rather than by its own name.
    pub fn unnamed(self) -> Self {
        Self { named: false, ..self }
    }

    /// Whether it was named itself: then another one that takes its name later is meant as well.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id: the inode number of its directory (`cgroup_id()`, include/linux/cgroup.h, 5.5).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether its path still leads to it: another one that takes its name is not it.
    pub fn is_current(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.id)
    }

    /// How far below the root it is; the root is 0.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Its id and those of all cgroups below it.
    pub fn ids_below(&self) -> Vec<u64> {
        let below = with_ids(self.path.clone()).map(|(id, _)| id);
        std::iter::once(self.id).chain(below).collect()
    }

    /// Processes in it and below.
    pub fn processes(&self) -> Vec<i32> {
        processes(&self.path)
    }

    /// Opens the file that a process writes `0` to in order to join.
    pub fn open_processes(&self) -> Result<File, Error> {
        let path = self.path.join("cgroup.procs");
        fs::OpenOptions::new().write(true).open(&path).map_err(io_error("opening", &path))
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Waits until no process is left in the cgroup at `path` or below. `false` if the time runs out first; `None` waits
/// for ever. A cgroup that has gone is empty.
pub fn wait_empty(path: &Path, limit: Option<Duration>) -> bool {
    let start = Instant::now();
    let Ok(mut events) = File::open(path.join("cgroup.events")) else { return true };
    loop {
        if !is_populated(&mut events) {
            return true;
        }
        let wait_ms = match limit {
            None => -1,
            Some(limit) => match limit.checked_sub(start.elapsed()) {
                Some(left) => left.as_millis().min(i32::MAX as u128) as i32 + 1,
                None => return false,
            },
        };
        // The kernel signals a change of this file as an exceptional condition (kernfs_notify).
        let mut poll =
            libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&events), events: libc::POLLPRI, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, wait_ms) };
    }
}

fn is_populated(events: &mut File) -> bool {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    events.rewind().is_ok()
        && events.read_to_string(&mut text).is_ok()
        && text.lines().any(|l| l == "populated 1")
}

/// Removes the empty cgroup at `path`; one that has gone already counts as removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
";

    #[test]
    fn the_mount_is_found_on_pure_and_hybrid_hosts() {
        assert_eq!(Hierarchy::from_mounts(HYBRID).unwrap().mount(), Path::new("/sys/fs/cgroup/unified"));
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(Hierarchy::from_mounts(pure).unwrap().mount(), Path::new("/sys/fs/cgroup"));
        let odd = "none /mnt/a\\040b cgroup2 rw 0 0\n";
        assert_eq!(Hierarchy::from_mounts(odd).unwrap().mount(), Path::new("/mnt/a b"));
        assert!(matches!(Hierarchy::from_mounts("tmpfs / tmpfs rw 0 0\n"), Err(Error::NotMounted)));
    }

    #[test]
    fn paths_that_are_no_target_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let v1 = base.path().join("memory");
        fs::create_dir_all(base.path().join("unified/a")).unwrap();
        fs::create_dir_all(&v1).unwrap();
        fs::write(v1.join("cgroup.procs"), "").unwrap();
        let hierarchy = Hierarchy { mount: base.path().join("unified") };
        assert!(matches!(hierarchy.open(&v1), Err(Error::Version1 { .. })));
        assert!(matches!(hierarchy.open(Path::new("/none")), Err(Error::Missing { .. })));
        assert!(matches!(hierarchy.open(Path::new("/")), Err(Error::Root)));
        assert!(matches!(hierarchy.open(Path::new("/a/../a")), Err(Error::NotACgroup { .. })));
        // A directory, but not on a cgroup file system.
        assert!(matches!(hierarchy.open(Path::new("/a")), Err(Error::NotACgroup { .. })));
    }
}
