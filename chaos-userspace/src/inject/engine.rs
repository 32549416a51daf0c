//! One owner with one set of maps and programs, hosting any number of runs.

use super::{
    bpf, clsact,
    control::ControlPage,
    guardian::Guardian,
    identity,
    journal::{Filter, Journal, Process},
    lease::Lease,
    line::{self, Lines, Queue},
    link::Link,
    object::{self, Maps},
    program::{self, Kind, Programs},
};
use crate::{
    encode::{self, Image, Job},
    host::{
        cgroup::Cgroup,
        device::{self, Device},
        kernel,
        link_events::LinkEvents,
        namespace::NetworkNamespace,
    },
    plan::{EntryHook, Mechanism, Plan, SocketHook},
};
use aya_obj::Object;
use chaos_common::{
    control::{STATE_ARMED, STATE_IDLE},
    counter::RuleCounters,
    limits::LINE_SLOTS_MAX,
    line::{Entrance, Exit, LAYER_ETHERNET, LAYER_LOOPBACK, LineKey},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

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
    #[error("attaching {what}: {source}")]
    Attach {
        /// What to where.
        what: String,
        /// Why it failed.
        source: io::Error,
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

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// One run to host.
pub struct Placement<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// To whom.
    pub cgroup: &'a Cgroup,
    /// Arm at the first exec in the target instead of by [`Engine::arm`].
    pub await_exec: bool,
}

/// How an engine is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The first placement's cgroup was made for a command and has to be removed in the end.
    pub made_cgroup: bool,
    /// aya-log's level for the kernel programs: 0 for none.
    pub log_level: u8,
    /// The `kchaos` program, which also serves as guardian.
    pub program: &'a Path,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { made_cgroup: false, log_level: 0, program: Path::new("/proc/self/exe") }
    }
}

/// A running engine. Dropping it lets everything go; [`Engine::close`] also reads the last counters.
pub struct Engine {
    // Dropped in this order: first what hits, last what watches.
    links: Vec<Link>,
    lines: Option<Lines>,
    programs: Vec<OwnedFd>,
    exits: u32,
    places: Vec<Place>,
    /// Places in `programs`, by rule.
    serving: Vec<Vec<usize>>,
    lease: Option<Lease>,
    page: Arc<ControlPage>,
    maps: Maps,
    image: Image,
    journal: Journal,
    guardian: Option<Guardian>,
}

/// A network namespace whose devices carry an egress program.
struct Place {
    namespace: Arc<NetworkNamespace>,
    /// Number of the namespace in the keys of lines.
    number: u32,
    mechanism: Mechanism,
    /// Place of the program among the engine's.
    program: usize,
    /// Indices of the devices.
    devices: BTreeSet<u32>,
}

/// What an engine left when it was closed.
#[derive(Debug)]
pub struct Closed {
    /// Counters by rule, in the order of the jobs' rules.
    pub counters: Vec<RuleCounters>,
    /// By rule: how often the kernel skipped a program that serves it, for calls of any process on the host.
    pub missed: Vec<u64>,
    /// Programs that are still in the kernel.
    pub programs_left: usize,
    /// Links that were closed.
    pub links_closed: usize,
    /// From the start of the closing to the end of the last program.
    pub took: Duration,
    /// What became of packets in lines, if there were any.
    pub queue: Option<Queue>,
    /// What could not be undone, in words.
    pub problems: Vec<String>,
    /// The guardian, if it has to wait for the cgroup made for a command.
    guardian: Option<Guardian>,
    journal: Journal,
}

