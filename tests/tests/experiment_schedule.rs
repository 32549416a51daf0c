//! Schedules and stages of experiments: what a victim feels, by its own clock and count, is what the file says.

use std::process::Command;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::Role;
use integration_tests::capability::{counts_exactly, delay_missing, file_errors_missing};
use integration_tests::cgroup::Cgroup;
use integration_tests::experiment::{Reports, document};
use integration_tests::ground::Ground;
use integration_tests::kchaos::{Finished, Kchaos, Running, binary};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::patience::{monotonic_ns, wait_for, wait_until};
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// How far the victim's clock and the record may differ: both mean the same moment, but either's process may have to wait
/// for its processor before it reads the clock.
const MARGIN_S: f64 = 1.0;

const LOSE_ALL: &str = "network: {loss: 100%, match: {protocol: udp}}";

/// A talker in the target and one beside it, in one network namespace.
struct Scene {
    ground: Ground,
    beside: Cgroup,
    reports: Reports,
}

impl Scene {
    fn new() -> Result<Self> {
        let ground = Ground::new()?;
        let beside = ground.cgroup.child("beside")?;
        Ok(Self { ground, beside, reports: Reports::new()? })
    }

    /// Starts both talkers: the target's and the other's.
    fn talkers(&self) -> Result<(Victim, Victim)> {
        let hit = Victim::talking_to_itself(&self.ground.target, &self.ground.netns, 7001)?;
        let spared = Victim::talking_to_itself(&self.beside, &self.ground.netns, 7002)?;
        for talker in [&hit, &spared] {
            wait_until("a first datagram", || talker.board.datagrams.received.load(Acquire) > 0)?;
        }
        Ok((hit, spared))
    }

    /// A file with these fields of the spec, each line with its indentation.
    fn document(&self, fields: &str) -> String {
        document(self.ground.target.path(), fields)
    }

    fn start(&self, fields: &str) -> Result<Running> {
        self.reports.start(&self.document(fields), &self.ground.runner)
    }
}

/// Stops a talker that must have felt nothing.
fn check_spared(mut talker: Victim) -> Result<()> {
    let result = talker.stop(Role::Second)?;
    ensure!(talker.board.datagrams.lost.load(Acquire) == 0, "the bystander lost datagrams: {result}");
    Ok(())
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("no {name} in {value}"))
}

fn count(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("no {name} in {value}"))
}

fn course(record: &Value) -> Result<Vec<Value>> {
    record["faults"][0]["course"].as_array().cloned().context("no course")
}

