//! Asking how the target's own system calls fare.

use super::Target;
use crate::{
    experiment::document_steady::CallsMeasure,
    host::kernel,
    inject::{engine, watch::CallWatch},
    spec::syscall::Call,
};
use chaos_common::watch::{BUCKETS, Begun, Times, bucket, longest_ns};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often a target is looked at that has made no call yet.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Room for the answer itself within the time there is for it.
const MARGIN: Duration = Duration::from_millis(50);

/// What a probe asks.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Its name.
    pub name: &'a str,
    /// The calls.
    pub of: &'a [Call],
    /// What counts.
    pub measure: CallsMeasure,
    /// Which of their latencies counts, in thousandths of a percent.
    pub percentile: u32,
    /// Time between two questions.
    pub interval: Duration,
    /// How long the answer may take.
    pub limit: Duration,
}

/// The calls that probes ask about, and what each probe knew when it was last asked.
#[derive(Debug)]
pub struct Watched {
    watch: Arc<CallWatch>,
    began: Instant,
    /// What there was then: the first hooks were attached before.
    at_first: HashMap<u32, Times>,
    last: Mutex<HashMap<String, (Instant, Tally)>>,
}

/// What became of some calls, taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tally {
    failed: u64,
    untimed: u64,
    buckets: [u64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self { failed: 0, untimed: 0, buckets: [0; BUCKETS] }
    }
}

impl Tally {
    fn add(&mut self, times: &Times) {
        self.failed += times.failed;
        self.untimed += times.untimed;
        for (total, part) in self.buckets.iter_mut().zip(&times.buckets) {
            *total += part;
        }
    }

    fn add_time(&mut self, ns: u64) {
        self.buckets[bucket(ns) as usize] += 1;
    }

    fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        // Counters of other processors may be read a little earlier or later.
        since.failed = since.failed.saturating_sub(before.failed);
        since.untimed = since.untimed.saturating_sub(before.untimed);
        for (count, earlier) in since.buckets.iter_mut().zip(&before.buckets) {
            *count = count.saturating_sub(*earlier);
        }
        since
    }

    fn ended(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The nearest-rank quantile in seconds; `percentile` in thousandths of a percent.
    fn quantile(&self, percentile: u32) -> Option<f64> {
        let ended = self.ended();
        let rank = (u128::from(ended) * u128::from(percentile)).div_ceil(100_000).max(1) as u64;
        let mut below = 0;
        let place = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(longest_ns(place as u32) as f64 / 1e9)
    }
}

impl Watched {
    /// From now on.
    pub fn new(watch: Arc<CallWatch>) -> Result<Self, engine::Error> {
        let times = |call: &Call| Ok((call.number(), watch.times(*call)?));
        let at_first = watch.calls().iter().map(times).collect::<Result<_, engine::Error>>()?;
        Ok(Self { watch, began: Instant::now(), at_first, last: Mutex::default() })
    }

    /// Answers a probe for the time since it was last asked. A share or a quantile of no calls at all is no
    /// answer: the first one to end is waited for, as long as there is time.
    ///
    /// Of a call that goes on it is only known that it takes longer than it has taken so far. So it counts, with that, if
    /// it already is among the longest, or if no other has ended and it has gone on for the time between two questions, or if
    /// the time for an answer is over.
    pub async fn measure(&self, question: &Question<'_>, target: &Target) -> Result<f64, String> {
        let Question { name, of, measure, percentile, interval, limit } = *question;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let (then, before) = last.unwrap_or_else(|| (self.began, self.at_first(of)));
        let over = Instant::now() + limit.saturating_sub(MARGIN);
        loop {
            let (now, tally) = (Instant::now(), self.tally(of)?);
            let mut since = tally.since(&before);
            let ended = since.ended();
            let elapsed = now.duration_since(then);
            let answer = match measure {
                // A few calls in no time at all are no rate.
                CallsMeasure::Rate => (elapsed >= interval || now >= over)
                    .then(|| ended as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)),
                CallsMeasure::Failures => (ended > 0).then(|| since.failed as f64 * 100.0 / ended as f64),
                CallsMeasure::Latency => {
                    let least = match since.quantile(percentile) {
                        Some(seconds) => Duration::from_secs_f64(seconds),
                        None if now >= over => Duration::ZERO,
                        None => interval,
                    };
                    for age in self.under_way(of, target)? {
                        if u128::from(age) > least.as_nanos() {
                            since.add_time(age);
                        }
                    }
                    since.quantile(percentile)
                }
            };
            if let Some(answer) = answer {
                if since.untimed > 0 && measure != CallsMeasure::Rate {
                    log::warn!("{name}: {} calls were not timed, too many were under way", since.untimed);
                }
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                last.insert(name.to_owned(), (now, tally));
                return Ok(answer);
            }
            if now >= over {
                let names: Vec<_> = of.iter().map(|call| call.name()).collect();
                return Err(format!(
                    "the target made no {} within {:.1} s: name calls that it makes, or give the probe a longer timeout",
                    names.join(" or "),
                    elapsed.as_secs_f64()
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn at_first(&self, of: &[Call]) -> Tally {
        let mut tally = Tally::default();
        of.iter().filter_map(|call| self.at_first.get(&call.number())).for_each(|times| tally.add(times));
        tally
    }

    fn tally(&self, of: &[Call]) -> Result<Tally, String> {
        let mut tally = Tally::default();
        for call in of {
            tally.add(&self.watch.times(*call).map_err(|error| error.to_string())?);
        }
        Ok(tally)
    }

    /// How long calls have been going on, in nanoseconds, of threads that are still there and the target's.
    fn under_way(&self, of: &[Call], target: &Target) -> Result<Vec<u64>, String> {
        let now = kernel::monotonic_ns();
        let begun = self.watch.under_way(of).map_err(|error| error.to_string())?;
        let tid = |begun: &Begun| begun.thread as u32 as i32;
        let threads = begun.iter().map(|begun| ((begun.thread >> 32) as i32, tid(begun)));
        let there = if begun.is_empty() { BTreeSet::new() } else { target.threads_among(threads) };
        let going_on = begun.iter().filter(|begun| there.contains(&tid(begun)));
        Ok(going_on.map(|begun| now.saturating_sub(begun.at_ns)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(times_ns: &[u64]) -> Tally {
        let mut tally = Tally::default();
        times_ns.iter().for_each(|ns| tally.add_time(*ns));
        tally
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank_and_never_told_too_short() {
        let all = tally(&[1_000_000; 99]);
        let mut with_one = all.clone();
        with_one.add_time(50_000_000);
        let close = |told: Option<f64>, seconds: f64| {
            let told = told.unwrap();
            assert!(told >= seconds && told <= seconds * 1.0626, "{told} for {seconds}");
        };
        close(with_one.quantile(99_000), 0.001);
        close(with_one.quantile(99_001), 0.05);
        close(with_one.quantile(100_000), 0.05);
        close(all.quantile(1), 0.001);
        assert_eq!(tally(&[]).quantile(50_000), None);
    }

    #[test]
    fn what_was_told_before_is_not_told_again() {
        let (before, mut now) = (tally(&[10, 10]), tally(&[10, 10, 7_000]));
        now.failed = 1;
        let since = now.since(&before);
        assert_eq!((since.ended(), since.failed), (1, 1));
        assert_eq!(before.since(&now), Tally::default());
    }
}
