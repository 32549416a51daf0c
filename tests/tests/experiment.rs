//! Experiment files: read, planned, run to a verdict, given up, interrupted.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::cgroup::TestCgroup;
use integration_tests::experiment::{Reports, document};
use integration_tests::ground::Ground;
use integration_tests::kchaos::{Kchaos, Running, binary};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::patience::{patience, wait_until};
use integration_tests::spawn::Victim;
use nix::sys::signal::Signal;
use serde_json::json;

/// An experiment on a cgroup; `rest` has the indentation of the spec's fields.
fn experiment(target: &Path, duration: &str, faults: &str, rest: &str) -> String {
    document(target, &format!("  duration: {duration}\n  faults:\n    - {faults}\n{rest}"))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn all_mistakes_are_told_with_their_places_and_nothing_is_touched() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let before = KernelObjects::now()?;
    let mistakes = "apiVersion: kchaos.dev/v2\nkind: Experimnt\nmetadata:\n  name: \"\"\n  lables: {}\nspec:\n  hypothesis: h\n  \
                    duration: 60\n  mode: destroy\n  seed: many\n  targets:\n    - unit: multi-user.target\n    - {pid: 0}\n    - {}\n  \
                    allow: [exece]\n  faults:\n    - network:\n        direction: sideways\n        match: {remote: [10.0.0.1/8], \
                    remotePorts: [70000]}\n        loss: 5\n    - syscall: {calls: [opnat], error: EIOO, probability: 110%}\n    - \
                    netwrok: {loss: 5%}\n  steadyState:\n    - name: a\n      http: {url: \"ftp://x/\"}\n  abort:\n    - {probe: b, \
                    consecutive: 3}\n";
    let reports = Reports::new()?;
    let file = reports.write(mistakes)?;
    let runner = cgroup.runner()?;
    let refused = file.with_extension("html");
    for command in ["plan", "run"] {
        let report =
            if command == "run" { format!(" --report {}", refused.display()) } else { String::new() };
        let finished = Kchaos::new(&format!("{command} {}{report}", file.display())).at(&runner).run()?;
        finished.expect_status(2)?;
        let text = finished.text();
        let name = file.display().to_string();
        let told: Vec<_> = text.lines().filter(|line| line.contains(&name)).collect();
        ensure!(told.len() == 21, "{} messages instead of 21:\n{text}", told.len());
        for line in told {
            let place: Vec<_> = line.split(&name).nth(1).context("no place")?.split(':').collect();
            ensure!(
                place[1].parse::<u32>().is_ok() && place[2].parse::<u32>().is_ok(),
                "no line and column: {line}"
            );
        }
        KernelObjects::now()?.since(&before).wait_gone()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_file_is_planned_as_flags_are() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let target = cgroup.child("target")?;
    let text = experiment(target.path(), "10s", "network: {loss: 5%, match: {protocol: udp}}", "");
    let reports = Reports::new()?;
    let file = reports.write(&text)?;
    let of_file = integration_tests::plan::plan(&file.display().to_string())?;
    let flags = format!("--cgroup {} --loss 5% --protocol udp --duration 10s", target.path().display());
    let of_flags = integration_tests::plan::plan(&flags)?;
    for field in ["target", "rules", "chosen", "warnings"] {
        ensure!(of_file[field] == of_flags[field], "{field}: {} and {}", of_file[field], of_flags[field]);
    }
    let both = Command::new(binary()?).arg("plan").arg(&file).args(["--loss", "5%"]).output()?;
    ensure!(both.status.code() == Some(2), "a file and flags were taken together");
    let schema = Command::new(binary()?).arg("schema").output()?;
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout)?;
    ensure!(schema["title"] == "kchaos experiment", "{schema}");
    Ok(())
}

/// A web server in the target.
struct Scene {
    ground: Ground,
    server: Victim,
    reports: Reports,
}

/// Loses all answers of the web server.
const MUTE: &str = "network: {loss: 100%, match: {protocol: tcp, localPorts: [8080]}}";

