//! Attaching: every mechanism of a plan to its hooks, nothing else.

use super::{Engine, Error, Placement, devices::namespaces_of, io_error, walk_order};
use crate::{
    inject::{
        link::Link,
        program::{Kind, Programs},
    },
    plan::{EntryHook, Mechanism, SocketHook},
};
use aya_obj::Object;
use std::{collections::BTreeMap, io, os::fd::AsFd};

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
        self.attach_witness(&mut programs, placements)?;
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
        if self.image.process_rules() != 0 {
            self.programs.push(programs.load(&Kind::Exit)?);
            let program = self.programs.len() - 1;
            self.link("raw tracepoint sched_process_exit", |this| {
                Link::exit(this.programs[program].as_fd())
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
            // With the lines.
            Mechanism::Arrival | Mechanism::Line => Ok(()),
            Mechanism::CgroupSkb => {
                let users: Vec<_> = users.collect();
                for placement in &users {
                    if !is_covered(placement, &users) {
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
}

/// Whether a placement's target lies below another one, whose link serves it.
pub(super) fn is_covered(placement: &Placement<'_>, placements: &[&Placement<'_>]) -> bool {
    placements.iter().any(|other| {
        placement.cgroup.path() != other.cgroup.path()
            && placement.cgroup.path().starts_with(other.cgroup.path())
    })
}
