//! Flags that say which single packets and calls are written down.

use super::failure::Failure;
use crate::{cli::exit, inject::engine::Recording, observe::recorder, spec::units::Percent};
use chaos_common::event::{EVENTS_INJECTED, EVENTS_SEEN};
use clap::{Args, ValueEnum};
use std::{io::Write, path::PathBuf};

/// Flags shared by `exec` and `inject`.
#[derive(Args, Clone, Debug, Default)]
pub struct Events {
    /// Write each packet and call that is hit to FILE, as a line of JSON; - is standard error
    #[arg(long, value_name = "FILE", help_heading = "Events")]
    events: Option<PathBuf>,

    /// What is written
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        requires = "events",
        default_value = "injected",
        help_heading = "Events"
    )]
    events_of: Of,

    /// Write a share of it, drawn for each
    #[arg(
        long,
        value_name = "PERCENT",
        requires = "events",
        default_value = "100%",
        help_heading = "Events"
    )]
    events_share: String,
}

/// Which events.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Of {
    /// What a fault was inflicted on
    #[default]
    Injected,
    /// Everything of the target that reached a hook
    Seen,
}

/// Events to be written, and where.
pub struct Wanted {
    /// Which.
    pub recording: Recording,
    /// Where.
    pub out: Box<dyn Write + Send>,
}

impl Events {
    /// Whether any are written.
    pub fn are_asked_for(&self) -> bool {
        self.events.is_some()
    }

    /// Opens the file. `None` if nobody asked for events.
    pub fn open(&self) -> Result<Option<Wanted>, Failure> {
        let Some(path) = &self.events else { return Ok(None) };
        let usage = |message| Failure::new(exit::USAGE, message);
        let share: Percent =
            self.events_share.parse().map_err(|problem| usage(format!("--events-share: {problem}")))?;
        if share == Percent::NONE {
            return Err(usage("--events-share: 0% of the events are none: leave --events out".to_owned()));
        }
        let out = recorder::open(path)
            .map_err(|error| usage(format!("--events: cannot write {}: {error}", path.display())))?;
        let of = match self.events_of {
            Of::Injected => EVENTS_INJECTED,
            Of::Seen => EVENTS_SEEN,
        };
        Ok(Some(Wanted { recording: Recording { of, share_q32: share.q32() }, out }))
    }

    /// Whether they go to standard error.
    pub fn are_on_stderr(&self) -> bool {
        self.events.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}
