//! The end of an engine: everything goes, and what went is told.

use super::{Engine, Hosted, devices::Place, witness::Escaped};
use crate::{
    host::kernel,
    inject::{
        bpf,
        guardian::Guardian,
        journal::Journal,
        line::{Lines, Queue},
    },
    plan::Mechanism,
};
use chaos_common::{counter::RuleCounters, latency::Held};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// What an engine left when it was closed.
#[derive(Debug)]
pub struct Closed {
    /// Counters by rule, in the order of the jobs' rules.
    pub counters: Vec<RuleCounters>,
    /// By rule: how often the kernel skipped a program that serves it, for calls of any process on the host.
    pub missed: Vec<u64>,
    /// By rule: what became of calls that were to be held back.
    pub held: Vec<Held>,
    /// Processes that were started by one that is hit alone, and found no room beside it.
    pub left_out: u64,
    /// Recorded events that found no room.
    pub events_lost: u64,
    /// Programs that are still in the kernel.
    pub programs_left: usize,
    /// Links that were closed.
    pub links_closed: usize,
    /// From the start of the closing to the end of the last program.
    pub took: Duration,
    /// What became of packets in lines, if there were any.
    pub queue: Option<Queue>,
    /// Packets of the targets that came to no egress hook, if leaving packets were judged.
    pub escaped: Option<Escaped>,
    /// Functions that were overridden, and on which somebody's trampoline is by now: past it, overriding has no effect.
    pub overtaken: BTreeSet<String>,
    /// What could not be undone, in words.
    pub problems: Vec<String>,
    /// The guardian, if it has to wait for the cgroup made for a command.
    guardian: Option<Guardian>,
    journal: Journal,
}

impl Engine {
    /// Disarms, detaches and removes everything, then says what happened.
    pub fn close(mut self) -> Closed {
        let start = Instant::now();
        self.disarm_runs();
        let escaped = self.escaped();
        let overtaken = self.overtaken();
        self.page.set_armed(false);
        let ids = self.program_ids();
        let links_closed = self.link_count();
        self.links.clear();
        let missed = self.missed();
        // Whoever is held back goes on now, and so do the programs that hold.
        drop(self.holder.take());
        let receiver_left = self.receiver.as_mut().and_then(|receiver| receiver.end().err());
        // Nothing leads into the lines any more: what is in them may still arrive.
        let (mut queue, lines_left) = self.lines.take().map(Lines::end).unzip();
        let mut problems = self.undo_filters();
        let overflowed = self.overflowed();
        if problems.is_empty() {
            self.journal.filters.clear();
        }
        problems.extend(receiver_left);
        // Detached and a grace period later: no program runs any more, the counters are final.
        let counters = (0..self.image.rules.len() as u32)
            .map(|rule| {
                self.counters_of(rule).unwrap_or_else(|error| {
                    problems.push(format!("reading the counters of rule {rule}: {error}"));
                    RuleCounters::default()
                })
            })
            .collect();
        let held = (0..self.image.rules.len() as u32)
            .map(|rule| {
                self.held_of(rule).unwrap_or_else(|error| {
                    problems.push(format!("reading how long rule {rule} held calls back: {error}"));
                    Held::default()
                })
            })
            .collect();
        match overflowed {
            Ok(packets) => queue.iter_mut().for_each(|queue: &mut Queue| queue.overflowed += packets),
            Err(error) => problems.push(format!("counting what a full line has lost: {error}")),
        }
        let events_lost = self.maps.events_lost().unwrap_or_else(|error| {
            problems.push(format!("counting lost events: {error}"));
            0
        });
        let left_out = if self.image.tree { self.maps.left_out_of_tree() } else { Ok(0) };
        let left_out = left_out.unwrap_or_else(|error| {
            problems.push(format!("counting processes that were left out: {error}"));
            0
        });
        let escaped = escaped.unwrap_or_else(|error| {
            problems.push(format!("reading what the witness counted: {error}"));
            None
        });
        problems.extend(lines_left.into_iter().flatten());
        self.programs.clear();
        let programs_left = wait_gone(&ids, Duration::from_secs(5));
        if programs_left > 0 {
            problems.push(format!("{programs_left} programs are still in the kernel"));
        }
        drop(self.lease.take());
        Closed {
            counters,
            missed,
            held,
            left_out,
            events_lost,
            programs_left,
            links_closed,
            took: start.elapsed(),
            queue,
            escaped,
            overtaken,
            problems,
            guardian: self.guardian.take(),
            journal: std::mem::take(&mut self.journal),
        }
    }
}

