//! What `kchaos syscalls` claims of each call is what a victim feels: the call fails where a mechanism is named, and
//! where none is, it cannot be asked for.
//!
//! All calls take minutes where every hook is a program of its own to load; without full samples it is one call of twenty.
//! docs/kernel-support.md is made from the figures of full samples by `cargo xtask reach`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::{Kchaos, binary};
use integration_tests::measure::measure;
use integration_tests::patience::wait_until;
use integration_tests::samples::full;
use integration_tests::spawn::{Place, Victim};
use integration_tests::summary::Rule;
use integration_tests::syscall_results::inject;
use integration_tests::victim::{REACH_CALLS, REACH_ROUNDS_MAX};
use nix::errno::Errno;
use serde::Deserialize;
use serde_json::json;

const EHWPOISON: i64 = -libc::EHWPOISON as i64;
/// Rounds under each set of faults: a trampoline may be skipped while another task is interrupted inside its program.
const ROUNDS: usize = 3;
/// Faults one run can have.
const RULES_MAX: usize = 64;

/// What `kchaos syscalls` says of a call.
#[derive(Deserialize)]
struct Claim {
    mechanisms: Vec<String>,
    unreached: Option<Unreached>,
    dangerous: bool,
}

#[derive(Deserialize)]
struct Unreached {
    why: String,
}

fn claims() -> Result<BTreeMap<String, Claim>> {
    let output = Command::new(binary()?).args(["syscalls", "--json"]).output()?;
    let said = String::from_utf8(output.stdout)?;
    let claim = |line: &str| -> Result<(String, Claim)> {
        let mut row: serde_json::Value = serde_json::from_str(line)?;
        let name = row["call"]["name"].as_str().context("a call without a name")?.to_owned();
        Ok((name, serde_json::from_value(row["call"].take())?))
    };
    let claims = said.lines().map(claim).collect::<Result<_>>();
    claims.with_context(|| format!("kchaos syscalls --json said {said}"))
}

/// A victim that makes all calls round by round.
struct Patient {
    victim: Victim,
    scratch: tempfile::TempDir,
    rounds: u32,
}

/// What it felt.
#[derive(Deserialize)]
struct Felt {
    /// By round and call.
    rounds: Vec<Vec<i64>>,
    controls_failed: usize,
}

impl Patient {
    fn admit(place: &Place) -> Result<Self> {
        let scratch = tempfile::tempdir().context("making a scratch directory")?;
        let mut victim = Victim::start(place, &format!("reach --scratch {}", scratch.path().display()))?;
        victim.ready()?;
        Ok(Self { victim, scratch, rounds: 0 })
    }

    fn go(&mut self, rounds: usize) {
        self.rounds += rounds as u32;
        self.victim.board.go.store(self.rounds, Release);
    }

    fn wait(&self) -> Result<()> {
        let done = || self.victim.board.ready.load(Acquire) == 1 + self.rounds;
        wait_until("a round of all calls", done).map(|_| ())
    }

    fn discharge(mut self) -> Result<Felt> {
        let felt: Felt = serde_json::from_value(self.victim.stop(Role::First)?)?;
        ensure!(felt.rounds.len() == self.rounds as usize, "{} rounds", felt.rounds.len());
        self.scratch.close()?;
        Ok(felt)
    }
}

fn faults(calls: &[&str], claims: &BTreeMap<String, Claim>) -> String {
    let of = |call: &&str| {
        let allow = if claims[*call].dangerous { format!(" --allow {call}") } else { String::new() };
        format!("--fail {call}=EHWPOISON{allow}")
    };
    calls.iter().map(of).collect::<Vec<_>>().join(" ")
}

/// Calls that the victim also makes to do away with what others have made.
const TIDYING: [&str; 2] = ["close", "munmap"];
/// Calls that fail together: an emulated machine takes seconds to load the program of each hook.
const SET_MAX: usize = 20;
/// Every how many-th call fails in CI; the others are controls.
const CI_STEP: usize = 20;

/// Sets of calls that fail together. Neighbours of the list, which often share a hook, are in different sets, so that
/// each call is a control of the other sets.
fn sets<'a>(reached: &[&'a str]) -> Vec<Vec<&'a str>> {
    if !full() {
        return vec![reached.iter().step_by(CI_STEP).copied().collect()];
    }
    let count = reached.len().div_ceil(SET_MAX).max(2);
    (0..count).map(|set| reached.iter().skip(set).step_by(count).copied().collect()).collect()
}

