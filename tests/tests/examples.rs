//! The ready experiments of `examples/`, each on real software: changed only where the file names a service, an address or a
//! time, they inflict what they say, the hypothesis holds, and nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use integration_tests::alone::Alone;
use integration_tests::capability::{
    counted_errors_missing, counts_exactly, delay_missing, file_errors_missing, kprobe_override_works,
    mechanism_works, on_host,
};
use integration_tests::client::{dnsmasq, image_missing, nginx_conf, serve};
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::skip;
use integration_tests::spawn::{Place, Process};
use serde_json::{Value, json};

/// Where services are.
struct Scene(Alone);

impl Scene {
    fn new() -> Result<Self> {
        Ok(Self(Alone::in_netns(NetNs::new()?.with_clsact_where_needed()?)?))
    }

    /// A directory of a service.
    fn home(&self, name: &str) -> Result<String> {
        let home = self.0.path(name);
        fs::create_dir(&home)?;
        Ok(home)
    }

    /// nginx with this inside its `server`; what it says is in `NAME.said`.
    fn nginx(&self, place: &Place, port: u16, name: &str, rules: &str) -> Result<Process> {
        let home = self.home(name)?;
        fs::write(format!("{home}/page"), "kchaos")?;
        let conf = nginx_conf(&home, &format!("127.0.0.1:{port}"));
        let conf = conf.replace(
            &format!("root {home}; "),
            &format!("root {home}; location = /up {{ return 200; }} {rules} "),
        );
        ensure!(rules.is_empty() || conf.contains(rules), "{conf}");
        fs::write(format!("{home}/conf"), conf)?;
        let ask = ["curl", "-sSf", "--max-time", "3", &format!("http://127.0.0.1:{port}/up")];
        let words = ["nginx", "-p", &home, "-c", &format!("{home}/conf")];
        serve(place, &words, self.0.log(&format!("{name}.said"))?, &ask, &self.0.beside)
    }

    fn redis(&self, place: &Place, name: &str, more: &[&str]) -> Result<Process> {
        let home = self.home(name)?;
        let words = ["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--dir", &home, "--save", ""];
        let ask = ["timeout", "3", "redis-cli", "ping"];
        serve(place, &[&words, more].concat(), self.0.log(&format!("{name}.said"))?, &ask, &self.0.beside)
    }

    /// Something that is done again and again, whether it works or not.
    fn again(&self, place: &Place, what: &str) -> Result<Process> {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("while :; do {what}; sleep 0.05; done")]);
        let log = self.0.log("again")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        place.apply(&mut command)?;
        Process::start(command)
    }

    /// Runs an example with these changes, all of which must be there to be made. The hypothesis holds.
    fn holds(&self, text: &str, changes: &[(&str, &str)]) -> Result<Value> {
        let before = KernelObjects::now()?;
        let mut text = text.to_owned();
        let unit =
            text.lines().find_map(|line| line.trim().strip_prefix("- ")).context("no target")?.to_owned();
        ensure!(unit.starts_with("unit: "), "{unit}");
        let target = format!("cgroup: {}", self.0.target_cgroup.path().display());
        let is_named = changes.iter().any(|(old, _)| *old == unit);
        let named = (!is_named).then_some((unit.as_str(), target.as_str()));
        for (old, new) in changes.iter().copied().chain(named) {
            ensure!(text.contains(old), "the example does not say {old:?}");
            text = text.replace(old, new);
        }
        let (file, report) = (self.0.path("example.yaml"), self.0.path("record.json"));
        fs::write(&file, &text)?;
        let finished =
            Kchaos::new(&format!("run --json {file} --report {report}")).at(&self.0.runner).run()?;
        let record: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap_or_default())
            .with_context(|| format!("no record of\n{text}\n{}", finished.text()))?;
        let told =
            json!({"verdict": record["verdict"], "faults": record["faults"], "probes": record["probes"]});
        finished.expect_status(0).with_context(|| format!("{told}\n{text}"))?;
        ensure!(record["verdict"]["outcome"] == "held", "{told}");
        // A fault of several calls is told call by call: one of them is enough.
        let mut injected = BTreeMap::<&str, u64>::new();
        for fault in record["faults"].as_array().context("no faults")? {
            let name = fault["name"].as_str().context("no name")?;
            let name = name.split(": ").next().unwrap_or(name);
            *injected.entry(name).or_default() += fault["injected"].as_u64().context("no count")?;
        }
        ensure!(!injected.is_empty() && injected.values().all(|count| *count > 0), "{injected:?}: {told}");
        ensure!(record["summary"]["bystander"]["lost"] == 0, "{}", record["summary"]);
        ensure!(record["summary"]["bystander"]["failed"] == 0, "{}", record["summary"]);
        measure(
            "example",
            json!({"name": record["name"], "faults": record["summary"]["rules"][0]["injected"]["events"]}),
        );
        KernelObjects::now()?.since(&before).wait_gone()?;
        Ok(record)
    }
}

