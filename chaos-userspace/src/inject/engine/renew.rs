//! Another set of programs in the place of the one that acts, on the same maps.
//!
//! On devices and cgroups a link or filter gets another program, so that every packet meets one of both; until all have one,
//! both sets act. On functions the new programs stand beside the old ones, and act from the moment at which the header of the
//! control page says so: first both sets do, then the new one alone. Of two programs on a function the one that came last runs
//! first (`__bpf_trampoline_link_prog`, kernel/bpf/trampoline.c), and what it fails the other one does not see, so that no call
//! passes between the sets: those under way are waited for in between. A call that is let through by the one meanwhile, some
//! milliseconds, may be drawn for by the other as well.

use super::{Engine, Error, wanted::link_host_program};
use crate::{
    encode::Image,
    inject::{
        clsact, grace,
        link::{Link, OnHost, Place},
        object,
        program::{Kind, Programs},
    },
};
use chaos_common::control::{FIRST_SET, SECOND_SET};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

impl Engine {
    /// Goes on with programs that do what `image` asks for. After an error those before go on.
    pub(super) fn renew(&mut self, image: &Image) -> Result<(), Error> {
        let Some(shared) = &mut self.shared else { return Ok(()) };
        let set = FIRST_SET ^ SECOND_SET ^ shared.set;
        let globals = object::globals(image, set, shared.log_level, None);
        let (made, object) = object::open_set(&globals)?;
        let mut loader = Programs::new(object, &self.maps.descriptors_with(&made), image.exact)?;
        loader.know(&mut shared.loader);
        let mut programs: BTreeMap<usize, OwnedFd> = BTreeMap::new();
        for (number, kind) in &shared.kinds {
            programs.insert(*number, loader.load(kind)?);
        }
        let beside = self.beside(&programs)?;
        if let Err(error) = self.put_in_place(&programs) {
            // What was there was accepted before.
            if let Err(again) = self.put_in_place(&self.programs) {
                log::warn!("going back to the programs before: {again}");
            }
            return Err(error);
        }
        let Some(shared) = &mut self.shared else { return Ok(()) };
        self.page.set_acting(shared.set | set);
        // A call that met the new program while that did not act yet still has to meet the old one while it does.
        grace::wait_for_readers();
        self.page.set_acting(set);
        (shared.loader, shared.globals, shared.set) = (loader, globals, set);
        let numbers: Vec<_> = programs.keys().copied().collect();
        for number in numbers {
            let missed = self.misses(number);
            if let Some(shared) = &mut self.shared {
                *shared.missed_before.entry(number).or_default() += missed;
            }
        }
        for (place, link) in beside {
            self.links[place] = link;
        }
        self.programs.extend(programs);
        self.maps.exchange_globals(made);
        Ok(())
    }

    /// Links of new programs on functions, beside those in these places.
    fn beside(&self, programs: &BTreeMap<usize, OwnedFd>) -> Result<Vec<(usize, Link)>, Error> {
        let mut beside = vec![];
        for (place, link) in self.links.iter().enumerate() {
            let Some(Place::Host(on)) = link.place() else { continue };
            let (Some(program), Some(kind)) = (programs.get(&on.program), self.kind(on.program)) else {
                continue;
            };
            let failed = |source| Error::Attach { what: on.what.clone(), source };
            // What it is called by is the mechanism and the function.
            let function = on.what.split_once(' ').map_or("", |(_, function)| function);
            let link = link_host_program(program.as_fd(), &on.what, function, kind);
            let on = OnHost { what: on.what.clone(), program: on.program };
            let mut link = link.map_err(failed)?.at(Place::Host(on));
            link.move_high().map_err(super::io_error("moving a link to a high descriptor"))?;
            beside.push((place, link));
        }
        Ok(beside)
    }

    fn kind(&self, program: usize) -> Option<&Kind> {
        self.shared.as_ref()?.kinds.get(&program)
    }

    /// Puts these programs where those with the same numbers are, on devices and cgroups.
    fn put_in_place(&self, programs: &BTreeMap<usize, OwnedFd>) -> Result<(), Error> {
        for link in &self.links {
            let program = match link.place() {
                Some(Place::Cgroup(on)) => on.program,
                Some(Place::Device(on)) => on.program,
                _ => continue,
            };
            let Some(program) = programs.get(&program) else { continue };
            link.update(program.as_fd())
                .map_err(|source| Error::Attach { what: link.what().to_owned(), source })?;
        }
        let places = self.places.iter().filter(|place| !self.journal.filters.is_empty() && place.is_clsact());
        for place in places {
            let Some(program) = programs.get(&place.program()) else { continue };
            let filters = self.journal.filters.iter();
            for filter in filters.filter(|filter| filter.namespace == place.namespace().inode()) {
                let put =
                    place.namespace().within(|| put_filter(filter.device, filter.handle, program.as_fd()));
                let what = || format!("clsact egress on device {}", filter.device);
                put.and_then(|done| done).map_err(|source| Error::Attach { what: what(), source })?;
            }
        }
        Ok(())
    }
}

/// A device that has gone took its filter with it.
fn put_filter(device: u32, handle: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    match clsact::replace_filter(device, handle, program, Kind::NetEgress.program()) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}
