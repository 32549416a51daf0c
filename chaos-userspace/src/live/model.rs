//! What the view knows: the last answers of the owners, and what became of them since the answers before.

use super::sample::{Round, Sample};
use crate::runs::message::State;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Rates that are kept of each fault: a minute of rounds.
pub const RATES: usize = 120;

/// Two answers that are closer than this make no rate: a handful of events would look like thousands in a second.
const SHORTEST: Duration = Duration::from_millis(200);

/// Things that happened and are still shown.
const NOTES: usize = 50;

/// A run as it is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// Its owner's last answer.
    pub sample: Sample,
    /// Faults inflicted in a second, by rule: the last [`RATES`] rounds, the newest last.
    pub rates: Vec<VecDeque<f64>>,
    /// Share of one processor that the owner has used since the answer before.
    pub cpu_percent: Option<f64>,
    /// Why the last answer did not come.
    pub problem: Option<String>,
    /// What the next rates count from.
    before: Before,
}

/// What was known at the end of the last rates.
#[derive(Clone, Debug)]
struct Before {
    at: Instant,
    /// By rule.
    injected: Vec<u64>,
    cpu: Option<Duration>,
}

impl Before {
    fn of(sample: &Sample, at: Instant) -> Self {
        let injected = sample.status.rules.iter().map(|rule| rule.injected.events).collect();
        Self { at, injected, cpu: sample.cpu }
    }
}

impl View {
    fn new(sample: Sample, at: Instant) -> Self {
        let rates = vec![VecDeque::new(); sample.status.rules.len()];
        Self { before: Before::of(&sample, at), sample, rates, cpu_percent: None, problem: None }
    }

    fn take(&mut self, sample: Sample, at: Instant) {
        self.problem = None;
        let passed = at.saturating_duration_since(self.before.at);
        if passed < SHORTEST {
            self.sample = sample;
            return;
        }
        let passed = passed.as_secs_f64();
        // `kchaos set` keeps the rules and their accounts.
        self.rates.resize(sample.status.rules.len(), VecDeque::new());
        let before = self.before.injected.iter().copied().chain(std::iter::repeat(0));
        for ((rule, before), rates) in sample.status.rules.iter().zip(before).zip(&mut self.rates) {
            if rates.len() == RATES {
                rates.pop_front();
            }
            rates.push_back(rule.injected.events.saturating_sub(before) as f64 / passed);
        }
        self.cpu_percent = sample
            .cpu
            .zip(self.before.cpu)
            .map(|(now, before)| now.saturating_sub(before).as_secs_f64() / passed * 100.0);
        self.before = Before::of(&sample, at);
        self.sample = sample;
    }

    /// Faults inflicted in a second, of all rules.
    pub fn rate(&self) -> f64 {
        self.rates.iter().filter_map(VecDeque::back).sum()
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.sample.status.run
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Since the view began.
    pub at: Duration,
    /// In words.
    pub text: String,
}

/// All that is shown.
#[derive(Clone, Debug)]
pub struct Board {
    /// The runs, by id.
    pub runs: Vec<View>,
    /// The place of the run that is shown in full.
    pub chosen: usize,
    /// The run that is ended if the next key says yes.
    pub asked: Option<String>,
    /// What happened, the newest last.
    pub notes: VecDeque<Note>,
    /// The run whose own view this is; `None` of a view of all runs.
    pub own: Option<String>,
    begin: Instant,
}

impl Board {
    /// Nothing is known yet.
    pub fn new(begin: Instant) -> Self {
        Self { runs: vec![], chosen: 0, asked: None, notes: VecDeque::new(), own: None, begin }
    }

    /// The view that a run of an experiment has of itself: nothing but that run, which tells by itself what happens.
    pub fn of_experiment(begin: Instant, run: &str) -> Self {
        Self { own: Some(run.to_owned()), ..Self::new(begin) }
    }

    /// Says something.
    pub fn note(&mut self, at: Instant, text: String) {
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { at: at.saturating_duration_since(self.begin), text });
    }

    /// Takes over what the owners answered. The chosen run stays chosen for as long as it lives.
    pub fn take(&mut self, round: Round) {
        let Round { at, samples, problems } = round;
        let chosen = self.runs.get(self.chosen).map(|view| view.id().to_owned());
        let mut before = std::mem::take(&mut self.runs);
        for sample in samples {
            let known = before.iter().position(|view| view.id() == sample.status.run);
            let state = sample.status.state;
            let id = sample.status.run.clone();
            match known.map(|place| before.swap_remove(place)) {
                Some(mut view) => {
                    if view.sample.status.state != state && self.own.is_none() {
                        self.note(at, format!("{id} is {}", state.name()));
                    }
                    view.take(sample, at);
                    self.runs.push(view);
                }
                None => {
                    if state != State::Ended && self.own.is_none() {
                        self.note(at, format!("{id} is {}", state.name()));
                    }
                    self.runs.push(View::new(sample, at));
                }
            }
        }
        // Who did not answer this time may still live.
        for mut view in before {
            match problems.iter().find(|(id, _)| id == view.id()) {
                Some((id, problem)) => {
                    if view.problem.as_ref() != Some(problem) {
                        self.note(at, format!("{id}: {problem}"));
                    }
                    view.problem = Some(problem.clone());
                    self.runs.push(view);
                }
                None => self.note(at, format!("{} is gone, and all of it is undone", view.id())),
            }
        }
        self.runs.sort_by(|one, other| one.id().cmp(other.id()));
        let place = chosen.and_then(|id| self.runs.iter().position(|view| view.id() == id));
        self.chosen = place.unwrap_or_else(|| self.chosen.min(self.runs.len().saturating_sub(1)));
        if self.asked.as_ref().is_some_and(|asked| self.runs.iter().all(|view| view.id() != asked)) {
            self.asked = None;
        }
    }

