//! What a run did, in numbers.

use super::{held::HeldBack, restarts::Restarts};
use crate::{
    inject::line::Queue,
    observe::{bystander::Felt, recorder::Written},
    plan::{
        Mechanism, Plan, PlannedRule,
        explain::{paths, shown},
        sockets::ForeignSockets,
    },
    spec::Fault,
};
use chaos_common::{
    counter::{Counter, Outcome, RuleCounters},
    latency::Held,
    limits::TREE_MAX,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr, path::PathBuf};

/// The whole run.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The run.
    pub run: String,
    /// Exit code by its meaning (see [`crate::cli::exit`]).
    pub code: u8,
    /// The code in words.
    pub outcome: &'static str,
    /// Exit status of the command, for `exec`.
    pub exit_status: Option<i32>,
    /// Signal that ended the command, for `exec`.
    pub signal: Option<i32>,
    /// The target, or the first of several.
    pub cgroup: PathBuf,
    /// All targets that were hit.
    pub chosen: Vec<PathBuf>,
    /// Those that were spared by the selection.
    pub spared: Vec<PathBuf>,
    /// Safety nets that would have refused the run and were allowed.
    pub allowed: Vec<&'static str>,
    /// Sockets that the targets used at the start and that they had not created.
    #[serde(skip_serializing_if = "has_none")]
    pub foreign_sockets: ForeignSockets,
    /// Targets that went, and came again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restarted: Vec<Restarts>,
    /// Of processes that were hit alone (`--pid-only`): what they started beyond the room for it, and was not hit.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// In the order of the plan.
    pub rules: Vec<RuleSummary>,
    /// What became of packets in delay lines, if there were any.
    pub queue: Option<Queue>,
    /// What became of single events, if they were to be written.
    pub events: Option<EventCount>,
    /// Packets that left the target's sockets, but came to no egress hook: the run is inconclusive if there are any.
    /// `None` if leaving packets were not judged.
    pub escaped: Option<u64>,
    /// If packets escaped: neighbours that do not answer, which may be why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<IpAddr>,
    /// What the bystander felt, if there was one.
    pub bystander: Option<Felt>,
    /// The rollback.
    pub undone: Undone,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn has_none(sockets: &ForeignSockets) -> bool {
    !sockets.any()
}

/// One rule.
#[derive(Debug, Serialize)]
pub struct RuleSummary {
    /// Its name.
    pub name: String,
    /// `loss`, `delay`, `fail`, `slow`...
    pub fault: &'static str,
    /// The system call or class of calls, for `fail` and `slow`.
    pub call: Option<&'static str>,
    /// The hooks, by short name.
    pub mechanisms: Vec<&'static str>,
    /// Target events that reached the rule's hooks.
    pub seen: Count,
    /// Of those, matched: injected and spared.
    pub matched: Count,
    /// Of the matched, inflicted.
    pub injected: Count,
    /// How often the kernel skipped the rule's programs because a task was preempted inside them, for calls of any
    /// process on the host: at most so many of the target's calls were not seen.
    pub missed: u64,
    /// Functions of its calls on which somebody put a trampoline while it acted, past which it has no effect: how many of
    /// the injected were felt is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overtaken: Vec<String>,
    /// How long calls were held back, if any were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldBack>,
    /// Of the matched, let through, by reason.
    pub spared: std::collections::BTreeMap<&'static str, Count>,
}

/// Events of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Socket buffers or system calls.
    pub events: u64,
    /// Packets on the wire.
    pub segments: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<Counter> for Count {
    fn from(counter: Counter) -> Self {
        Self { events: counter.events, segments: counter.segments, bytes: counter.bytes }
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.segments += other.segments;
        self.bytes += other.bytes;
    }
}

/// What became of single events that were to be written.
#[derive(Debug, Serialize)]
pub struct EventCount {
    /// Written.
    pub written: u64,
    /// Lost, because they came faster than they could be written.
    pub lost: u64,
    /// Could not be written.
    pub failed: u64,
    /// Why.
    pub problem: Option<String>,
}

impl EventCount {
    /// What was written, and what the kernel programs had no room for.
    pub fn new(written: Written, lost: u64) -> Self {
        Self { written: written.events, lost, failed: written.failed, problem: written.problem }
    }
}

/// The rollback.
#[derive(Debug, Serialize)]
pub struct Undone {
    /// Links left.
    pub links: usize,
    /// Programs left.
    pub programs: usize,
    /// Whether the cgroup made for a command is gone; `true` where none was made.
    pub cgroup_removed: bool,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// What could not be undone.
    pub problems: Vec<String>,
}

impl RuleSummary {
    /// One per rule of the plan.
    pub fn all(plan: &Plan, counters: &[RuleCounters], missed: &[u64], held: &[Held]) -> Vec<Self> {
        plan.rules
            .iter()
            .zip(counters)
            .zip(missed)
            .zip(held)
            .map(|(((rule, counters), missed), held)| {
                let of = |outcome: Outcome| Count::from(counters.outcomes[outcome as usize]);
                let injected = of(Outcome::Injected);
                let mut matched = injected;
                let mut spared = std::collections::BTreeMap::new();
                for reason in Outcome::SPARED {
                    matched += of(reason);
                    spared.insert(reason.name(), of(reason));
                }
                let (fault, call) = match &rule.fault {
                    Fault::Network(fault) => (fault.effect.name(), None),
                    Fault::Syscall(fault) => (fault.effect.name(), Some(fault.calls.name())),
                };
                Self {
                    name: rule.name.clone(),
                    fault,
                    call,
                    mechanisms: crate::plan::Mechanism::names(&rule.mechanisms),
                    seen: of(Outcome::Seen),
                    matched,
                    injected,
                    missed: *missed,
                    overtaken: vec![],
                    held: if rule.holds_back() { HeldBack::of(held, injected.events) } else { None },
                    spared,
                }
            })
            .collect()
    }
}

