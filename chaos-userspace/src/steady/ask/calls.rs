//! Asking how the target's own system calls fare.

use super::{
    super::{Ask, Probe, value::rank},
    Target,
};
use crate::{
    experiment::document_steady::CallsMeasure,
    host::kernel,
    inject::{engine, watch::CallWatch},
    spec::syscall::Call,
};
use chaos_common::watch::{Begun, Times, longest_ns};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often a target is looked at that has made no call yet.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Room for the answer itself within the time there is for it.
const MARGIN: Duration = Duration::from_millis(50);

/// The calls that probes ask about, and what each probe knew when it was last asked.
#[derive(Debug)]
pub struct Watched {
    watch: Arc<CallWatch>,
    last: Mutex<HashMap<String, (Instant, Times)>>,
}

/// The nearest-rank quantile in seconds; `percentile` in thousandths of a percent. `None` of nothing.
fn quantile(times: &Times, percentile: u32) -> Option<f64> {
    let rank = rank(times.ended(), percentile);
    let mut below = 0;
    let place = times.buckets.iter().position(|count| {
        below += count;
        below >= rank
    })?;
    Some(longest_ns(place as u32) as f64 / 1e9)
}

impl Watched {
    /// From now on, for these probes.
    pub fn new<'a>(
        watch: CallWatch,
        probes: impl IntoIterator<Item = &'a Probe>,
    ) -> Result<Self, engine::Error> {
        let mut last = HashMap::new();
        for probe in probes {
            if let Ask::Calls { of, .. } = &probe.ask {
                // Not nothing: the first hooks were attached before the last ones.
                last.insert(probe.name.clone(), (Instant::now(), watch.times_of(of)?));
            }
        }
        Ok(Self { watch: Arc::new(watch), last: Mutex::new(last) })
    }

    /// Who looks on.
    pub fn watch(&self) -> Arc<CallWatch> {
        Arc::clone(&self.watch)
    }

    /// Answers a probe for the time since it was last asked. A share or a quantile of no calls at all is no
    /// answer: the first one to end is waited for, as long as there is time.
    ///
    /// Of a call that goes on it is only known that it takes longer than it has taken so far. So it counts, with that, if
    /// it already is among the longest, or if no other has ended and it has gone on for the time between two questions, or if
    /// the time for an answer is over.
    pub async fn measure(
        &self,
        probe: &Probe,
        of: &[Call],
        measure: CallsMeasure,
        percentile: u32,
        target: &Target,
    ) -> Result<f64, String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&probe.name).copied();
        let (then, before) = last.ok_or("its calls are not watched")?;
        let over = Instant::now() + probe.timeout.saturating_sub(MARGIN);
        loop {
            let (now, times) = (Instant::now(), self.watch.times_of(of).map_err(|error| error.to_string())?);
            let mut since = times.since(&before);
            let ended = since.ended();
            let elapsed = now.duration_since(then);
            let answer = match measure {
                // A few calls in no time at all are no rate.
                CallsMeasure::Rate => (elapsed >= probe.interval || now >= over)
                    .then(|| ended as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)),
                CallsMeasure::Failures => (ended > 0).then(|| since.failed as f64 * 100.0 / ended as f64),
                CallsMeasure::Latency => {
                    let least = match quantile(&since, percentile) {
                        Some(seconds) => Duration::from_secs_f64(seconds),
                        None if now >= over => Duration::ZERO,
                        None => probe.interval,
                    };
                    for age in self.under_way(of, target)? {
                        if u128::from(age) > least.as_nanos() {
                            since.add_time(age);
                        }
                    }
                    quantile(&since, percentile)
                }
            };
            if let Some(answer) = answer {
                if since.untimed > 0 && measure != CallsMeasure::Rate {
                    let (name, untimed) = (&probe.name, since.untimed);
                    log::warn!("{name}: {untimed} calls were not timed, too many were under way");
                }
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                last.insert(probe.name.clone(), (now, times));
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

    fn tally(times_ns: &[u64]) -> Times {
        let mut tally = Times::default();
        times_ns.iter().for_each(|ns| tally.add_time(*ns));
        tally
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank_and_never_told_too_short() {
        let all = tally(&[1_000_000; 99]);
        let mut with_one = all;
        with_one.add_time(50_000_000);
        let close = |told: Option<f64>, seconds: f64| {
            let told = told.unwrap();
            assert!(told >= seconds && told <= seconds * 1.0626, "{told} for {seconds}");
        };
        close(quantile(&with_one, 99_000), 0.001);
        close(quantile(&with_one, 99_001), 0.05);
        close(quantile(&with_one, 100_000), 0.05);
        close(quantile(&all, 1), 0.001);
        assert_eq!(quantile(&tally(&[]), 50_000), None);
    }

    #[test]
    fn what_was_told_before_is_not_told_again() {
        let (before, mut now) = (tally(&[10, 10]), tally(&[10, 10, 7_000]));
        now.failed = 1;
        let since = now.since(&before);
        assert_eq!((since.ended(), since.failed), (1, 1));
        assert_eq!(before.since(&now), Times::default());
    }
}
