//! Connections that are reset at both ends, and new ones that are refused.

use std::sync::atomic::Ordering::Acquire;

use anyhow::{Result, ensure};
use integration_tests::board::Role;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::patience::wait_until;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{FAR4, FAR6, NEAR4, NEAR6, Pair, endpoint};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Somebody who asks, and somebody who answers.
struct Talk {
    what: String,
    asker: Victim,
    answerer: Victim,
}

impl Talk {
    fn start(what: &str, asker: &Place, answerer: &Place, to: &str) -> Result<Self> {
        let mut answering = Victim::start(answerer, &format!("answer --listen {to}"))?;
        answering.ready()?;
        let asking = Victim::start(asker, &format!("ask --to {to}"))?;
        Ok(Self { what: format!("{what} at {to}"), asker: asking, answerer: answering })
    }

    fn answers(&self) -> u64 {
        self.asker.board.datagrams.received.load(Acquire)
    }

    fn broken(&self) -> u64 {
        self.asker.board.datagrams.lost.load(Acquire)
    }

    fn refused(&self) -> u64 {
        self.asker.board.datagrams.send_errors.load(Acquire)
    }

    fn wait_answers(&self, more: u64) -> Result<()> {
        let begin = self.answers();
        wait_until(&format!("answers: {}", self.what), || self.answers() >= begin + more).map(drop)
    }

    fn stop(&mut self) -> Result<(Value, Value)> {
        let asked = self.asker.stop(Role::First)?;
        Ok((asked, self.answerer.stop(Role::First)?))
    }
}

/// Who of a talk is in the target.
struct Scene {
    _cgroup: TestCgroup,
    target_path: std::path::PathBuf,
    pair: Pair,
    target: Place,
    beside: Place,
    far: Place,
    runner: Place,
}

