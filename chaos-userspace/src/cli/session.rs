//! A run while it lives: what `exec` and `inject` share between a plan and a summary.

use super::{
    failure::Failure,
    run::{self, Ending},
    signals::{Arrived, Signals},
};
use crate::{
    host::cgroup::Cgroup,
    inject::engine::{Closed, Engine, Placement},
    observe::{bystander::Bystander, devices, kernel_log::Forwarder},
    plan::Plan,
    report::{
        event::{Event, Sink},
        summary::Summary,
    },
};
use nix::sys::signal::SigSet;
use std::{future::Future, pin::Pin};
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep},
};

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
    /// The duration is over.
    Over,
}

/// One run of an engine of its own.
pub struct Session<'a> {
    plan: &'a Plan,
    cgroup: &'a Cgroup,
    engine: Option<Engine>,
    closed: Option<Closed>,
    kernel_log: Option<Forwarder>,
    signals: Signals,
    device_news: mpsc::Receiver<()>,
    over: Option<Pin<Box<Sleep>>>,
    bystander: Option<Bystander>,
    /// How it ends.
    pub ending: Ending,
}

impl<'a> Session<'a> {
    /// Attaches everything; nothing acts yet. With `made_cgroup` the cgroup is a fresh one, whose first exec arms the
    /// run.
    pub fn open(
        plan: &'a Plan,
        cgroup: &'a Cgroup,
        made_cgroup: bool,
        with_bystander: bool,
        verbose: u8,
    ) -> Result<Self, Failure> {
        let bystander = with_bystander.then(|| Bystander::start(&plan.run)).transpose()?;
        // Before any thread is started, so that the signals wait for us on all of them.
        let signals = Signals::take().map_err(Failure::internal)?;
        let placement = Placement { plan, cgroup, await_exec: made_cgroup };
        let mut engine = Engine::open(&[placement], run::options(made_cgroup, verbose))?;
        let kernel_log = forward_kernel_log(&engine, verbose);
        let device_news = engine.device_news().and_then(devices::listen).map_err(Failure::internal)?;
        // What has appeared since the engine listed them.
        follow_devices(&mut engine);
        Ok(Self {
            plan,
            cgroup,
            engine: Some(engine),
            closed: None,
            kernel_log,
            signals,
            device_news,
            over: None,
            bystander,
            ending: Ending::default(),
        })
    }

    /// What the caller of this process had blocked: a command we start gets it back.
    pub fn mask_before(&self) -> SigSet {
        self.signals.mask_before()
    }

    /// Arms the run, or waits until the exec of the command with this pid has, and tells.
    pub fn arm(&mut self, command: Option<u32>, sink: &mut Sink) -> Result<(), Failure> {
        if let Some(engine) = &mut self.engine {
            match command {
                Some(_) => engine.wait_armed(0).map_err(Failure::internal)?,
                None => engine.arm(0),
            }
            for attachment in engine.attachments() {
                log::info!("attached {attachment}");
            }
        }
        self.over = self.plan.duration.map(|duration| Box::pin(sleep(duration)));
        sink.write(&Event::Armed { run: &self.plan.run, pid: command, cgroup: self.cgroup.path() });
        Ok(())
    }

    /// The next thing that happens. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<News, Failure> {
        loop {
            let over = async {
                match self.over.as_mut() {
                    Some(over) => over.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                arrived = self.signals.next() => {
                    let arrived = arrived.map_err(Failure::internal)?;
                    // Who asks for the end wants the faults to end, whatever a command does about it.
                    self.engine.iter().for_each(|engine| engine.disarm(0));
                    self.ending.interrupted_by.get_or_insert(arrived.signal as i32);
                    return Ok(News::Signal(arrived));
                }
                Some(()) = self.device_news.recv() => self.engine.iter_mut().for_each(follow_devices),
                () = over => {
                    self.over = None;
                    return Ok(News::Over);
                }
            }
        }
    }

    /// Takes everything away; what it was is told by [`Session::finish`].
    pub fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.disarm(0);
            self.closed = Some(engine.close());
        }
    }

    /// Takes away what is left, tells the summary and returns it.
    pub async fn finish(mut self, sink: &mut Sink) -> Result<Summary, Failure> {
        self.close();
        if let Some(kernel_log) = self.kernel_log {
            kernel_log.finish().await;
        }
        let closed = self.closed.ok_or_else(|| Failure::internal("the engine was closed twice"))?;
        Ok(run::summarize(self.plan, self.cgroup.path(), closed, self.bystander, self.ending, sink))
    }
}

/// Starts to forward what the kernel programs say, if they were asked to.
fn forward_kernel_log(engine: &Engine, verbose: u8) -> Option<Forwarder> {
    if run::options(false, verbose).log_level == 0 {
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

/// Attaches to devices that have appeared. A device that cannot be judged must not end the run, but be told.
fn follow_devices(engine: &mut Engine) {
    match engine.follow_devices() {
        Ok(0) => {}
        Ok(count) => log::info!("attached to {count} more devices"),
        Err(error) => log::warn!("packets leaving a new device are not judged: {error}"),
    }
}
