//! One owner with one set of maps and programs, hosting any number of runs.

mod attach;
mod change;
mod close;
mod devices;
mod join;
mod leave;
mod lines;
mod namespaces;
mod renew;
mod shared;
mod targets;
mod trees;
mod wanted;
mod ways;
mod witness;

pub use super::grace::Grace;
use super::{
    bpf, continuer,
    control::ControlPage,
    guardian::Guardian,
    holder::Holder,
    identity,
    journal::{Journal, Process},
    lease::Lease,
    line::Lines,
    link::Link,
    object::{self, Maps},
    program,
    seccomp::{Filter, Receiver},
    sleeper,
};
use crate::{
    encode::{self, Image, Job, Seat},
    host::{cgroup::Cgroup, kernel, namespace::NetworkNamespace},
    plan::{Mechanism, Plan},
    spec::Fault,
};
use chaos_common::{
    control::{STATE_ARMED, STATE_IDLE},
    latency::{LATENCY_SLEEP, LATENCY_STOP},
    probability::Q32,
};
pub use close::Closed;
use devices::Place;
use shared::Shared;
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use ways::Ways;
pub use witness::Escaped;

/// Why an engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runs do not fit.
    #[error(transparent)]
    Encode(#[from] encode::Error),
    /// Maps.
    #[error(transparent)]
    Object(#[from] object::Error),
    /// Programs.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// An attachment.
    #[error("attaching {what}: {source}{}", remedy(.source))]
    Attach {
        /// What to where.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another engine judges packets of the same target.
    #[error("{}", conflict(run, cgroup))]
    Conflict {
        /// The other run.
        run: String,
        /// The target.
        cgroup: PathBuf,
    },
    /// A run cannot become another one while it runs.
    #[error(
        "this change needs other programs or match tables than the run was started with: stop it and start another"
    )]
    NotLive,
    /// A run that the engine cannot host beside others, or an engine that was opened for its runs alone.
    #[error("{what}: start the run in an engine of its own (kchaos inject --own)")]
    Unshareable {
        /// What stands in the way.
        what: String,
    },
    /// Something else of the operating system.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Who hosts runs of others is no run, and can be joined.
fn conflict(run: &str, cgroup: &Path) -> String {
    let cgroup = cgroup.display();
    if run.starts_with(HOST_NAME) {
        return format!(
            "the engine of this machine has packet faults for {cgroup}, and a packet is judged once: join it (kchaos inject \
             without --own), or stop its run for that target (kchaos list)"
        );
    }
    format!(
        "the run {run} has packet faults for {cgroup}, and a packet is judged once: change that run with kchaos set {run}, \
         stop it with kchaos stop {run}, or ask for all packet faults of the target in one run"
    )
}

/// What the names of engines begin with that host runs of others; those of runs have no hyphen.
pub const HOST_NAME: &str = "engine-";

/// A trampoline takes 38 programs and a cgroup's hook 64, both with E2BIG (kernel/bpf/trampoline.c and cgroup.c); a tcx
/// hook takes 64, with ERANGE (kernel/bpf/mprog.c).
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ERANGE) => {
            ": the hook holds as many programs as it takes (38 to 64); kchaos list shows the runs, one of which has to be \
             stopped first"
        }
        _ => "",
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// One run to host.
pub struct Placement<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// To whom: one at least.
    pub cgroups: Vec<&'a Cgroup>,
    /// Arm at the first exec in the target instead of by [`Engine::arm`].
    pub await_exec: bool,
    /// The process in whose network namespace targets without processes are looked for; `None`: the calling one.
    pub home: Option<i32>,
}

impl Placement<'_> {
    /// Whether it judges leaving packets.
    fn judges_leaving(&self) -> bool {
        self.plan.rules.iter().flat_map(|rule| &rule.mechanisms).any(Mechanism::judges_leaving)
    }
}

