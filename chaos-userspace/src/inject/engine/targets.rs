//! Targets that are made anew while a run goes on: another cgroup has their path now, and takes their place.

use super::{Engine, Error, io_error};
use crate::{
    host::{cgroup::Cgroup, kernel, link_events::LinkEvents, namespace::NetworkNamespace},
    inject::{
        link::Link,
        object,
        program::{Kind, Programs},
    },
    plan::Mechanism,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    sync::Arc,
};

impl Engine {
    /// Goes on with `cgroup` in place of the target whose id was `old`, of which nothing is hit any more: same rules, same
    /// counters. Sockets and calls of the new one are hit as soon as this returns, and no other target is spared meanwhile.
    ///
    /// # Errors
    /// If it is not hit, or not everywhere, though its path still leads to it.
    pub fn replace_target(&mut self, old: u64, cgroup: &Cgroup) -> Result<(), Error> {
        let mut result = Ok(());
        if let Some(place) = self.image.targets.iter().position(|(id, _)| *id == old) {
            let image = self.image.with_target(old, cgroup.id());
            result =
                self.maps.replace_target((&self.image, &image), place, cgroup.as_fd()).map_err(Error::from);
            self.image = image;
            let all = self.hosted.iter_mut().flat_map(|hosted| &mut hosted.targets);
            all.filter(|(id, _)| *id == old).for_each(|(id, _)| *id = cgroup.id());
        }
        // The kernel has taken off the old ones with their cgroup.
        let is_old = |(_, link): &(usize, &Link)| link.on_cgroup().is_some_and(|on| on.cgroup == old);
        let old_links: Vec<_> =
            self.links.iter().enumerate().filter(is_old).map(|(place, _)| place).collect();
        for place in old_links {
            let again = self.attach_again(place, cgroup);
            // If not to this one, then to the next one.
            self.links[place].count_for(cgroup.id());
            result = result.and(again);
        }
        // One that has gone already needs nothing.
        if cgroup.is_current() { result } else { Ok(()) }
    }

    fn attach_again(&mut self, place: usize, cgroup: &Cgroup) -> Result<(), Error> {
        let link = &self.links[place];
        let Some(on) = link.on_cgroup() else { return Ok(()) };
        let what = link.what().to_owned();
        let program = self.programs[on.program].as_fd();
        let mut link = Link::cgroup(program, cgroup.as_fd(), on, &what)
            .map_err(|source| Error::Attach { what, source })?;
        link.move_high().map_err(io_error("moving a link to a high descriptor"))?;
        self.links[place] = link;
        Ok(())
    }

    /// Hits nothing of this target any more.
    ///
    /// # Errors
    /// If it is still hit.
    pub fn leave_target(&mut self, id: u64) -> Result<(), Error> {
        if let Some(place) = self.image.targets.iter().position(|(known, _)| *known == id) {
            self.maps.leave_target(&self.image, place)?;
        }
        self.links.retain(|link| link.on_cgroup().is_none_or(|on| on.cgroup != id));
        Ok(())
    }

    /// Judges packets also in those network namespaces of these processes of the targets that were not known before, and
    /// returns subscriptions to news of their devices. They are held to the end of the run: a number that is free again would
    /// be mistaken for what it was.
    pub fn follow_namespaces(&mut self, processes: &[i32]) -> Result<Vec<LinkEvents>, Error> {
        let known: BTreeSet<_> = self.places.iter().map(|place| place.namespace().inode()).collect();
        let mut namespaces = NetworkNamespace::of_processes(processes);
        namespaces.retain(|namespace| !known.contains(&namespace.inode()));
        if namespaces.is_empty() || known.is_empty() {
            return Ok(vec![]);
        }
        let _memory_lock_limit = kernel::MemoryLockLimit::lift();
        let mut news = vec![];
        for namespace in namespaces.into_iter().map(Arc::new) {
            for (mechanism, program, number) in self.in_every_namespace() {
                let program = match self.namespace_program(&mechanism, number) {
                    Some(kind) => {
                        let mut programs =
                            Programs::new(object::parse()?, &self.maps.descriptors(), self.image.exact)?;
                        self.programs.push(programs.load(&kind)?);
                        self.programs.len() - 1
                    }
                    None => program,
                };
                self.add_place(Arc::clone(&namespace), number, &mechanism, program)?;
            }
            let subscribed = namespace.within(LinkEvents::subscribe).and_then(|events| events);
            news.push(subscribed.map_err(io_error("listening to news of devices"))?);
        }
        for link in &mut self.links {
            link.move_high().map_err(io_error("moving a link to a high descriptor"))?;
        }
        Ok(news)
    }

    /// The mechanisms that have a program on devices, with that program, and the next number of a namespace.
    fn in_every_namespace(&self) -> Vec<(Mechanism, usize, u32)> {
        let mut found = BTreeMap::new();
        for place in &self.places {
            let (program, next) = found.entry(place.mechanism()).or_insert((place.program(), 0));
            *program = place.program();
            *next = (place.number() + 1).max(*next);
        }
        found.into_iter().map(|(mechanism, (program, next))| (mechanism.clone(), program, next)).collect()
    }

    /// The program that has to be loaded for a namespace of its own: those that lead into lines know theirs.
    fn namespace_program(&self, mechanism: &Mechanism, namespace: u32) -> Option<Kind> {
        self.lines.as_ref()?;
        match mechanism {
            Mechanism::Arrival => Some(Kind::NetArrival { namespace }),
            Mechanism::Tcx => Some(Kind::NetEgressWithLines { namespace }),
            _ => None,
        }
    }
}