impl Scene {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let pair = Pair::veth()?;
        let (inside, outside) = (cgroup.child("target")?, cgroup.child("beside")?);
        Ok(Self {
            target_path: inside.path().to_path_buf(),
            target: Place::default().in_cgroup(&inside).in_netns(&pair.near),
            beside: Place::default().in_cgroup(&outside).in_netns(&pair.near),
            far: Place::default().in_cgroup(&outside).in_netns(&pair.far),
            runner: Place::default().in_cgroup(&cgroup.child("runner")?).in_netns(&pair.near),
            pair,
            _cgroup: cgroup,
        })
    }

    /// Talks over veth and loopback in both versions, with `inside` asking as well as answering.
    fn talks(&self, who: &str, inside: &Place, port: u16) -> Result<Vec<Talk>> {
        let mut talks = vec![];
        for (far, near) in [(FAR4, NEAR4), (FAR6, NEAR6)] {
            talks.push(Talk::start(&format!("{who} asks"), inside, &self.far, &endpoint(far, port)?)?);
            talks.push(Talk::start(
                &format!("{who} answers"),
                &self.far,
                inside,
                &endpoint(near, port + 1)?,
            )?);
        }
        for lo in ["127.0.0.1", "::1"] {
            talks.push(Talk::start(&format!("{who} asks"), inside, &self.beside, &endpoint(lo, port + 2)?)?);
            talks.push(Talk::start(
                &format!("{who} answers"),
                &self.beside,
                inside,
                &endpoint(lo, port + 3)?,
            )?);
        }
        Ok(talks)
    }

    fn inject(&self, faults: &str) -> Kchaos {
        let line = format!("inject --json --cgroup {} {faults} --duration 600s", self.target_path.display());
        Kchaos::new(&line).at(&self.runner)
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_are_reset_at_both_ends_and_new_ones_refused() -> Result<()> {
    let scene = Scene::new()?;
    let mut talks = scene.talks("the target", &scene.target, 7100)?;
    let mut bystanders = scene.talks("the bystander", &scene.beside, 7200)?;
    // To the very service that the target's connections are reset with.
    let shared = endpoint(FAR4, 7100)?;
    let mut same_port = Victim::start(&scene.beside, &format!("ask --to {shared}"))?;
    for talk in talks.iter().chain(&bystanders) {
        talk.wait_answers(5)?;
    }
    let furniture = scene.pair.near.furniture()?;
    let before = KernelObjects::now()?;
    let mut running = scene.inject("--reset").start()?;
    running.armed()?;
    let objects = KernelObjects::now()?.since(&before);
    for talk in &talks {
        wait_until(&format!("a reset: {}", talk.what), || talk.broken() > 0)?;
        wait_until(&format!("refusals: {}", talk.what), || talk.refused() > 5)?;
    }
    for talk in &bystanders {
        talk.wait_answers(5)?;
    }
    running.signal(Signal::SIGTERM)?;
    let finished = running.finish()?;
    let rule = finished.summary()?.rule()?.clone();
    // A machine too busy to renew the lease lets go in between.
    let hit = rule.matched.events - rule.spared["lease"].events;
    ensure!(rule.injected.events >= 8 * 6 && rule.injected.events == hit, "{rule:?}");
    objects.wait_gone()?;
    let after = scene.pair.near.furniture()?;
    ensure!(after == furniture, "left behind: {after}");
    for talk in talks.iter().chain(&bystanders) {
        talk.wait_answers(5)?;
    }
    let asked = same_port.stop(Role::First)?;
    ensure!(asked["connections"] == 1 && asked["talk_errors"] == json!({}), "on the same port: {asked}");
    for talk in &mut talks {
        let what = talk.what.clone();
        let (asked, answered) = talk.stop()?;
        ensure!(asked["talk_errors"] == json!({"ECONNRESET": 1}), "{what}: {asked}");
        ensure!(
            asked["connect_errors"].as_object().is_some_and(|all| all.keys().eq(["ECONNREFUSED"])),
            "{what}: {asked}"
        );
        ensure!(asked["connections"] == 2, "{what}: {asked}");
        ensure!(answered["errors"] == json!({"ECONNRESET": 1}), "{what}: {answered}");
    }
    for talk in &mut bystanders {
        let what = talk.what.clone();
        let (asked, answered) = talk.stop()?;
        ensure!(asked["talk_errors"] == json!({}) && asked["connect_errors"] == json!({}), "{what}: {asked}");
        ensure!(answered["errors"] == json!({}), "{what}: {answered}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn only_chosen_connections_are_reset() -> Result<()> {
    let scene = Scene::new()?;
    let chosen = Talk::start("chosen", &scene.target, &scene.far, &endpoint(FAR4, 7301)?)?;
    let mut other = Talk::start("of another port", &scene.target, &scene.far, &endpoint(FAR4, 7302)?)?;
    chosen.wait_answers(5)?;
    other.wait_answers(5)?;
    let mut running = scene.inject("--reset --remote-port 7301").start()?;
    running.armed()?;
    wait_until("refusals", || chosen.refused() > 5)?;
    other.wait_answers(20)?;
    running.signal(Signal::SIGTERM)?;
    running.finish()?.summary()?;
    chosen.wait_answers(5)?;
    let (asked, answered) = other.stop()?;
    ensure!(asked["talk_errors"] == json!({}) && asked["connections"] == 1, "{asked}");
    ensure!(answered["errors"] == json!({}), "{answered}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_share_of_the_packets_breaks_connections_now_and_then() -> Result<()> {
    let scene = Scene::new()?;
    let mut talk = Talk::start("target", &scene.target, &scene.far, &endpoint(FAR6, 7301)?)?;
    talk.wait_answers(5)?;
    let mut running = scene.inject("--reset 10%").start()?;
    running.armed()?;
    wait_until("connections to break and to work", || talk.broken() > 5 && talk.answers() > 30)?;
    running.signal(Signal::SIGTERM)?;
    let rule = running.finish()?.summary()?.rule()?.clone();
    talk.wait_answers(20)?;
    let (asked, _) = talk.stop()?;
    let broken: u64 = asked["talk_errors"]["ECONNRESET"].as_u64().unwrap_or(0);
    // Each was reset by one packet; what was refused or closed in between, by others.
    ensure!(broken > 5 && broken <= rule.injected.events, "{asked}, {rule:?}");
    ensure!(rule.injected.events < rule.matched.events / 4, "{rule:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_cannot_be_reset_is_refused() -> Result<()> {
    for (faults, needle) in [
        ("--reset --direction ingress", "by what the target sends"),
        ("--reset --protocol udp", "udp has no connections"),
        ("--reset 10", "unit"),
    ] {
        let finished = Kchaos::new(&format!("exec --json {faults} -- /bin/true")).run()?;
        finished.expect_status(125)?;
        let said = finished.text();
        ensure!(said.contains(needle), "{faults}: {said}");
    }
    Ok(())
}
