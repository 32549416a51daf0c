//! Targets that go and come again while a run lives.

use super::{Session, listen_to};
use crate::{
    cli::{console, safety},
    host::cgroup,
    observe::targets::{Change, Targets},
    plan::explain::shown,
    report::{
        event::{Event, Sink},
        restarts::Restarts,
    },
};
use std::{path::Path, time::Instant};

impl Session<'_> {
    /// Goes on with targets that come again. `true` if all runs are halted.
    pub(super) fn heed(&mut self, changes: Vec<Change>, sink: &mut Sink) -> bool {
        for change in changes {
            let at_s = self.armed.map_or(0.0, |since| since.elapsed().as_secs_f64());
            let run = &self.plan.run;
            let targets = &mut self.targets;
            let home = match (&change, &mut self.engine) {
                (Change::Halted, _) => return true,
                (_, Some(home)) => home,
                (_, None) => continue,
            };
            match change {
                Change::Gone(path) => {
                    targets.note(&path, true, at_s);
                    say(sink, run, &path, "has gone; what comes again by this name is hit as well");
                    sink.write(&Event::TargetGone { run, cgroup: &path, at_s });
                }
                Change::Back { cgroup, before, away } => {
                    let (path, since) = (cgroup.path(), Instant::now());
                    let watched = self
                        .call_watch
                        .as_ref()
                        .map_or(Ok(()), |watch| watch.replace_target(before, &cgroup));
                    match home.with(|engine, _| engine.replace_target(before, &cgroup)).and(watched) {
                        Ok(()) => {
                            let took_ms = since.elapsed().as_secs_f64() * 1e3;
                            let away_s = away.as_secs_f64();
                            targets.note(path, false, at_s);
                            say(sink, run, path, &format!("has come again after {away_s:.3} s, and is hit"));
                            sink.write(&Event::TargetBack { run, cgroup: path, at_s, away_s, took_ms });
                        }
                        Err(error) => {
                            let problem = format!("has come again, but is not hit everywhere: {error}");
                            lose(targets, sink, run, path, at_s, &problem);
                        }
                    }
                }
                Change::Look(path) => self.look(&path, at_s, sink),
                Change::Halted => {}
            }
        }
        false
    }

    /// Looks at the processes of a target that came again: whether they may be hit, and in which network namespaces they are.
    fn look(&mut self, path: &Path, at_s: f64, sink: &mut Sink) {
        let (Some(home), targets) = (&mut self.engine, &mut self.targets) else { return };
        let processes = cgroup::processes(path);
        let Some(id) = targets.id(path).filter(|_| !processes.is_empty()) else { return };
        if let Some(caught) = safety::caught_later(path, &processes, &self.chosen.allowed, &self.lineages) {
            let left = home.with(|engine, _| engine.leave_target(id));
            targets.leave(path);
            let problem = match left {
                Ok(()) => format!("has come again, and is not hit any more: {caught}"),
                Err(error) => format!("has come again, and must not be hit, but is: {caught}: {error}"),
            };
            lose(targets, sink, &self.plan.run, path, at_s, &problem);
            return;
        }
        let followed = home.with(|engine, slot| engine.follow_namespaces(slot, &processes));
        if let Err(error) = listen_to(followed, &self.device_news) {
            targets.stop_looking(path);
            let problem = format!("has come again, but not all its packets are judged: {error}");
            lose(targets, sink, &self.plan.run, path, at_s, &problem);
        }
    }

    /// Those of the targets that went, and came again.
    pub(super) fn restarted(&self) -> Vec<Restarts> {
        self.targets.restarts()
    }
}

/// Tells that a target which came again is not hit, or not everywhere.
fn lose(targets: &mut Targets, sink: &mut Sink, run: &str, path: &Path, at_s: f64, problem: &str) {
    targets.note_problem(path, problem);
    log::warn!("{} {problem}", shown(path));
    sink.write(&Event::TargetLost { run, cgroup: path, at_s, problem });
}

/// Says what has become of a target, to people.
fn say(sink: &Sink, run: &str, path: &Path, what: &str) {
    console::tell(sink, &format!("kchaos {run}: {} {what}\n", shown(path)), false);
}
