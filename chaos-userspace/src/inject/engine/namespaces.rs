//! Network namespaces that the targets enter while an engine lives. A program on their cgroups tells when one of their tasks
//! makes a socket in another one than before.

use super::{
    Engine, Error,
    devices::{Place, leading_program},
    io_error,
};
use crate::{
    host::{kernel, link_events::LinkEvents, namespace::NetworkNamespace},
    inject::{
        object,
        program::{Kind, Programs},
    },
    plan::Mechanism,
};
use chaos_common::namespace::Entered;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
};

impl Engine {
    /// The ring buffer out of which [`Entered`] comes, if leaving packets are judged.
    pub fn entered(&self) -> Result<Option<OwnedFd>, Error> {
        if self.image.egress_rules == 0 {
            return Ok(None);
        }
        let ring = self.maps.descriptor("KC_ENTERED")?;
        ring.try_clone_to_owned().map(Some).map_err(io_error("sharing the ring buffer of namespaces"))
    }

    /// Judges packets also in the namespaces that these tasks have entered, and returns subscriptions to news of their devices.
    /// What is told of a task that has gone already is told again of the next one there. `processes` are the targets'.
    pub fn follow_entered(
        &mut self,
        entered: &[Entered],
        processes: impl FnOnce() -> Vec<i32>,
    ) -> Result<Vec<LinkEvents>, Error> {
        if self.page.own_tgid(0) != std::process::id() {
            // In a pid namespace of our own, the kernel's numbers say nothing to us.
            return self.follow_namespaces(0, &processes());
        }
        let mut tasks = vec![];
        for told in entered {
            let task = told.tid as i32;
            match NetworkNamespace::of_processes(&[task]).is_empty() {
                true => self.maps.forget_namespace(told.cookie)?,
                false => tasks.push(task),
            }
        }
        self.follow_namespaces(0, &tasks)
    }

    /// Judges packets also in those network namespaces of these processes of the targets that were not known before, and
    /// returns subscriptions to news of their devices, for the run in `slot`. They are held to its end: a number that is free
    /// again would be mistaken for what it was.
    pub fn follow_namespaces(&mut self, slot: usize, processes: &[i32]) -> Result<Vec<LinkEvents>, Error> {
        let mut known: BTreeSet<_> = self.places.iter().map(|place| place.namespace().inode()).collect();
        if let Some(hosted) = self.hosted.get(&slot).filter(|_| self.shared.is_some()) {
            // Others may be known already, but not for this run.
            known = hosted.namespaces.iter().map(|namespace| namespace.inode()).collect();
        }
        let mut namespaces = NetworkNamespace::of_processes(processes);
        namespaces.retain(|namespace| !known.contains(&namespace.inode()));
        if namespaces.is_empty() || known.is_empty() {
            return Ok(vec![]);
        }
        let _memory_lock_limit = kernel::MemoryLockLimit::lift();
        let mut news = vec![];
        for namespace in namespaces.into_iter().map(Arc::new) {
            if let Some(hosted) = self.hosted.get_mut(&slot).filter(|_| self.shared.is_some()) {
                hosted.namespaces.push(Arc::clone(&namespace));
                let wanted = self.wanted(&self.image);
                self.fit_namespaces(&wanted)?;
            }
            let places = if self.shared.is_some() { vec![] } else { self.in_every_namespace() };
            for (place, number) in places {
                let (mechanism, program) = (place.mechanism().clone(), place.program());
                let together = place.together().to_vec();
                let program = match self.namespace_program(&mechanism, number) {
                    Some(kind) => {
                        let mut programs =
                            Programs::new(object::parse()?, &self.maps.descriptors(), self.image.exact)?;
                        self.keep(programs.load(&kind)?)
                    }
                    None => program,
                };
                self.add_place(Arc::clone(&namespace), number, &mechanism, program, together)?;
            }
            let subscribed = namespace.within(LinkEvents::subscribe).and_then(|events| events);
            news.push(subscribed.map_err(io_error("listening to news of devices"))?);
        }
        for link in &mut self.links {
            link.move_high().map_err(io_error("moving a link to a high descriptor"))?;
        }
        Ok(news)
    }

    /// A place of each mechanism that has a program on devices, and the next number of a namespace.
    fn in_every_namespace(&self) -> Vec<(Place, u32)> {
        let mut found = BTreeMap::new();
        for place in &self.places {
            let (known, next) = found.entry(place.mechanism()).or_insert((place, 0));
            *known = place;
            *next = (place.number() + 1).max(*next);
        }
        found.into_values().map(|(place, next)| (place.clone(), next)).collect()
    }

    /// The program that has to be loaded for a namespace of its own: those that lead into lines know theirs.
    fn namespace_program(&self, mechanism: &Mechanism, namespace: u32) -> Option<Kind> {
        self.lines.as_ref()?;
        let arriving = *mechanism == Mechanism::Arrival;
        (arriving || *mechanism == Mechanism::Tcx).then(|| leading_program(namespace, arriving))
    }
}
