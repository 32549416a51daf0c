//! Who asks for the end of a run, beside those who ask by its id.

use crate::cli::signals::{Arrived, Signals};
use nix::sys::signal::SigSet;
use std::io;
use tokio::sync::mpsc::Receiver;

/// Where it comes from.
pub enum Ends {
    /// Signals of this process.
    Process(Signals),
    /// What happens to the process that has asked for the run, and to the engine that hosts it.
    Client(Receiver<Arrived>),
}

impl Ends {
    /// What the caller of this process had blocked; nothing of one that is somewhere else.
    pub fn mask_before(&self) -> SigSet {
        match self {
            Self::Process(signals) => signals.mask_before(),
            Self::Client(_) => SigSet::empty(),
        }
    }

    /// The next one. May be dropped while it waits.
    ///
    /// # Errors
    /// If signals cannot be read.
    pub async fn next(&mut self) -> io::Result<Arrived> {
        match self {
            Self::Process(signals) => signals.next().await,
            Self::Client(told) => match told.recv().await {
                Some(arrived) => Ok(arrived),
                // Nobody is left who could: it ends by itself.
                None => std::future::pending().await,
            },
        }
    }
}
