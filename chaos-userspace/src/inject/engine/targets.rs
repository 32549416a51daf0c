//! Targets that are made anew while a run goes on: another cgroup has their path now, and takes their place.

use super::{Engine, Error, io_error};
use crate::{
    host::cgroup::Cgroup,
    inject::{link::Link, object::filter_of},
};
use std::os::fd::AsFd;

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
            if let Some(shared) = &mut self.shared {
                let words = filter_of(&self.image).into_iter().zip(filter_of(&image));
                let written = shared.filter.iter_mut().zip(words).filter(|(_, (had, has))| had != has);
                written.for_each(|(word, (_, has))| *word = has);
            }
            self.image = image;
            let all = self.hosted.values_mut().flat_map(|hosted| &mut hosted.targets);
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
        let program = self.programs[&on.program].as_fd();
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
}