fn result(value: i64) -> String {
    if value < 0 { format!("{:?}", Errno::from_raw(-value as i32)) } else { "success".to_owned() }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn every_call_fails_as_claimed() -> Result<()> {
    let begin = Instant::now();
    let claims = claims()?;
    let asked = begin.elapsed();
    let (reached, unreached): (Vec<&str>, Vec<&str>) =
        REACH_CALLS.iter().map(|call| call.name).partition(|name| !claims[*name].mechanisms.is_empty());
    ensure!(!reached.is_empty(), "no mechanism reaches any call here");
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let target = cgroup.child("target")?;
    let mut victim = Patient::admit(&Place::default().in_cgroup(&target))?;
    let mut bystander = Patient::admit(&Place::default().in_cgroup(&cgroup.child("sibling")?))?;
    let mut round = |rounds| -> Result<()> {
        victim.go(rounds);
        bystander.go(rounds);
        victim.wait()?;
        bystander.wait()
    };
    round(1)?;
    let sets = sets(&reached);
    ensure!(2 + ROUNDS * sets.len() <= REACH_ROUNDS_MAX, "{} sets of calls", sets.len());
    let mut rules: BTreeMap<&str, (usize, Rule)> = BTreeMap::new();
    let mut armed_ms = vec![];
    for (number, set) in sets.iter().enumerate() {
        let begin = Instant::now();
        let running = inject(&faults(set, &claims), target.path(), &place)?;
        armed_ms.push(begin.elapsed().as_millis() as u64);
        round(ROUNDS)?;
        let summary = running.interrupt()?.summary()?;
        ensure!(summary.rules.len() == set.len(), "{} rules for {set:?}", summary.rules.len());
        rules.extend(set.iter().zip(summary.rules).map(|(call, rule)| (*call, (number, rule))));
    }
    round(1)?;
    let (felt, beside) = (victim.discharge()?, bystander.discharge()?);

    let (mut wrong, mut cells) = (vec![], vec![]);
    for (index, call) in REACH_CALLS.iter().enumerate() {
        let claim = &claims[call.name];
        let of = |felt: &Felt, round: usize| felt.rounds[round][index];
        let rule = rules.get(call.name);
        let mut hits = 0;
        for number in 0..felt.rounds.len() {
            let set = number.checked_sub(1).map(|number| number / ROUNDS);
            let hit = of(&felt, number) == EHWPOISON;
            let due = rule.is_some_and(|(own, _)| Some(*own) == set);
            hits += u64::from(hit && due);
            if hit && !due {
                wrong.push(format!("{} failed in round {number}, where it was not asked for", call.name));
            }
            if of(&beside, number) == EHWPOISON {
                wrong.push(format!("{} failed at the bystander in round {number}", call.name));
            }
        }
        let by_itself = result(of(&felt, 0));
        match rule {
            Some((_, rule)) => {
                let missed = if hits > 0 { rule.missed } else { 0 };
                if hits + missed < ROUNDS as u64 {
                    wrong.push(format!("{} was felt {hits} times of {ROUNDS}: {rule:?}", call.name));
                }
                let tidying = TIDYING.contains(&call.name) && rule.injected.events >= hits;
                if rule.injected.events != hits && !tidying || rule.call.as_deref() != Some(call.name) {
                    wrong.push(format!("{} was felt {hits} times, but kchaos says {rule:?}", call.name));
                }
                if rule.mechanisms != claim.mechanisms[..1] {
                    wrong.push(format!("{}: claimed by {:?}, done by {rule:?}", call.name, claim.mechanisms));
                }
                cells.push(
                    json!({"call": call.name, "mechanism": rule.mechanisms[0], "felt": hits, "of": ROUNDS,
                        "by_itself": by_itself, "allow": claim.dangerous}),
                );
            }
            None if !claim.mechanisms.is_empty() => {}
            None => {
                let why = claim.unreached.as_ref().map(|unreached| unreached.why.as_str());
                let Some(why) = why else {
                    wrong.push(format!("{}: no mechanism, and no reason", call.name));
                    continue;
                };
                cells.push(json!({"call": call.name, "unreached": why, "by_itself": by_itself}));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(felt.controls_failed + beside.controls_failed == 0, "getppid failed as well");
    if full() {
        cells.into_iter().for_each(|cell| measure("reach", cell));
    }
    measure(
        "reach_run",
        json!({"calls": REACH_CALLS.len(), "reached": reached.len(), "failed": rules.len(), "armed_ms": armed_ms,
            "asked_ms": asked.as_millis() as u64, "took_ms": begin.elapsed().as_millis() as u64}),
    );
    refuses(&unreached, &claims)
}

/// What is not claimed cannot be asked for, and every call is named with its reason.
fn refuses(unreached: &[&str], claims: &BTreeMap<String, Claim>) -> Result<()> {
    for some in unreached.chunks(RULES_MAX) {
        let finished = Kchaos::new(&format!("plan --json {}", faults(some, claims))).run()?;
        finished.expect_status(8)?;
        let message = finished.error()?.message;
        for call in some {
            let why = claims[*call].unreached.as_ref().map_or("", |unreached| &unreached.why);
            ensure!(message.contains(why), "{call}: plan does not say '{why}' but:\n{message}");
        }
    }
    Ok(())
}