impl Scene {
    fn new() -> Result<Self> {
        let ground = Ground::new()?;
        let mut server = ground.victim(&ground.target, "web --listen 127.0.0.1:8080")?;
        server.ready()?;
        Ok(Self { ground, server, reports: Reports::new()? })
    }

    /// Starts an experiment on the server; `rest` has the indentation of the spec's fields.
    fn start(&self, duration: &str, faults: &str, rest: &str) -> Result<Running> {
        let text = experiment(self.ground.target.path(), duration, faults, rest);
        self.reports.start(&text, &self.ground.runner)
    }

    /// Nothing is left, and the server serves.
    fn check_clean(&self) -> Result<()> {
        self.ground.check_clean()?;
        let served = self.server.board.datagrams.received.load(Acquire);
        self.ground.netns.enter(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:8080")?;
            stream.set_read_timeout(Some(patience()))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer.contains("200 OK"), "{answer}");
            Ok(())
        })?;
        wait_until("the server's own count", || self.server.board.datagrams.received.load(Acquire) > served)?;
        Ok(())
    }
}

fn phase(running: &mut Running, name: &str) -> Result<()> {
    running.event("phase", |event| event["phase"] == name).map(drop)
}

const ANSWERS: &str = "    - name: answers\n      http: {url: \"http://127.0.0.1:8080/\"}\n      timeout: 2s\n      interval: 100ms\n";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_hypothesis_holds() -> Result<()> {
    let scene = Scene::new()?;
    let talk = Victim::talking_to_itself(&scene.ground.target, &scene.ground.netns, 7001)?;
    let rest = format!(
        "  steadyState:\n{ANSWERS}    - name: up\n      http: {{url: \"http://127.0.0.1:8080/\", measure: body}}\n      \
         tolerance: {{jsonPath: $.status, equals: up}}\n      timeout: 60s\n      mode: edge\n    - name: alive\n      cgroup: \
         {{measure: exits}}\n      tolerance: {{atMost: 0}}\n      interval: 100ms\n    - name: command\n      command: {{argv: \
         [\"true\"]}}\n      timeout: 60s\n      mode: start\n"
    )
    .replace("timeout: 2s", "timeout: 60s");
    let finished = scene.start("4s", "network: {loss: 30%, match: {protocol: udp}}", &rest)?.finish()?;
    finished.expect_status(0)?;
    let lost = talk.board.datagrams.lost.load(Acquire);
    let record = scene.reports.record("held")?;
    let fault = &record["faults"][0];
    ensure!(fault["finding"] == "confirmed" && fault["asked_percent"] == 30.0, "{fault}");
    let injected = fault["injected"].as_u64();
    // Others were spared because the time was over, or the lease for a moment.
    let by_chance = record["summary"]["rules"][0]["spared"]["chance"]["events"].as_u64();
    let drawn = injected.context("injected")? + by_chance.context("spared by chance")?;
    check_share("experiment", drawn - by_chance.unwrap_or_default(), drawn, 0.3)?;
    ensure!(injected >= Some(lost) && lost > 0, "{lost} lost, {injected:?} injected");
    let achieved = &fault["achieved"];
    let number = |name: &str| achieved[name].as_f64().unwrap_or(f64::NAN);
    ensure!(number("low") < number("percent") && number("percent") < number("high"), "{achieved}");
    let names: Vec<_> =
        record["phases"].as_array().into_iter().flatten().map(|phase| &phase["name"]).collect();
    ensure!(names == ["before", "faults", "after"], "{names:?}");
    for probe in record["probes"].as_array().context("no probes")? {
        let all = ["before", "during", "after"].map(|part| probe[part].as_array().map_or(0, Vec::len));
        let wanted = match probe["name"].as_str() {
            Some("up") => all[0] == 1 && all[1] == 0 && all[2] >= 1,
            Some("command") => all == [1, 0, 0],
            _ => all[0] == 1 && all[1] >= 2 && all[2] >= 1,
        };
        ensure!(wanted, "{}: {all:?}", probe["name"]);
    }
    ensure!(record["recovery"]["took_s"].as_f64().is_some(), "{}", record["recovery"]);
    ensure!(record["summary"]["bystander"]["lost"] == 0, "{}", record["summary"]);
    let page = scene.reports.read("r.html")?;
    ensure!(page.contains("class=\"fault\"") && !page.contains("<script"), "the page lacks its plot");
    drop(talk);
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_hypothesis_is_refuted_and_the_service_recovers() -> Result<()> {
    let scene = Scene::new()?;
    let finished =
        scene.start("5s", MUTE, &format!("  recovery: 60s\n  steadyState:\n{ANSWERS}"))?.finish()?;
    finished.expect_status(4)?;
    let record = scene.reports.record("deviated")?;
    let probe = &record["probes"][0];
    let failed =
        probe["during"].as_array().into_iter().flatten().filter(|answer| answer["holds"] == false).count();
    ensure!(failed > 0, "{probe}");
    ensure!(
        record["verdict"]["deviations"][0].as_str().is_some_and(|text| text.contains("answers failed")),
        "{record}"
    );
    ensure!(record["recovery"]["took_s"].as_f64().is_some(), "{}", record["recovery"]);
    ensure!(record["faults"][0]["finding"] == "confirmed", "{}", record["faults"]);
    ensure!(
        scene.reports.read("r.xml")?.contains("<failure type=\"deviated\""),
        "{}",
        scene.reports.read("r.xml")?
    );
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn an_experiment_is_given_up_for_a_probe() -> Result<()> {
    let scene = Scene::new()?;
    let rest = format!(
        "  recovery: 60s\n  steadyState:\n{ANSWERS}  abort:\n    - {{probe: answers, consecutive: 2}}\n"
    );
    let finished = scene.start("600s", MUTE, &rest)?.finish()?;
    finished.expect_status(5)?;
    let record = scene.reports.record("aborted")?;
    let abort = &record["abort"];
    let took = |name: &str| abort[name].as_f64().unwrap_or(f64::INFINITY);
    measure(
        "abort",
        json!({"by": "probe", "disarmed_ms": took("disarmed_ms"), "last_ms": took("last_fault_within_ms")}),
    );
    ensure!(took("disarmed_ms") < 5000.0 && took("last_fault_within_ms") < 10_000.0, "{abort}");
    ensure!(record["summary"]["outcome"] == "aborted", "{}", record["summary"]);
    ensure!(record["recovery"]["took_s"].as_f64().is_some(), "{}", record["recovery"]);
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn an_experiment_is_given_up_for_a_file_and_for_too_many_faults() -> Result<()> {
    let scene = Scene::new()?;
    let talk = Victim::talking_to_itself(&scene.ground.target, &scene.ground.netns, 7001)?;
    let stop = scene.reports.path("stop");
    let loss = "network: {loss: 30%, match: {protocol: udp}}";
    let mut running = scene.start("600s", loss, &format!("  abort: [{{file: {}}}]\n", stop.display()))?;
    running.armed()?;
    let lost = talk.board.datagrams.lost.load(Acquire);
    wait_until("losses", || talk.board.datagrams.lost.load(Acquire) > lost + 20)?;
    std::fs::write(&stop, "")?;
    let finished = running.finish()?;
    finished.expect_status(5)?;
    let abort = scene.reports.record("aborted")?["abort"].clone();
    ensure!(abort["condition"].as_str().is_some_and(|text| text.contains("stop appeared")), "{abort}");
    measure(
        "abort",
        json!({"by": "file", "disarmed_ms": abort["disarmed_ms"], "last_ms": abort["last_fault_within_ms"]}),
    );
    let finished = scene.start("600s", loss, "  abort: [{injections: 200}]\n")?.finish()?;
    finished.expect_status(5)?;
    let record = scene.reports.record("aborted")?;
    let injected = record["faults"][0]["injected"].as_u64().unwrap_or(0);
    measure("abort", json!({"by": "injections", "wanted": 200, "injected": injected}));
    // Two datagrams in a millisecond, looked at every ten: what an emulated machine makes of that is its own affair.
    ensure!((200..20_000).contains(&injected), "{injected} faults instead of about 200");
    drop(talk);
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_a_steady_state_nothing_is_injected() -> Result<()> {
    let scene = Scene::new()?;
    let probe = "  steadyState:\n    - name: closed\n      tcp: {address: \"127.0.0.1:9\"}\n";
    let finished = scene.start("600s", MUTE, probe)?.finish()?;
    finished.expect_status(3)?;
    ensure!(
        finished.events("armed").is_empty() && finished.events("summary").is_empty(),
        "{}",
        finished.text()
    );
    let record = scene.reports.record("not_met")?;
    ensure!(
        record["verdict"]["deviations"][0].as_str().is_some_and(|text| text.contains("closed")),
        "{record}"
    );
    // A run that is refused leaves no empty report.
    let bad = scene.reports.path("refused.html");
    let file = scene.reports.path("refused.yaml");
    std::fs::write(&file, experiment(Path::new("/no/such/cgroup"), "1s", MUTE, ""))?;
    let line = format!("run --json {} --report {}", file.display(), bad.display());
    Kchaos::new(&line).at(&scene.ground.runner).run()?.expect_status(2)?;
    ensure!(!bad.exists(), "an empty report is left");
    let line = format!("run --json {} --report {}", file.display(), scene.reports.path("x.pdf").display());
    let finished = Kchaos::new(&line).at(&scene.ground.runner).run()?;
    finished.expect_status(2)?;
    ensure!(
        finished.error()?.message.contains(".html") && !scene.reports.path("x.pdf").exists(),
        "{}",
        finished.text()
    );
    // What injects nothing has found out nothing, and is no success.
    let finished = scene.start("1s", "network: {loss: 5%, match: {protocol: icmp}}", "")?.finish()?;
    finished.expect_status(9)?;
    let record = scene.reports.record("nothing_injected")?;
    ensure!(record["faults"][0]["finding"] == "no_match", "{}", record["faults"]);
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn an_interrupt_at_every_phase_rolls_back_and_reports() -> Result<()> {
    let scene = Scene::new()?;
    let hanging = |mode: &str| {
        format!(
            "  steadyState:\n    - name: hangs\n      command: {{argv: [sleep, \"1000\"]}}\n      timeout: 300s\n      mode: {mode}\n"
        )
    };
    let signals =
        [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGKILL, 137)];
    // Each phase with its probe that hangs in it, and how long faults act.
    for (name, mode, duration) in
        [("before", "start", "600s"), ("faults", "during", "600s"), ("after", "end", "200ms")]
    {
        for (signal, status) in signals {
            let told = || format!("{signal} in phase {name}");
            let mut running = scene.start(duration, MUTE, &hanging(mode))?;
            phase(&mut running, name)?;
            match name {
                "faults" => drop(running.armed()?),
                // The faults are gone before their end is waited for.
                "after" => scene.check_clean().with_context(told)?,
                _ => {}
            }
            running.signal(signal)?;
            let finished = running.finish()?;
            finished.expect_status(status).with_context(told)?;
            // Nobody can write a report behind SIGKILL, but nothing is left either.
            if signal == Signal::SIGKILL {
                scene.check_clean().with_context(told)?;
                continue;
            }
            let record = scene.reports.record("interrupted").with_context(told)?;
            let journal: serde_json::Value = serde_json::from_str(&scene.reports.read("r.journal.json")?)?;
            ensure!(journal["status"] == "interrupted", "{}: {journal}", told());
            let phases: Vec<_> =
                record["phases"].as_array().into_iter().flatten().map(|phase| &phase["name"]).collect();
            ensure!(phases.last().is_some_and(|last| *last == name), "{}: {phases:?}", told());
            if name == "before" {
                ensure!(
                    record["summary"].is_null() && finished.events("armed").is_empty(),
                    "{}",
                    record["summary"]
                );
            } else {
                ensure!(record["summary"]["undone"]["programs"] == 0, "{}: programs are left", told());
            }
        }
    }
    scene.check_clean()
}
