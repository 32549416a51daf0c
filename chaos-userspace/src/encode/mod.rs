//! Plans as the kernel reads them: read-only globals and map contents.

mod distribution;
pub mod netem;
mod network;
mod syscall_match;

use crate::{
    plan::{
        Mechanism, Plan, Registers,
        syscall::{entry, hooks},
    },
    spec::{
        Fault,
        corrupt::Corrupt,
        network::Effect,
        returns::Returns,
        syscall::{self, Call as SystemCall},
        syscall_match::Pattern,
    },
};
use chaos_common::{
    control::{MODE_ENFORCE, MODE_OBSERVE, Run, STATE_AWAIT_EXEC, STATE_IDLE},
    latency::{LATENCY_NONE, LATENCY_SLEEP, LATENCY_SPIN, LATENCY_STOP},
    limits::{CIDRS_MAX, FAST_TARGETS_MAX, LEVELS_MAX, RULES_MAX, RUNS_MAX, TARGETS_MAX, WALK_TARGETS_MAX},
    probability::{mix, seeded_draw},
    results::Results,
    rule::{
        KIND_CORRUPT, KIND_CORRUPT_PAYLOAD, KIND_DELAY, KIND_DUPLICATE, KIND_LATENCY, KIND_LOSS,
        KIND_REORDER, KIND_RESET, KIND_RESULT, KIND_RESULTS, MATCH_FLOW, Rule, WHEN_PER_FLOW,
        WHEN_PER_PROCESS, WHEN_SEEDED,
    },
    syscall::{Call, HOOK_ENTRY, HOOK_FILE_PERMISSION, HOOK_SOCKET, call_row, ring_row},
    syscall_match::{Arguments, Wanted},
    target::{FILTER_WORDS_MAX, SELECT_FAST, SELECT_LEVELS, SELECT_WALK, Target, filter_words},
    watch::WATCHED_MAX,
};
use ipnet::{Ipv4Net, Ipv6Net};
use netem::Netem;
use std::collections::BTreeMap;

/// One run and who it hits.
pub struct Job<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// Id and level of each target's cgroup.
    pub targets: &'a [(u64, u32)],
    /// Arm at the first exec in the target instead of at once.
    pub await_exec: bool,
}

/// The place a run keeps in an engine while others come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Index of the run in the control page.
    pub slot: usize,
    /// The numbers of its rules, ascending: their bits in masks, and their places in counters.
    pub rules: Vec<u32>,
}

impl Seat {
    /// Its rules, one bit each.
    pub fn mask(&self) -> u64 {
        self.rules.iter().fold(0, |rules, rule| rules | 1 << rule)
    }
}

