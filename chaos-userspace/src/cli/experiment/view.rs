//! The live view of `kchaos run`: a thread that draws what the experiment tells and hears keys.

use super::course::Course;
use crate::{
    cli::{
        console,
        session::{Session, status_at_rest},
    },
    live::{
        draw::draw,
        keys::{self, Action},
        model::Board,
        sample::{Round, Sample},
        terminal::Lent,
        typed::Typed,
    },
    report::{event::Sink, summary::RuleSummary},
    runs::message::{Drawn, RuleStatus, State, Status},
};
use chaos_common::{counter::RuleCounters, latency::Held};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often the run is asked for what is shown.
pub(super) const PERIOD: Duration = Duration::from_millis(500);
/// A key is heard at once; what the experiment tells, within this time.
const TICK: Duration = Duration::from_millis(50);

/// A view that has the terminal. It gives it back when it is dropped.
pub(super) struct View {
    show: Option<Sender<Box<Status>>>,
    thread: Option<JoinHandle<()>>,
}

impl View {
    /// Takes the terminal, if there is one to look at and to type on. Signals that ask for an end must be blocked already.
    ///
    /// # Errors
    /// If the terminal cannot be switched.
    pub fn open(run: &str, sink: &Sink) -> io::Result<Option<Self>> {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if sink.is_stderr() || is_dumb || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Ok(None);
        }
        let lent = Lent::take()?;
        let (say, said) = mpsc::channel();
        let (show, shown) = mpsc::channel();
        console::lend(say);
        let board = Board::of_experiment(Instant::now(), run);
        let thread = thread::spawn(move || {
            if let Err(error) = watch(lent, board, &shown, &said) {
                // The terminal has gone, or somebody has taken it: the experiment goes on without a view.
                log::info!("the view has ended: {error}");
            }
            console::take_back();
        });
        Ok(Some(Self { show: Some(show), thread: Some(thread) }))
    }

    /// Shows how it goes.
    pub fn show(&self, status: Status) {
        // Nobody listens any more once the view was left.
        let _ = self.show.as_ref().map(|show| show.send(Box::new(status)));
    }
}

impl Drop for View {
    fn drop(&mut self) {
        drop(self.show.take());
        // A thread that has panicked has given the terminal back.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Course<'_> {
    /// Shows what happens on the terminal, if there is one.
    pub fn open_view(&mut self, sink: &Sink) {
        match View::open(&self.plan.run, sink) {
            Ok(view) => self.view = view,
            Err(error) => log::warn!("there is no live view: {error}"),
        }
    }

    /// Tells the session, which others ask, and the view how it goes.
    pub(super) fn show(&self, session: &mut Session<'_>) {
        session.progress = Some(self.progress.clone());
        if let Some(view) = &self.view {
            match session.status() {
                Ok(status) => view.show(status),
                Err(failure) => log::debug!("nothing to show: {}", failure.message),
            }
        }
    }

    /// Shows how it goes while no fault acts: before, or, with what it came to, after.
    pub(super) fn show_rest(&self) {
        let Some(view) = &self.view else { return };
        let count = self.plan.rules.len();
        let (nothing, none) = (vec![RuleCounters::default(); count], vec![Held::default(); count]);
        let before = RuleSummary::all(self.plan, &nothing, &vec![0; count], &none);
        let rules = self.plan.rules.iter().zip(self.came_to.as_ref().unwrap_or(&before));
        let rules = rules.map(|(rule, sum)| RuleStatus::new(&rule.fault, sum, Drawn::default())).collect();
        let state = if self.came_to.is_some() { State::Ended } else { State::Starting };
        match status_at_rest(self.plan, "run", self.chosen, state, rules) {
            Ok(status) => {
                view.show(Status { experiment: Some(Box::new(self.progress.clone())), ..status });
            }
            Err(failure) => log::debug!("nothing to show: {}", failure.message),
        }
    }
}

/// Until there is nothing more to show, or the view is left.
fn watch(
    mut lent: Lent,
    mut board: Board,
    shown: &Receiver<Box<Status>>,
    said: &Receiver<String>,
) -> io::Result<()> {
    let typed = Typed::listen();
    loop {
        for line in said.try_iter() {
            board.note(Instant::now(), line);
        }
        loop {
            match shown.try_recv() {
                Ok(status) => {
                    let samples = vec![Sample::of(*status)];
                    board.take(Round { at: Instant::now(), samples, problems: vec![] });
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        lent.draw(|frame| draw(frame, &board))?;
        if let Some(key) = typed.next(TICK)? {
            match keys::press(&mut board, key) {
                Action::Stay => {}
                Action::Leave => return Ok(()),
                // As Ctrl-C would, had the terminal not been asked to hand it on as a key.
                Action::Stop(_) => kill(Pid::this(), Signal::SIGINT)?,
            }
        }
    }
}
