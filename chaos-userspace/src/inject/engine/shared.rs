//! What an engine knows whose runs come and go.

use super::{Engine, Error, Hosted, Journal, Options, Placement, Process};
use crate::{
    encode::{self, Image, Job, Seat},
    host::kernel,
    inject::{
        line::Queue,
        object::{self, Globals},
        program::{Kind, Programs},
    },
};
use chaos_common::{
    control::FIRST_SET,
    limits::{RULES_MAX, RUNS_MAX},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// The set of programs that is in force.
pub(super) struct Shared {
    /// Loads further programs of it.
    pub(super) loader: Programs,
    pub(super) globals: Globals,
    /// Its bit among those that act.
    pub(super) set: u32,
    pub(super) log_level: u8,
    /// The filter before the target table.
    pub(super) filter: Vec<u64>,
    /// What each of the engine's programs is.
    pub(super) kinds: BTreeMap<usize, Kind>,
    /// By program: what the kernel had skipped of those whose place it took.
    pub(super) missed_before: BTreeMap<usize, u64>,
    /// What became of packets in lines that were taken away, since somebody has asked.
    pub(super) left: Queue,
    /// What of lines could not be taken away.
    pub(super) problems: Vec<String>,
}

impl Engine {
    /// Makes maps with room for what comes, and takes the runs in.
    pub(super) fn open_shared(
        name: &str,
        placements: &[Placement<'_>],
        options: Options<'_>,
    ) -> Result<Self, Error> {
        if options.recording.is_some() || options.made_cgroup {
            return Err(unshareable("single events are recorded, and cgroups are made, for one run alone"));
        }
        let _memory_lock_limit = kernel::MemoryLockLimit::lift();
        let image = encode::share(&[], &Image::default())?;
        let journal = Journal { run: name.to_owned(), owner: Process::current(), ..Journal::default() };
        let (mut maps, object) = object::open(&image, options.log_level, None)?;
        maps.fill(&image, &[])?;
        let loader = Programs::new(object, &maps.descriptors(), false)?;
        let mut engine = Self::with_maps(maps, image, BTreeMap::new(), journal, options)?;
        engine.shared = Some(Shared {
            loader,
            globals: object::globals(&engine.image, FIRST_SET, options.log_level, None),
            set: FIRST_SET,
            log_level: options.log_level,
            filter: vec![0; engine.image.filter_words()],
            kinds: BTreeMap::new(),
            missed_before: BTreeMap::new(),
            left: Queue::default(),
            problems: vec![],
        });
        engine.begin()?;
        for placement in placements {
            engine.add_run(placement)?;
        }
        Ok(engine)
    }

    /// Slots of the runs that it hosts, ascending.
    pub fn slots(&self) -> Vec<usize> {
        self.hosted.iter().filter(|(_, hosted)| !hosted.ended).map(|(slot, _)| *slot).collect()
    }

    /// The first slot that is free, and numbers for the rules of `hosted`: behind those of runs that share a target with it,
    /// since rules are judged in the order of their numbers, and who came first is first.
    pub(super) fn seat_for(&self, placement: &Placement<'_>) -> Result<Seat, Error> {
        let too_many = |what, count, limit| Error::Encode(encode::Error::TooMany { what, count, limit });
        let slot = (0..RUNS_MAX).find(|slot| !self.hosted.contains_key(slot));
        let slot = slot.ok_or_else(|| too_many("runs", RUNS_MAX + 1, RUNS_MAX))?;
        let taken: BTreeSet<u32> =
            self.hosted.values().flat_map(|hosted| &hosted.seat.rules).copied().collect();
        let paths: Vec<_> = placement.cgroups.iter().map(|cgroup| cgroup.path().to_path_buf()).collect();
        let behind = self
            .hosted
            .values()
            .filter(|hosted| meet(&hosted.paths, &paths).is_some())
            .flat_map(|hosted| &hosted.seat.rules)
            .max()
            .map_or(0, |last| last + 1);
        let count = placement.plan.rules.len();
        let rules: Vec<u32> =
            (behind..RULES_MAX as u32).filter(|rule| !taken.contains(rule)).take(count).collect();
        if rules.len() < count {
            let what =
                if behind == 0 { "rules" } else { "rules, behind those of runs with the same targets," };
            return Err(too_many(what, RULES_MAX - rules.len() + count, RULES_MAX));
        }
        Ok(Seat { slot, rules })
    }

    /// What the runs that are hosted need, in the places that they have; those that have ended only with `ended`.
    pub(super) fn encode_hosted(&self, ended: bool) -> Result<Image, Error> {
        let hosted = self.hosted.values().filter(|hosted| ended || !hosted.ended);
        let jobs: Vec<(&Seat, Job<'_>)> =
            hosted.map(|hosted| (&hosted.seat, hosted.job(&hosted.plan))).collect();
        let jobs: Vec<_> = jobs.iter().map(|(seat, job)| (*seat, job)).collect();
        Ok(encode::share(&jobs, &self.image)?)
    }

    /// By rule of a run: how often the kernel has skipped a program that serves it since it came.
    pub fn missed_of(&self, slot: usize) -> Vec<u64> {
        let Some(hosted) = self.hosted.get(&slot) else { return vec![] };
        if self.shared.is_none() {
            let all = self.missed();
            return hosted
                .seat
                .rules
                .iter()
                .map(|rule| all.get(*rule as usize).copied().unwrap_or(0))
                .collect();
        }
        let now = self.missed_since_ever(hosted);
        let before = hosted.missed_before.iter().copied().chain(std::iter::repeat(0));
        now.into_iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect()
    }

    pub(super) fn missed_since_ever(&self, hosted: &Hosted) -> Vec<u64> {
        let Some(shared) = &self.shared else { return vec![] };
        let of_program =
            |program: usize| shared.missed_before.get(&program).copied().unwrap_or(0) + self.misses(program);
        let serves = |rule: &crate::plan::PlannedRule, kind: &Kind| {
            rule.mechanisms.iter().any(|mechanism| mechanism.program(0).as_ref() == Some(kind))
        };
        let of_rule = |rule| {
            let programs = shared.kinds.iter().filter(|(_, kind)| serves(rule, kind));
            programs.map(|(program, _)| of_program(*program)).sum()
        };
        hosted.plan.rules.iter().map(of_rule).collect()
    }
}

pub(super) fn unshareable(what: impl Into<String>) -> Error {
    Error::Unshareable { what: what.into() }
}

/// A path of `these` on, above or below which one of `those` lies.
pub(super) fn meet<'a>(these: &'a [PathBuf], those: &[PathBuf]) -> Option<&'a PathBuf> {
    let meets =
        |path: &&PathBuf| those.iter().any(|other| path.starts_with(other) || other.starts_with(path));
    these.iter().find(meets)
}