    /// The run that is shown in full.
    pub fn chosen(&self) -> Option<&View> {
        self.runs.get(self.chosen)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        report::summary::Count,
        runs::message::{Drawn, RuleStatus, Status},
    };

    pub fn sample(run: &str, injected: u64, armed_s: f64) -> Sample {
        let count = |events| Count { events, segments: events, bytes: events * 100 };
        Sample {
            status: Status {
                run: run.to_owned(),
                command: "inject".to_owned(),
                pid: 812,
                state: State::Armed,
                cgroup: "/sys/fs/cgroup/shop.slice/shop.service".into(),
                targets: 2,
                observe: false,
                armed_s: Some(armed_s),
                remaining_s: Some(60.0 - armed_s),
                rules: vec![RuleStatus {
                    name: "loss".to_owned(),
                    fault: "lose 10% of egress packets".to_owned(),
                    seen: count(20_000),
                    matched: count(10_000),
                    injected: count(injected),
                    asked_percent: Some(10.0),
                    spared_by_draw: 10_000 - injected,
                    drawn_before: Drawn::default(),
                }],
                restarted: vec![],
                chosen: vec![
                    "/sys/fs/cgroup/shop.slice/shop.service".into(),
                    "/sys/fs/cgroup/shop.slice/cart.service".into(),
                ],
                experiment: None,
            },
            processes: vec![3, 1],
            cpu: Some(Duration::from_secs_f64(armed_s / 100.0)),
            memory: Some(14 << 20),
        }
    }

    pub fn round(at: Instant, samples: Vec<Sample>) -> Round {
        Round { at, samples, problems: vec![] }
    }

    #[test]
    fn rates_come_from_two_answers() {
        let begin = Instant::now();
        let mut board = Board::new(begin);
        board.take(round(begin, vec![sample("a", 100, 1.0)]));
        assert_eq!((board.runs[0].rate(), board.runs[0].cpu_percent), (0.0, None));
        board.take(round(begin + Duration::from_secs(2), vec![sample("a", 400, 3.0)]));
        assert_eq!(board.runs[0].rate(), 150.0);
        assert!((board.runs[0].cpu_percent.unwrap() - 1.0).abs() < 1e-9);
        board.take(round(begin + Duration::from_millis(2_010), vec![sample("a", 500, 3.0)]));
        assert_eq!(board.runs[0].rate(), 150.0);
        assert_eq!(board.runs[0].sample.status.rules[0].injected.events, 500);
        // Counters that go back are another account: no rate below nothing.
        board.take(round(begin + Duration::from_secs(3), vec![sample("a", 0, 4.0)]));
        assert_eq!(board.runs[0].rate(), 0.0);
        for second in 4..200 {
            board.take(round(begin + Duration::from_secs(second), vec![sample("a", second, 5.0)]));
        }
        assert_eq!(board.runs[0].rates[0].len(), RATES);
    }

    #[test]
    fn the_chosen_run_stays_chosen_and_what_comes_and_goes_is_told() {
        let begin = Instant::now();
        let mut board = Board::new(begin);
        board.take(round(begin, vec![sample("b", 0, 1.0), sample("d", 0, 1.0)]));
        board.chosen = 1;
        board.asked = Some("b".to_owned());
        board.take(round(begin, vec![sample("d", 0, 1.0), sample("a", 0, 1.0), sample("b", 0, 1.0)]));
        assert_eq!(board.chosen().unwrap().id(), "d");
        assert_eq!(board.asked.as_deref(), Some("b"));
        board.take(round(begin, vec![sample("d", 0, 1.0)]));
        assert_eq!((board.chosen().unwrap().id(), board.asked.as_deref()), ("d", None));
        board.take(round(begin, vec![]));
        assert!(board.chosen().is_none());
        let told: Vec<_> = board.notes.iter().map(|note| note.text.as_str()).collect();
        assert_eq!(told.iter().filter(|text| text.contains("armed")).count(), 3);
        assert_eq!(told.iter().filter(|text| text.contains("is gone")).count(), 3);
    }

    #[test]
    fn who_does_not_answer_is_kept_and_named_once() {
        let begin = Instant::now();
        let mut board = Board::new(begin);
        let told =
            |board: &Board| board.notes.iter().filter(|note| note.text.contains("does not answer")).count();
        for silences in 1..3 {
            board.take(round(begin, vec![sample("a", 0, 1.0), sample("b", 0, 1.0)]));
            for _ in 0..3 {
                let problem = |id: &str| (id.to_owned(), format!("run {id} does not answer"));
                board.take(Round { at: begin, samples: vec![], problems: vec![problem("a"), problem("b")] });
            }
            assert_eq!((board.runs.len(), told(&board)), (2, 2 * silences));
        }
    }
}
