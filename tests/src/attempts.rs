//! Which of a victim's attempts a set of faults hits, by every mechanism that carries them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::board::Role;
use crate::capability::mechanism_works;
use crate::cgroup::TestCgroup;
use crate::kchaos::Kchaos;
use crate::samples;
use crate::spawn::{Place, Victim};
use crate::summary::Summary;
use crate::victim::ATTEMPT_ROUNDS;

/// Outcomes (errno, or `ok`) with how often each was felt, by attempt.
pub type Felt = BTreeMap<String, BTreeMap<String, u64>>;

/// Mechanisms in which the calling task is known.
pub const OF_TASKS: [&str; 5] = ["lsm", "fmod_ret_security", "fmod_ret_sys", "kprobe_multi", "kprobe"];

/// Those of these mechanisms that work here.
pub fn working(mechanisms: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut working = vec![];
    for mechanism in mechanisms {
        if mechanism_works(mechanism)? {
            working.push(*mechanism);
        }
    }
    Ok(working)
}

/// Those of the mechanisms in which the calling task is known that work here and are worth their time: of those at the
/// entry of calls, which run the same code, small samples leave out the one that loads a program for each call.
pub fn worth_trying() -> Result<Vec<&'static str>> {
    let mut working = working(&OF_TASKS)?;
    if !samples::full() && working.contains(&"kprobe") {
        working.retain(|mechanism| *mechanism != "fmod_ret_sys");
    }
    Ok(working)
}

/// A directory with `hit/a.txt` and `miss/a.txt`.
pub fn hit_and_miss() -> Result<TempDir> {
    let scratch = tempfile::tempdir()?;
    for name in ["hit", "miss"] {
        std::fs::create_dir(scratch.path().join(name))?;
        std::fs::write(scratch.path().join(name).join("a.txt"), "content of a file")?;
    }
    Ok(scratch)
}

fn attempts(place: &Place, words: &str) -> Result<Felt> {
    let mut victim = Victim::start(place, &format!("attempts {words}"))?;
    let result = victim.finish(Role::First)?;
    serde_json::from_value(result["felt"].clone()).context("reading what a victim felt")
}

/// Makes `attempts WORDS` so many times one after the other in the target under `faults`, which carry the mechanism.
/// Judges that none fails in a sibling cgroup meanwhile and in the target after the end, and that kchaos counts what
/// was felt. Returns what was felt each time, and the account.
pub fn attempts_under(faults: &str, words: &str, times: usize) -> Result<(Vec<Felt>, Summary)> {
    let cgroup = TestCgroup::new()?;
    let (target, sibling) = (cgroup.child("target")?, cgroup.child("sibling")?);
    let (target_place, runner) = (Place::default().in_cgroup(&target), cgroup.runner()?);
    let mut running = Kchaos::inject(faults, target.path()).at(&runner).start()?;
    running.armed()?;
    let felt = (0..times).map(|_| attempts(&target_place, words)).collect::<Result<Vec<_>>>();
    let felt = felt.with_context(|| format!("in the target under {faults}"))?;
    let bystander = attempts(&Place::default().in_cgroup(&sibling), words)?;
    let summary = running.interrupt()?.summary()?;
    let after = attempts(&target_place, words)?;
    for (who, felt) in [("a bystander", bystander), ("the target after the end", after)] {
        let clean = felt.values().all(|outcomes| outcomes.get("ok") == Some(&ATTEMPT_ROUNDS));
        ensure!(clean, "{faults}: {who} felt {felt:?}");
    }
    let hits: u64 = summary.rules.iter().map(|rule| rule.injected.events).sum();
    let outcomes = felt.iter().flat_map(|felt| felt.values().flatten());
    let felt_all: u64 = outcomes.filter(|(outcome, _)| *outcome != "ok").map(|(_, n)| n).sum();
    ensure!(hits == felt_all, "{faults}: the victim felt {felt_all} errors, kchaos counts {hits}: {felt:?}");
    Ok((felt, summary))
}

/// Judges that each attempt of `attempts WORDS` ends as `expected` (an errno; attempts that are not named succeed) in the
/// target, while it succeeds in a sibling cgroup and after the end. `faults` carry the mechanism. Returns the account.
pub fn check(faults: &str, words: &str, expected: &[(&str, &str)]) -> Result<Summary> {
    let (all, summary) = attempts_under(faults, words, 1)?;
    let felt = all.into_iter().next().context("nothing was felt")?;
    let missed: u64 = summary.rules.iter().map(|rule| rule.missed).sum();
    for (label, outcomes) in &felt {
        let wanted = expected.iter().find(|(name, _)| name == label).map_or("ok", |(_, errno)| errno);
        let count = outcomes.get(wanted).copied().unwrap_or_default();
        // A call that the kernel did not show to the programs went through.
        let foreign = outcomes.keys().any(|outcome| outcome != wanted && outcome != "ok");
        ensure!(
            count > 0 && !foreign && count + missed >= ATTEMPT_ROUNDS,
            "{faults}: '{label}' was to end in {wanted} but ended in {outcomes:?} ({missed} missed)\nall: {felt:?}\n{summary:?}"
        );
    }
    let unknown: Vec<_> = expected.iter().filter(|(label, _)| !felt.contains_key(*label)).collect();
    ensure!(unknown.is_empty(), "the victim made no such attempts: {unknown:?}");
    Ok(summary)
}
