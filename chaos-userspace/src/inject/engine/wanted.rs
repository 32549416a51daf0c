//! What has to be attached for the runs that an engine hosts, and the difference to what is.

use super::{
    Engine, Error, Hosted,
    attach::uppermost,
    devices::{Place as DevicePlace, device_program},
    io_error,
    lines::delayed_together,
    shared::Shared,
};
use crate::{
    encode::{self, Image},
    host::{cgroup::Hierarchy, namespace::NetworkNamespace},
    inject::{
        bpf::AttachType,
        link::{Link, OnHost, Place},
        object,
        program::Kind,
    },
    plan::Mechanism,
};
use chaos_common::limits::LINES_PER_PACKET_MAX;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// What is attached to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OnTarget {
    id: u64,
    path: PathBuf,
    attach_type: AttachType,
    kind: Kind,
}

/// What has to be attached.
#[derive(Default)]
pub(super) struct Wanted {
    /// By what it is attached to, in words.
    host: BTreeMap<String, Kind>,
    /// The functions of those, where they are not the program's own.
    functions: BTreeMap<String, String>,
    targets: Vec<OnTarget>,
    /// On all devices of these namespaces.
    namespaces: Vec<InNamespace>,
}

/// What is attached to the devices of a network namespace, for what leaves or for what arrives.
struct InNamespace {
    mechanism: Mechanism,
    namespace: Arc<NetworkNamespace>,
    /// Sets of rules that may delay the same packet.
    together: Vec<u64>,
}

impl InNamespace {
    fn is_for_arriving(&self) -> bool {
        self.mechanism == Mechanism::Arrival
    }

    fn is(&self, place: &DevicePlace) -> bool {
        (self.namespace.inode(), self.is_for_arriving())
            == (place.namespace().inode(), place.is_for_arriving())
    }
}

impl Wanted {
    /// Whether a program serves any of that, those on devices aside.
    fn needs(&self, kind: &Kind) -> bool {
        self.host.values().any(|wanted| wanted == kind) || self.targets.iter().any(|on| on.kind == *kind)
    }

    /// Sets of rules that may delay the same packet at a place.
    pub(super) fn together(&self, place: &DevicePlace) -> &[u64] {
        let wanted = self.namespaces.iter().find(|wanted| wanted.is(place));
        wanted.map_or(&[], |wanted| &wanted.together)
    }

    /// Those of the runs that judge packets at devices as they leave, or as they arrive, by one of these mechanisms.
    fn add_namespaces(
        &mut self,
        image: &Image,
        runs: &[&Hosted],
        of: impl Fn(&Mechanism) -> bool,
        arriving: bool,
    ) {
        let first = self.namespaces.len();
        for hosted in runs {
            let Some(mechanism) = hosted.mechanisms().find(|mechanism| of(mechanism)) else { continue };
            for namespace in &hosted.namespaces {
                let inode = namespace.inode();
                if self.namespaces.iter().skip(first).any(|known| known.namespace.inode() == inode) {
                    continue;
                }
                let there = runs.iter().filter(|hosted| hosted.is_in(inode));
                self.namespaces.push(InNamespace {
                    mechanism: mechanism.clone(),
                    namespace: Arc::clone(namespace),
                    together: delayed_together(image, there.copied(), arriving),
                });
            }
        }
    }

    /// Refuses more delays of one packet than it can pass lines, and more bursts than a way has.
    pub(super) fn check_lines(&self, image: &Image) -> Result<(), encode::Error> {
        for rules in self.namespaces.iter().flat_map(|wanted| &wanted.together) {
            let of_packet = || image.lines.iter().filter(|(rule, _)| rules & 1 << rule != 0);
            let bursts = of_packet().filter(|(_, netem)| netem.burst_bytes != 0).count();
            for (what, count, limit) in [
                (
                    "delays of one packet, by all runs on its targets,",
                    of_packet().count(),
                    LINES_PER_PACKET_MAX,
                ),
                ("bursts of one packet, by all runs on its targets,", bursts, 1),
            ] {
                encode::within(what, count, limit)?;
            }
        }
        Ok(())
    }