/// Everything that is written before the first program is attached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// `KC_SELECT_SKB`.
    pub select_skb: u32,
    /// `KC_SELECT_TASK`.
    pub select_task: u32,
    /// `KC_FAST_LEVEL`.
    pub fast_level: u32,
    /// `KC_FAST_IDS`.
    pub fast_ids: [u64; FAST_TARGETS_MAX],
    /// `KC_LEVELS`.
    pub levels: u32,
    /// `KC_REGISTERS`, `KC_SOCKET_REGISTERS`, `KC_TASK_STACK` and `KC_TASK_STATUS`.
    pub registers: Registers,
    /// `KC_CLSACT`.
    pub clsact: bool,
    /// Whether any rule looks into packets, at their remote address, at their remote port.
    pub parse: bool,
    /// See `parse`.
    pub remote: bool,
    /// See `parse`.
    pub remote_port: bool,
    /// Whether any rule counts across CPUs.
    pub exact: bool,
    /// Rules of bank 0.
    pub rules: Vec<Rule>,
    /// Rules with several results.
    pub results: Vec<(u32, Results)>,
    /// Rules with a line, and what holds packets back in it.
    pub lines: Vec<(u32, Netem)>,
    /// Rules that judge leaving packets.
    pub egress_rules: u64,
    /// Rules that judge arriving packets.
    pub ingress_rules: u64,
    /// Cgroup id -> what it is subject to, in the order of the jobs without repetition.
    pub targets: Vec<(u64, Target)>,
    /// IPv4 prefixes with the rules of shorter prefixes added.
    pub remote4: Vec<(Ipv4Net, u64)>,
    /// IPv6 prefixes with the rules of shorter prefixes added.
    pub remote6: Vec<(Ipv6Net, u64)>,
    /// Port -> rules; ports without rules are left out.
    pub ports: BTreeMap<u16, u64>,
    /// Local port -> rules, as above.
    pub local_ports: BTreeMap<u16, u64>,
    /// Whether any target has socket hooks, which find it by its slot.
    pub has_socket_hooks: bool,
    /// Row of the call table -> rules and hook.
    pub calls: BTreeMap<u32, Call>,
    /// Row of the call table -> rules that the receiver of notifications goes by.
    pub notified: BTreeMap<u32, u64>,
    /// `KC_LATENCY`: how programs hold calls back.
    pub latency: u32,
    /// Beginning of a task's name -> rules it is not ruled out for, what shorter beginnings say included.
    pub comms: Vec<(Vec<u8>, u64)>,
    /// User -> rules it is not ruled out for.
    pub uids: Vec<(u32, u64)>,
    /// The same for all other users.
    pub uid_others: u64,
    /// Beginning of a path -> patterns it goes with, those of shorter beginnings included.
    pub path_beginnings: Vec<(Vec<u8>, u64)>,
    /// End of a path, backwards -> patterns it goes with; empty if no pattern has one.
    pub path_endings: Vec<(Vec<u8>, u64)>,
    /// Length of a path -> patterns that have room in it, with `path_endings`.
    pub path_lengths: Vec<u64>,
    /// Row of the call table -> where the call's arguments are.
    pub arguments: BTreeMap<u32, Arguments>,
    /// Whether any call's rule asks for the remote end.
    pub peer: bool,
    /// Rule -> what it asks for.
    pub wanted: Vec<(u32, Wanted)>,
    /// Runs, by slot.
    pub runs: Vec<Run>,
    /// Calls that are watched.
    pub watched: usize,
    /// Whether processes are hit without the others of their cgroups.
    pub tree: bool,
    /// Whether runs come and go: what is numbered keeps its number then, and what has none is an empty place.
    pub shared: bool,
    /// Patterns of paths, by bit; kept for [`share`].
    pub patterns: Vec<Option<Pattern>>,
}

/// A place of no target.
pub const EMPTY: (u64, Target) = (0, Target { rules: 0, runs: 0 });

/// Where targets are, and where none is any more, last place first.
#[derive(Default)]
struct Places {
    known: BTreeMap<u64, usize>,
    empty: Vec<usize>,
}

impl Places {
    fn of(targets: &[(u64, Target)]) -> Self {
        let all = targets.iter().enumerate();
        let (empty, known): (Vec<_>, Vec<_>) = all.partition(|(_, (id, _))| *id == EMPTY.0);
        Self {
            known: known.into_iter().map(|(place, (id, _))| (*id, place)).collect(),
            empty: empty.into_iter().map(|(place, _)| place).rev().collect(),
        }
    }
}

/// What does not fit into one engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too many of something.
    #[error("{count} {what} are above the limit of {limit} per engine")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// A target lies too deep.
    #[error("the target cgroup is {level} levels deep, above the limit of {}", LEVELS_MAX - 1)]
    TooDeep {
        /// Its level.
        level: u32,
    },
    /// Runs hold calls back in different ways.
    #[error("one engine holds calls back by one mechanism: start another one for the other")]
    TwoLatencies,
}

