//! Targets that go and come again: a restarted unit or container has another cgroup of the same path. And the lever that ends
//! all runs: both are heard of by one watch, since a user has few of them (fs.inotify.max_user_instances, usually 128).

use crate::{
    host::{
        cgroup::{Cgroup, Hierarchy},
        cgroup_watch::{CgroupWatch, News},
    },
    inject::journal,
    report::restarts::Restarts,
    runs::halt,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};

/// When the processes of a target that came again are looked at: at once, then after these times. They may enter another
/// network namespace before they become what they are to be, of which nothing tells.
const LOOKS_MS: [u64; 8] = [5, 20, 50, 100, 250, 500, 1000, 3000];

/// What has become of targets.
#[derive(Debug)]
pub enum Change {
    /// No cgroup has this path any more.
    Gone(PathBuf),
    /// Another one has it now.
    Back {
        /// Which.
        cgroup: Cgroup,
        /// The id of the one before.
        before: u64,
        /// How long there was none; 0 if that was too short to be seen.
        away: Duration,
    },
    /// Its processes may be others than before.
    Look(PathBuf),
    /// All runs of this host are halted.
    Halted,
}

/// The targets that are followed.
pub struct Targets {
    hierarchy: Hierarchy,
    halted: bool,
    watch: AsyncFd<CgroupWatch>,
    all: BTreeMap<PathBuf, Presence>,
    /// Moments at which processes are to be looked at.
    looks: Vec<(Instant, PathBuf)>,
}

struct Presence {
    id: u64,
    gone: Option<Instant>,
    /// Not followed any more.
    left: bool,
    restarts: Restarts,
}

impl Targets {
    /// Listens to the lever, and follows nobody yet. Must be called on a tokio runtime. Whether runs are halted already is for
    /// the caller to look at.
    ///
    /// # Errors
    /// If the lever cannot be watched.
    pub fn listen(hierarchy: Hierarchy) -> io::Result<Self> {
        let mut watch = CgroupWatch::new(hierarchy.mount())?;
        journal::make_directory()?;
        watch.watch_file(&halt::path())?;
        // SAFETY: the watch owns its descriptor and keeps it open for as long as it is registered.
        let watch = unsafe { AsyncFd::register(watch) }.map_err(io::Error::other)?;
        Ok(Self { hierarchy, halted: false, watch, all: BTreeMap::new(), looks: vec![] })
    }

    /// Follows those of `cgroups` that were named themselves. What has happened to them before is for the caller to look at.
    ///
    /// # Errors
    /// If one of them cannot be watched: then it and those behind it are not followed.
    pub fn follow(&mut self, cgroups: &[Cgroup]) -> io::Result<()> {
        let mut parents = BTreeSet::new();
        for cgroup in cgroups.iter().filter(|cgroup| cgroup.is_named()) {
            if parents.insert(cgroup.path().parent()) {
                self.watch.get_mut().watch(cgroup.path())?;
            }
            let restarts = Restarts::of(cgroup.path().to_owned());
            let presence = Presence { id: cgroup.id(), gone: None, left: false, restarts };
            self.all.insert(cgroup.path().to_owned(), presence);
        }
        Ok(())
    }

    /// What happens next to any of them. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            let due = self.looks.iter().map(|(when, _)| *when).min();
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let news = tokio::select! {
                ready = self.watch.readable_mut() => match ready {
                    Ok(mut ready) => {
                        let news = ready.get_inner_mut().take();
                        ready.clear_ready();
                        news
                    }
                    Err(error) => Err(error),
                },
                () = due => Ok(vec![]),
            };
            let changes = match news {
                Ok(news) => {
                    let mut changes: Vec<_> = news.into_iter().flat_map(|news| self.hear(news)).collect();
                    changes.extend(self.due());
                    changes
                }
                Err(error) => {
                    log::warn!(
                        "targets that come again are not found any more, and kchaos halt is not heard: {error}"
                    );
                    self.all.values_mut().for_each(|presence| presence.left = true);
                    return pending().await;
                }
            };
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    fn hear(&mut self, news: News) -> Vec<Change> {
        match news {
            News::Path(path) if path == halt::path() => self.lever(),
            News::Path(path) => self.look_at(&path),
            News::Anything => {
                let mount = self.hierarchy.mount().to_owned();
                let mut changes = self.lever();
                changes.extend(self.look_at(&mount));
                changes
            }
            News::Processes(path) => {
                self.plan_looks(&path);
                vec![Change::Look(path)]
            }
        }
    }