    fn has(&self, link: &Link, kinds: &BTreeMap<usize, Kind>) -> bool {
        match link.place() {
            Some(Place::Cgroup(on)) => self.targets.iter().any(|wanted| {
                (wanted.id, wanted.attach_type) == (on.cgroup, on.attach_type)
                    && kinds.get(&on.program) == Some(&wanted.kind)
            }),
            Some(Place::Device(on)) => self.namespaces.iter().any(|wanted| {
                (wanted.namespace.inode(), wanted.is_for_arriving()) == (on.namespace, on.arriving)
            }),
            Some(Place::Host(on)) => self.host.contains_key(&on.what),
            None => false,
        }
    }
}

impl Engine {
    /// What the runs need that have not ended, as `image` numbers it.
    pub(super) fn wanted(&self, image: &Image) -> Wanted {
        let live: Vec<&Hosted> = self.hosted.values().filter(|hosted| !hosted.ended).collect();
        let mut wanted = Wanted::default();
        for mechanism in live.iter().flat_map(|hosted| hosted.mechanisms()) {
            let function = match mechanism {
                Mechanism::Entry { function, .. } => function.clone(),
                Mechanism::Security { hook, .. } => (*hook).to_owned(),
                _ => continue,
            };
            if let Some(kind) = mechanism.program(0) {
                let what = format!("{} {function}", mechanism.name());
                wanted.host.insert(what.clone(), kind);
                wanted.functions.insert(what, function);
            }
        }
        if image.process_rules() != 0 {
            wanted.host.insert(EXIT.to_owned(), Kind::Exit);
        }
        let uses = |of: fn(&Mechanism) -> bool| {
            live.iter().filter(move |hosted| hosted.mechanisms().any(of)).copied().collect::<Vec<_>>()
        };
        let arriving = uses(|mechanism| *mechanism == Mechanism::CgroupSkb);
        let leaving = uses(Mechanism::judges_leaving);
        for (of, attach_type, kind) in [
            (&arriving, AttachType::CgroupInetIngress, Kind::NetIngress),
            (&leaving, AttachType::CgroupInetEgress, Kind::Witness),
        ] {
            wanted.targets.extend(uppermost_of(of).into_iter().map(|(path, id)| OnTarget {
                id,
                path: path.to_owned(),
                attach_type,
                kind: kind.clone(),
            }));
        }
        for hosted in &live {
            for mechanism in hosted.mechanisms() {
                let Mechanism::Socket(hook) = mechanism else { continue };
                for (path, (id, _)) in hosted.paths.iter().zip(&hosted.targets) {
                    let place = image.targets.iter().position(|(known, _)| known == id);
                    let kind = place.and_then(|place| mechanism.program(place as u32));
                    let on = kind.map(|kind| OnTarget {
                        id: *id,
                        path: path.clone(),
                        attach_type: hook.attach_type(),
                        kind,
                    });
                    wanted.targets.extend(on.filter(|on| !wanted.targets.contains(on)));
                }
            }
        }
        let held_back = uses(|mechanism| *mechanism == Mechanism::Arrival);
        wanted.add_namespaces(image, &leaving, Mechanism::judges_leaving, false);
        wanted.add_namespaces(image, &held_back, |mechanism| *mechanism == Mechanism::Arrival, true);
        wanted
    }

    /// Has programs that do what `image` asks for, and attaches them where they are wanted, but for the witness. What is not
    /// wanted any more is taken away first. After an error there may be more than is wanted, but nothing less for those who had
    /// it.
    pub(super) fn fit(&mut self, image: &Image, wanted: &Wanted) -> Result<(), Error> {
        self.take_away(wanted)?;
        let disarmed =
            self.hosted.values().filter(|hosted| hosted.ended).filter_map(|hosted| hosted.disarmed);
        self.take_lines_away(wanted, disarmed.min().unwrap_or_else(Instant::now))?;
        let Some(shared) = &self.shared else { return Ok(()) };
        let globals = object::globals(image, shared.set, shared.log_level, None);
        if !object::covers(&shared.globals, &globals) {
            self.renew(image)?;
        }
        for (what, kind) in &wanted.host {
            if self.links.iter().any(|link| is_on_host(link, what)) {
                continue;
            }
            let program = self.program(kind)?;
            let link = self.link_to_host(what, wanted.functions.get(what), kind, program)?;
            self.links.push(link);
        }
        self.fit_namespaces(wanted)?;
        self.attach_to_targets(wanted, |kind| *kind != Kind::Witness)?;
        self.drop_programs(wanted);
        self.raise_links()
    }

