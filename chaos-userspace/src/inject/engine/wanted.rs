//! What has to be attached for the runs that an engine hosts, and the difference to what is.

use super::{Engine, Error, Hosted, attach::uppermost, io_error, shared::Shared};
use crate::{
    encode::Image,
    host::{cgroup::Hierarchy, namespace::NetworkNamespace},
    inject::{
        bpf::AttachType,
        link::{Link, OnHost, Place},
        object,
        program::Kind,
    },
    plan::Mechanism,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
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
    namespaces: Vec<(Mechanism, Arc<NetworkNamespace>)>,
}

impl Wanted {
    /// The programs for all that.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.host.values().cloned().collect();
        kinds.extend(self.targets.iter().map(|on| on.kind.clone()));
        if !self.namespaces.is_empty() {
            kinds.push(Kind::NetEgress);
        }
        let mut found: Vec<Kind> = vec![];
        for kind in kinds {
            if !found.contains(&kind) {
                found.push(kind);
            }
        }
        found
    }

    fn has(&self, link: &Link, kinds: &BTreeMap<usize, Kind>) -> bool {
        match link.place() {
            Some(Place::Cgroup(on)) => self.targets.iter().any(|wanted| {
                (wanted.id, wanted.attach_type) == (on.cgroup, on.attach_type)
                    && kinds.get(&on.program) == Some(&wanted.kind)
            }),
            Some(Place::Device(on)) => {
                self.namespaces.iter().any(|(_, namespace)| namespace.inode() == on.namespace)
            }
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
        for hosted in leaving {
            let mechanism = hosted.mechanisms().find(|mechanism| mechanism.judges_leaving());
            for (mechanism, namespace) in
                mechanism.into_iter().flat_map(|one| hosted.namespaces.iter().map(move |two| (one, two)))
            {
                let is_known = wanted.namespaces.iter().any(|(_, known)| known.inode() == namespace.inode());
                if !is_known {
                    wanted.namespaces.push((mechanism.clone(), Arc::clone(namespace)));
                }
            }
        }
        wanted
    }

    /// Has programs that do what `image` asks for, and attaches them where they are wanted, but for the witness. What is not
    /// wanted any more is taken away first. After an error there may be more than is wanted, but nothing less for those who had
    /// it.
    pub(super) fn fit(&mut self, image: &Image, wanted: &Wanted) -> Result<(), Error> {
        self.take_away(wanted)?;
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
        for (mechanism, namespace) in &wanted.namespaces {
            let is_there = self.places.iter().any(|place| place.namespace().inode() == namespace.inode());
            if !is_there {
                let program = self.program(&Kind::NetEgress)?;
                self.add_place(Arc::clone(namespace), 0, mechanism, program)?;
            }
        }
        self.attach_to_targets(wanted, |kind| *kind != Kind::Witness)?;
        self.raise_links()
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
    fn program(&mut self, kind: &Kind) -> Result<usize, Error> {
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
        let inodes: BTreeSet<u64> =
            wanted.namespaces.iter().map(|(_, namespace)| namespace.inode()).collect();
        let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut self.places)
            .into_iter()
            .partition(|place| inodes.contains(&place.namespace().inode()));
        self.places = stay;
        let gone: BTreeSet<u64> = go.iter().map(|place| place.namespace().inode()).collect();
        let filters = std::mem::take(&mut self.journal.filters);
        let (over, kept): (Vec<_>, Vec<_>) =
            filters.into_iter().partition(|filter| gone.contains(&filter.namespace));
        self.journal.filters = over.clone();
        let held: Vec<_> = go.iter().map(super::devices::Place::namespace).collect();
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
        let used = wanted.kinds();
        let unused: Vec<usize> =
            kinds.iter().filter(|(_, kind)| !used.contains(kind)).map(|(program, _)| *program).collect();
        for program in unused {
            self.programs.remove(&program);
            if let Some(shared) = &mut self.shared {
                shared.kinds.remove(&program);
                shared.missed_before.remove(&program);
            }
        }
        Ok(())
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
}

/// Path and id of the targets of `runs`, each once, without those below another one, which its links serve.
fn uppermost_of<'a>(runs: &[&'a Hosted]) -> Vec<(&'a Path, u64)> {
    let all = runs.iter().flat_map(|hosted| hosted.paths.iter().zip(&hosted.targets));
    uppermost(all.map(|(path, (id, _))| (path.as_path(), *id)))
}
