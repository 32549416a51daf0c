//! The course of an experiment: before, under fault, after.

use super::{
    super::{console, failure::Failure, signals::Signals, target::Chosen},
    view::View,
};
use crate::{
    experiment::{
        Experiment,
        record::{Note, Phase, Record},
        timetable::Timetable,
        verdict::{self, Facts},
    },
    inject::watch::CallWatch,
    plan::{Plan, watch::Watched},
    report::{
        event::{Event, Sink},
        summary::RuleSummary,
    },
    runs::progress::Progress,
    steady::{
        Probe,
        ask::{self, Answer, Scene, Target},
    },
};
use std::{path::Path, sync::Arc, time::Instant};
use tokio::task::JoinSet;

/// An experiment on its way.
pub struct Course<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) plan: &'a Plan,
    /// When which fault acts; `None` if all of them do all the time.
    pub(super) timetable: Option<Timetable>,
    pub(super) chosen: &'a Chosen,
    pub(super) verbose: u8,
    pub(super) probes: Vec<Arc<Probe>>,
    pub(super) scene: Arc<Scene>,
    pub(super) start: Instant,
    pub(super) signals: Signals,
    pub(super) record: Record,
    pub(super) not_met: Vec<String>,
    pub(super) interrupted: Option<i32>,
    pub(super) aborted: Option<String>,
    pub(super) left: Vec<String>,
    pub(super) failed: Option<(u8, String)>,
    pub(super) injected: Option<u64>,
    /// What the faults came to, once they are over.
    pub(super) came_to: Option<Vec<RuleSummary>>,
    pub(super) progress: Progress,
    pub(super) view: Option<View>,
}

impl<'a> Course<'a> {
    /// At its beginning: these calls of the target are looked on at from now on. Must be called on a tokio runtime, before any thread is started.
    pub fn new(
        experiment: &'a Experiment,
        plan: &'a Plan,
        chosen: &'a Chosen,
        watched: &[Watched],
        record: Record,
        verbose: u8,
    ) -> Result<Self, Failure> {
        let signals = Signals::take().map_err(Failure::internal)?;
        let cgroups = chosen.cgroups.iter().map(|cgroup| cgroup.path().to_path_buf()).collect();
        let target = Target::new(cgroups, Path::new("/proc"));
        let calls = if watched.is_empty() {
            None
        } else {
            let watch = CallWatch::open(&chosen.cgroups, watched, plan.task_ancestor)?;
            Some(ask::Watched::new(watch, &experiment.probes)?)
        };
        let scene = Arc::new(Scene { target, calls, signal_mask: signals.mask_before() });
        Ok(Self {
            experiment,
            plan,
            timetable: None,
            chosen,
            verbose,
            probes: experiment.probes.iter().cloned().map(Arc::new).collect(),
            scene,
            start: Instant::now(),
            signals,
            not_met: vec![],
            interrupted: None,
            aborted: None,
            left: vec![],
            failed: None,
            injected: None,
            came_to: None,
            progress: Progress::new(&record),
            view: None,
            record,
        })
    }

    /// From beginning to end; what came of it is in the record.
    pub async fn run(&mut self, allowed: Vec<&'static str>, sink: &mut Sink) {
        self.begin("before", sink);
        let met = self.before(sink).await;
        self.end();
        if !met {
            return;
        }
        self.begin("faults", sink);
        if let Err(failure) = self.during(allowed, sink).await {
            self.failed.get_or_insert((failure.code, failure.message));
        }
        self.end();
        if self.interrupted.is_none() && self.injected.is_some() {
            self.begin("after", sink);
            self.after(sink).await;
            self.end();
        }
    }

    /// Judges.
    pub fn finish(self) -> Record {
        let mut record = self.record;
        let asked: Vec<_> =
            self.probes.iter().map(|probe| probe.is_asked_during() && self.injected.is_some()).collect();
        let cut_short = self.aborted.is_some() || self.interrupted.is_some();
        let asked = if cut_short { vec![false; asked.len()] } else { asked };
        let facts = Facts {
            name: &self.experiment.name,
            not_met: self.not_met,
            interrupted: self.interrupted,
            aborted: self.aborted,
            left: self.left,
            failed: self.failed,
            injected: self.injected,
            observe: self.plan.observe,
            deviations: verdict::deviations(&record.probes, &asked, record.recovery),
            probes: self.probes.len(),
        };
        verdict::judge_stages(&mut record.stages, &record.probes, &asked);
        record.verdict = verdict::judge(&facts);
        record.took_s = self.start.elapsed().as_secs_f64();
        record
    }

    /// It follows a timetable; `seed` is what random beginnings were drawn by.
    pub fn follow(&mut self, timetable: Timetable, seed: Option<u64>) {
        self.timetable = Some(timetable);
        self.record.schedule_seed = seed;
    }

    /// Seconds since the start.
    pub(super) fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Notes something, and says it to people.
    pub(super) fn note(&mut self, sink: &Sink, text: impl Into<String>) {
        let note = Note { at_s: self.now(), text: text.into() };
        say(&note, sink);
        self.record.events.push(note);
    }

    /// Says something that is recorded elsewhere.
    pub(super) fn say(&self, sink: &Sink, text: String) {
        say(&Note { at_s: self.now(), text }, sink);
    }

    fn begin(&mut self, name: &'static str, sink: &mut Sink) {
        let at_s = self.now();
        self.record.phases.push(Phase { name, from_s: at_s, to_s: at_s });
        name.clone_into(&mut self.progress.phase);
        self.show_rest();
        sink.write(&Event::Phase { run: &self.plan.run, phase: name, at_s });
    }

    fn end(&mut self) {
        let now = self.now();
        if let Some(phase) = self.record.phases.last_mut()
            && phase.to_s <= phase.from_s
        {
            phase.to_s = now;
        }
    }

    /// Tells an answer.
    pub(super) fn tell(&mut self, place: usize, phase: &str, answer: &Answer, sink: &mut Sink) {
        self.progress.take(place, answer);
        let probe = &self.probes[place].name;
        sink.write(&Event::Answer { run: &self.plan.run, probe, phase, answer });
        if phase != "faults" {
            self.show_rest();
        }
    }

    /// Asks some probes at once. `Err` with the signal that came meanwhile.
    pub(super) async fn ask(&mut self, places: Vec<usize>) -> Result<Vec<(usize, Answer)>, i32> {
        let mut asking = JoinSet::new();
        for place in places {
            let (probe, scene, start) =
                (Arc::clone(&self.probes[place]), Arc::clone(&self.scene), self.start);
            asking.spawn(async move { (place, ask::ask(&probe, &scene, start).await) });
        }
        let mut answers = vec![];
        loop {
            tokio::select! {
                arrived = self.signals.next() => match arrived {
                    Ok(arrived) => return Err(arrived.signal as i32),
                    Err(error) => {
                        log::warn!("signals cannot be read: {error}");
                        return Err(nix::libc::SIGTERM);
                    }
                },
                answer = asking.join_next() => match answer {
                    Some(Ok(answer)) => answers.push(answer),
                    Some(Err(error)) => log::warn!("a probe died: {error}"),
                    None => {
                        answers.sort_by_key(|(place, _)| *place);
                        return Ok(answers);
                    }
                },
            }
        }
    }
}

fn say(note: &Note, sink: &Sink) {
    if !sink.is_stderr() {
        console::say(&format!("{:8.3} s  {}\n", note.at_s, note.text));
    }
}