    /// On the devices of all namespaces where packets are judged, with lines where any run has some.
    pub(super) fn fit_namespaces(&mut self, wanted: &Wanted) -> Result<(), Error> {
        if wanted.namespaces.iter().any(|wanted| !wanted.together.is_empty()) {
            self.prepare_lines()?;
        }
        for on in &wanted.namespaces {
            let InNamespace { mechanism, namespace, together } = on;
            let arriving = on.is_for_arriving();
            let there = self.places.iter().position(|place| on.is(place));
            if let Some(place) = there {
                self.lead_into_lines(place, together)?;
                continue;
            }
            let number = self.number_for(0, together, arriving);
            let program = self.program(&device_program(number, arriving))?;
            self.add_place(Arc::clone(namespace), number, mechanism, program, together.clone())?;
        }
        Ok(())
    }

    /// Behind the target table: what leaves is counted by the egress hooks as well then.
    pub(super) fn fit_witness(&mut self, wanted: &Wanted) -> Result<(), Error> {
        self.attach_to_targets(wanted, |kind| *kind == Kind::Witness)?;
        self.raise_links()
    }

    fn raise_links(&mut self) -> Result<(), Error> {
        let all = self.links.iter_mut();
        all.filter(|link| !link.is_high())
            .try_for_each(Link::move_high)
            .map_err(io_error("moving a link to a high descriptor"))
    }

    fn attach_to_targets(&mut self, wanted: &Wanted, of: impl Fn(&Kind) -> bool) -> Result<(), Error> {
        let mut hierarchy = None;
        for on in wanted.targets.iter().filter(|on| of(&on.kind)) {
            let is_there = self.links.iter().filter_map(Link::on_cgroup).any(|there| {
                (there.cgroup, there.attach_type) == (on.id, on.attach_type)
                    && self.shared.as_ref().and_then(|shared| shared.kinds.get(&there.program))
                        == Some(&on.kind)
            });
            if is_there {
                continue;
            }
            let failed = |source| Error::Attach { what: on.path.display().to_string(), source };
            let opened = match &hierarchy {
                Some(hierarchy) => Hierarchy::open(hierarchy, &on.path),
                None => Hierarchy::find().and_then(|found| hierarchy.insert(found).open(&on.path)),
            };
            let cgroup = opened.map_err(|error| failed(std::io::Error::other(error)))?;
            // One that has gone needs nothing; who follows it is told of the one that comes.
            if cgroup.id() == on.id {
                let program = self.program(&on.kind)?;
                let hook = match on.attach_type {
                    AttachType::CgroupInetIngress => "cgroup_skb ingress on",
                    AttachType::CgroupInetEgress => "cgroup_skb egress on",
                    _ => "socket hook of",
                };
                let what = format!("{hook} {}", on.path.display());
                self.link_cgroup(&cgroup, program, on.attach_type, &what)?;
            }
        }
        Ok(())
    }

    /// Attaches a program to something of the whole host.
    pub(super) fn link_to_host(
        &self,
        what: &str,
        function: Option<&String>,
        kind: &Kind,
        program: usize,
    ) -> Result<Link, Error> {
        let fd = self.programs[&program].as_fd();
        link_host_program(fd, what, function.map_or("", String::as_str), kind)
            .map(|link| link.at(Place::Host(OnHost { what: what.to_owned(), program })))
            .map_err(|source| Error::Attach { what: what.to_owned(), source })
    }

    /// The program of this kind, loaded if there is none.
    pub(super) fn program(&mut self, kind: &Kind) -> Result<usize, Error> {
        let Some(Shared { loader, kinds, .. }) = &mut self.shared else {
            return Err(super::shared::unshareable("this engine hosts what it was opened with"));
        };
        if let Some((program, _)) = kinds.iter().find(|(_, known)| *known == kind) {
            return Ok(*program);
        }
        let loaded = loader.load(kind)?;
        let program = self.keep(loaded);
        if let Some(shared) = &mut self.shared {
            shared.kinds.insert(program, kind.clone());
        }
        Ok(program)
    }