/// How an engine is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The first placement's cgroup was made for a command and has to be removed in the end.
    pub made_cgroup: bool,
    /// aya-log's level for the kernel programs: 0 for none.
    pub log_level: u8,
    /// Which single events are recorded, if any; [`Engine::events`] says where they come out.
    pub recording: Option<Recording>,
    /// Runs come and go ([`Engine::add_run`], [`Engine::remove_run`]); by this name the engine is known until the first one
    /// comes. `None`: it hosts what it is opened with, for as long as it lives.
    pub shared_as: Option<&'a str>,
    /// The `kchaos` program, which also serves as guardian.
    pub program: &'a Path,
}

/// Which single events are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// One of `EVENTS_*` of [`chaos_common::event`].
    pub of: u32,
    /// The share of them that is.
    pub share_q32: Q32,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            made_cgroup: false,
            log_level: 0,
            recording: None,
            shared_as: None,
            program: Path::new("/proc/self/exe"),
        }
    }
}

/// A running engine. Dropping it lets everything go; [`Engine::close`] also reads the last counters.
pub struct Engine {
    // Dropped in this order: first what hits, last what watches.
    links: Vec<Link>,
    lines: Option<Lines>,
    programs: BTreeMap<usize, OwnedFd>,
    ways: Ways,
    places: Vec<Place>,
    /// Places in `programs`, by rule.
    serving: Vec<Vec<usize>>,
    lease: Option<Lease>,
    page: Arc<ControlPage>,
    maps: Maps,
    image: Image,
    /// Of the last exchange of rules.
    grace: Option<Grace>,
    /// By slot.
    hosted: BTreeMap<usize, Hosted>,
    /// If runs come and go.
    shared: Option<Shared>,
    journal: Journal,
    /// By which calls are held back.
    holder: Option<Holder>,
    receiver: Option<Receiver>,
    guardian: Option<Guardian>,
    /// `kchaos`.
    program: PathBuf,
}

/// A run of an engine.
struct Hosted {
    plan: Plan,
    seat: Seat,
    /// Id and level of each target's cgroup.
    targets: Vec<(u64, u32)>,
    /// Their paths, in the same order.
    paths: Vec<PathBuf>,
    await_exec: bool,
    /// Network namespaces on whose devices its packets are judged; known where runs come and go.
    namespaces: Vec<Arc<NetworkNamespace>>,
    /// What the kernel had skipped of its programs when it came, by rule.
    missed_before: Vec<u64>,
    /// Packets that seemed to have escaped when it came.
    escaped_before: i64,
    /// Since when it was known not to act any more, where that was asked for.
    disarmed: Option<Instant>,
    /// It has ended, and only what is numbered after it is left.
    ended: bool,
}

impl Hosted {
    fn new(placement: &Placement<'_>, seat: Seat) -> Self {
        Self {
            plan: placement.plan.clone(),
            seat,
            targets: placement.cgroups.iter().map(|cgroup| (cgroup.id(), cgroup.level())).collect(),
            paths: placement.cgroups.iter().map(|cgroup| cgroup.path().to_path_buf()).collect(),
            await_exec: placement.await_exec,
            namespaces: vec![],
            missed_before: vec![],
            escaped_before: 0,
            disarmed: None,
            ended: false,
        }
    }

    fn job<'a>(&'a self, plan: &'a Plan) -> Job<'a> {
        Job { plan, targets: &self.targets, await_exec: self.await_exec }
    }
}

