//! A run while it lives: what `exec` and `inject` share between a plan and a summary.

mod ends;
mod home;
mod restarts;

pub use ends::Ends;
pub use home::{Home, Place};

use super::{
    console,
    events::Events,
    exit,
    failure::Failure,
    run::{self, Account, Ending},
    set,
    signals::{Arrived, Signals},
    target::Chosen,
};
use crate::{
    host::{
        cgroup::{Cgroup, Hierarchy},
        link_events::LinkEvents,
        process,
    },
    inject::{
        engine::{self, Closed, Engine, Grace, Placement},
        seccomp::Filter,
        watch::CallWatch,
    },
    observe::{
        bystander::Bystander, devices::DeviceNews, kernel_log::Forwarder, namespaces::Namespaces,
        recorder::Recorder, targets::Targets,
    },
    plan::{Plan, sockets::ForeignSockets},
    report::{
        event::{Event, Sink},
        summary::{RuleSummary, Summary},
    },
    runs::{
        message::{Answer, CHOSEN_MAX, Drawn, Request, RuleStatus, State, Status},
        progress::Progress,
        server::{Caller, Server},
    },
};
use chaos_common::{counter::Outcome, namespace::Entered};
use nix::sys::signal::{SigSet, Signal};
use std::{cell::RefCell, future::Future, io, os::fd::OwnedFd, pin::Pin, rc::Rc, sync::Arc, time::Instant};
use tokio::time::{Sleep, sleep};

/// Runs a session's work on a runtime of its own, on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    runtime.block_on(work)
}

/// What happened to a session.
#[derive(Clone, Copy, Debug)]
pub enum News {
    /// Somebody asks for the end; nothing acts any more.
    Signal(Arrived),
    /// The duration is over, or all runs of this host are halted.
    Over,
}

/// How a run is watched.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'a> {
    /// Beside a bystander.
    pub with_bystander: bool,
    /// Which single events are written.
    pub events: &'a Events,
    /// How much is said.
    pub verbose: u8,
}

/// One run of an engine of its own.
pub struct Session<'a> {
    plan: Plan,
    chosen: &'a Chosen,
    command: &'static str,
    armed: Option<Instant>,
    server: Option<Server>,
    /// Who waits for the end.
    waiting: Vec<Caller>,
    engine: Option<Home>,
    closed: Option<Closed>,
    kernel_log: Option<Forwarder>,
    recorder: Option<Recorder>,
    ends: Ends,
    /// Those for whose sake nets are spread: this process, and who has asked for the run if that is another one, each with its
    /// ancestors.
    lineages: Vec<Vec<i32>>,
    device_news: DeviceNews,
    namespaces: Namespaces,
    /// Those that are followed when they are made anew, and the lever.
    targets: Targets,
    over: Option<Pin<Box<Sleep>>>,
    bystander: Option<Bystander>,
    /// Its shares follow a timetable.
    follows: bool,
    /// By rule: what was drawn before its present share was asked for.
    drawn_before: Vec<Drawn>,
    /// Safety nets that would have refused it.
    pub allowed: Vec<&'static str>,
    /// Sockets that its targets use and did not create.
    foreign_sockets: ForeignSockets,
    /// Looks on at the targets' calls, also at those of targets that are made anew.
    pub call_watch: Option<Arc<CallWatch>>,
    /// The experiment that it is part of.
    pub progress: Option<Progress>,
    /// How it ends.
    pub ending: Ending,
}