macro_rules! example {
    ($name:literal) => {
        include_str!(concat!("../../examples/", $name, ".yaml"))
    };
}

/// What every probe gets on a machine that is slow.
const PATIENT: (&str, &str) = ("  steadyState:\n", "  recovery: 5m\n  steadyState:\n");
const PAGES: &str = "location / { try_files /page =404; }";
const TO_DATABASE: &str = "location / { proxy_pass http://127.0.0.1:5432/page; }";
const PAY: &str = "location = /pay { return 202; }";

/// Skips a test of what this machine has not; the first reason counts.
macro_rules! needed {
    ($($missing:expr),+) => {
        $(if let Some(reason) = $missing {
            skip!("{reason}");
        })+
    };
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_slow_dependency() -> Result<()> {
    needed!(image_missing(), delay_missing()?);
    let scene = Scene::new()?;
    let _database = scene.nginx(&scene.0.beside, 5432, "database", PAGES)?;
    let _shop = scene.nginx(&scene.0.target, 8080, "shop", TO_DATABASE)?;
    let changes = [
        ("duration: 60s", "duration: 6s"),
        ("{atMost: 800ms}", "{atMost: 60s}\n      timeout: 60s"),
        ("interval: 2s", "interval: 100ms"),
        ("recovery: 10s", "recovery: 5m"),
    ];
    let record = scene.holds(example!("slow-dependency"), &changes)?;
    // Packets of the target wait until a page is there; the first and the last page may have had none that did.
    let during = record["probes"][0]["during"].as_array().context("no answers")?;
    let slow = during.iter().filter(|answer| answer["value"].as_f64() > Some(0.08)).count();
    ensure!(slow * 2 > during.len(), "{during:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_game_day() -> Result<()> {
    needed!(image_missing(), delay_missing()?);
    let scene = Scene::new()?;
    let _database = scene.nginx(&scene.0.beside, 5432, "database", PAGES)?;
    let rules = format!(
        "proxy_connect_timeout 60s; proxy_read_timeout 60s; location = /health {{ return 200; }} {TO_DATABASE}"
    );
    let _shop = scene.nginx(&scene.0.target, 8080, "shop", &rules)?;
    let _customers =
        scene.again(&scene.0.beside, "curl -s --max-time 2 http://127.0.0.1:8080/ -o /dev/null")?;
    let changes = [
        ("recovery: 60s", "recovery: 5m"),
        ("      duration: 60s", "      duration: 8s"),
        ("{after: 5s, within: 10s}", "{after: 1s, within: 1s}"),
        ("{on: 5s, off: 10s}, repeat: 4", "{on: 3s, off: 2s}"),
        ("{atMost: 800ms}", "{atMost: 60s}\n          timeout: 60s"),
        ("{oneOf: [200, 503]}", "{oneOf: [200, 503]}\n          timeout: 60s"),
    ];
    let record = scene.holds(example!("game-day"), &changes)?;
    let stages = record["stages"].as_array().context("no stages")?;
    ensure!(stages.len() == 2 && stages.iter().all(|stage| stage["outcome"] == "held"), "{stages:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_slow_link() -> Result<()> {
    needed!(image_missing(), delay_missing()?);
    let scene = Scene::new()?;
    let _neighbour = scene.nginx(&scene.0.beside, 8080, "neighbour", PAGES)?;
    let _archive = scene.nginx(
        &scene.0.beside,
        8081,
        "archive",
        "client_max_body_size 0; location = /in { return 204; }",
    )?;
    fs::write(scene.0.path("backup"), vec![7; 1 << 20])?;
    let backup = format!("curl -s --max-time 10 -T {} http://127.0.0.1:8081/in", scene.0.path("backup"));
    let _backup = scene.again(&scene.0.target, &backup)?;
    let changes = [
        ("duration: 60s", "duration: 8s"),
        ("{atMost: 300ms}", "{atMost: 60s}\n      timeout: 60s"),
        PATIENT,
        // A share that some packets of a short run meet.
        ("probability: 0.1%", "probability: 5%"),
        ("every: 100", "every: 20"),
    ];
    scene.holds(example!("slow-link"), &changes).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_ramping_loss() -> Result<()> {
    needed!(image_missing());
    let scene = Scene::new()?;
    let _shop = scene.nginx(&scene.0.target, 8080, "shop", PAGES)?;
    let changes = [
        ("duration: 70s", "duration: 12s"),
        ("over: 60s, steps: 20", "over: 8s, steps: 4"),
        ("{atMost: 1s}", "{atMost: 60s}"),
        ("timeout: 3s", "timeout: 60s\n      interval: 20ms"),
        PATIENT,
    ];
    scene.holds(example!("ramping-loss"), &changes).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_lossy_network() -> Result<()> {
    needed!(image_missing(), (!counts_exactly()).then_some("no fetching atomics (5.12)"));
    let scene = Scene::new()?;
    let _database = scene.nginx(&scene.0.beside, 5432, "database", PAGES)?;
    let health = "default_type application/json; location = /health { return 200 '{\"status\": \"up\"}'; }";
    let _checkout = scene.nginx(&scene.0.target, 8080, "checkout", &format!("{health} {TO_DATABASE}"))?;
    let _customers =
        scene.again(&scene.0.beside, "curl -s --max-time 2 http://127.0.0.1:8080/ -o /dev/null")?;
    let changes = [
        ("duration: 60s", "duration: 10s"),
        ("10.0.0.0/8, \"fd00::/8\"", "127.0.0.0/8, \"::1/128\""),
        ("p: 1%, r: 10%", "p: 20%, r: 30%"),
        ("{jsonPath: $.status, equals: up}", "{jsonPath: $.status, equals: up}\n      timeout: 60s"),
        PATIENT,
    ];
    scene.holds(example!("lossy-network"), &changes).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_flapping_link() -> Result<()> {
    needed!(image_missing());
    let scene = Scene::new()?;
    let _cache = scene.redis(&scene.0.beside, "cache", &[])?;
    let _sessions = scene.nginx(&scene.0.target, 8080, "sessions", PAGES)?;
    let _users = scene.again(&scene.0.target, "timeout 1 redis-cli ping")?;
    let changes = [
        ("duration: 45s", "duration: 10s"),
        ("{after: 5s}", "{after: 1s}"),
        ("{on: 1s, off: 9s}", "{on: 3s, off: 2s}"),
        ("/session\"}", "/session\"}\n      timeout: 60s"),
        PATIENT,
    ];
    scene.holds(example!("flapping-link"), &changes).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_dns_outage() -> Result<()> {
    needed!(image_missing());
    let scene = Scene::new()?;
    let ask = ["dig", "@127.0.0.1", "+short", "+tries=1", "+timeout=2", "db.example.test"];
    let _names =
        serve(&scene.0.beside, &dnsmasq("127.0.0.1"), scene.0.log("dnsmasq")?, &ask, &scene.0.beside)?;
    let _shop = scene.nginx(&scene.0.target, 8080, "shop", PAGES)?;
    let asked = scene.0.path("asked");
    let _questions = scene.again(&scene.0.target, &format!("{} >> {asked}", ask.join(" ")))?;
    let changes =
        [("duration: 20s", "duration: 8s"), ("{atMost: 1s}", "{atMost: 60s}\n      timeout: 60s"), PATIENT];
    scene.holds(example!("dns-outage"), &changes)?;
    let said = fs::read_to_string(&asked)?;
    ensure!(said.contains("192.0.2.7") && said.contains("timed out"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_partition() -> Result<()> {
    needed!(image_missing());
    let scene = Scene::new()?;
    let _queue = scene.redis(&scene.0.beside, "queue", &[])?;
    // What Prometheus answers to an instant query.
    let answer = r#"{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "3"]}]}}"#;
    let query =
        format!("default_type application/json; location = /api/v1/query {{ return 200 '{answer}'; }}");
    let _prometheus = scene.nginx(&scene.0.beside, 9090, "prometheus", &query)?;
    let workers = [scene.0.target_cgroup.child("worker1")?, scene.0.target_cgroup.child("worker2")?];
    let work = "timeout 1 redis-cli lpush queue job";
    let working: Result<Vec<_>> =
        workers.iter().map(|worker| scene.again(&scene.0.target.clone().in_cgroup(worker), work)).collect();
    let _working = working?;
    let each = format!("cgroup: {}/worker*", scene.0.target_cgroup.path().display());
    let changes = [
        ("duration: 30s", "duration: 8s"),
        ("unit: worker@.service", &each),
        ("queue.example.org", "127.0.0.1"),
        ("interval: 5s", "interval: 200ms\n      timeout: 60s"),
        ("recovery: 2m", "recovery: 5m"),
    ];
    let record = scene.holds(example!("partition"), &changes)?;
    let count = |name: &str| record["summary"][name].as_array().map_or(0, Vec::len);
    ensure!(count("chosen") == 1 && count("spared") == 1, "{}", record["summary"]);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_connect_refused() -> Result<()> {
    needed!(image_missing(), counted_errors_missing()?);
    let scene = Scene::new()?;
    let _banks = [
        scene.nginx(&scene.0.beside, 9001, "bank1", PAY)?,
        scene.nginx(&scene.0.beside, 9002, "bank2", PAY)?,
    ];
    // What cannot be connected is asked of the next one.
    let payments = "location = /pay { proxy_pass http://banks; proxy_next_upstream error non_idempotent; }";
    let home = scene.home("payments")?;
    let conf = nginx_conf(&home, "127.0.0.1:8080");
    let banks =
        "upstream banks { server 127.0.0.1:9001 max_fails=0; server 127.0.0.1:9002 max_fails=0; } server {";
    let conf = conf.replace("server {", banks).replace("; } }\n", &format!("; {payments} }} }}\n"));
    fs::write(format!("{home}/conf"), &conf)?;
    let ask = ["curl", "-sSf", "--max-time", "5", "-d", "{}", "http://127.0.0.1:8080/pay"];
    let words = ["nginx", "-p", &home, "-c", &format!("{home}/conf")];
    let _payments = serve(&scene.0.target, &words, scene.0.log("payments.said")?, &ask, &scene.0.beside)?;
    let changes = [
        ("duration: 30s", "duration: 6s"),
        ("retries: 2", "retries: 2\n      timeout: 60s\n      interval: 50ms"),
        PATIENT,
    ];
    scene.holds(example!("connect-refused"), &changes)?;
    let said = fs::read_to_string(scene.0.path("payments.said"))?;
    ensure!(said.contains("(111: Connection refused) while connecting to upstream"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_disk_errors() -> Result<()> {
    needed!(image_missing(), file_errors_missing()?);
    let scene = Scene::new()?;
    let _store = scene.redis(&scene.0.target, "store", &[])?;
    // Each opens a file of its own.
    let saved = scene.0.path("saved");
    let _savers = scene.again(&scene.0.beside, &format!("timeout 5 redis-cli save >> {saved}"))?;
    let store = scene.0.path("store");
    let changes = [
        ("duration: 30s", "duration: 10s"),
        ("/var/lib/store", store.as_str()),
        ("probability: 10%", "probability: 50%"),
        ("{equals: PONG}", "{equals: PONG}\n      timeout: 60s"),
        PATIENT,
    ];
    scene.holds(example!("disk-errors"), &changes)?;
    let said = fs::read_to_string(&saved)?;
    ensure!(said.contains("OK") && said.contains("ERR"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_slow_disk() -> Result<()> {
    needed!(image_missing(), (!mechanism_works("lsm_sleep")?).then_some("no BPF LSM programs that sleep"));
    let scene = Scene::new()?;
    let _nginx = scene.nginx(&scene.0.target, 8080, "nginx", PAGES)?;
    let pages = scene.0.path("nginx");
    let changes = [
        ("duration: 30s", "duration: 8s"),
        ("/var/www", pages.as_str()),
        ("http://127.0.0.1/\"", "http://127.0.0.1:8080/page\""),
        ("{atMost: 1s}", "{atMost: 60s}\n      timeout: 60s\n      interval: 100ms"),
        ("{atMost: 200ms}", "{atMost: 60s}\n      timeout: 60s"),
        PATIENT,
    ];
    let record = scene.holds(example!("slow-disk"), &changes)?;
    // What the service feels, by its own calls, and what its customers do; not under fault alone for the first and the last.
    let late = |probe: usize, least_s: f64| {
        let during = record["probes"][probe]["during"].as_array().context("no answers")?;
        let late = during.iter().filter(|answer| answer["value"].as_f64() > Some(least_s)).count();
        ensure!(late * 2 > during.len(), "{during:?}");
        Ok(())
    };
    late(0, 0.04)?;
    late(1, 0.04)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_disk_full() -> Result<()> {
    needed!(image_missing(), file_errors_missing()?);
    let scene = Scene::new()?;
    let logs = scene.home("logs")?;
    let rules = format!("access_log {logs}/access.log; {PAGES}");
    let _nginx = scene.nginx(&scene.0.target, 8080, "nginx", &rules)?;
    let pattern = format!("{logs}/*");
    let changes = [
        ("duration: 30s", "duration: 5s"),
        ("/var/log/nginx/*", pattern.as_str()),
        ("http://127.0.0.1/\"}", "http://127.0.0.1:8080/\"}\n      timeout: 60s\n      interval: 100ms"),
        PATIENT,
    ];
    let record = scene.holds(example!("disk-full"), &changes)?;
    let said = fs::read_to_string(scene.0.path("nginx.said"))?;
    ensure!(said.contains("(28: No space left on device)"), "{said}");
    let logged = fs::read_to_string(format!("{logs}/access.log"))?.matches("GET / ").count();
    let served: usize = ["before", "during", "after"]
        .iter()
        .filter_map(|phase| record["probes"][0][phase].as_array())
        .map(Vec::len)
        .sum();
    ensure!(logged > 0 && logged < served, "{served} pages were served, {logged} logged");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_fd_exhaustion() -> Result<()> {
    needed!(image_missing(), counted_errors_missing()?);
    let scene = Scene::new()?;
    let _gateway = scene.nginx(&scene.0.target, 8080, "gateway", PAGES)?;
    let _customers =
        scene.again(&scene.0.beside, "curl -s --max-time 2 http://127.0.0.1:8080/ -o /dev/null")?;
    // nginx accepts again after half a second.
    let changes = [
        ("duration: 20s", "duration: 8s"),
        ("when: 1..2000", "when: 1..5"),
        ("/run/kchaos-stop", "/run/kchaos-test-stop"),
        PATIENT,
    ];
    scene.holds(example!("fd-exhaustion"), &changes)?;
    let said = fs::read_to_string(scene.0.path("gateway.said"))?;
    ensure!(said.contains("accept4() failed (24: "), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_memory_pressure() -> Result<()> {
    needed!(image_missing(), file_errors_missing()?);
    let scene = Scene::new()?;
    // Its counters are there where the directory above says so.
    scene.0.cgroup.enable_memory(&[])?;
    let job = "python3 -c 'bytearray(1 << 24)'";
    let jobs = scene.0.path("jobs");
    let _batch = scene.again(&scene.0.target, &format!("{job} 2>> {jobs} && echo done >> {jobs}"))?;
    let changes = [("duration: 30s", "duration: 10s"), PATIENT];
    scene.holds(example!("memory-pressure"), &changes)?;
    let said = fs::read_to_string(&jobs)?;
    // Either the interpreter has no memory for its own libraries, or the job has none.
    let is_felt = said.contains("MemoryError") || said.contains("failed to map segment");
    ensure!(said.contains("done") && is_felt, "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn lies_fsync() -> Result<()> {
    let missing = "no mechanism can claim success";
    needed!(
        on_host().then_some("the programs are in the image of the test machines"),
        (!kprobe_override_works()).then_some(missing)
    );
    let scene = Scene::new()?;
    let _store =
        scene.redis(&scene.0.target, "store", &["--appendonly", "yes", "--appendfsync", "always"])?;
    let changes = [
        ("duration: 30s", "duration: 5s"),
        (
            "argv: [runuser, -u, postgres, --, psql, --no-psqlrc, --command, \"select pg_logical_emit_message(true, 'kchaos', '')\"]",
            "argv: [redis-cli, incr, commits]",
        ),
        ("interval: 2s", "interval: 50ms\n      timeout: 60s"),
        PATIENT,
    ];
    let record = scene.holds(example!("fsync-lies"), &changes)?;
    // Each commit was answered, and none was made sure of.
    let commits = record["probes"][0]["during"].as_array().map_or(0, Vec::len);
    let lies: u64 = record["faults"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|fault| fault["injected"].as_u64())
        .sum();
    ensure!(lies > 0 && commits > 0, "{lies} lies, {commits} commits");
    Ok(())
}
