//! A run that goes while others live.

use super::{Closed, Engine, Error, Hosted, close::wait_gone, witness::Escaped};
use crate::{
    inject::{
        grace,
        line::Queue,
        link::Link,
        object::{self, filter_of},
        program::Kind,
    },
    plan::Mechanism,
};
use chaos_common::{counter::RuleCounters, latency::Held};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

impl Engine {
    /// Ends the run in `slot` and takes away what only it needed; the others go on without a gap. `None` if there is no such
    /// run. What it was is told as of an engine of its own, with the counters of its rules alone. What it holds back in lines may
    /// come out first, for some seconds, which the caller may wait for before ([`Engine::holds_back`]).
    pub fn remove_run(&mut self, slot: usize) -> Option<Closed> {
        let start = Instant::now();
        let hosted = self.hosted.get(&slot).filter(|hosted| self.shared.is_some() && !hosted.ended)?;
        let (rules, judged) = (hosted.seat.rules.clone(), hosted.mechanisms().any(Mechanism::judges_leaving));
        self.disarm(slot);
        let overtaken = self.overtaken_of(slot);
        let escaped = if judged { self.escaped_since(slot) } else { Ok(None) };
        let has_lines = self.image.lines.iter().any(|(rule, _)| rules.contains(rule));
        let links_before = self.link_count();
        let programs_before = self.program_ids();
        let missed = self.missed_of(slot);
        let mut problems = vec![];
        let mut account: Option<(Vec<RuleCounters>, Vec<Held>)> = None;
        problems.extend(self.release(slot).err().map(|error| error.to_string()));
        match self.account_of(slot) {
            Ok(read) => account = Some(read),
            Err(error) => problems.push(format!("reading the counters of the run: {error}")),
        }
        problems.extend(self.purge());
        problems.extend(self.announce_hosted().err().map(|error| error.to_string()));
        let queue = self.shared.as_mut().map(|shared| {
            problems.append(&mut shared.problems);
            std::mem::take(&mut shared.left)
        });
        let left: BTreeSet<u32> = self.program_ids().into_iter().collect();
        let gone: Vec<u32> = programs_before.into_iter().filter(|program| !left.contains(program)).collect();
        let programs_left = wait_gone(&gone, Duration::from_secs(5));
        if programs_left > 0 {
            problems.push(format!("{programs_left} programs are still in the kernel"));
        }
        let escaped = escaped.unwrap_or_else(|error| {
            problems.push(format!("reading what the witness counted: {error}"));
            None
        });
        let account = account.unwrap_or_else(|| {
            (vec![RuleCounters::default(); rules.len()], vec![Held::default(); rules.len()])
        });
        let mut closed = Closed::of_run(account, missed);
        closed.programs_left = programs_left;
        closed.links_closed = links_before.saturating_sub(self.link_count());
        (closed.escaped, closed.overtaken, closed.problems) = (escaped, overtaken, problems);
        closed.queue = queue.filter(|_| has_lines);
        closed.took = start.elapsed();
        Some(closed)
    }

    /// Counters, and what became of calls held back, of the run in `slot` as they are now, by rule.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn account_of(&self, slot: usize) -> Result<(Vec<RuleCounters>, Vec<Held>), Error> {
        let rules = self.hosted.get(&slot).map(|hosted| hosted.seat.rules.clone()).unwrap_or_default();
        let counters = rules.iter().map(|rule| self.counters_of(*rule)).collect::<Result<_, _>>()?;
        Ok((counters, rules.iter().map(|rule| self.held_of(*rule)).collect::<Result<_, _>>()?))
    }

    /// Ends a run that was taken in, if only in part. What could not be taken away is told.
    pub(super) fn dismiss(&mut self, slot: usize) -> Vec<String> {
        self.disarm(slot);
        let released = self.release(slot).err().map(|error| error.to_string());
        let mut problems: Vec<String> = released.into_iter().chain(self.purge()).collect();
        if let Some(shared) = &mut self.shared {
            problems.append(&mut shared.problems);
            shared.left = Queue::default();
        }
        problems
    }

    /// From now on nobody is subject to the rules of the run in `slot`, and no program judges by them any more.
    fn release(&mut self, slot: usize) -> Result<(), Error> {
        self.settle_witness(slot)?;
        let Some(hosted) = self.hosted.get_mut(&slot) else { return Ok(()) };
        hosted.ended = true;
        hosted.targets.clear();
        hosted.paths.clear();
        let image = self.encode_hosted(true)?;
        self.maps.follow_targets(&self.image, &image, &BTreeMap::new())?;
        // What programs need, and the filter, stay as they are until the run is purged.
        self.image = image;
        grace::wait_for_readers();
        Ok(())
    }

    /// Takes the witness off the targets of the run in `slot` that no other run has, and waits for what it has counted to
    /// come to the egress hooks, which count targets alone.
    fn settle_witness(&mut self, slot: usize) -> Result<(), Error> {
        let ids = |hosted: &Hosted| hosted.targets.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let others: BTreeSet<u64> = self
            .hosted
            .iter()
            .filter(|(other, hosted)| **other != slot && hosted.mechanisms().any(Mechanism::judges_leaving))
            .flat_map(|(_, hosted)| ids(hosted))
            .collect();
        let own: BTreeSet<u64> = self.hosted.get(&slot).map(ids).unwrap_or_default().into_iter().collect();
        let Some(shared) = &self.shared else { return Ok(()) };
        let witness =
            shared.kinds.iter().find(|(_, kind)| **kind == Kind::Witness).map(|(number, _)| *number);
        let goes = |link: &Link| {
            link.on_cgroup().is_some_and(|on| {
                Some(on.program) == witness && own.contains(&on.cgroup) && !others.contains(&on.cgroup)
            })
        };
        let before = self.links.len();
        self.links.retain(|link| !goes(link));
        if self.links.len() < before {
            grace::wait_for_readers();
            self.least_balance(i64::MIN)?;
        }
        Ok(())
    }

    fn escaped_since(&self, slot: usize) -> Result<Option<Escaped>, object::Error> {
        let before = self.hosted.get(&slot).map_or(0, |hosted| hosted.escaped_before);
        self.escaped_beyond(before).map(Some)
    }

    /// Gives the numbers of runs that have ended back, with all that only they needed. What is in the way is told; the numbers
    /// stay taken then, and the next run that goes tries again.
    fn purge(&mut self) -> Vec<String> {
        self.try_purge().err().map(|error| error.to_string()).into_iter().collect()
    }

    fn try_purge(&mut self) -> Result<(), Error> {
        let image = self.encode_hosted(false)?;
        let wanted = self.wanted(&image);
        self.fit(&image, &wanted)?;
        self.fit_witness(&wanted)?;
        self.maps.follow(&self.image, &image, true)?;
        if let Some(shared) = &mut self.shared {
            self.maps.set_filter(&mut shared.filter, filter_of(&image))?;
        }
        self.maps.set_rules(self.page.bank(), &image.rules)?;
        self.page.set_judging(image.egress_rules, image.ingress_rules);
        self.image = image;
        self.hosted.retain(|_, hosted| !hosted.ended);
        Ok(())
    }
}