impl<'a> Session<'a> {
    /// Attaches everything and tells the run's id; nothing acts yet. With `made_cgroup` the one target is a fresh one, whose
    /// first exec arms the run.
    pub fn open(
        plan: &Plan,
        chosen: &'a Chosen,
        made_cgroup: bool,
        watch: Watch<'_>,
        sink: &Sink,
    ) -> Result<Self, Failure> {
        let Watch { with_bystander, events, verbose } = watch;
        // First, since it is the caller's to put right.
        let events = events.open()?;
        // Heard before it is looked at: a lever pulled between the two is not missed.
        let mut targets = Targets::listen(Hierarchy::find()?).map_err(Failure::internal)?;
        super::halt::check()?;
        let bystander = with_bystander.then(|| Bystander::start(&plan.run)).transpose()?;
        // Before any thread is started, so that the signals wait for us on all of them.
        let signals = Signals::take().map_err(Failure::internal)?;
        let placement =
            Placement { plan, cgroups: chosen.cgroups.iter().collect(), await_exec: made_cgroup, home: None };
        // A run does not fail because its targets cannot be found again.
        if let Err(error) = targets.follow(&chosen.cgroups) {
            log::warn!("targets that are made anew are not found again: {error}");
        }
        chosen.check_current()?;
        let engine = {
            let recording = events.as_ref().map(|events| events.recording);
            Engine::open(&[placement], run::options(made_cgroup, verbose, recording))?
        };
        // Who has taken a name before its targets were watched is not hit, but not left out without a word either.
        chosen.check_current()?;
        let recorder = match events {
            Some(events) => {
                Some(Recorder::start(engine.events()?, events.out, &plan.run).map_err(Failure::internal)?)
            }
            None => None,
        };
        let kernel_log = forward_kernel_log(&engine, verbose);
        let news = engine.device_news().map_err(Failure::internal)?;
        let namespaces = Namespaces::listen(engine.entered()?).map_err(Failure::internal)?;
        let mut session = Self::begin(
            plan,
            chosen,
            Home::Own(Box::new(engine)),
            (Ends::Process(signals), vec![process::lineage()]),
            (targets, news, namespaces),
            sink,
        )?;
        if made_cgroup {
            session.command = "exec";
        } else {
            session.foreign_sockets = run::warn_of_sockets(plan, chosen, &Hierarchy::find()?);
        }
        (session.kernel_log, session.recorder, session.bystander) = (kernel_log, recorder, bystander);
        Ok(session)
    }

    /// The same in an engine that others have as well, for somebody else: `ends` tells when its end is asked for, `caller` is
    /// who asks for the run.
    pub fn join(
        plan: &Plan,
        chosen: &'a Chosen,
        engine: &Rc<RefCell<Engine>>,
        (ends, caller): (Ends, i32),
        with_bystander: bool,
        sink: &Sink,
    ) -> Result<Self, Failure> {
        let mut targets = Targets::listen(Hierarchy::find()?).map_err(Failure::internal)?;
        super::halt::check()?;
        let bystander = with_bystander.then(|| Bystander::start(&plan.run)).transpose()?;
        let cgroups = chosen.cgroups.iter().collect();
        let placement = Placement { plan, cgroups, await_exec: false, home: Some(caller) };
        if let Err(error) = targets.follow(&chosen.cgroups) {
            log::warn!("targets that are made anew are not found again: {error}");
        }
        chosen.check_current()?;
        let place = Place::take(engine, &placement)?;
        chosen.check_current()?;
        let home = Home::Shared(place);
        let news = home.look(|engine, slot| engine.device_news_of(slot)).map_err(Failure::internal)?;
        let lineages = vec![process::lineage_of(caller), process::lineage()];
        // Which of the runs an entered namespace is for, the kernel programs do not tell.
        let namespaces = Namespaces::listen(None).map_err(Failure::internal)?;
        let followed = (targets, news, namespaces);
        let mut session = Self::begin(plan, chosen, home, (ends, lineages), followed, sink)?;
        session.foreign_sockets = run::warn_of_sockets(plan, chosen, &Hierarchy::find()?);
        session.bystander = bystander;
        Ok(session)
    }

    fn begin(
        plan: &Plan,
        chosen: &'a Chosen,
        home: Home,
        (ends, lineages): (Ends, Vec<Vec<i32>>),
        (targets, news, namespaces): (Targets, Vec<LinkEvents>, Namespaces),
        sink: &Sink,
    ) -> Result<Self, Failure> {
        let device_news = DeviceNews::default();
        device_news.listen(news).map_err(Failure::internal)?;
        let server = Server::start(&plan.run)
            .inspect_err(|error| log::warn!("nobody can list or stop this run by its id: {error}"))
            .ok();
        console::tell(sink, &format!("kchaos {}: {}\n", plan.run, chosen.in_words()), false);
        Ok(Self {
            plan: plan.clone(),
            chosen,
            command: "inject",
            armed: None,
            server,
            waiting: vec![],
            engine: Some(home),
            closed: None,
            kernel_log: None,
            recorder: None,
            ends,
            lineages,
            device_news,
            namespaces,
            targets,
            over: None,
            bystander: None,
            follows: false,
            drawn_before: vec![Drawn::default(); plan.rules.len()],
            allowed: vec![],
            foreign_sockets: ForeignSockets::default(),
            call_watch: None,
            progress: None,
            ending: Ending::default(),
        })
    }