/// Gaps in what the talker received: from, to, datagrams; in seconds of its clock.
fn gaps(result: &Value) -> Result<Vec<(f64, f64, u64)>> {
    let gaps = result["gaps"].as_array().context("no gaps")?;
    let read = |gap: &Value| {
        let seconds = |place: usize| Some(gap[place].as_u64()? as f64 / 1e9);
        Some((seconds(0)?, seconds(1)?, gap[2].as_u64()?))
    };
    gaps.iter().map(read).collect::<Option<_>>().context("odd gaps")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_pulse_is_felt_in_its_on_phases_only() -> Result<()> {
    is_felt_in_its_on_phases_only(LOSE_ALL)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_model_at_rest_loses_nothing() -> Result<()> {
    if !counts_exactly() {
        skip!("no fetching atomics (5.12)");
    }
    is_felt_in_its_on_phases_only(
        "network: {loss: {model: gemodel, p: 100%, r: 0%, h: 0%, k: 0%}, match: {protocol: udp}}",
    )
}

fn is_felt_in_its_on_phases_only(fault: &str) -> Result<()> {
    let scene = Scene::new()?;
    let (mut hit, spared) = scene.talkers()?;
    let finished = scene
        .start(&format!(
            "  duration: 12s\n  faults:\n    - {fault}\n  schedule:\n    start: {{after: 2s}}\n    pulse: {{on: 2s, off: \
             2s}}\n    repeat: 2\n"
        ))?
        .finish()?;
    finished.expect_status(0)?;
    // What comes behind the last gap ends it.
    let received = hit.board.datagrams.received.load(Acquire);
    wait_until("datagrams behind the run", || hit.board.datagrams.received.load(Acquire) > received + 100)?;
    let felt = gaps(&hit.stop(Role::Second)?)?;
    let record = scene.reports.record("held")?;
    let course = course(&record)?;
    let shares: Vec<_> = course.iter().map(|dose| number(dose, "share_percent")).collect::<Result<_>>()?;
    // A change waits for the grace period of the one before, which takes seconds where readers wait for a processor: what is
    // due before it is over comes late or, if it is over by then, not at all.
    let all = [0.0, 100.0, 0.0, 100.0, 0.0];
    ensure!(shares.len() > 2 && all.starts_with(&shares) && shares.last() == Some(&0.0), "{shares:?}");
    for dose in &course {
        let (injected, drawn) = (count(dose, "injected")?, count(dose, "drawn")?);
        let wanted = if number(dose, "share_percent")? > 0.0 { drawn } else { 0 };
        ensure!(injected == wanted, "{dose}");
    }
    ensure!(course.iter().any(|dose| dose["injected"].as_u64() > Some(0)), "{course:?}");
    // All is lost while it acts and nothing while it rests: any datagram that got through, or was lost at rest, would be
    // one gap more.
    let acting: Vec<_> = course.iter().skip(1).step_by(2).collect();
    ensure!(felt.len() == acting.len(), "{felt:?} and {acting:?}");
    let (first, begun) = (number(acting[0], "from_s")?, felt[0].0);
    for (dose, (from, to, lost)) in acting.iter().zip(&felt) {
        let (wanted_from, wanted_to) = (number(dose, "from_s")? - first, number(dose, "to_s")? - first);
        let (from, to) = (from - begun, to - begun);
        ensure!(
            (from - wanted_from).abs() < MARGIN_S && (to - wanted_to).abs() < MARGIN_S,
            "felt from {from} to {to} s, recorded from {wanted_from} to {wanted_to} s"
        );
        ensure!(*lost > 0, "{felt:?}");
    }
    let lost: u64 = felt.iter().map(|gap| gap.2).sum();
    ensure!(record["faults"][0]["injected"] == lost, "{lost} lost, but {}", record["faults"][0]);
    check_spared(spared)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_call_at_rest_does_not_fail() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let asks = |cgroup| {
        Victim::start(&Place::default().in_cgroup(cgroup), "calls --call openat --no-controls --pause-us 500")
    };
    let (mut hit, mut spared) = (asks(&scene.ground.target)?, asks(&scene.beside)?);
    hit.ready()?;
    spared.ready()?;
    let finished = scene
        .start(
            "  duration: 12s\n  faults:\n    - syscall: {calls: [openat], error: EIO}\n  schedule:\n    start: {after: 2s}\n    pulse: \
             {on: 2s, off: 2s}\n    repeat: 2\n",
        )?
        .finish()?;
    finished.expect_status(0)?;
    let record = scene.reports.record("held")?;
    let (mut acted, mut rested) = (0, 0);
    for dose in &course(&record)? {
        let (injected, drawn) = (count(dose, "injected")?, count(dose, "drawn")?);
        if number(dose, "share_percent")? > 0.0 {
            ensure!(injected == drawn, "{dose}");
            acted += injected;
        } else {
            ensure!(injected == 0, "{dose}");
            rested += 1;
        }
    }
    ensure!(acted > 0 && rested > 1, "{record}");
    // What the victim felt is what was counted. What comes while a share is exchanged is in no share's account.
    hit.stop(Role::First)?;
    spared.stop(Role::First)?;
    let felt = |victim: &Victim| {
        victim.board.tasks()[0].errno_counts.iter().map(|count| count.load(Acquire)).sum::<u64>()
    };
    let counted = count(&record["faults"][0], "injected")?;
    ensure!(
        felt(&hit) == counted && acted <= counted && felt(&spared) == 0,
        "{} felt, {counted} counted, {acted} while it acted, {} beside",
        felt(&hit),
        felt(&spared)
    );
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_ramp_has_its_shares() -> Result<()> {
    let scene = Scene::new()?;
    let (mut hit, spared) = scene.talkers()?;
    let fields = "  duration: 10s\n  faults:\n    - name: lossy\n      network: {loss: 100%, match: {protocol: udp}}\n      \
                  schedule: {ramp: {from: 0%, to: 40%, over: 8s, steps: 5}}\n";
    let plan =
        Command::new(binary()?).arg("plan").arg(scene.reports.write(&scene.document(fields))?).output()?;
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    for told in ["goes from 0% to 40% in 5 steps over 8s", "lossy at 10%", "6.400 s  lossy at 40%"] {
        ensure!(plan.contains(told), "{told} is not in {plan}");
    }
    let finished = scene.start(fields)?.finish()?;
    finished.expect_status(0)?;
    let shares: Vec<f64> = steps(&finished).iter().map(|(_, share)| *share).collect();
    // As above: a step that is over before its turn comes is left out.
    let all = [0.0, 10.0, 20.0, 30.0, 40.0];
    ensure!(
        shares.len() > 1
            && shares.is_sorted()
            && shares[0] == 0.0
            && shares.iter().all(|share| all.contains(share)),
        "{shares:?}"
    );
    let result = hit.stop(Role::Second)?;
    ensure!(result["overflows"] == 0, "{result}");
    let record = scene.reports.record("held")?;
    let course = course(&record)?;
    ensure!(course.len() == shares.len(), "{course:?}");
    for dose in course.iter().filter(|dose| dose["drawn"].as_u64() > Some(0)) {
        let (injected, drawn) = (count(dose, "injected")?, count(dose, "drawn")?);
        check_share("a step of the ramp", injected, drawn, number(dose, "share_percent")? / 100.0)?;
    }
    ensure!(count(&course[0], "injected")? == 0, "{}", course[0]);
    let lost = hit.board.datagrams.lost.load(Acquire);
    let injected = count(&record["faults"][0], "injected")?;
    // The last losses may be behind all that was received.
    ensure!(lost <= injected && lost > 0, "{lost} lost, {injected} injected");
    ensure!(result["missing"].as_array().is_some_and(|missing| !missing.is_empty()), "{result}");
    for form in ["r.html", "r.md"] {
        ensure!(scene.reports.read(form)?.contains("lossy"), "{form}");
    }
    check_spared(spared)?;
    scene.ground.check_clean()
}

/// Steps that are shorter than the kernel's grace periods are joined, and how long those take is the machine's affair: the test
/// gives it ever more time.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn every_step_comes_where_there_is_time_for_it() -> Result<()> {
    let scene = Scene::new()?;
    let (mut hit, spared) = scene.talkers()?;
    let all = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0];
    let mut lasts_ms = 200;
    loop {
        let (over, whole) = (7 * lasts_ms, 9 * lasts_ms);
        let fields = format!(
            "  duration: {whole}ms\n  faults:\n    - network: {{loss: 100%, match: {{protocol: udp}}}}\n  schedule: {{ramp: {{from: \
             0%, to: 35%, over: {over}ms, steps: 8}}}}\n"
        );
        scene.start(&fields)?.finish()?.expect_status(0)?;
        let course = course(&scene.reports.record("held")?)?;
        let shares: Vec<_> =
            course.iter().map(|dose| number(dose, "share_percent")).collect::<Result<_>>()?;
        // Whatever is left out: in order, none before its time, and the last one always comes.
        ensure!(shares.is_sorted() && shares.iter().all(|share| all.contains(share)), "{shares:?}");
        for dose in &course {
            let place = number(dose, "share_percent")? / 5.0;
            let planned = place * f64::from(over) / 8.0 / 1e3;
            let since = number(dose, "from_s")? - number(&course[0], "from_s")?;
            ensure!(since >= planned - 0.005, "{dose} was due at {planned} s");
        }
        if shares == all {
            measure("schedule", json!({"steps_of_ms": f64::from(over) / 8.0}));
            break;
        }
        ensure!(lasts_ms < 10_000, "steps of {lasts_ms} ms did not all come: {shares:?}");
        lasts_ms *= 2;
    }
    hit.stop(Role::Second)?;
    check_spared(spared)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_delay_at_rest_holds_nothing_back() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let place = Place::default().in_cgroup(&scene.ground.target).in_netns(&scene.ground.netns);
    // The sender does not wait for the receiver.
    let mut victim = Victim::start(&place, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 1 --alone")?;
    victim.ready()?;
    let datagrams = &victim.board.datagrams;
    wait_until("datagrams", || datagrams.received.load(Acquire) > 50)?;
    let mut running = scene.start(
        "  duration: 900s\n  faults:\n    - network: {delay: 2s, match: {protocol: udp}}\n  schedule: {pulse: {on: 30s, off: \
         600s}}\n",
    )?;
    // Milliseconds that a datagram took which was sent after a step.
    let age_ms = |since: u64| {
        let sent = datagrams.last_received_sent_ns.load(Acquire);
        let now = monotonic_ns();
        (sent > since).then(|| (now - sent) as f64 / 1e6)
    };
    let mut step = |acts: bool| -> Result<u64> {
        running.event("step", |event| (event["faults"][0]["share_percent"] == 100.0) == acts)?;
        Ok(monotonic_ns())
    };
    let since = step(true)?;
    let (least, _) = wait_for("a datagram that was held back", || Ok(age_ms(since)))?;
    ensure!(least >= 2_000.0, "one arrived after {least} ms instead of 2 s");
    let since = step(false)?;
    wait_until("a datagram that was not held back", || age_ms(since).is_some_and(|age| age < 2_000.0))?;
    // Those of the time in which a share takes the other's place count for neither: this is far behind it.
    let received = datagrams.received.load(Acquire);
    wait_until("many more", || datagrams.received.load(Acquire) > received + 6_000)?;
    running.signal(Signal::SIGINT)?;
    running.finish()?.expect_status(130)?;
    let course = course(&scene.reports.record("interrupted")?)?;
    ensure!(
        course.len() == 2 && count(&course[1], "injected")? == 0 && count(&course[1], "drawn")? > 0,
        "{course:?}"
    );
    drop(victim);
    scene.ground.check_clean()
}

/// Names and shares of all steps that were told.
fn steps(finished: &Finished) -> Vec<(String, f64)> {
    let faults = |event: &Value| event["faults"].as_array().cloned().unwrap_or_default();
    let all = finished.events("step").iter().flat_map(faults).collect::<Vec<_>>();
    let read = |fault: &Value| Some((fault["name"].as_str()?.to_owned(), fault["share_percent"].as_f64()?));
    all.iter().filter_map(read).collect()
}

/// Two stages: the first lets everything through, the second nothing.
fn stages(server: u16, second: &str) -> String {
    let probe = |name: &str| {
        format!(
            "      steadyState:\n        - name: {name}\n          http: {{url: \"http://127.0.0.1:{server}/\"}}\n          \
             interval: 100ms\n          timeout: 1s\n"
        )
    };
    format!(
        "  recovery: 60s\n  stages:\n    - name: calm\n      duration: 3s\n      faults:\n        - name: few-datagrams\n          \
         network: {{loss: 50%, match: {{protocol: udp}}}}\n{}    - name: storm\n      duration: {second}\n      faults:\n        - \
         name: mute\n          network: {{loss: 100%, match: {{protocol: tcp, localPorts: [{server}]}}}}\n{}",
        probe("answers-in-calm").replace("timeout: 1s", "timeout: 60s"),
        probe("answers-in-storm")
    )
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_stage_has_its_own_faults_and_its_own_verdict() -> Result<()> {
    let scene = Scene::new()?;
    let (mut hit, spared) = scene.talkers()?;
    let place = Place::default().in_cgroup(&scene.ground.target).in_netns(&scene.ground.netns);
    let mut server = Victim::start(&place, "web --listen 127.0.0.1:8080")?;
    server.ready()?;
    let finished = scene.start(&stages(8080, "6s"))?.finish()?;
    finished.expect_status(4)?;
    let names: Vec<_> = finished.events("stage").iter().map(|event| event["stage"].clone()).collect();
    ensure!(names == ["calm", "storm"], "{names:?}");
    let record = scene.reports.record("deviated")?;
    let stages = record["stages"].as_array().context("no stages")?;
    let outcomes: Vec<_> = stages.iter().map(|stage| &stage["outcome"]).collect();
    ensure!(outcomes == ["held", "deviated"], "{stages:?}");
    let told = stages[1]["deviations"][0].as_str().unwrap_or_default();
    ensure!(told.contains("answers-in-storm") && told.contains("in stage storm"), "{told}");
    ensure!(record["verdict"]["deviations"].as_array().is_some_and(|all| all.len() == 1), "{record}");
    // Each fault acts in its own stage and rests in the other one.
    for (place, (stage, course)) in [("calm", [50.0, 0.0]), ("storm", [0.0, 100.0])].iter().enumerate() {
        let fault = &record["faults"][place];
        ensure!(fault["stage"] == *stage && fault["finding"] == "confirmed", "{fault}");
        for (dose, share) in fault["course"].as_array().context("no course")?.iter().zip(course) {
            ensure!(number(dose, "share_percent")? == *share, "{fault}");
            if count(dose, "drawn")? > 0 {
                check_share(stage, count(dose, "injected")?, count(dose, "drawn")?, share / 100.0)?;
            }
        }
    }
    // Its probes are asked in its time only, but for those that were asked before it ended.
    let began = number(&stages[1], "from_s")?;
    for answer in record["probes"][1]["during"].as_array().context("no answers")? {
        ensure!(number(answer, "at_s")? >= began - 0.5, "{answer} before {began}");
    }
    for (form, words) in
        [("r.html", "storm"), ("r.md", "storm"), ("r.xml", "stage: storm"), ("r.journal.json", "storm")]
    {
        ensure!(scene.reports.read(form)?.contains(words), "{form} does not say {words}");
    }
    hit.stop(Role::Second)?;
    check_spared(spared)?;
    drop(server);
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn an_end_in_the_middle_leaves_nothing_and_says_what_was_cut() -> Result<()> {
    let scene = Scene::new()?;
    let (mut hit, spared) = scene.talkers()?;
    let place = Place::default().in_cgroup(&scene.ground.target).in_netns(&scene.ground.netns);
    let mut server = Victim::start(&place, "web --listen 127.0.0.1:8080")?;
    server.ready()?;
    let pulse = format!(
        "  duration: 600s\n  faults:\n    - {LOSE_ALL}\n  schedule: {{pulse: {{on: 300ms, off: 300ms}}}}\n"
    );
    for (signal, status) in
        [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGKILL, 137)]
    {
        let mut running = scene.start(&pulse)?;
        running.event("step", |event| event["faults"][0]["share_percent"] == 0.0)?;
        if signal == Signal::SIGINT {
            // Whoever follows a schedule is not changed by hand.
            let id = running.event("step", |_| true)?["run"].as_str().unwrap_or_default().to_owned();
            let set =
                Kchaos::new(&format!("set {id} --loss 5% --protocol udp")).at(&scene.ground.runner).run()?;
            set.expect_status(2)?;
            ensure!(set.text().contains("schedule"), "{}", set.text());
        }
        running.signal(signal)?;
        running.finish()?.expect_status(status)?;
        if signal != Signal::SIGKILL {
            let record = scene.reports.record("interrupted")?;
            ensure!(record["summary"]["undone"]["programs"] == 0, "{}", record["summary"]);
            ensure!(!course(&record)?.is_empty(), "{}", record["faults"]);
        }
        let received = hit.board.datagrams.received.load(Acquire);
        wait_until("datagrams", || hit.board.datagrams.received.load(Acquire) > received + 100)?;
        KernelObjects::now()?.since(&scene.ground.objects).wait_gone()?;
    }
    let mut running = scene.start(&stages(8080, "600s").replace("duration: 3s", "duration: 600s"))?;
    running.event("stage", |event| event["stage"] == "calm")?;
    running.signal(Signal::SIGINT)?;
    running.finish()?.expect_status(130)?;
    let record = scene.reports.record("interrupted")?;
    let outcomes: Vec<_> =
        record["stages"].as_array().into_iter().flatten().map(|stage| &stage["outcome"]).collect();
    ensure!(outcomes == ["cut", "not_reached"], "{}", record["stages"]);
    let journal: Value = serde_json::from_str(&scene.reports.read("r.journal.json")?)?;
    let told = &journal["experiment"]["extensions"][0]["stages"];
    ensure!(journal["status"] == "interrupted" && *told == record["stages"], "{journal}");
    ensure!(scene.reports.read("r.html")?.contains("cut: stage calm"), "the page does not say what was cut");
    hit.stop(Role::Second)?;
    check_spared(spared)?;
    drop(server);
    scene.ground.check_clean()
}
