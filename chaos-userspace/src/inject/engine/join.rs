//! A run that comes while others live.

use super::{
    Engine, Error, Hosted, Placement, announce,
    devices::namespaces_of,
    shared::{meet, unshareable},
};
use crate::{
    encode::Image,
    host::kernel,
    inject::{grace, object::filter_of},
    plan::Mechanism,
};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

impl Engine {
    /// Hosts one more run, which acts from [`Engine::arm`] on, and returns its slot. The others go on without a gap; what is
    /// attached is shared with them. Rules of several runs on one target are judged in the order in which the runs came.
    ///
    /// # Errors
    /// If the run cannot be hosted beside the others, or does not fit. The others go on as before then.
    pub fn add_run(&mut self, placement: &Placement<'_>) -> Result<usize, Error> {
        self.admit(placement)?;
        let _memory_lock_limit = kernel::MemoryLockLimit::lift();
        let seat = self.seat_for(placement)?;
        let slot = seat.slot;
        let mut hosted = Hosted::new(placement, seat);
        if hosted.mechanisms().any(Mechanism::judges_at_devices) {
            let known = self.hosted.values().flat_map(|other| &other.namespaces);
            let known: BTreeMap<_, _> =
                known.map(|namespace| (namespace.inode(), Arc::clone(namespace))).collect();
            let own = namespaces_of(std::iter::once(placement))?.into_iter();
            hosted.namespaces =
                own.map(|own| known.get(&own.inode()).cloned().unwrap_or_else(|| Arc::new(own))).collect();
        }
        self.hosted.insert(slot, hosted);
        let before = self.journal.packets_of.clone();
        let result = self.announce_hosted().and_then(|()| self.take_in(slot, placement));
        let Err(error) = result else { return Ok(slot) };
        self.journal.packets_of = before;
        let told = self.keep_journal();
        let problems = self.dismiss(slot).into_iter().chain(told.err().map(|error| error.to_string()));
        problems.for_each(|problem| log::warn!("a run that could not be taken in: {problem}"));
        Err(error)
    }

    /// What stands in the way of hosting it beside others.
    fn admit(&self, placement: &Placement<'_>) -> Result<(), Error> {
        if self.shared.is_none() {
            return Err(unshareable("this engine hosts what it was opened with"));
        }
        if placement.await_exec {
            return Err(unshareable("a command that is started by its run cannot be joined to others"));
        }
        if let Some(what) = placement.plan.alone() {
            return Err(unshareable(what));
        }
        let mut mechanisms = placement.plan.rules.iter().flat_map(|rule| &rule.mechanisms);
        if !mechanisms.any(|mechanism| *mechanism == Mechanism::CgroupSkb) {
            return Ok(());
        }
        let paths: Vec<_> = placement.cgroups.iter().map(|cgroup| cgroup.path().to_path_buf()).collect();
        let arriving = self.hosted.values().filter(|hosted| {
            !hosted.ended && hosted.mechanisms().any(|mechanism| *mechanism == Mechanism::CgroupSkb)
        });
        for other in arriving {
            // Of one target one link serves both. Above and below, each would have one that meets the same packets.
            let apart: Vec<_> = other.paths.iter().filter(|path| !paths.contains(path)).cloned().collect();
            let own: Vec<_> = paths.iter().filter(|path| !other.paths.contains(path)).cloned().collect();
            let both = meet(&own, &other.paths).or_else(|| meet(&apart, &paths));
            if let Some(path) = both {
                return Err(unshareable(format!(
                    "{} lies above or below a target of the run {}, which judges arriving packets as well",
                    path.display(),
                    other.plan.run
                )));
            }
        }
        Ok(())
    }

    /// Tells other engines whose packets are judged.
    pub(super) fn announce_hosted(&mut self) -> Result<(), Error> {
        let judging = self.hosted.values().filter(|hosted| {
            let judges =
                |mechanism: &Mechanism| mechanism.judges_leaving() || *mechanism == Mechanism::CgroupSkb;
            !hosted.ended && hosted.mechanisms().any(judges)
        });
        let mut paths: Vec<_> = judging.flat_map(|hosted| hosted.paths.iter().cloned()).collect();
        paths.sort_unstable();
        paths.dedup();
        if paths == self.journal.packets_of {
            return Ok(());
        }
        let grows = paths.iter().any(|path| !self.journal.packets_of.contains(path));
        self.journal.packets_of = paths;
        if grows { announce(&self.journal) } else { self.keep_journal() }
    }

    fn take_in(&mut self, slot: usize, placement: &Placement<'_>) -> Result<(), Error> {
        let Some(hosted) = self.hosted.get(&slot) else { return Ok(()) };
        let rules = hosted.seat.rules.clone();
        let image = self.encode_hosted(true)?;
        hooks_agree(&self.image, &image)?;
        let wanted = self.wanted(&image);
        wanted.check_lines(&image)?;
        // By what lines are laid: those of who stays are among them.
        self.image.lines.clone_from(&image.lines);
        // Nobody is subject to the new rules yet: only others must find what they found.
        self.maps.forget(&rules)?;
        self.maps.set_rules(self.page.bank(), &image.rules)?;
        self.maps.follow(&self.image, &image, false)?;
        if let Some(shared) = &mut self.shared {
            let wide =
                shared.filter.iter().zip(filter_of(&image)).map(|(has, wanted)| has | wanted).collect();
            self.maps.set_filter(&mut shared.filter, wide)?;
        }
        if let Some(run) = image.runs.get(slot) {
            self.page.set_run(slot, *run);
        }
        self.page.set_judging(image.egress_rules, image.ingress_rules);
        self.fit(&image, &wanted)?;
        let cgroups: BTreeMap<u64, BorrowedFd<'_>> =
            placement.cgroups.iter().map(|cgroup| (cgroup.id(), cgroup.as_fd())).collect();
        self.maps.follow_targets(&self.image, &image, &cgroups)?;
        self.image = image;
        self.fit_witness(&wanted)?;
        // Programs of a set before may still be under way.
        grace::wait_for_readers();
        let escaped = self.balance()?;
        if let Some(hosted) = self.hosted.get(&slot) {
            let missed = self.missed_since_ever(hosted);
            if let Some(hosted) = self.hosted.get_mut(&slot) {
                (hosted.missed_before, hosted.escaped_before) = (missed, escaped);
            }
        }
        Ok(())
    }
}

/// Whether calls that runs share are judged at the same hooks for all of them: the call table names one.
fn hooks_agree(old: &Image, new: &Image) -> Result<(), Error> {
    let differs = |(row, call): &(&u32, &chaos_common::syscall::Call)| {
        let wanted = new.calls.get(row);
        wanted.is_some_and(|wanted| (wanted.hook, wanted.other_hook) != (call.hook, call.other_hook))
    };
    match old.calls.iter().find(differs) {
        Some(_) => {
            Err(unshareable("a call of the run is judged at another hook for a run that is hosted already"))
        }
        None => Ok(()),
    }
}
