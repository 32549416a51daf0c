//! Under fault: what holds, and when to give up.

use super::{
    super::{
        events::Events,
        failure::Failure,
        session::{News, Session, Watch},
    },
    course::Course,
    follow::{Follower, Moment},
    view,
};
use crate::{
    cli::exit,
    experiment::record::{AbortRecord, FaultRecord},
    report::event::Sink,
    steady::{
        abort::Condition,
        ask::{self, Answer},
    },
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, interval_at},
};

/// How often files and the count of faults are looked at, if the experiment is given up for them.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How faults end.
enum End {
    /// Their time is over, or all runs of the host are halted.
    Over,
    /// Somebody asks for it.
    Interrupted(i32),
    /// A condition was met, at this time.
    Given { up: String, since: Instant },
}

impl Course<'_> {
    /// Injects, watches and takes everything away.
    pub(super) async fn during(
        &mut self,
        allowed: Vec<&'static str>,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let events = Events::default();
        let watch =
            Watch { with_bystander: self.experiment.with_bystander, events: &events, verbose: self.verbose };
        let mut follower = self.timetable.as_ref().map(|timetable| Follower::new(self.plan, timetable));
        let plan = follower.as_ref().map_or_else(|| self.plan.clone(), Follower::plan);
        let mut session = Session::open(&plan, self.chosen, false, watch, sink)?;
        session.name("run");
        session.allowed = allowed;
        session.call_watch = self.scene.calls.as_ref().map(ask::Watched::watch);
        if follower.is_some() {
            session.will_follow();
        }
        session.arm(None, sink)?;
        let armed = session.armed_at().unwrap_or_else(Instant::now);
        let armed_at = self.now();
        if let Some(phase) = self.record.phases.last_mut() {
            phase.from_s = armed_at;
        }
        self.note(sink, "faults act");
        self.injected = Some(0);
        if let Some(change) = follower.as_mut().map(|follower| follower.begin(armed)) {
            self.tell_change(change, sink);
        }
        let mut asking = JoinSet::new();
        let mut answers = self.keep_asking(&mut asking, armed);
        let watched = self.experiment.abort.iter().any(is_looked_at);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = interval(view::PERIOD);
        shown.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            tokio::select! {
                biased;
                news = session.next(sink) => match news {
                    Ok(News::Over) => break Ok(End::Over),
                    Ok(News::Signal(arrived)) => break Ok(End::Interrupted(arrived.signal as i32)),
                    Err(failure) => break Err(failure),
                },
                moment = next_of(&mut follower) => match (moment, &mut follower) {
                    (Moment::Due, Some(follower)) => match follower.turn(&mut session) {
                        Ok(Some(change)) => self.tell_change(change, sink),
                        Ok(None) => {}
                        Err(failure) => break Err(failure),
                    },
                    (Moment::Settled, Some(follower)) => if let Err(failure) = follower.settle(&mut session) {
                        break Err(failure);
                    },
                    (_, None) => {}
                },
                Some((place, answer)) = answers.recv() => {
                    let came = Instant::now();
                    if let Some(up) = self.hear(place, answer, sink) {
                        break Ok(End::Given { up, since: came });
                    }
                }
                _ = look.tick(), if watched => {
                    if let Some((up, since)) = self.look(&session) {
                        break Ok(End::Given { up, since });
                    }
                }
                _ = shown.tick() => self.show(&mut session),
            }
        };
        session.disarm();
        let disarmed = Instant::now();
        let counted = session.injected();
        let looked = Instant::now();
        if let Some(phase) = self.record.phases.last_mut() {
            phase.to_s = disarmed.duration_since(self.start).as_secs_f64();
        }
        // What is still waited for was asked under fault, but not answered.
        asking.abort_all();
        let halted = session.ending.halted;
        if let Ok(End::Given { .. }) = end {
            session.ending.aborted = true;
        }
        if let Some(follower) = &follower {
            session.account_for(follower.base());
        }
        let summary = session.finish(sink).await?;
        let is_over = matches!(end, Ok(End::Over)) && !halted;
        let last_known = counted.is_ok_and(|counted| counted == summary.injected());
        match end {
            Ok(End::Over) if halted => {
                self.aborted = Some("all runs of this host were halted".to_owned());
                self.note(sink, "halted");
            }
            Ok(End::Over) => self.note(sink, "faults are over"),
            Ok(End::Interrupted(signal)) => {
                self.interrupted = Some(signal);
                self.note(sink, format!("interrupted by signal {signal}"));
            }
            Ok(End::Given { up, since }) => {
                let milliseconds = |to: Instant| to.saturating_duration_since(since).as_secs_f64() * 1e3;
                let abort = AbortRecord {
                    condition: up.clone(),
                    at_s: since.saturating_duration_since(self.start).as_secs_f64(),
                    disarmed_ms: milliseconds(disarmed),
                    last_fault_within_ms: last_known.then(|| milliseconds(looked)),
                };
                let last = abort.last_fault_within_ms.unwrap_or(abort.disarmed_ms);
                self.note(
                    sink,
                    format!("given up: {up}; the last fault was inflicted at most {last:.2} ms later"),
                );
                self.record.abort = Some(abort);
                self.aborted = Some(up);
            }
            Err(failure) => self.failed = Some((failure.code, failure.message)),
        }
        self.injected = Some(summary.injected());
        if summary.code == exit::ROLLBACK_INCOMPLETE {
            self.left.clone_from(&summary.undone.problems);
        }
        self.record.faults = FaultRecord::all(self.plan, &summary);
        if let Some(follower) = follower {
            self.close_stages(follower.stage(), is_over, disarmed, sink);
            self.close_courses(follower, armed, disarmed);
        }
        self.record.summary = serde_json::to_value(&summary).ok();
        self.came_to = Some(summary.rules);
        Ok(())
    }

    /// Asks all that is to be asked under fault, again and again; what belongs to a stage in its time.
    fn keep_asking(&self, asking: &mut JoinSet<()>, armed: Instant) -> mpsc::Receiver<(usize, Answer)> {
        let (sender, answers) = mpsc::channel(64);
        let stages = self.experiment.script.intervals();
        for (place, probe) in self.probes.iter().enumerate().filter(|(_, probe)| probe.is_asked_during()) {
            let (probe, scene, start) = (Arc::clone(probe), Arc::clone(&self.scene), self.start);
            let sender = sender.clone();
            let (from, to) = match probe.stage.and_then(|stage| stages.get(stage)) {
                Some((from, to)) => (armed + *from, Some(armed + *to)),
                None => (armed, None),
            };
            asking.spawn(async move {
                let mut tick = interval_at(from.max(Instant::now()).into(), probe.interval);
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    tick.tick().await;
                    if to.is_some_and(|to| Instant::now() >= to) {
                        return;
                    }
                    let answer = ask::ask(&probe, &scene, start).await;
                    if sender.send((place, answer)).await.is_err() {
                        return;
                    }
                }
            });
        }
        answers
    }

    /// Notes an answer; the condition that it meets.
    fn hear(&mut self, place: usize, answer: Answer, sink: &mut Sink) -> Option<String> {
        self.tell(place, "faults", &answer, sink);
        let name = self.probes[place].name.clone();
        let held_before = self.record.probes[place].during.last().is_none_or(|last| last.holds);
        if let (Some(problem), true) = (&answer.problem, held_before) {
            self.note(sink, format!("{name}: {problem}"));
        } else if answer.holds && !held_before {
            self.note(sink, format!("{name} holds again"));
        }
        let probe = &mut self.record.probes[place];
        probe.tally.add(answer.holds);
        probe.during.push(answer);
        let tally = probe.tally;
        let met = self.experiment.abort.iter().find(|condition| condition.is_met_by(&name, tally));
        met.map(ToString::to_string)
    }

    /// The condition that is met by something else than a probe, and since when.
    fn look(&self, session: &Session<'_>) -> Option<(String, Instant)> {
        let now = Instant::now();
        self.experiment.abort.iter().find_map(|condition| match condition {
            Condition::Injections(most) => {
                let injected = session.injected().ok().filter(|injected| injected >= most)?;
                Some((format!("{injected} faults were inflicted, at most {most} were wanted"), now))
            }
            Condition::File(path) => Some((condition.to_string(), appeared(path, now)?)),
            Condition::Consecutive { .. } | Condition::Failures { .. } | Condition::Budget { .. } => None,
        })
    }
}

/// What the timetable has next; nothing without one.
async fn next_of(follower: &mut Option<Follower>) -> Moment {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

fn is_looked_at(condition: &Condition) -> bool {
    matches!(condition, Condition::Injections(_) | Condition::File(_))
}

/// When a file appeared, by its own account where that is recent.
fn appeared(path: &Path, now: Instant) -> Option<Instant> {
    let metadata = path.symlink_metadata().ok()?;
    let age = metadata.modified().ok().and_then(|made| SystemTime::now().duration_since(made).ok());
    let age = age.filter(|age| *age < 10 * LOOK_EVERY).unwrap_or_default();
    Some(now.checked_sub(age).unwrap_or(now))
}