    /// Whether it can be listed and stopped by its id.
    pub fn is_reachable(&self) -> bool {
        self.server.is_some()
    }

    /// What the caller of this process had blocked: a command we start gets it back.
    pub fn mask_before(&self) -> SigSet {
        self.ends.mask_before()
    }

    /// What a command of this run has to be started behind, if anything.
    pub fn filter(&self) -> Option<Filter> {
        self.engine.as_ref().and_then(|home| home.look(|engine, _| engine.filter()))
    }

    /// Answers for calls that wait at `listener`.
    pub fn receive(&mut self, listener: OwnedFd) -> io::Result<()> {
        match &mut self.engine {
            Some(home) => home.with(|engine, _| engine.receive(listener)),
            None => Err(io::Error::other("the run is over")),
        }
    }

    /// Arms the run, or waits until the exec of the command with this pid has, and tells.
    pub fn arm(&mut self, command: Option<u32>, sink: &mut Sink) -> Result<(), Failure> {
        if let Some(home) = &mut self.engine {
            home.with(|engine, slot| {
                for attachment in engine.attachments() {
                    log::info!("attached {attachment}");
                }
                match command {
                    Some(_) => engine.wait_armed(slot),
                    None => {
                        engine.arm(slot);
                        Ok(())
                    }
                }
            })
            .map_err(Failure::internal)?;
        }
        self.armed = Some(Instant::now());
        // Those that were down, and what has appeared since the engine listed them.
        self.engine.iter_mut().for_each(follow_devices);
        self.over = self.plan.duration.map(|duration| Box::pin(sleep(duration)));
        sink.write(&Event::Armed {
            run: &self.plan.run,
            pid: command,
            cgroup: self.chosen.first()?.path(),
            targets: self.chosen.cgroups.len(),
        });
        Ok(())
    }