impl Engine {
    fn overtaken(&self) -> BTreeSet<String> {
        overtaken(self.hosted.values().flat_map(Hosted::mechanisms))
    }

    /// The same of one run.
    pub(super) fn overtaken_of(&self, slot: usize) -> BTreeSet<String> {
        overtaken(self.hosted.get(&slot).into_iter().flat_map(Hosted::mechanisms))
    }

    /// Attachments, those of lines included.
    pub(super) fn link_count(&self) -> usize {
        self.links.len() + self.lines.as_ref().map_or(0, Lines::links)
    }

    fn undo_filters(&self) -> Vec<String> {
        let held: Vec<_> = self.places.iter().map(Place::namespace).collect();
        self.journal.undo_filters(&held)
    }
}

/// The functions of `mechanisms` that are overridden, and on which somebody's trampoline is by now.
fn overtaken<'a>(mechanisms: impl Iterator<Item = &'a Mechanism>) -> BTreeSet<String> {
    let overridden: BTreeSet<_> = mechanisms.filter_map(Mechanism::overridden_function).collect();
    if overridden.is_empty() {
        return BTreeSet::new();
    }
    let taken = kernel::functions_with_trampolines();
    overridden.into_iter().filter(|function| taken.contains(*function)).map(str::to_owned).collect()
}

impl Drop for Engine {
    /// The way out of a failed start: the links go with their descriptors, the filters have to be told.
    fn drop(&mut self) {
        self.page.set_armed(false);
        let Some(guardian) = self.guardian.take() else { return };
        self.links.clear();
        drop(self.holder.take());
        drop(self.receiver.take());
        if self.undo_filters().is_empty() && self.journal.undo_cgroup() {
            self.journal.erase();
            guardian.dismiss();
        }
        // Else its pipe closes with this value and the guardian goes on where we failed.
    }
}

impl Closed {
    /// What a run left that others outlive: nothing persists by it.
    pub(super) fn of_run(account: (Vec<RuleCounters>, Vec<Held>), missed: Vec<u64>) -> Self {
        Self {
            counters: account.0,
            missed,
            held: account.1,
            left_out: 0,
            events_lost: 0,
            programs_left: 0,
            links_closed: 0,
            took: Duration::ZERO,
            queue: None,
            escaped: None,
            overtaken: BTreeSet::new(),
            problems: vec![],
            guardian: None,
            journal: Journal::default(),
        }
    }

    /// Removes what persists. `true` if nothing is left; `false` if processes live on in the cgroup made for a command,
    /// which the guardian then removes after them.
    pub fn finish(mut self) -> bool {
        let gone = self.journal.undo_cgroup();
        if gone && self.journal.filters.is_empty() {
            if !self.journal.run.is_empty() {
                self.journal.erase();
            }
            if let Some(guardian) = self.guardian.take() {
                guardian.dismiss();
            }
        } else if let Some(guardian) = self.guardian.take() {
            let _ = self.journal.write();
            guardian.leave_cgroup();
        }
        gone
    }
}

/// Waits until none of these programs is left; a program goes a grace period after its last reference. Returns how
/// many are left when the time is up.
pub(super) fn wait_gone(ids: &[u32], limit: Duration) -> usize {
    let start = Instant::now();
    loop {
        let left = ids.iter().filter(|id| bpf::program_exists(**id)).count();
        if left == 0 || start.elapsed() > limit {
            return left;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
