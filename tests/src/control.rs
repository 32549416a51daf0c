//! Asking live runs by `kchaos list`, `status`, `set` and `stop`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::kchaos::binary;
use crate::spawn::Place;

/// What a question brought.
pub struct Asked {
    /// Exit status.
    pub status: i32,
    /// The events on standard output.
    pub events: Vec<Value>,
    /// Everything on standard error.
    pub said: String,
}

impl Asked {
    /// Fails unless it worked.
    pub fn fine(self) -> Result<Self> {
        ensure!(self.status == 0, "status {}: {}", self.status, self.said);
        Ok(self)
    }

    /// The only event.
    pub fn event(&self) -> Result<&Value> {
        ensure!(self.events.len() == 1, "{:?}: {}", self.events, self.said);
        Ok(&self.events[0])
    }

    /// The event about a run, if there is one.
    pub fn about(&self, run: &str) -> Option<&Value> {
        self.events.iter().find(|event| event["run"] == run)
    }
}

/// Runs `kchaos LINE --json` in a place.
pub fn ask_from(place: &Place, line: &str) -> Result<Asked> {
    let mut command = Command::new(binary()?);
    command.args(line.split_whitespace()).arg("--json").stdin(Stdio::null());
    place.apply(&mut command)?;
    let output = command.output().with_context(|| format!("running kchaos {line}"))?;
    let events = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no event: {line}")))
        .collect::<Result<_>>()?;
    Ok(Asked {
        status: output.status.code().unwrap_or(-1),
        events,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs `kchaos LINE --json`.
pub fn ask(line: &str) -> Result<Asked> {
    ask_from(&Place::default(), line)
}

/// Whether `kchaos list` shows a run.
pub fn is_listed(run: &str) -> Result<bool> {
    Ok(ask("list")?.fine()?.about(run).is_some())
}
