//! News of cgroups that come and go, without asking for them again and again.
//!
//! Directories of the cgroup file system are made and removed by system calls alone, which inotify tells like those of any
//! other file system (`fsnotify_mkdir`, `fsnotify_rmdir`, include/linux/fsnotify.h); that processes have come into a cgroup or
//! left it, the kernel tells as a change of its `cgroup.events` (`kernfs_notify`, fs/kernfs/file.c).

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
};

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A cgroup of this path came or went, maybe both; or a file of this path was made or written.
    Path(PathBuf),
    /// There are processes in this cgroup or below now, or none any more.
    Processes(PathBuf),
    /// More than could be remembered: anything.
    Anything,
}

/// The directories that are watched.
pub struct CgroupWatch {
    inotify: Inotify,
    mount: PathBuf,
    /// Directories whose entries are watched, and cgroups whose processes are.
    watched: HashMap<WatchDescriptor, (PathBuf, bool)>,
    /// The other way round.
    watches: HashMap<(PathBuf, bool), WatchDescriptor>,
}

impl CgroupWatch {
    /// Watches nothing yet of the hierarchy that is mounted there.
    pub fn new(mount: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self { inotify, mount: mount.to_owned(), watched: HashMap::new(), watches: HashMap::new() })
    }

    /// Watches for a cgroup of this path, and for those above it. What is there after this has returned and was not there
    /// before is told, as is what goes.
    ///
    /// # Errors
    /// If no more can be watched: fs.inotify.max_user_watches is the limit.
    pub fn watch(&mut self, path: &Path) -> io::Result<()> {
        let Ok(below) = path.strip_prefix(&self.mount) else { return Ok(()) };
        let mut directory = self.mount.clone();
        // From above: what appears in one that is watched already is told.
        for name in below {
            let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            if !self.add(&directory, entries, false)? {
                return Ok(());
            }
            directory.push(name);
        }
        Ok(())
    }

    /// Watches for a file that is made or written, beside cgroups: its directory must be there.
    ///
    /// # Errors
    /// As [`CgroupWatch::watch`].
    pub fn watch_file(&mut self, file: &Path) -> io::Result<()> {
        let Some(directory) = file.parent() else { return Ok(()) };
        let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        if self.add(directory, made, false)? { Ok(()) } else { Err(Errno::ENOENT.into()) }
    }

    /// Watches the processes of a cgroup, for as long as it is there.
    ///
    /// # Errors
    /// As [`CgroupWatch::watch`].
    pub fn watch_processes(&mut self, cgroup: &Path) -> io::Result<()> {
        self.add(&cgroup.join("cgroup.events"), AddWatchFlags::IN_MODIFY, true).map(drop)
    }

    /// `false` if there is no such file.
    fn add(&mut self, path: &Path, what: AddWatchFlags, processes: bool) -> io::Result<bool> {
        match self.inotify.add_watch(path, what | AddWatchFlags::IN_DONT_FOLLOW) {
            Ok(watch) => {
                let told = if processes { path.parent().unwrap_or(path) } else { path };
                let told = (told.to_owned(), processes);
                self.watched.insert(watch, told.clone());
                // The cgroup file system does not tell that a watched file has gone, and its watch would remain.
                if let Some(before) = self.watches.insert(told, watch).filter(|before| *before != watch) {
                    self.watched.remove(&before);
                    let _ = self.inotify.rm_watch(before);
                }
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes all news there are.
    pub fn take(&mut self) -> io::Result<Vec<News>> {
        let mut news = vec![];
        loop {
            match self.inotify.read_events() {
                Ok(events) => news.extend(events.into_iter().filter_map(|event| self.told_by(event))),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        news.dedup();
        Ok(news)
    }

    fn told_by(&mut self, event: InotifyEvent) -> Option<News> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Some(News::Anything);
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // It has gone, and its watch with it.
            self.watched.remove(&event.wd);
            return None;
        }
        let (path, processes) = self.watched.get(&event.wd)?;
        match event.name {
            Some(name) => Some(News::Path(path.join(name))),
            None => processes.then(|| News::Processes(path.clone())),
        }
    }
}

impl AsRawFd for CgroupWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_comes_and_goes_is_told_also_above() {
        let base = tempfile::tempdir().unwrap();
        let mount = base.path();
        fs::create_dir_all(mount.join("a/b")).unwrap();
        let mut watch = CgroupWatch::new(mount).unwrap();
        let path = mount.join("a/b/c");
        watch.watch(&path).unwrap();
        assert_eq!(watch.take().unwrap(), []);
        fs::create_dir(&path).unwrap();
        assert_eq!(watch.take().unwrap(), [News::Path(path.clone())]);
        fs::remove_dir_all(mount.join("a")).unwrap();
        let news = watch.take().unwrap();
        assert!(news.contains(&News::Path(path.clone())) && news.contains(&News::Path(mount.join("a"))));
        // Another one of the same name is watched anew.
        fs::create_dir(mount.join("a")).unwrap();
        assert_eq!(watch.take().unwrap(), [News::Path(mount.join("a"))]);
        watch.watch(&path).unwrap();
        fs::create_dir(mount.join("a/b")).unwrap();
        assert_eq!(watch.take().unwrap(), [News::Path(mount.join("a/b"))]);
        assert!(watch.watched.len() <= 3);
    }

    #[test]
    fn processes_are_told_by_a_file() {
        let base = tempfile::tempdir().unwrap();
        let events = base.path().join("cgroup.events");
        let mut watch = CgroupWatch::new(base.path()).unwrap();
        watch.watch_processes(base.path()).unwrap();
        fs::write(&events, "").unwrap();
        watch.watch_processes(base.path()).unwrap();
        fs::write(&events, "populated 1").unwrap();
        assert_eq!(watch.take().unwrap(), [News::Processes(base.path().to_owned())]);
    }
}