impl RuleSummary {
    /// Notes those of its functions that are among `overtaken`.
    pub fn note_overtaken(&mut self, rule: &PlannedRule, overtaken: &BTreeSet<String>) {
        let functions = rule.mechanisms.iter().filter_map(Mechanism::overridden_function);
        self.overtaken = functions.filter(|name| overtaken.contains(*name)).map(str::to_owned).collect();
    }

    /// Events whose turn it was and which only the draw has spared.
    pub fn spared_by_draw(&self) -> u64 {
        self.spared.get(Outcome::Chance.name()).map_or(0, |count| count.events)
    }
}

impl Summary {
    /// Faults inflicted by all rules.
    pub fn injected(&self) -> u64 {
        self.rules.iter().map(|rule| rule.injected.events).sum()
    }

    /// For people: a table and a line about the rollback.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let more = match self.chosen.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let _ = writeln!(text, "kchaos {}: {} ({}{more})", self.run, self.outcome, shown(&self.cgroup));
        if !self.spared.is_empty() {
            let fitting = self.chosen.len() + self.spared.len();
            let (chosen, spared) = (paths(&self.chosen), paths(&self.spared));
            let _ = writeln!(
                text,
                "  {} of {fitting} targets hit: {chosen}; spared: {spared}",
                self.chosen.len()
            );
        }
        let width = self.rules.iter().map(|rule| rule.name.len()).max().unwrap_or(0).max(9);
        let _ = writeln!(
            text,
            "  {:width$} {:>10} {:>10} {:>10} {:>10}  through",
            "target", "seen", "matched", "injected", "spared"
        );
        for rule in &self.rules {
            let spared: u64 = rule.spared.values().map(|count| count.events).sum();
            let _ = write!(
                text,
                "  {:width$} {:>10} {:>10} {:>10} {:>10}  {}",
                rule.name,
                rule.seen.events,
                rule.matched.events,
                rule.injected.events,
                spared,
                rule.mechanisms.join(" + "),
            );
            let reasons: Vec<_> = rule
                .spared
                .iter()
                .filter(|(reason, count)| count.events > 0 && **reason != Outcome::Chance.name())
                .map(|(reason, count)| format!("{} spared by {reason}", count.events))
                .collect();
            let segments = if rule.seen.segments > rule.seen.events {
                format!(" ({} wire segments seen, {} hit)", rule.seen.segments, rule.injected.segments)
            } else {
                String::new()
            };
            let missed = if rule.missed > 0 {
                format!(" (up to {} more not seen: its programs were skipped)", rule.missed)
            } else {
                String::new()
            };
            let held = rule.held.as_ref().map(|held| format!(" ({held})")).unwrap_or_default();
            let reasons =
                if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
            let _ = writeln!(text, "{segments}{held}{reasons}{missed}");
        }
        for restarts in &self.restarted {
            let _ = writeln!(text, "  {restarts}");
        }
        if !self.allowed.is_empty() {
            let _ = writeln!(text, "  allowed: {}", self.allowed.join(", "));
        }
        if self.foreign_sockets.any() {
            let _ = writeln!(text, "  NOT HIT: {}", self.foreign_sockets);
        }
        if let Some(queue) = self.queue.filter(|queue| *queue != Queue::default()) {
            let _ = writeln!(
                text,
                "  delay line: {} packets lost because it was full, {} still in it at the end",
                queue.overflowed, queue.undelivered
            );
        }
        if let Some(events) = &self.events {
            let problem = events.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default();
            let _ = writeln!(
                text,
                "  events: {} written, {} lost because they came too fast, {} not written{problem}",
                events.written, events.lost, events.failed
            );
        }
        if self.left_out > 0 {
            let _ = writeln!(
                text,
                "  INCONCLUSIVE: {} processes were started by those that were hit and were not hit themselves: there is room for \
                 {TREE_MAX} at a time",
                self.left_out
            );
        }
        let overtaken: BTreeSet<_> = self.rules.iter().flat_map(|rule| &rule.overtaken).collect();
        if !overtaken.is_empty() {
            let names: Vec<_> = overtaken.into_iter().map(String::as_str).collect();
            let _ = writeln!(
                text,
                "  INCONCLUSIVE: somebody put a trampoline (fentry, fexit or fmod_ret) on {}, past which kprobes have no effect: \
                 not all of what was injected was felt",
                names.join(", ")
            );
        }
        if let Some(escaped) = self.escaped.filter(|escaped| *escaped > 0) {
            let _ = writeln!(
                text,
                "  INCONCLUSIVE: {escaped} packets of the target came to no device that was watched: they left in a \
                 network namespace entered after the start, or another program of its cgroup or on the device took them first"
            );
            if !self.unanswered.is_empty() {
                let names: Vec<_> = self.unanswered.iter().map(IpAddr::to_string).collect();
                let _ = writeln!(
                    text,
                    "                or they were for neighbours that do not answer: {}",
                    names.join(", ")
                );
            }
        }
        if let Some(felt) = &self.bystander {
            let _ = writeln!(
                text,
                "  bystander in a sibling cgroup: {} of {} packets lost, {} of {} calls failed",
                felt.lost, felt.packets, felt.failed, felt.calls
            );
        }
        let cgroup =
            if self.undone.cgroup_removed { "" } else { "; its cgroup goes when its last process does" };
        let _ = writeln!(
            text,
            "  undone in {:.1} ms: {} links, {} programs left{cgroup}",
            self.undone.took_ms, self.undone.links, self.undone.programs
        );
        for problem in &self.undone.problems {
            let _ = writeln!(text, "  NOT UNDONE: {problem}");
        }
        text
    }
}
