//! Schedules and stages as they are written.

use super::{
    document_fault::Fault,
    document_steady::Probe,
    text::{Offset, Share, Time},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// When a fault acts, and how much of it: ramp, steps, pulse or windows; all the time if none of them is said.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// When it begins; at once if nothing is said.
    pub start: Option<Start>,
    /// From one share to another, in equal steps; then it stays there.
    pub ramp: Option<Ramp>,
    /// One share after the other.
    #[schemars(length(min = 1))]
    pub steps: Option<Vec<Step>>,
    /// On and off in turn, beginning with on.
    pub pulse: Option<Pulse>,
    /// On in each of these only, counted from the start.
    #[schemars(length(min = 1))]
    pub windows: Option<Vec<Window>>,
    /// How often; a pulse goes on until the end if nothing is said, all others are done once.
    #[schemars(range(min = 1, max = 10000))]
    pub repeat: Option<u32>,
}

/// When a schedule begins.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// Not before so much time.
    pub after: Option<Time>,
    /// At a moment drawn by the seed from so much time behind that.
    pub within: Option<Time>,
}

/// From one share to another.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ramp {
    /// The first share.
    #[schemars(required)]
    pub from: Option<Share>,
    /// The last share.
    #[schemars(required)]
    pub to: Option<Share>,
    /// How long it takes.
    #[schemars(required)]
    pub over: Option<Time>,
    /// In so many steps of the same length; 20 if nothing is said, fewer if they were shorter than 10ms.
    #[schemars(range(min = 2, max = 1000))]
    pub steps: Option<u32>,
}

/// One share for some time.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// The share; 0% is rest.
    #[schemars(required)]
    pub share: Option<Share>,
    /// How long; only the last step can do without, and then lasts until the end.
    #[serde(rename = "for")]
    pub lasts: Option<Time>,
}

/// On and off in turn.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pulse {
    /// How long it acts.
    #[schemars(required)]
    pub on: Option<Time>,
    /// How long it rests.
    #[schemars(required)]
    pub off: Option<Time>,
}

/// A time in which a fault acts.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// When it acts again; 0s is the start.
    #[schemars(required)]
    pub from: Option<Offset>,
    /// When it rests again.
    #[schemars(required)]
    pub to: Option<Time>,
}

/// One part of a script: its own faults and expectations.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stage {
    /// What it is called in reports.
    #[schemars(required)]
    pub name: Option<String>,
    /// How long it lasts.
    #[schemars(required)]
    pub duration: Option<Time>,
    /// What is inflicted in it, in order.
    #[schemars(required, length(min = 1))]
    pub faults: Option<Vec<Fault>>,
    /// When its faults act, unless they say so themselves; counted from the stage's beginning.
    pub schedule: Option<Schedule>,
    /// What has to hold in this stage, beside what has to hold all the time.
    #[serde(default)]
    pub steady_state: Vec<Probe>,
}