/// Refuses what does not fit.
pub(crate) fn within(what: &'static str, count: usize, limit: usize) -> Result<(), Error> {
    if count > limit { Err(Error::TooMany { what, count, limit }) } else { Ok(()) }
}

fn not_too_deep(targets: &[(u64, u32)]) -> Result<(), Error> {
    match targets.iter().find(|(_, level)| *level >= LEVELS_MAX) {
        Some((_, level)) => Err(Error::TooDeep { level: *level }),
        None => Ok(()),
    }
}

/// Encodes the runs of one engine. Rules are numbered in the order of the jobs.
pub fn encode(jobs: &[Job<'_>]) -> Result<Image, Error> {
    within("runs", jobs.len(), RUNS_MAX)?;
    within("rules", jobs.iter().map(|job| job.plan.rules.len()).sum(), RULES_MAX)?;
    let mut next = 0..;
    let seats = jobs.iter().enumerate().map(|(slot, job)| {
        let rules = next.by_ref().take(job.plan.rules.len()).collect();
        Seat { slot, rules }
    });
    let seats: Vec<_> = seats.collect();
    seated(&seats.iter().zip(jobs).collect::<Vec<_>>(), Image::default())
}

/// Encodes the runs of an engine in which `before` is in force: what has a number there keeps it.
pub fn share(jobs: &[(&Seat, &Job<'_>)], before: &Image) -> Result<Image, Error> {
    let kept = Image {
        shared: true,
        targets: before.targets.iter().map(|(id, _)| (*id, Target::default())).collect(),
        patterns: before.patterns.clone(),
        // What they say holds for the kernel, and those of runs that need none are empty.
        registers: before.registers,
        ..Image::default()
    };
    seated(jobs, kept)
}

/// `image` is what is kept of the one before.
fn seated(jobs: &[(&Seat, &Job<'_>)], mut image: Image) -> Result<Image, Error> {
    let mut prefixes = network::Prefixes::default();
    let mut matches = syscall_match::Matches::new(std::mem::take(&mut image.patterns), image.shared);
    let mut known = Places::of(&image.targets);
    let rules = jobs.iter().flat_map(|(seat, _)| &seat.rules).max().map_or(0, |last| last + 1);
    image.rules = (0..rules).map(|number| Rule { number, ..Rule::default() }).collect();
    let slots = jobs.iter().map(|(seat, _)| seat.slot + 1).max().unwrap_or(0);
    within("runs", slots, RUNS_MAX)?;
    within("rules", image.rules.len(), RULES_MAX)?;
    image.runs = vec![Run::default(); slots];
    for (seat, job) in jobs {
        not_too_deep(job.targets)?;
        let slot = seat.slot;
        image.runs[slot] = Run {
            state: if job.await_exec { STATE_AWAIT_EXEC } else { STATE_IDLE },
            mode: if job.plan.observe { MODE_OBSERVE } else { MODE_ENFORCE },
            duration_ns: job.plan.duration.map_or(0, |duration| duration.as_nanos() as u64),
            ..Run::default()
        };
        image.tree |= !job.plan.trees.is_empty();
        let mut mask = 0;
        for (place, (planned, number)) in job.plan.rules.iter().zip(seat.rules.iter().copied()).enumerate() {
            let bit = 1u64 << number;
            mask |= bit;
            for mechanism in &planned.mechanisms {
                image.clsact |= *mechanism == Mechanism::Clsact;
                match mechanism {
                    Mechanism::Tcx | Mechanism::Clsact => image.egress_rules |= bit,
                    Mechanism::CgroupSkb | Mechanism::Arrival => image.ingress_rules |= bit,
                    // Its packets come from the hooks of devices.
                    Mechanism::Line => {}
                    Mechanism::Entry { .. } | Mechanism::Security { .. } | Mechanism::Notification => {}
                    Mechanism::Sleep { .. } => image.hold_back_by(LATENCY_SLEEP)?,
                    Mechanism::Spin => image.hold_back_by(LATENCY_SPIN)?,
                    Mechanism::Stop { .. } => image.hold_back_by(LATENCY_STOP)?,
                    Mechanism::Socket(_) => image.has_socket_hooks = true,
                }
            }
            for (call, hooks) in &planned.calls {
                for hook in hooks {
                    image.add_call(*call, bit, hook);
                }
            }
            let mut rule = Rule { run: slot as u32, number, ..Rule::default() };
            planned.fault.when().encode(&mut rule);
            if let Some(seed) = job.plan.seed {
                // Rules of one run must not hit the same events.
                rule.when |= WHEN_SEEDED;
                rule.seed = seed ^ u64::from(seeded_draw(seed, place as u64)) << 32;
            }
            match &planned.fault {
                Fault::Network(fault) => {
                    rule.kind = match &fault.effect {
                        Effect::Loss => KIND_LOSS,
                        Effect::LossModel(model) => {
                            (rule.chain, rule.chain_q32) = model.chain();
                            image.exact = true;
                            KIND_LOSS
                        }
                        Effect::Duplicate => KIND_DUPLICATE,
                        Effect::Reset => KIND_RESET,
                        Effect::Corrupt(Corrupt::Detected) => KIND_CORRUPT,
                        Effect::Corrupt(Corrupt::Payload) => KIND_CORRUPT_PAYLOAD,
                        Effect::Reorder => KIND_REORDER,
                        Effect::Delay(delay) => {
                            image.lines.push((number, Netem::from(delay)));
                            KIND_DELAY
                        }
                    };
                    if fault.per_flow {
                        rule.when |= WHEN_PER_FLOW;
                        rule.matches |= MATCH_FLOW;
                        // What is drawn per flow needs no counting: the seed alone says which flows are hit.
                        if rule.when & WHEN_SEEDED == 0 {
                            rule.seed = salt(&job.plan.run, place);
                        }
                        rule.when &= !WHEN_SEEDED;
                    }
                    // What changes packets has to find its way in them.
                    image.parse |= matches!(fault.effect, Effect::Reset | Effect::Corrupt(_));
                    network::encode_match(&fault.matches, &mut rule, bit, &mut image, &mut prefixes);
                }
                Fault::Syscall(fault) => {
                    match &fault.effect {
                        syscall::Effect::Return(returns) => add_returns(returns, &mut rule, &mut image),
                        syscall::Effect::Latency(latency) => {
                            rule.kind = KIND_LATENCY;
                            rule.result = latency.time.as_nanos() as i64;
                            rule.jitter_ns = latency.jitter.as_nanos() as u64;
                        }
                    }
                    matches.add(&fault.matches, &mut rule);
                    let (remote, ports) = (&fault.matches.remote, &fault.matches.remote_ports);
                    network::encode_remote(&remote.only, &remote.except, &mut rule, bit, &mut prefixes);
                    network::encode_remote_ports(ports, &mut rule, bit, &mut image);
                    image.peer |= fault.matches.has_remote();
                    for (call, hooks) in &planned.calls {
                        for hook in hooks {
                            syscall_match::add_arguments(&fault.matches, *call, hook, &mut image);
                        }
                    }
                }
            }
            // The receiver counts by itself.
            let by_kernel = !planned.mechanisms.contains(&Mechanism::Notification);
            image.exact |= by_kernel && rule.when & !WHEN_PER_FLOW != 0;
            image.rules[number as usize] = rule;
        }
        let target = Target { rules: mask, runs: 1 << slot };
        job.targets.iter().for_each(|(id, _)| image.add_target(&mut known, *id, target));
    }
    image.leave_places_empty();
    (image.remote4, image.remote6) = prefixes.cumulate();
    matches.finish(&mut image)?;
    within("IPv4 prefixes", image.remote4.len(), CIDRS_MAX as usize)?;
    within("IPv6 prefixes", image.remote6.len(), CIDRS_MAX as usize)?;
    let asks_tasks =
        |job: &Job<'_>| job.await_exec || job.plan.rules.iter().any(|rule| !rule.calls.is_empty());
    let walks = jobs.iter().any(|(_, job)| !job.plan.task_ancestor && asks_tasks(job));
    let registers = jobs.iter().map(|(_, job)| job.plan.registers);
    image.registers =
        registers.into_iter().find(|known| *known != Registers::default()).unwrap_or(image.registers);
    image.choose_selection(jobs.iter().flat_map(|(_, job)| job.targets).copied(), walks)?;
    Ok(image)
}

/// Encodes looking on at `calls` calls of some targets, given by id and level, and doing nothing. `task_ancestor` is that of
/// [`Plan`].
pub fn watching(targets: &[(u64, u32)], calls: usize, task_ancestor: bool) -> Result<Image, Error> {
    within("watched calls", calls, WATCHED_MAX as usize)?;
    // A rule that there is not: who is subject to nothing is not found.
    let found = Target { rules: 1, runs: 0 };
    let mut known = Places::default();
    let mut image = Image { watched: calls, ..Image::default() };
    not_too_deep(targets)?;
    targets.iter().for_each(|(id, _)| image.add_target(&mut known, *id, found));
    image.choose_selection(targets.iter().copied(), !task_ancestor)?;
    Ok(image)
}

/// What a call returns in place of being made.
fn add_returns(returns: &Returns, rule: &mut Rule, image: &mut Image) {
    rule.kind = KIND_RESULT;
    if let Some(only) = returns.only() {
        rule.result = only.register();
        return;
    }
    let weighted = returns.weighted().iter().map(|(result, weight)| (result.register(), *weight));
    if let Some(results) = Results::new(weighted) {
        rule.kind = KIND_RESULTS;
        image.results.push((rule.number, results));
    }
}

/// A call's numbers, and whether they are those of 32-bit callers.
fn numbers(call: SystemCall) -> impl Iterator<Item = (u32, bool)> {
    let compat = entry::compat(call.name()).into_iter().map(|(_, number)| (number, true));
    std::iter::once((call.number(), false)).chain(compat)
}

/// Makes the flows that are hit others in every run.
fn salt(run: &str, rule: usize) -> u64 {
    run.bytes().fold(rule as u64, |salt, byte| mix(salt ^ u64::from(byte)))
}

impl Image {
    /// Programs that judge are told once how calls are held back.
    fn hold_back_by(&mut self, how: u32) -> Result<(), Error> {
        if self.latency != LATENCY_NONE && self.latency != how {
            return Err(Error::TwoLatencies);
        }
        self.latency = how;
        Ok(())
    }

    /// The rows in which `hook` finds the rule: the call as 64-bit and 32-bit callers make it, and, for what a ring can
    /// ask for, the hook itself.
    fn add_call(&mut self, call: SystemCall, bit: u64, hook: &Mechanism) {
        let hook = match hook {
            Mechanism::Security { id, .. } => *id,
            Mechanism::Socket(_) => HOOK_SOCKET,
            // Judged by the program before it.
            hook if hook.only_holds() => return,
            Mechanism::Notification => {
                for (number, is_compat) in numbers(call) {
                    let row = call_row(number, is_compat);
                    row.into_iter().for_each(|row| *self.notified.entry(row).or_default() |= bit);
                }
                return;
            }
            _ => HOOK_ENTRY,
        };
        let through_ring = hook >= HOOK_FILE_PERMISSION && hooks::in_ring(call.name());
        let write = hook == HOOK_FILE_PERMISSION && hooks::writes(call.name());
        let ring = through_ring.then(|| ring_row(hook, write));
        let rows = numbers(call).filter_map(|(number, is_compat)| call_row(number, is_compat));
        for row in rows.chain(ring) {
            let call = self.calls.entry(row).or_default();
            if call.rules & bit == 0 {
                call.rules |= bit;
                call.hook = hook;
                call.other_hook = hook;
            } else {
                call.other_hook = hook;
            }
        }
    }

    /// Rules of which every process counts for itself in the kernel, one bit each.
    pub fn process_rules(&self) -> u64 {
        let notified = self.notified.values().fold(0, |all, rules| all | rules);
        let counting = |rule: &&Rule| rule.when & WHEN_PER_PROCESS != 0 && notified & 1 << rule.number == 0;
        self.rules.iter().filter(counting).fold(0, |rules, rule| rules | 1 << rule.number)
    }

    fn add_target(&mut self, places: &mut Places, id: u64, target: Target) {
        let place =
            *places.known.entry(id).or_insert_with(|| places.empty.pop().unwrap_or(self.targets.len()));
        match self.targets.get_mut(place) {
            Some((known, of)) => {
                *known = id;
                of.rules |= target.rules;
                of.runs |= target.runs;
            }
            None => self.targets.push((id, target)),
        }
    }

    /// Who is subject to nothing any more leaves an empty place, at the end none.
    fn leave_places_empty(&mut self) {
        for target in self.targets.iter_mut().filter(|(_, target)| target.runs == 0) {
            *target = EMPTY;
        }
        while self.targets.last() == Some(&EMPTY) {
            self.targets.pop();
        }
    }

    /// The same with the cgroup `new` in place of `old`, on the same level.
    pub fn with_target(&self, old: u64, new: u64) -> Self {
        let mut image = self.clone();
        image.targets.iter_mut().filter(|(id, _)| *id == old).for_each(|(id, _)| *id = new);
        image.fast_ids.iter_mut().filter(|id| **id == old).for_each(|id| *id = new);
        image
    }

    /// Words of the filter before the target table: where targets come, there is room for the most.
    pub fn filter_words(&self) -> usize {
        if self.shared { FILTER_WORDS_MAX } else { filter_words(self.targets.len()) }
    }

    /// What slots stand for: with `SELECT_WALK` and where runs come and go the target of the same place, otherwise all that
    /// targets are subject to, each once. A socket hook's program knows the first slot with what its targets are subject to.
    pub fn slots(&self) -> Vec<Target> {
        let mut all: Vec<_> = self.targets.iter().map(|(_, target)| *target).collect();
        if self.select_task != SELECT_WALK && !self.shared {
            all.sort_unstable_by_key(|target| (target.runs, target.rules));
            all.dedup();
        }
        all
    }

    /// A few targets of one level are compared with globals; anything else is looked up level by level.
    /// `walks` says whether tasks are asked and cannot be by their ancestor.
    fn choose_selection(
        &mut self,
        targets: impl Iterator<Item = (u64, u32)>,
        walks: bool,
    ) -> Result<(), Error> {
        within("targets", self.targets.len(), TARGETS_MAX as usize)?;
        self.levels = targets.fold(0, |levels, (_, level)| levels | 1 << level);
        let one_level = self.levels.count_ones() == 1;
        // Those that are compared are counted by what the verifier knows, and others would need other programs.
        if one_level && self.targets.len() <= FAST_TARGETS_MAX && !self.shared {
            self.select_skb = SELECT_FAST;
            self.fast_level = self.levels.trailing_zeros();
            for (slot, (id, _)) in self.fast_ids.iter_mut().zip(&self.targets) {
                *slot = *id;
            }
        } else {
            self.select_skb = SELECT_LEVELS;
        }
        self.select_task = self.select_skb;
        if walks {
            let what = "targets whose calls are met, on a kernel below 5.12";
            within(what, self.targets.len(), WALK_TARGETS_MAX as usize)?;
            self.select_task = SELECT_WALK;
        }
        if self.has_socket_hooks {
            within("kinds of targets with socket hooks", self.slots().len(), WALK_TARGETS_MAX as usize)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