    /// Takes away what is not wanted: links, filters, and programs that serve nothing any more.
    fn take_away(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let kinds = shared.kinds.clone();
        self.links.retain(|link| wanted.has(link, &kinds));
        let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut self.places)
            .into_iter()
            .partition(|place| wanted.namespaces.iter().any(|wanted| wanted.is(place)));
        self.places = stay;
        let leaving = go.iter().filter(|place| !place.is_for_arriving());
        let gone: BTreeSet<u64> = leaving.map(|place| place.namespace().inode()).collect();
        let filters = std::mem::take(&mut self.journal.filters);
        let (over, kept): (Vec<_>, Vec<_>) =
            filters.into_iter().partition(|filter| gone.contains(&filter.namespace));
        self.journal.filters = over.clone();
        let held: Vec<_> = go.iter().map(DevicePlace::namespace).collect();
        let problems = self.journal.undo_filters(&held);
        self.journal.filters = kept;
        if !over.is_empty() {
            if !problems.is_empty() {
                // Still there, and written down.
                self.journal.filters.extend(over);
                return Err(Error::Io {
                    what: "taking filters away",
                    source: std::io::Error::other(problems.join("; ")),
                });
            }
            self.keep_journal()?;
        }
        self.drop_programs(wanted);
        Ok(())
    }

    /// Lets programs go that serve nothing any more.
    fn drop_programs(&mut self, wanted: &Wanted) {
        let Some(shared) = &mut self.shared else { return };
        let on_devices: BTreeSet<usize> = self.places.iter().map(DevicePlace::program).collect();
        let is_unused =
            |(program, kind): &(&usize, &Kind)| !on_devices.contains(program) && !wanted.needs(kind);
        let unused: Vec<usize> = shared.kinds.iter().filter(is_unused).map(|(program, _)| *program).collect();
        for program in unused {
            self.programs.remove(&program);
            shared.kinds.remove(&program);
            shared.missed_before.remove(&program);
        }
    }

    /// Writes the journal as it is now; without anything to undo or to know there is none.
    pub(super) fn keep_journal(&self) -> Result<(), Error> {
        if self.journal.is_empty() {
            self.journal.erase();
            return Ok(());
        }
        self.journal.write().map_err(io_error("writing the journal"))
    }
}

/// The tracepoint at which processes are forgotten.
const EXIT: &str = "raw tracepoint sched_process_exit";

fn is_on_host(link: &Link, what: &str) -> bool {
    matches!(link.place(), Some(Place::Host(on)) if on.what == what)
}

/// Attaches a program of this kind to what is the whole host's.
pub(super) fn link_host_program(
    program: std::os::fd::BorrowedFd<'_>,
    what: &str,
    function: &str,
    kind: &Kind,
) -> std::io::Result<Link> {
    match kind {
        Kind::Exit => Link::exit(program),
        Kind::Kprobe => Link::kprobe(program, function),
        // One for each function: others come and go.
        Kind::KprobeMulti => Link::kprobe_multi(program, &[function]),
        _ => Link::function(program, what),
    }
}

impl Hosted {
    pub(super) fn mechanisms(&self) -> impl Iterator<Item = &Mechanism> {
        self.plan.rules.iter().flat_map(|rule| &rule.mechanisms)
    }

    /// Whether its packets are judged in that network namespace.
    fn is_in(&self, inode: u64) -> bool {
        self.namespaces.iter().any(|namespace| namespace.inode() == inode)
    }
}

/// Path and id of the targets of `runs`, each once, without those below another one, which its links serve.
fn uppermost_of<'a>(runs: &[&'a Hosted]) -> Vec<(&'a Path, u64)> {
    let all = runs.iter().flat_map(|hosted| hosted.paths.iter().zip(&hosted.targets));
    uppermost(all.map(|(path, (id, _))| (path.as_path(), *id)))
}
