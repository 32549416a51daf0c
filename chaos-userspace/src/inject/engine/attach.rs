//! Attaching: every mechanism of a plan to its hooks, nothing else.

use super::{Engine, Error, Placement, devices::namespaces_of, io_error};
use crate::{
    host::cgroup::Cgroup,
    inject::{
        bpf::AttachType,
        link::{Link, OnCgroup},
        program::{Kind, Programs},
    },
    plan::{EntryHook, Mechanism, SocketHook},
};
use aya_obj::Object;
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

impl Engine {
    pub(super) fn attach(&mut self, object: Object, placements: &[Placement<'_>]) -> Result<(), Error> {
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
            mechanisms.retain(|mechanism| {
                !matches!(mechanism, Mechanism::Tcx | Mechanism::Arrival | Mechanism::Line)
            });
        }
        let mut loaded: Vec<(Kind, usize)> = vec![];
        let mut serving: BTreeMap<&Mechanism, usize> = BTreeMap::new();
        for mechanism in &mechanisms {
            if let Mechanism::Socket(hook) = mechanism {
                self.attach_to_sockets(*hook, &mut programs, placements)?;
                continue;
            }
            // Without a program: the command's filter.
            let Some(kind) = mechanism.program(0) else { continue };
            let program = match loaded.iter().find(|(known, _)| *known == kind) {
                Some((_, place)) => *place,
                None => {
                    let program = self.keep(programs.load(&kind)?);
                    loaded.push((kind, program));
                    program
                }
            };
            serving.insert(mechanism, program);
            self.attach_mechanism(mechanism, program, placements)?;
        }
        // The witness counts while the engine is armed, as the egress hooks do, which are there by now.
        for (kind, attach_type, what) in [
            (Kind::Witness, AttachType::CgroupInetEgress, "cgroup_skb egress on"),
            (Kind::Namespace, AttachType::CgroupInetSockCreate, "cgroup sock_create of"),
        ] {
            self.attach_to_leaving(&mut programs, placements, &kind, attach_type, what)?;
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
                Link::kprobe_multi(this.programs[program].as_fd(), &functions)
            })?;
        }
        if self.image.process_rules() != 0 || self.image.tree {
            let program = self.keep(programs.load(&Kind::Exit)?);
            self.link("raw tracepoint sched_process_exit", |this| {
                Link::exit(this.programs[&program].as_fd())
            })?;
        }
        if self.image.tree {
            let program = self.keep(programs.load(&Kind::Fork)?);
            self.link("raw tracepoint sched_process_fork", |this| {
                Link::fork(this.programs[&program].as_fd())
            })?;
            self.take_in_trees()?;
        }
        if placements.iter().any(|placement| placement.await_exec) {
            let program = self.keep(programs.load(&Kind::Exec)?);
            self.link("raw tracepoint sched_process_exec", |this| {
                Link::exec(this.programs[&program].as_fd())
            })?;
        }
        for link in &mut self.links {
            link.move_high().map_err(io_error("moving a link to a high descriptor"))?;
        }
        Ok(())
    }

    /// Holds a program, and says by which number.
    pub(super) fn keep(&mut self, program: OwnedFd) -> usize {
        let number = self.programs.last_key_value().map_or(0, |(last, _)| last + 1);
        self.programs.insert(number, program);
        number
    }

    /// Attaches a program to the targets whose leaving packets are judged.
    fn attach_to_leaving(
        &mut self,
        programs: &mut Programs,
        placements: &[Placement<'_>],
        kind: &Kind,
        attach_type: AttachType,
        what: &str,
    ) -> Result<(), Error> {
        if self.image.egress_rules == 0 {
            return Ok(());
        }
        let program = self.keep(programs.load(kind)?);
        for cgroup in uppermost_of(placements.iter().filter(|placement| placement.judges_leaving())) {
            let what = format!("{what} {}", cgroup.path().display());
            self.link_cgroup(cgroup, program, attach_type, &what)?;
        }
        Ok(())
    }

    pub(super) fn link(
        &mut self,
        what: &str,
        attach: impl FnOnce(&Self) -> io::Result<Link>,
    ) -> Result<(), Error> {
        let link = attach(self).map_err(|source| Error::Attach { what: what.to_owned(), source })?;
        log::debug!("attached {}", link.what());
        self.links.push(link);
        Ok(())
    }

    /// Attaches a program to a target.
    pub(super) fn link_cgroup(
        &mut self,
        cgroup: &Cgroup,
        program: usize,
        attach_type: AttachType,
        what: &str,
    ) -> Result<(), Error> {
        let on = OnCgroup { cgroup: cgroup.id(), program, attach_type };
        self.link(what, |this| Link::cgroup(this.programs[&program].as_fd(), cgroup.as_fd(), on, what))
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
                    self.add_place(namespace, number as u32, mechanism, program, vec![])?;
                }
                Ok(())
            }
            // With the lines.
            Mechanism::Arrival | Mechanism::Line => Ok(()),
            Mechanism::CgroupSkb => {
                for cgroup in uppermost_of(users) {
                    let name = cgroup.path().display().to_string();
                    let what = format!("cgroup_skb ingress on {name}");
                    self.link_cgroup(cgroup, program, AttachType::CgroupInetIngress, &what)?;
                }
                Ok(())
            }
            Mechanism::Entry { by: EntryHook::Kprobe | EntryHook::Look, function } => self
                .link(&format!("a kprobe to {function}"), |this| {
                    Link::kprobe(this.programs[&program].as_fd(), function)
                }),
            // All of them at once, by the caller.
            Mechanism::Entry { by: EntryHook::KprobeMulti, .. } => Ok(()),
            Mechanism::Entry { by: EntryHook::FmodRet, function } => self.link_function(program, function),
            Mechanism::Security { hook, .. } | Mechanism::Sleep { hook } => {
                self.link_function(program, &format!("{} {hook}", mechanism.name()))
            }
            Mechanism::Stop { function, .. } => self.link_function(program, &format!("fexit {function}")),
            // One program per target, by the caller.
            Mechanism::Socket(_) => Ok(()),
            Mechanism::Notification | Mechanism::Spin => Ok(()),
        }
    }

    fn link_function(&mut self, program: usize, what: &str) -> Result<(), Error> {
        self.link(what, |this| Link::function(this.programs[&program].as_fd(), what))
    }

    /// Targets that are subject to the same have one program, which knows the slot of that.
    fn attach_to_sockets(
        &mut self,
        hook: SocketHook,
        programs: &mut Programs,
        placements: &[Placement<'_>],
    ) -> Result<(), Error> {
        let mechanism = Mechanism::Socket(hook);
        let uses = |placement: &&Placement<'_>| {
            placement.plan.rules.iter().any(|rule| rule.mechanisms.contains(&mechanism))
        };
        let users = placements.iter().filter(uses).flat_map(|placement| &placement.cgroups);
        let users: BTreeMap<_, _> = users.map(|cgroup| (cgroup.id(), *cgroup)).collect();
        let slots = self.image.slots();
        let mut loaded: BTreeMap<usize, usize> = BTreeMap::new();
        for (id, target) in self.image.targets.clone() {
            let (Some(cgroup), Some(slot)) =
                (users.get(&id), slots.iter().position(|known| *known == target))
            else {
                continue;
            };
            let program = match loaded.get(&slot) {
                Some(program) => *program,
                None => {
                    let Some(kind) = mechanism.program(slot as u32) else { continue };
                    let program = self.keep(programs.load(&kind)?);
                    loaded.insert(slot, program);
                    program
                }
            };
            let what = format!("{} of {}", hook.name(), cgroup.path().display());
            self.link_cgroup(cgroup, program, hook.attach_type(), &what)?;
        }
        Ok(())
    }
}

/// The targets of `placements`, each once, without those below another one, which its links serve.
fn uppermost_of<'a>(placements: impl Iterator<Item = &'a Placement<'a>>) -> Vec<&'a Cgroup> {
    let all = placements.flat_map(|placement| &placement.cgroups).map(|cgroup| (cgroup.path(), *cgroup));
    uppermost(all).into_iter().map(|(_, cgroup)| cgroup).collect()
}

/// Paths, each once with what is known of it, without those below another one.
pub(super) fn uppermost<'a, T>(all: impl Iterator<Item = (&'a Path, T)>) -> Vec<(&'a Path, T)> {
    // What lies below a path comes right behind it.
    let by_path: BTreeMap<_, _> = all.collect();
    let mut found: Vec<(&Path, T)> = vec![];
    for (path, known) in by_path {
        if found.last().is_none_or(|(upper, _)| !path.starts_with(upper)) {
            found.push((path, known));
        }
    }
    found
}