    /// What happened to the file does not matter, only that it is there; that is told once.
    fn lever(&mut self) -> Vec<Change> {
        if self.halted || !halt::path().exists() {
            return vec![];
        }
        self.halted = true;
        vec![Change::Halted]
    }

    fn plan_looks(&mut self, path: &Path) {
        self.looks.retain(|(_, other)| other != path);
        let now = Instant::now();
        self.looks.extend(LOOKS_MS.map(|ms| (now + Duration::from_millis(ms), path.to_owned())));
    }

    /// The looks whose time has come.
    fn due(&mut self) -> Vec<Change> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.looks).into_iter().partition(|(when, _)| *when <= now);
        self.looks = later;
        let due: Vec<(Instant, PathBuf)> = due;
        due.into_iter().map(|(_, path)| Change::Look(path)).collect()
    }

    /// Looks at the targets of this path and below.
    fn look_at(&mut self, path: &Path) -> Vec<Change> {
        let concerned = self.all.range(path.to_owned()..).map(|(target, _)| target);
        let concerned: Vec<_> = concerned.take_while(|target| target.starts_with(path)).cloned().collect();
        concerned.iter().flat_map(|target| self.look_at_one(target)).collect()
    }

    fn look_at_one(&mut self, path: &Path) -> Vec<Change> {
        let Some(presence) = self.all.get_mut(path).filter(|presence| !presence.left) else { return vec![] };
        // Before it is looked at: what comes after that is told.
        let watched = self.watch.get_mut().watch(path);
        let found = self.hierarchy.open(path).ok();
        let mut changes = vec![];
        if presence.gone.is_none() && found.as_ref().is_none_or(|found| found.id() != presence.id) {
            presence.gone = Some(Instant::now());
            changes.push(Change::Gone(path.to_owned()));
        }
        if let (Some(cgroup), Some(since)) = (found, presence.gone)
            && cgroup.id() != presence.id
        {
            let before = std::mem::replace(&mut presence.id, cgroup.id());
            presence.gone = None;
            changes.push(Change::Back { cgroup, before, away: since.elapsed() });
            let watched = self.watch.get_mut().watch_processes(path);
            if let Err(error) = watched {
                log::warn!("{} came again, but its processes are not watched: {error}", path.display());
            }
            self.plan_looks(path);
        }
        if let Err(error) = watched {
            log::warn!("{} is not found again if it goes: {error}", path.display());
        }
        changes
    }

    /// A target has gone, or has come again, `at_s` seconds after the run was armed.
    pub fn note(&mut self, path: &Path, gone: bool, at_s: f64) {
        if let Some(presence) = self.all.get_mut(path) {
            presence.restarts.note(gone, at_s);
        }
    }

    /// A target is not followed any more.
    pub fn leave(&mut self, path: &Path) {
        self.stop_looking(path);
        self.all.get_mut(path).into_iter().for_each(|presence| presence.left = true);
    }

    /// A target that came again is not hit, or not everywhere.
    pub fn note_problem(&mut self, path: &Path, problem: &str) {
        if let Some(presence) = self.all.get_mut(path) {
            presence.restarts.problem = Some(problem.to_owned());
        }
    }

    /// The id of the cgroup that has this path, as far as is known, if it is followed.
    pub fn id(&self, path: &Path) -> Option<u64> {
        self.all.get(path).filter(|presence| !presence.left).map(|presence| presence.id)
    }

    /// Its processes are not looked at again before it has others.
    pub fn stop_looking(&mut self, path: &Path) {
        self.looks.retain(|(_, other)| other != path);
    }

    /// Those that have gone at least once.
    pub fn restarts(&self) -> Vec<Restarts> {
        let all = self.all.values().map(|presence| &presence.restarts);
        all.filter(|restarts| restarts.has_any()).cloned().collect()
    }
}
