//! After the faults: does the steady state return, and how quickly?

use super::course::Course;
use crate::{experiment::record::Recovery, report::event::Sink};
use std::time::{Duration, Instant};

/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl Course<'_> {
    /// Asks until all holds at once, or the time is over.
    pub(super) async fn after(&mut self, sink: &mut Sink) {
        let places: Vec<_> =
            (0..self.probes.len()).filter(|place| self.probes[*place].is_asked_after()).collect();
        if places.is_empty() {
            return;
        }
        let limit = self.experiment.recovery;
        let limit_s = limit.as_secs_f64();
        let ended_s = self.record.faults_interval().map_or_else(|| self.now(), |(_, to)| to);
        let over = Instant::now() + limit;
        let pause = places.iter().map(|place| self.probes[*place].interval).min().unwrap_or(PAUSE_MAX);
        let pause = pause.min(PAUSE_MAX);
        loop {
            let answers = match self.ask(places.clone()).await {
                Ok(answers) => answers,
                Err(signal) => return self.stop_waiting(signal, sink),
            };
            let all_hold = answers.len() == places.len() && answers.iter().all(|(_, answer)| answer.holds);
            for (place, answer) in answers {
                self.tell(place, "after", &answer, sink);
                self.record.probes[place].after.push(answer);
            }
            if all_hold {
                let took = self.now() - ended_s;
                self.record.recovery = Some(Recovery { limit_s, took_s: Some(took) });
                self.note(sink, format!("steady state is back after {took:.3} s"));
                return;
            }
            if Instant::now() + pause > over {
                self.record.recovery = Some(Recovery { limit_s, took_s: None });
                self.note(sink, format!("steady state is not back after {limit_s} s"));
                return;
            }
            tokio::select! {
                arrived = self.signals.next() => {
                    let signal = arrived.map_or(nix::libc::SIGTERM, |arrived| arrived.signal as i32);
                    return self.stop_waiting(signal, sink);
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The faults are gone already; only the waiting ends.
    fn stop_waiting(&mut self, signal: i32, sink: &Sink) {
        self.interrupted = Some(signal);
        self.note(sink, format!("interrupted by signal {signal} while the steady state was waited for"));
    }
}
