//! Jobs on a few places: in which order, so that no place is idle for long at the end.

use std::cmp::Reverse;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Something to do.
pub struct Job<'a, T> {
    /// About how many seconds; only the order depends on it.
    pub takes_s: u64,
    pub work: Box<dyn FnOnce() -> T + Send + 'a>,
}

/// Does all jobs, at most `places` at a time and the longest first. What they came to, in the order they were given.
pub fn run<T: Send>(jobs: Vec<Job<'_, T>>, places: usize) -> Vec<T> {
    let mut waiting: Vec<_> = jobs.into_iter().enumerate().collect();
    // The sort is stable: equals keep their order.
    waiting.sort_by_key(|(_, job)| Reverse(job.takes_s));
    let queue = Mutex::new(waiting.into_iter());
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((at, job)) = next else { return };
            let result = (job.work)();
            results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..places.max(1) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_begins_and_results_keep_their_order() {
        for places in [0, 1, 3] {
            let begun = Mutex::new(Vec::new());
            let note = &begun;
            let job = |takes_s| Job {
                takes_s,
                work: Box::new(move || {
                    note.lock().unwrap().push(takes_s);
                    takes_s
                }) as Box<dyn FnOnce() -> u64 + Send>,
            };
            assert_eq!(run([5, 9, 0, 7].map(job).into(), places), [5, 9, 0, 7]);
            let mut begun = begun.into_inner().unwrap();
            if places < 2 {
                assert_eq!(begun, [9, 7, 5, 0]);
            }
            begun.sort_unstable();
            assert_eq!(begun, [0, 5, 7, 9]);
        }
    }
}