impl Engine {
    /// Loads and attaches everything for these runs. Nothing acts before a run is armed.
    pub fn open(placements: &[Placement<'_>], options: Options<'_>) -> Result<Self, Error> {
        kernel::allow_descriptors(placements.iter().map(|placement| placement.cgroups.len()).sum());
        if let Some(name) = options.shared_as {
            return Self::open_shared(name, placements, options);
        }
        let mut next = 0..;
        let hosted = placements.iter().enumerate().map(|(slot, placement)| {
            let rules = next.by_ref().take(placement.plan.rules.len()).collect();
            (slot, Hosted::new(placement, Seat { slot, rules }))
        });
        let hosted: BTreeMap<_, _> = hosted.collect();
        let jobs: Vec<_> = hosted.values().map(|hosted| hosted.job(&hosted.plan)).collect();
        let image = encode::encode(&jobs)?;
        let _memory_lock_limit = kernel::MemoryLockLimit::lift();
        let journal = Journal {
            run: placements.first().map(|placement| placement.plan.run.clone()).unwrap_or_default(),
            owner: Process::current(),
            cgroup: placements
                .first()
                .filter(|_| options.made_cgroup)
                .and_then(|placement| placement.cgroups.first())
                .map(|cgroup| cgroup.path().to_path_buf()),
            packets_of: placements
                .iter()
                .filter(|placement| {
                    placement.plan.rules.iter().any(|rule| matches!(rule.fault, Fault::Network(_)))
                })
                .flat_map(|placement| &placement.cgroups)
                .map(|cgroup| cgroup.path().to_path_buf())
                .collect(),
            filters: vec![],
        };
        if !journal.is_empty()
            && let Err(error) = announce(&journal)
        {
            journal.erase();
            return Err(error);
        }
        let (mut maps, object) = object::open(&image, options.log_level, options.recording)?;
        let cgroups = walk_order(&image, placements);
        maps.fill(&image, &cgroups.iter().map(|cgroup| cgroup.as_fd()).collect::<Vec<_>>())?;
        let mut engine = Self::with_maps(maps, image, hosted, journal, options)?;
        // Meanwhile the guardian starts: most of the time goes by in grace periods.
        engine.attach(object, placements)?;
        engine.begin()?;
        Ok(engine)
    }

    /// With a guardian and a lease, and nothing attached.
    fn with_maps(
        maps: Maps,
        image: Image,
        hosted: BTreeMap<usize, Hosted>,
        journal: Journal,
        options: Options<'_>,
    ) -> Result<Self, Error> {
        let control_map = maps.descriptor("KC_CONTROL")?;
        let page = Arc::new(ControlPage::map(control_map).map_err(io_error("mapping the control page"))?);
        page.write_header(&image);
        page.set_own_tgid(0, identity::thread_group_id());
        let stopped = maps.descriptor("KC_STOPPED")?;
        let guardian = Guardian::start(options.program, [control_map, stopped], &journal)
            .map_err(io_error("starting the guardian"))?;
        let holder = match image.latency {
            LATENCY_SLEEP => Some(
                sleeper::start(options.program, control_map, page.clone())
                    .map_err(io_error("starting the sleeper"))?,
            ),
            LATENCY_STOP => {
                let (stops, held) = (maps.descriptor("KC_STOPS")?, maps.descriptor("KC_HELD")?);
                let shared = continuer::Maps { control: control_map, stopped, stops, held };
                Some(
                    continuer::start(options.program, shared, page.clone())
                        .map_err(io_error("starting the continuer"))?,
                )
            }
            _ => None,
        };
        let lease = Lease::keep(page.clone()).map_err(io_error("starting the lease thread"))?;
        Ok(Self {
            links: vec![],
            lines: None,
            programs: BTreeMap::new(),
            ways: Ways::default(),
            places: vec![],
            serving: vec![],
            lease: Some(lease),
            page,
            maps,
            image,
            grace: None,
            hosted,
            shared: None,
            journal,
            holder,
            receiver: None,
            guardian: Some(guardian),
            program: options.program.to_path_buf(),
        })
    }

    /// From now on what is armed acts.
    fn begin(&mut self) -> Result<(), Error> {
        let guardian = self.guardian.as_mut().map_or(Ok(()), Guardian::wait_ready);
        guardian.map_err(io_error("starting the guardian"))?;
        self.page.set_armed(true);
        Ok(())
    }

    /// Arms the run in `slot` from now on.
    pub fn arm(&self, slot: usize) {
        if let Some(run) = self.image.runs.get(slot) {
            if run.duration_ns != 0 {
                self.page.set_run_deadline_ns(slot, kernel::monotonic_ns() + run.duration_ns);
            }
            self.page.set_run_state(slot, STATE_ARMED);
        }
    }

    /// The filter that the command has to be started behind, if its calls are notified.
    pub fn filter(&self) -> Option<Filter> {
        let rows = &self.image.notified;
        (!rows.is_empty()).then(|| Filter::new(rows.keys().copied()))
    }

    /// From now on calls that wait at `listener` are answered.
    pub fn receive(&mut self, listener: OwnedFd) -> io::Result<()> {
        let map = |name| self.maps.descriptor(name).map_err(io::Error::other);
        let maps = [map("KC_CONTROL")?, map("KC_RULES")?, map("KC_RESULTS")?];
        self.receiver = Some(Receiver::start(&self.program, maps, listener, &self.image.notified)?);
        Ok(())
    }

    /// Waits until an exec in the target has armed the run in `slot`, which happens before the exec returns, and takes
    /// the arming program away.
    pub fn wait_armed(&mut self, slot: usize) -> io::Result<()> {
        let start = Instant::now();
        while self.page.run_state(slot) != STATE_ARMED {
            if start.elapsed() > Duration::from_secs(5) {
                return Err(io::Error::other(
                    "the command runs, but its exec was not seen by the kernel program",
                ));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        self.links.retain(|link| !link.is_arming());
        Ok(())
    }

    /// Ends all runs at once; what leaves is still counted.
    fn disarm_runs(&self) {
        (0..self.image.runs.len()).for_each(|slot| self.disarm(slot));
    }

    /// Ends the run in `slot` at once.
    pub fn disarm(&self, slot: usize) {
        self.page.set_run_state(slot, STATE_IDLE);
    }

    /// The ring buffer out of which recorded events come.
    pub fn events(&self) -> Result<OwnedFd, Error> {
        let ring = self.maps.descriptor("KC_RING")?;
        ring.try_clone_to_owned().map_err(io_error("sharing the ring buffer of events"))
    }

    /// Ids of the loaded programs.
    pub fn program_ids(&self) -> Vec<u32> {
        let inside = self.lines.iter().flat_map(Lines::programs);
        let all = self.programs.values().chain(inside);
        all.filter_map(|program| bpf::program_id(program.as_fd()).ok()).collect()
    }

    /// What is attached, in words.
    pub fn attachments(&self) -> Vec<String> {
        let filters =
            self.journal.filters.iter().map(|filter| format!("clsact egress on device {}", filter.device));
        self.links.iter().map(|link| link.what().to_owned()).chain(filters).collect()
    }
}

/// Lets other engines know of `journal`, and finds out whether one of them judges the same packets.
fn announce(journal: &Journal) -> Result<(), Error> {
    journal.write().map_err(io_error("writing the journal"))?;
    // Of two that start at once, each finds the other: none of them is dead without a word.
    let live = Journal::live();
    let conflict = live.iter().find_map(|other| Some((&other.run, journal.shares_packets_with(other)?)));
    match conflict {
        Some((run, cgroup)) => Err(Error::Conflict { run: run.clone(), cgroup: cgroup.to_path_buf() }),
        None => Ok(()),
    }
}

/// The target cgroups in the order of the image's targets.
fn walk_order<'a>(image: &Image, placements: &[Placement<'a>]) -> Vec<&'a Cgroup> {
    let all = placements.iter().flat_map(|placement| &placement.cgroups);
    let by_id: BTreeMap<_, _> = all.map(|cgroup| (cgroup.id(), *cgroup)).collect();
    image.targets.iter().filter_map(|(id, _)| by_id.get(id).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_hook_is_told_with_its_remedy() {
        let told = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            Error::Attach { what: "tcx egress of lo".into(), source }.to_string()
        };
        assert!(told(libc::ERANGE).contains("kchaos list") && told(libc::E2BIG).contains("kchaos list"));
        assert!(!told(libc::EPERM).contains("kchaos list"));
    }
}
