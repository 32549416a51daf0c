//! What can be asked of an engine and changed in it while it runs.

use super::{Engine, Error, io_error};
use crate::{
    encode,
    inject::{bpf, grace::Grace, object},
    plan::Plan,
};
use chaos_common::{
    counter::RuleCounters,
    latency::{Held, LATENCY_NONE},
};
use std::os::fd::AsFd;

impl Engine {
    /// Counters by rule, in the order of the jobs' rules, as they are now.
    pub fn counters(&self) -> Result<Vec<RuleCounters>, Error> {
        (0..self.image.rules.len() as u32).map(|rule| self.counters_of(rule)).collect()
    }

    /// By rule: what became of calls that were to be held back, as of now.
    pub fn held(&self) -> Result<Vec<Held>, Error> {
        (0..self.image.rules.len() as u32).map(|rule| self.held_of(rule)).collect()
    }

    /// A rule is served by programs or by the receiver.
    pub(super) fn counters_of(&self, rule: u32) -> Result<RuleCounters, Error> {
        let mut counters = self.maps.counters(rule)?;
        self.receiver.iter().for_each(|receiver| receiver.add_to(rule, &mut counters));
        Ok(counters)
    }

    pub(super) fn held_of(&self, rule: u32) -> Result<Held, Error> {
        match &self.receiver {
            Some(receiver) if self.image.latency == LATENCY_NONE => Ok(receiver.held(rule)),
            _ => Ok(self.maps.held(rule)?),
        }
    }

    /// By rule: how often the kernel skipped a program that serves it, for calls of any process on the host.
    pub fn missed(&self) -> Vec<u64> {
        self.serving.iter().map(|places| places.iter().map(|place| self.misses(*place)).sum()).collect()
    }

    /// How often the kernel skipped a program; 0 where it does not tell.
    pub(super) fn misses(&self, program: usize) -> u64 {
        let program = self.programs.get(&program);
        program.and_then(|program| bpf::program_misses(program.as_fd()).ok()).unwrap_or(0)
    }

    /// Goes on with other rates, probabilities, errors and delays in the run in `slot`. Every event is judged either by
    /// the old rules or by the new ones; what has been counted stays. After an error everything is as before. Returns
    /// when no program goes by the old rules any more.
    pub fn change(&mut self, slot: usize, plan: &Plan) -> Result<(), Error> {
        self.exchange(slot, plan)?.wait();
        Ok(())
    }

    /// As [`Engine::change`], but returns at once: programs that have begun before go by the old rules until the grace
    /// period is over, which another thread may wait for.
    pub fn exchange(&mut self, slot: usize, plan: &Plan) -> Result<Grace, Error> {
        let jobs = self.hosted.iter().map(|(other, hosted)| {
            (&hosted.seat, hosted.job(if *other == slot { plan } else { &hosted.plan }))
        });
        let jobs: Vec<_> = jobs.collect();
        let mut image = match &self.shared {
            Some(_) => {
                let jobs: Vec<_> = jobs.iter().map(|(seat, job)| (*seat, job)).collect();
                encode::share(&jobs, &self.image)?
            }
            None => encode::encode(&jobs.into_iter().map(|(_, job)| job).collect::<Vec<_>>())?,
        };
        // Programs that can count need not.
        image.exact |= self.image.exact;
        if !object::serves(&self.image, &image) {
            return Err(Error::NotLive);
        }
        if self.shared.is_some() {
            self.wanted(&image).check_lines(&image)?;
        }
        // Programs may still read the bank that is to be written, if nobody has waited.
        if let Some(grace) = self.grace.take() {
            grace.wait();
        }
        let bank = 1 - self.page.bank();
        self.maps.set_rules(bank, &image.rules)?;
        if image.lines != self.image.lines
            && let Err(error) = self.change_lines(&image, &image)
        {
            // What was there was accepted before.
            let _ = self.change_lines(&image, &self.image.clone());
            return Err(error);
        }
        self.page.set_bank(bank);
        let grace = Grace::default();
        self.grace = Some(grace.clone());
        self.image = image;
        if let Some(hosted) = self.hosted.get_mut(&slot) {
            hosted.plan = plan.clone();
        }
        Ok(grace)
    }

    /// Has the lines that are others by `wanted` than they were do what `image` says.
    fn change_lines(&mut self, wanted: &encode::Image, image: &encode::Image) -> Result<(), Error> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let before = &self.image.lines;
        let is_other = |number: &usize| wanted.lines.get(*number) != before.get(*number);
        let others = (0..image.lines.len()).filter(is_other);
        others
            .filter_map(|number| image.lines.get(number))
            .try_for_each(|(rule, netem)| lines.change(*rule, netem))
            .map_err(io_error("changing a delay line"))?;
        self.change_loads(image).map_err(Error::from)
    }
}