    /// The next thing that happens. May be dropped while it waits.
    pub async fn next(&mut self, sink: &mut Sink) -> Result<News, Failure> {
        loop {
            let caller = async {
                match &mut self.server {
                    Some(server) => server.next().await,
                    None => None,
                }
            };
            let over = async {
                match self.over.as_mut() {
                    Some(over) => over.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                arrived = self.ends.next() => {
                    return Ok(self.interrupted(arrived.map_err(Failure::internal)?));
                }
                () = self.device_news.next() => self.engine.iter_mut().for_each(follow_devices),
                entered = self.namespaces.next() => self.follow_entered(&entered),
                changes = self.targets.next() => {
                    if self.heed(changes, sink) {
                        self.ending.halted = true;
                        self.disarm();
                        return Ok(News::Over);
                    }
                }
                Some(caller) = caller => {
                    if let Some(news) = self.hear(caller, sink) {
                        return Ok(news);
                    }
                }
                () = over => {
                    self.over = None;
                    return Ok(News::Over);
                }
            }
        }
    }

    /// Judges packets also where the targets make sockets now. What cannot be judged must not end the run, but be told.
    fn follow_entered(&mut self, entered: &[Entered]) {
        let Some(home) = &mut self.engine else { return };
        let processes = || self.chosen.cgroups.iter().flat_map(Cgroup::processes).collect();
        let followed = home.with(|engine, _| engine.follow_entered(entered, processes));
        if let Err(error) = listen_to(followed, &self.device_news) {
            log::warn!("packets leaving a network namespace that was entered are not judged: {error}");
        }
    }

    /// Nothing acts any more.
    pub fn disarm(&self) {
        self.engine.iter().for_each(|home| home.look(|engine, slot| engine.disarm(slot)));
    }

    /// Faults inflicted so far, by all rules.
    pub fn injected(&self) -> Result<u64, Failure> {
        let counters = match (&self.engine, &self.closed) {
            (Some(home), _) => home.account()?.0,
            (None, closed) => closed.iter().flat_map(|closed| closed.counters.clone()).collect(),
        };
        let of_rule =
            |rule: &chaos_common::counter::RuleCounters| rule.outcomes[Outcome::Injected as usize].events;
        Ok(counters.iter().map(of_rule).sum())
    }

    /// By rule: events that were inflicted so far, and those that only the draw has spared.
    pub fn drawn(&self) -> Result<Vec<Drawn>, Failure> {
        let counters = match (&self.engine, &self.closed) {
            (Some(home), _) => home.account()?.0,
            (None, closed) => closed.iter().flat_map(|closed| closed.counters.clone()).collect(),
        };
        let of_rule = |rule: &chaos_common::counter::RuleCounters| Drawn {
            injected: rule.outcomes[Outcome::Injected as usize].events,
            spared: rule.outcomes[Outcome::Chance as usize].events,
        };
        Ok(counters.iter().map(of_rule).collect())
    }

    /// The summary is about this plan, of which the one that acts now is a part.
    pub fn account_for(&mut self, plan: &Plan) {
        self.plan = plan.clone();
    }

    /// When it was armed, if it was.
    pub fn armed_at(&self) -> Option<Instant> {
        self.armed
    }

    /// From now on its shares follow a timetable, and nobody else changes them.
    pub fn will_follow(&mut self) {
        self.follows = true;
    }

    /// Goes on with other shares at once. The old ones may act until the grace period is over.
    pub fn follow(&mut self, plan: &Plan) -> Result<Grace, Failure> {
        let engine = self.engine.as_mut().ok_or_else(|| Failure::internal("the faults have ended"))?;
        let grace = engine.with(|engine, slot| engine.exchange(slot, plan))?;
        self.plan = plan.clone();
        Ok(grace)
    }

    /// The present share of this rule counts from here.
    pub fn share_begins(&mut self, rule: usize, drawn: Drawn) {
        if let Some(before) = self.drawn_before.get_mut(rule) {
            *before = drawn;
        }
    }

    /// Calls it by this name in `kchaos list`.
    pub fn name(&mut self, command: &'static str) {
        self.command = command;
    }

    /// Who asks for the end wants the faults to end, whatever a command does about it.
    fn interrupted(&mut self, arrived: Arrived) -> News {
        self.disarm();
        self.ending.interrupted_by.get_or_insert(arrived.signal as i32);
        News::Signal(arrived)
    }

    /// Does what is asked. A request to stop is heard as the signal that asks for the same.
    fn hear(&mut self, caller: Caller, sink: &mut Sink) -> Option<News> {
        let answer = match &caller.request {
            Request::Stop => {
                self.waiting.push(caller);
                return Some(self.interrupted(Arrived { signal: Signal::SIGTERM, from_terminal: false }));
            }
            Request::Status => self.status().map(Answer::Status),
            Request::Join { .. } => Err(Failure::new(exit::USAGE, "a run hosts no others: ask the engine")),
            Request::Set { words } => self.set(words, sink).map(|faults| Answer::Set { faults }),
        };
        let answer =
            answer.unwrap_or_else(|failure| Answer::Refused { code: failure.code, message: failure.message });
        tokio::spawn(async move { caller.answer(&answer).await });
        None
    }

    fn set(&mut self, words: &[String], sink: &mut Sink) -> Result<Vec<String>, Failure> {
        let Some(engine) = self.engine.as_mut().filter(|_| self.ending.interrupted_by.is_none()) else {
            return Err(Failure::new(exit::USAGE, "the faults of this run have ended"));
        };
        if self.follows {
            return Err(Failure::new(
                exit::USAGE,
                "the shares of this run follow its schedule: change the file, stop the run and start another",
            ));
        }
        let wanted = set::plan(words, &self.plan)?;
        engine.change(&wanted)?;
        self.plan = wanted;
        self.drawn_before = self.drawn()?;
        let faults: Vec<_> = self.plan.rules.iter().map(|rule| rule.fault.to_string()).collect();
        sink.write(&Event::Set { run: &self.plan.run, faults: &faults });
        Ok(faults)
    }

    /// How it goes.
    pub fn status(&self) -> Result<Status, Failure> {
        let (counters, held, missed) = match (&self.engine, &self.closed) {
            (Some(home), _) => home.account()?,
            (None, Some(closed)) => (closed.counters.clone(), closed.held.clone(), closed.missed.clone()),
            (None, None) => return Err(Failure::internal("there is no engine")),
        };
        let ended = self.engine.is_none() || self.ending.interrupted_by.is_some();
        let rules = RuleSummary::all(&self.plan, &counters, &missed, &held);
        let rules = self.plan.rules.iter().zip(&rules).zip(&self.drawn_before);
        let remaining =
            self.over.as_ref().map(|over| over.deadline().duration_since(tokio::time::Instant::now()));
        let state = match self.armed {
            _ if ended => State::Ended,
            None => State::Starting,
            Some(_) => State::Armed,
        };
        let rules = rules.map(|((rule, sum), before)| RuleStatus::new(&rule.fault, sum, *before)).collect();
        Ok(Status {
            armed_s: self.armed.map(|since| since.elapsed().as_secs_f64()),
            remaining_s: remaining.filter(|_| !ended).map(|left| left.as_secs_f64()),
            restarted: self.restarted().into_iter().take(CHOSEN_MAX).collect(),
            experiment: self.progress.clone().map(Box::new),
            ..status_at_rest(&self.plan, self.command, self.chosen, state, rules)?
        })
    }

    /// Takes everything away; what it was is told by [`Session::finish`].
    pub fn close(&mut self) {
        if let Some(home) = self.engine.take() {
            self.closed = home.end();
        }
    }

    /// Takes away what is left, tells the summary and returns it.
    pub async fn finish(mut self, sink: &mut Sink) -> Result<Summary, Failure> {
        if let Some(home) = &mut self.engine {
            home.let_out().await;
        }
        self.close();
        let restarted = self.restarted();
        if let Some(kernel_log) = self.kernel_log {
            kernel_log.finish().await;
        }
        let closed = self.closed.ok_or_else(|| Failure::internal("the engine was closed twice"))?;
        let account = Account {
            plan: &self.plan,
            chosen: self.chosen,
            restarted,
            allowed: self.allowed,
            foreign_sockets: self.foreign_sockets,
            closed,
            bystander: self.bystander,
            recorder: self.recorder,
            ending: self.ending,
        };
        let summary = run::summarize(account, sink);
        // From here on the run is unknown.
        drop(self.server);
        for caller in self.waiting {
            let answer = Answer::Stopped {
                code: summary.code,
                outcome: summary.outcome.to_owned(),
                summary: serde_json::json!(summary),
            };
            caller.answer(&answer).await;
        }
        Ok(summary)
    }
}

/// How a run goes that nobody measures the time of: what it is to do, to whom, and what it came to.
pub fn status_at_rest(
    plan: &Plan,
    command: &str,
    chosen: &Chosen,
    state: State,
    rules: Vec<RuleStatus>,
) -> Result<Status, Failure> {
    let paths = chosen.cgroups.iter().map(|cgroup| cgroup.path().to_path_buf());
    Ok(Status {
        run: plan.run.clone(),
        command: command.to_owned(),
        pid: std::process::id(),
        state,
        cgroup: chosen.first()?.path().to_path_buf(),
        targets: chosen.cgroups.len(),
        observe: plan.observe,
        armed_s: None,
        remaining_s: None,
        rules,
        chosen: paths.take(CHOSEN_MAX).collect(),
        restarted: vec![],
        experiment: None,
    })
}

/// Starts to forward what the kernel programs say, if they were asked to.
fn forward_kernel_log(engine: &Engine, verbose: u8) -> Option<Forwarder> {
    if run::options(false, verbose, None).log_level == 0 {
        return None;
    }
    let programs = engine.program_ids();
    // All programs share one buffer; some say nothing and do not refer to it.
    let forwarder = programs.iter().find_map(|program| Forwarder::start(*program).ok());
    if forwarder.is_none() {
        log::warn!("the kernel programs' messages cannot be shown: none of {programs:?} has a log");
    }
    forwarder
}

/// Listens to news of devices in namespaces that are judged from now on.
fn listen_to(followed: Result<Vec<LinkEvents>, engine::Error>, news: &DeviceNews) -> Result<(), String> {
    let followed = followed.map_err(|error| error.to_string())?;
    news.listen(followed).map_err(|error| error.to_string())
}

/// Attaches to devices that have appeared. A device that cannot be judged must not end the run, but be told.
fn follow_devices(home: &mut Home) {
    match home.with(|engine, _| engine.follow_devices()) {
        Ok(0) => {}
        Ok(count) => log::info!("attached to {count} more devices"),
        Err(error) => log::warn!("packets leaving a new device are not judged: {error}"),
    }
}
