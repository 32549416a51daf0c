//! Before the faults: is there a steady state to be disturbed?

use super::course::Course;
use crate::report::event::Sink;

impl Course<'_> {
    /// Whether all that has to hold does.
    pub(super) async fn before(&mut self, sink: &mut Sink) -> bool {
        let places: Vec<_> =
            (0..self.probes.len()).filter(|place| self.probes[*place].is_asked_before()).collect();
        let count = places.len();
        let answers = match self.ask(places).await {
            Ok(answers) => answers,
            Err(signal) => {
                self.interrupted = Some(signal);
                self.note(sink, format!("interrupted by signal {signal}"));
                return false;
            }
        };
        for (place, answer) in answers {
            self.tell(place, "before", &answer, sink);
            let name = self.probes[place].name.clone();
            if let Some(problem) = &answer.problem {
                self.not_met.push(format!("{name}: {problem}"));
                self.note(sink, format!("not met: {name}: {problem}"));
            }
            self.record.probes[place].before.push(answer);
        }
        // One whose question died has not answered.
        for (place, probe) in self.probes.iter().enumerate() {
            if probe.is_asked_before() && self.record.probes[place].before.is_empty() {
                self.not_met.push(format!("{}: no answer", probe.name));
            }
        }
        let met = self.not_met.is_empty();
        if met && count > 0 {
            self.note(
                sink,
                format!("steady state met ({count} {})", if count == 1 { "probe" } else { "probes" }),
            );
        }
        met
    }
}
