//! An experiment as it is written: the types of which the schema is made.
//!
//! Fields that must be there are optional here and required in the schema, so that what can be read of a faulty file is
//! read, and all its problems told.

use super::{
    document_fault::Fault,
    document_schedule::{Schedule, Stage},
    document_steady::{Abort, Probe},
    text::{HowMany, Time},
};
use crate::spec::syscall::Mechanism;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The one value of `apiVersion`.
pub const API_VERSION: &str = "kchaos.dev/v1alpha1";

/// A chaos experiment: whom it hits, with what, what has to hold meanwhile, and when it is given up.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// Version of this format.
    #[schemars(required)]
    pub api_version: Option<ApiVersion>,
    /// What the file describes.
    #[schemars(required)]
    pub kind: Option<Kind>,
    /// What it is called.
    #[schemars(required)]
    pub metadata: Option<Metadata>,
    /// The experiment.
    #[schemars(required)]
    pub spec: Option<Spec>,
}

/// Versions of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The only one so far.
    #[serde(rename = "kchaos.dev/v1alpha1")]
    V1Alpha1,
}

/// What a file can describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Kind {
    /// One experiment.
    Experiment,
}

/// What an experiment is called.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name of the experiment, shown in reports.
    #[schemars(required)]
    pub name: Option<String>,
    /// Labels of your own; kept in the report.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Notes of your own; kept in the report.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// The experiment.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "if" = { "required": ["stages"] },
    "then" = { "not": { "anyOf": [{ "required": ["faults"] }, { "required": ["duration"] }, { "required": ["schedule"] }] } },
    "else" = { "required": ["faults", "duration"] }
))]
pub struct Spec {
    /// What you believe, in your own words; the verdict is about it.
    #[schemars(required)]
    pub hypothesis: Option<String>,
    /// How long the faults act; the kernel ends them then. With stages, these say so.
    pub duration: Option<Time>,
    /// Whether faults act or are only counted.
    pub mode: Option<Mode>,
    /// Makes every random draw the same again (for one flow or one thread).
    pub seed: Option<u64>,
    /// Who is hit, with everything below.
    #[schemars(required, length(min = 1))]
    pub targets: Option<Vec<Target>>,
    /// How many of the targets are hit.
    pub selection: Option<Selection>,
    /// What is inflicted, in order. With stages, these say so.
    #[schemars(length(min = 1))]
    pub faults: Option<Vec<Fault>>,
    /// When the faults act, and how much of them, unless they say so themselves; all the time if nothing is said.
    pub schedule: Option<Schedule>,
    /// Parts that follow each other, each with its own faults and expectations, in place of faults and duration.
    #[schemars(length(min = 1, max = 64))]
    pub stages: Option<Vec<Stage>>,
    /// Calls whose failure can make a process unusable, and safety nets, that are meant to be passed.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Insist on one mechanism for system call faults.
    pub mechanism: Option<Mechanism>,
    /// Run a bystander in a sibling cgroup and report what it felt; true if nothing is said.
    pub bystander: Option<bool>,
    /// What has to hold: before the faults, while they act and afterwards.
    #[serde(default)]
    pub steady_state: Vec<Probe>,
    /// When the experiment is given up: at the first of these.
    #[serde(default)]
    pub abort: Vec<Abort>,
    /// How long the steady state may take to return after the faults; 30s if nothing is said.
    pub recovery: Option<Time>,
}

impl Spec {
    /// All faults, of all stages.
    pub fn all_faults(&self) -> impl Iterator<Item = &Fault> {
        let of_stages = self.stages.iter().flatten().flat_map(|stage| stage.faults.iter().flatten());
        self.faults.iter().flatten().chain(of_stages)
    }

    /// All probes, of all stages.
    pub fn all_probes(&self) -> Vec<&Probe> {
        let of_stages = self.stages.iter().flatten().flat_map(|stage| &stage.steady_state);
        self.steady_state.iter().chain(of_stages).collect()
    }
}

/// Whether faults act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// They do.
    #[default]
    Enforce,
    /// They are counted, but not carried out.
    Observe,
}

/// Who is hit: one of these.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// A cgroup v2 directory or its path below the mount; with *, ?, [a-z] and ** all that fit.
    pub cgroup: Option<String>,
    /// A systemd unit, or a pattern of names.
    pub unit: Option<String>,
    /// The cgroup that this process is in.
    #[schemars(range(min = 1, max = 4194304))]
    pub pid: Option<u32>,
    /// A container's name, its id, or the beginning of that.
    pub container: Option<String>,
    /// A pod, as NAMESPACE/NAME, or one container of it, as NAMESPACE/NAME:CONTAINER.
    pub pod: Option<String>,
    /// Labels of pods, as app=web,tier=front; with :CONTAINER one container of each.
    pub pod_label: Option<String>,
}

/// How many of the targets are hit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selection {
    /// How many: all, one, 3, 30% or random-max:30%.
    #[schemars(required)]
    pub count: Option<HowMany>,
    /// Draws the same ones again; without it the experiment's seed does.
    pub seed: Option<u64>,
}