impl Engine {
    /// Loads and attaches everything for these runs. Nothing acts before a run is armed.
    pub fn open(placements: &[Placement<'_>], options: Options<'_>) -> Result<Self, Error> {
        let jobs: Vec<_> = placements
            .iter()
            .map(|placement| Job {
                plan: placement.plan,
                cgroup_id: placement.cgroup.id(),
                cgroup_level: placement.cgroup.level(),
                await_exec: placement.await_exec,
            })
            .collect();
        let image = encode::encode(&jobs)?;
        let _memory_lock_limit = kernel::MemoryLockLimit::lift();
        let journal = Journal {
            run: placements.first().map(|placement| placement.plan.run.clone()).unwrap_or_default(),
            owner: Process::current(),
            cgroup: placements
                .first()
                .filter(|_| options.made_cgroup)
                .map(|placement| placement.cgroup.path().to_path_buf()),
            filters: vec![],
        };
        if !journal.is_empty() {
            journal.write().map_err(io_error("writing the journal"))?;
        }
        let (mut maps, object) = object::open(&image, options.log_level)?;
        let cgroups = walk_order(&image, placements);
        maps.fill(&image, &cgroups.iter().map(|cgroup| cgroup.as_fd()).collect::<Vec<_>>())?;
        let control_map = maps.descriptor("KC_CONTROL")?;
        let page = Arc::new(ControlPage::map(control_map).map_err(io_error("mapping the control page"))?);
        page.write_header(&image);
        page.set_own_tgid(0, identity::thread_group_id());
        let guardian = Guardian::start(options.program, control_map, &journal)
            .map_err(io_error("starting the guardian"))?;
        let lease = Lease::keep(page.clone()).map_err(io_error("starting the lease thread"))?;
        let mut engine = Self {
            links: vec![],
            lines: None,
            programs: vec![],
            exits: 0,
            places: vec![],
            serving: vec![],
            lease: Some(lease),
            page,
            maps,
            image,
            journal,
            guardian: Some(guardian),
        };
        engine.attach(object, placements)?;
        engine.page.set_armed(true);
        Ok(engine)
    }

    fn attach(&mut self, object: Object, placements: &[Placement<'_>]) -> Result<(), Error> {
        let mut programs = Programs::new(object, &self.maps.descriptors(), self.image.exact)?;
        let mut mechanisms: Vec<&Mechanism> = placements
            .iter()
            .flat_map(|placement| &placement.plan.rules)
            .flat_map(|rule| &rule.mechanisms)
            .collect();
        mechanisms.sort_unstable();
        mechanisms.dedup();
        if !self.image.lines.is_empty() {
            // Their egress programs are copies of their own; the rest follows as usual.
            self.attach_with_lines(&mut programs, placements)?;
            mechanisms.retain(|mechanism| !matches!(mechanism, Mechanism::Tcx | Mechanism::Line));
        }
        let mut loaded: Vec<(Kind, usize)> = vec![];
        let mut serving: BTreeMap<&Mechanism, usize> = BTreeMap::new();
        for mechanism in &mechanisms {
            if let Mechanism::Socket(hook) = mechanism {
                self.attach_to_sockets(*hook, &mut programs, placements)?;
                continue;
            }
            let kind = mechanism.program(0);
            let program = match loaded.iter().find(|(known, _)| *known == kind) {
                Some((_, place)) => *place,
                None => {
                    self.programs.push(programs.load(&kind)?);
                    loaded.push((kind, self.programs.len() - 1));
                    self.programs.len() - 1
                }
            };
            serving.insert(mechanism, program);
            self.attach_mechanism(mechanism, program, placements)?;
        }
        for rule in placements.iter().flat_map(|placement| &placement.plan.rules) {
            let mut places: Vec<_> =
                rule.mechanisms.iter().filter_map(|mechanism| serving.get(mechanism).copied()).collect();
            places.dedup();
            self.serving.push(places);
        }
        if let Some((_, program)) = loaded.iter().find(|(kind, _)| *kind == Kind::KprobeMulti) {
            // One link for all of them.
            let functions: Vec<_> =
                mechanisms.iter().filter_map(|mechanism| mechanism.multi_function()).collect();
            self.link(&format!("a kprobe.multi link to {}", functions.join(", ")), |this| {
                Link::kprobe_multi(this.programs[*program].as_fd(), &functions)
            })?;
        }
        if placements.iter().any(|placement| placement.await_exec) {
            self.programs.push(programs.load(&Kind::Exec)?);
            let program = self.programs.len() - 1;
            self.link("raw tracepoint sched_process_exec", |this| {
                Link::exec(this.programs[program].as_fd())
            })?;
        }
        for link in &mut self.links {
            link.move_high().map_err(io_error("moving a link to a high descriptor"))?;
        }
        Ok(())
    }

    /// Makes lines and loads the programs that lead into them.
    fn attach_with_lines(
        &mut self,
        programs: &mut Programs,
        placements: &[Placement<'_>],
    ) -> Result<(), Error> {
        let run = placements.first().map(|placement| placement.plan.run.as_str()).unwrap_or_default();
        let (a, b) = (programs.load(&Kind::LineA)?, programs.load(&Kind::LineB)?);
        self.lines = Some(Lines::new(run, a, b).map_err(io_error("making a network namespace for lines"))?);
        let users = placements.iter().filter(|placement| {
            placement.plan.rules.iter().any(|rule| rule.mechanisms.contains(&Mechanism::Tcx))
        });
        for (number, namespace) in namespaces_of(users)?.into_iter().enumerate() {
            let number = number as u32;
            self.programs.push(programs.load(&Kind::NetEgressWithLines { namespace: number })?);
            let program = self.programs.len() - 1;
            self.add_place(namespace, number, &Mechanism::Tcx, program)?;
        }
        Ok(())
    }

    /// Leads packets that leave `device` into the lines of all rules that have one.
    fn lay_lines(
        &mut self,
        namespace: &Arc<NetworkNamespace>,
        number: u32,
        device: &Device,
    ) -> Result<(), Error> {
        if !device.is_loopback() && !device.is_ethernet() {
            log::warn!(
                "{} has no Ethernet header: packets that leave there are not held back and count as errors",
                device.name
            );
            return Ok(());
        }
        let slot = self.exits;
        let what = || format!("a delay line for {}", device.name);
        if slot as usize >= LINE_SLOTS_MAX {
            let source = io::Error::other(format!("more than {LINE_SLOTS_MAX} devices"));
            return Err(Error::Attach { what: what(), source });
        }
        self.exits += 1;
        let layer = if device.is_loopback() { LAYER_LOOPBACK } else { LAYER_ETHERNET };
        self.maps.set_exit(slot, Exit { device: device.index, layer })?;
        let Some(lines) = &mut self.lines else { return Ok(()) };
        for (rule, netem) in &self.image.lines {
            let entrance = lines
                .device(namespace, *rule, netem, device.is_loopback())
                .map_err(|source| Error::Attach { what: what(), source })?;
            let key = LineKey { namespace: number, device: device.index, rule: *rule, reserved: 0 };
            self.maps.add_entrance(key, Entrance { device: entrance, slot })?;
        }
        Ok(())
    }

    fn link(&mut self, what: &str, attach: impl FnOnce(&Self) -> io::Result<Link>) -> Result<(), Error> {
        let link = attach(self).map_err(|source| Error::Attach { what: what.to_owned(), source })?;
        log::debug!("attached {}", link.what());
        self.links.push(link);
        Ok(())
    }

    fn attach_mechanism(
        &mut self,
        mechanism: &Mechanism,
        program: usize,
        placements: &[Placement<'_>],
    ) -> Result<(), Error> {
        let users = placements
            .iter()
            .filter(|placement| placement.plan.rules.iter().any(|rule| rule.mechanisms.contains(mechanism)));
        match mechanism {
            Mechanism::Tcx | Mechanism::Clsact => {
                for (number, namespace) in namespaces_of(users)?.into_iter().enumerate() {
                    self.add_place(namespace, number as u32, mechanism, program)?;
                }
                Ok(())
            }
            // Part of the egress attachments.
            Mechanism::Line => Ok(()),
            Mechanism::CgroupSkb => {
                for placement in users {
                    // A target below another one is served by the upper one's link.
                    let covered = placements.iter().any(|other| {
                        placement.cgroup.path() != other.cgroup.path()
                            && placement.cgroup.path().starts_with(other.cgroup.path())
                    });
                    if !covered {
                        let name = placement.cgroup.path().display().to_string();
                        self.link(&format!("cgroup_skb to {name}"), |this| {
                            Link::cgroup_ingress(
                                this.programs[program].as_fd(),
                                placement.cgroup.as_fd(),
                                &name,
                            )
                        })?;
                    }
                }
                Ok(())
            }
            Mechanism::Entry { by: EntryHook::Kprobe, function } => self
                .link(&format!("a kprobe to {function}"), |this| {
                    Link::kprobe(this.programs[program].as_fd(), function)
                }),
            // All of them at once, by the caller.
            Mechanism::Entry { by: EntryHook::KprobeMulti, .. } => Ok(()),
            Mechanism::Entry { by: EntryHook::FmodRet, function } => self.link_function(program, function),
            Mechanism::Security { hook, .. } => {
                self.link_function(program, &format!("{} {hook}", mechanism.name()))
            }
            // One program per target, by the caller.
            Mechanism::Socket(_) => Ok(()),
        }
    }

    fn link_function(&mut self, program: usize, what: &str) -> Result<(), Error> {
        self.link(what, |this| Link::function(this.programs[program].as_fd(), what))
    }

    /// Every target has a program of its own, which knows the target's slot.
    fn attach_to_sockets(
        &mut self,
        hook: SocketHook,
        programs: &mut Programs,
        placements: &[Placement<'_>],
    ) -> Result<(), Error> {
        let cgroups = walk_order(&self.image, placements);
        for (slot, cgroup) in cgroups.into_iter().enumerate() {
            let uses = |placement: &&Placement<'_>| {
                placement.cgroup.id() == cgroup.id()
                    && placement
                        .plan
                        .rules
                        .iter()
                        .any(|rule| rule.mechanisms.contains(&Mechanism::Socket(hook)))
            };
            if !placements.iter().any(|placement| uses(&placement)) {
                continue;
            }
            self.programs.push(programs.load(&Mechanism::Socket(hook).program(slot as u32))?);
            let what = format!("{} of {}", hook.name(), cgroup.path().display());
            self.link(&what, |this| {
                let program = this.programs.last().ok_or(io::ErrorKind::NotFound)?;
                Link::cgroup_socket(program.as_fd(), cgroup.as_fd(), hook.attach_type(), &what)
            })?;
        }
        Ok(())
    }

    fn add_place(
        &mut self,
        namespace: NetworkNamespace,
        number: u32,
        mechanism: &Mechanism,
        program: usize,
    ) -> Result<(), Error> {
        let namespace = Arc::new(namespace);
        let devices = devices_in(&namespace)?;
        for device in &devices {
            self.attach_to_device(&namespace, number, mechanism, program, device)?;
        }
        let devices = devices.iter().map(|device| device.index).collect();
        self.places.push(Place { namespace, number, mechanism: mechanism.clone(), program, devices });
        Ok(())
    }

    /// The device's lines first, the program that leads into them last.
    fn attach_to_device(
        &mut self,
        namespace: &Arc<NetworkNamespace>,
        number: u32,
        mechanism: &Mechanism,
        program: usize,
        device: &Device,
    ) -> Result<(), Error> {
        let what = format!("{} egress of {}", mechanism.name(), device.name);
        if *mechanism != Mechanism::Tcx {
            return self
                .add_filter(namespace, device.index, program)
                .map_err(|source| Error::Attach { what, source });
        }
        if self.lines.is_some() {
            self.lay_lines(namespace, number, device)?;
        }
        self.link(&what, |this| {
            let program = this.programs[program].as_fd();
            namespace.within(|| Link::tcx_egress(program, device.index, &device.name))?
        })
    }

    /// Subscribes to news of the devices in the namespaces where packets are judged as they leave.
    pub fn device_news(&self) -> io::Result<Vec<LinkEvents>> {
        let subscribe =
            |place: &Place| place.namespace.within(LinkEvents::subscribe).and_then(|events| events);
        self.places.iter().map(subscribe).collect()
    }

    /// Attaches to devices that have appeared. Returns how many.
    pub fn follow_devices(&mut self) -> Result<usize, Error> {
        let mut attached = 0;
        for index in 0..self.places.len() {
            let place = &self.places[index];
            let (namespace, number) = (Arc::clone(&place.namespace), place.number);
            let (mechanism, program) = (place.mechanism.clone(), place.program);
            let devices = devices_in(&namespace)?;
            let known = place.devices.clone();
            for device in devices.iter().filter(|device| !known.contains(&device.index)) {
                let result = self.attach_to_device(&namespace, number, &mechanism, program, device);
                // It may have gone meanwhile.
                if result.is_err() && !devices_in(&namespace)?.contains(device) {
                    continue;
                }
                result?;
                attached += 1;
            }
            // An index may come back with another device.
            self.places[index].devices = devices.iter().map(|device| device.index).collect();
        }
        if attached > 0 {
            for link in &mut self.links {
                link.move_high().map_err(io_error("moving a link to a high descriptor"))?;
            }
        }
        Ok(attached)
    }

    fn add_filter(&mut self, namespace: &NetworkNamespace, device: u32, program: usize) -> io::Result<()> {
        let made_qdisc = namespace.within(|| clsact::add_qdisc(device))??;
        self.journal.filters.push(Filter { namespace: namespace.inode(), device, made_qdisc });
        self.journal.write()?;
        let program = self.programs[program].as_fd();
        namespace.within(|| clsact::add_filter(device, program, Kind::NetEgress.program()))?
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

    /// Ends the run in `slot` at once.
    pub fn disarm(&self, slot: usize) {
        self.page.set_run_state(slot, STATE_IDLE);
    }

    /// Ids of the loaded programs.
    pub fn program_ids(&self) -> Vec<u32> {
        let inside = self.lines.iter().flat_map(Lines::programs);
        let all = self.programs.iter().chain(inside);
        all.filter_map(|program| bpf::program_id(program.as_fd()).ok()).collect()
    }

    /// What is attached, in words.
    pub fn attachments(&self) -> Vec<String> {
        let filters =
            self.journal.filters.iter().map(|filter| format!("clsact egress on device {}", filter.device));
        self.links.iter().map(|link| link.what().to_owned()).chain(filters).collect()
    }

    /// Disarms, detaches and removes everything, then says what happened.
    pub fn close(mut self) -> Closed {
        let start = Instant::now();
        self.page.set_armed(false);
        let ids = self.program_ids();
        let links_closed = self.links.len() + self.lines.as_ref().map_or(0, Lines::links);
        self.links.clear();
        let missed = |place: &usize| {
            let program = self.programs.get(*place)?;
            bpf::program_misses(program.as_fd()).ok()
        };
        let missed = self.serving.iter().map(|places| places.iter().filter_map(missed).sum()).collect();
        // Nothing leads into the lines any more: what is in them may still arrive.
        let queue = self.lines.take().map(|lines| lines.drain());
        let mut problems = self.journal.undo_filters();
        if problems.is_empty() {
            self.journal.filters.clear();
        }
        // Detached and a grace period later: no program runs any more, the counters are final.
        let counters = (0..self.image.rules.len() as u32)
            .map(|rule| {
                self.maps.counters(rule).unwrap_or_else(|error| {
                    problems.push(format!("reading the counters of rule {rule}: {error}"));
                    RuleCounters::default()
                })
            })
            .collect();
        self.programs.clear();
        let programs_left = wait_gone(&ids, Duration::from_secs(5));
        if programs_left > 0 {
            problems.push(format!("{programs_left} programs are still in the kernel"));
        }
        drop(self.lease.take());
        Closed {
            counters,
            missed,
            programs_left,
            links_closed,
            took: start.elapsed(),
            queue,
            problems,
            guardian: self.guardian.take(),
            journal: std::mem::take(&mut self.journal),
        }
    }
}

impl Drop for Engine {
    /// The way out of a failed start: the links go with their descriptors, the filters have to be told.
    fn drop(&mut self) {
        self.page.set_armed(false);
        let Some(guardian) = self.guardian.take() else { return };
        self.links.clear();
        if self.journal.undo_filters().is_empty() && self.journal.undo_cgroup() {
            self.journal.erase();
            guardian.dismiss();
        }
        // Else its pipe closes with this value and the guardian goes on where we failed.
    }
}

impl Closed {
    /// Removes what persists. `true` if nothing is left; `false` if processes live on in the cgroup made for a command,
    /// which the guardian then removes after them.
    pub fn finish(mut self) -> bool {
        let gone = self.journal.undo_cgroup();
        if gone && self.journal.filters.is_empty() {
            self.journal.erase();
            if let Some(guardian) = self.guardian.take() {
                guardian.dismiss();
            }
        } else if let Some(guardian) = self.guardian.take() {
            let _ = self.journal.write();
            guardian.leave_cgroup();
        }
        gone
    }
}

/// The network namespaces of the processes in the targets of `placements`, or our own.
fn namespaces_of<'a>(
    placements: impl Iterator<Item = &'a Placement<'a>>,
) -> Result<Vec<NetworkNamespace>, Error> {
    let processes: Vec<_> = placements.flat_map(|placement| placement.cgroup.processes()).collect();
    let mut namespaces = NetworkNamespace::of_processes(&processes);
    if namespaces.is_empty() {
        let own = NetworkNamespace::current();
        namespaces.push(own.map_err(io_error("opening the own network namespace"))?);
    }
    Ok(namespaces)
}

/// The devices whose egress is judged: all but the ends of lines.
fn devices_in(namespace: &NetworkNamespace) -> Result<Vec<Device>, Error> {
    let mut devices = namespace
        .within(device::list)
        .and_then(|list| list)
        .map_err(io_error("listing the devices of the target's network namespace"))?;
    devices.retain(|device| !device.name.starts_with(line::NAME_PREFIX));
    Ok(devices)
}

/// The target cgroups in the order of the image's targets.
fn walk_order<'a>(image: &Image, placements: &[Placement<'a>]) -> Vec<&'a Cgroup> {
    image
        .targets
        .iter()
        .filter_map(|(id, _)| {
            placements.iter().map(|placement| placement.cgroup).find(|cgroup| cgroup.id() == *id)
        })
        .collect()
}

/// Waits until none of these programs is left; a program goes a grace period after its last reference. Returns how
/// many are left when the time is up.
fn wait_gone(ids: &[u32], limit: Duration) -> usize {
    let start = Instant::now();
    loop {
        let left = ids.iter().filter(|id| bpf::program_exists(**id)).count();
        if left == 0 || start.elapsed() > limit {
            return left;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
