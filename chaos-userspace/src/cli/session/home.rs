//! Where a run lives: in an engine of its own, or in one that hosts others.

use crate::{
    inject::engine::{Closed, Engine, Error, Placement},
    plan::Plan,
};
use chaos_common::{counter::RuleCounters, latency::Held};
use std::{cell::RefCell, rc::Rc, time::Duration};

/// How soon lines are looked at again that are not empty.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Counters, what became of calls held back, and how often the kernel skipped a program, by rule.
type RunAccount = (Vec<RuleCounters>, Vec<Held>, Vec<u64>);

/// The engine, and the run's place in it.
pub enum Home {
    /// One of its own.
    Own(Box<Engine>),
    /// One that others have as well.
    Shared(Place),
}

/// A run's place in an engine that others have as well. It goes with this value.
pub struct Place {
    engine: Rc<RefCell<Engine>>,
    slot: Option<usize>,
}

impl Place {
    /// Takes a place for a run.
    ///
    /// # Errors
    /// Those of [`Engine::add_run`].
    pub fn take(engine: &Rc<RefCell<Engine>>, placement: &Placement<'_>) -> Result<Self, Error> {
        let slot = engine.borrow_mut().add_run(placement)?;
        Ok(Self { engine: Rc::clone(engine), slot: Some(slot) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let closed = self.engine.borrow_mut().remove_run(slot);
            for problem in closed.into_iter().flat_map(|closed| closed.problems) {
                log::warn!("a run that was given up: {problem}");
            }
        }
    }
}

impl Home {
    /// Works on the engine, and with the run's slot.
    pub fn with<T>(&mut self, work: impl FnOnce(&mut Engine, usize) -> T) -> T {
        match self {
            Self::Own(engine) => work(engine, 0),
            // One that has ended is asked for no more.
            Self::Shared(place) => work(&mut place.engine.borrow_mut(), place.slot.unwrap_or(usize::MAX)),
        }
    }

    /// The same without changing anything.
    pub fn look<T>(&self, work: impl FnOnce(&Engine, usize) -> T) -> T {
        match self {
            Self::Own(engine) => work(engine, 0),
            Self::Shared(place) => work(&place.engine.borrow(), place.slot.unwrap_or(usize::MAX)),
        }
    }

    /// Counters, what became of calls held back, and how often the kernel skipped a program, by rule.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn account(&self) -> Result<RunAccount, Error> {
        self.look(|engine, slot| {
            let (counters, held) = engine.account_of(slot)?;
            Ok((counters, held, engine.missed_of(slot)))
        })
    }

    /// Goes on with this plan; see [`Engine::change`].
    ///
    /// # Errors
    /// Those of [`Engine::change`].
    pub fn change(&mut self, plan: &Plan) -> Result<(), Error> {
        self.with(|engine, slot| engine.change(slot, plan))
    }

    /// While packets that the run has held back come out of their lines, an engine that others have as well is there for them.
    pub async fn let_out(&mut self) {
        if matches!(self, Self::Own(_)) {
            return;
        }
        self.look(Engine::disarm);
        while self.with(Engine::holds_back) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Takes everything of the run away.
    pub fn end(self) -> Option<Closed> {
        match self {
            Self::Own(engine) => {
                engine.disarm(0);
                Some(engine.close())
            }
            Self::Shared(mut place) => {
                let slot = place.slot.take()?;
                place.engine.borrow_mut().remove_run(slot)
            }
        }
    }
}
