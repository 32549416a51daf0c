//! Programs people run behave under a bad network as they do under a real one, and undisturbed beside it.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::capability::delay_missing;
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::client::{Answer, dnsmasq, image_missing, nginx_conf, postgres, run, serve};
use integration_tests::kchaos::Kchaos;
use integration_tests::measure::measure;
use integration_tests::samples::pings;
use integration_tests::skip;
use integration_tests::spawn::{Place, Process};
use integration_tests::summary::Summary;
use integration_tests::topology::{FAR4, FAR6, Pair};
use serde_json::json;
use tempfile::TempDir;

/// What is asked of the delay line: far more than what an emulated machine needs for a request by itself.
const DELAY_MS: f64 = 300.0;

/// Servers on the far side; clients on the near side, in the target and beside it.
struct Scene {
    _pair: Pair,
    _cgroup: TestCgroup,
    target_cgroup: Cgroup,
    runner: Place,
    target: Place,
    beside: Place,
    server: Place,
    files: TempDir,
    /// Keeps the target from being empty.
    _resident: Process,
}

impl Scene {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let pair = Pair::veth()?;
        let (near, far) = (Place::default().in_netns(&pair.near), Place::default().in_netns(&pair.far));
        let runner = near.clone().in_cgroup(&cgroup.child("runner")?);
        let target_cgroup = cgroup.child("target")?;
        let target = near.clone().in_cgroup(&target_cgroup);
        let beside = near.in_cgroup(&cgroup.child("beside")?);
        let server = far.in_cgroup(&cgroup.child("server")?);
        let files = tempfile::tempdir()?;
        std::fs::set_permissions(files.path(), PermissionsExt::from_mode(0o777))?;
        let mut resident = std::process::Command::new("sleep");
        resident.arg("3600");
        target.apply(&mut resident)?;
        let _resident = Process::start(resident)?;
        Ok(Self {
            _pair: pair,
            _cgroup: cgroup,
            target_cgroup,
            runner,
            target,
            beside,
            server,
            files,
            _resident,
        })
    }

    fn log(&self, name: &str) -> Result<File> {
        Ok(File::create(self.files.path().join(name))?)
    }

    fn file(&self, name: &str, content: &str) -> Result<String> {
        let path = self.files.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    /// Runs the client in the target and beside it at the same time, under faults that hit the target.
    fn under(&self, faults: &str, client: &[&str]) -> Result<(Answer, Answer, Summary)> {
        let mut running = Kchaos::inject(faults, self.target_cgroup.path()).at(&self.runner).start()?;
        running.armed()?;
        let (hit, beside) = std::thread::scope(|scope| {
            let beside = scope.spawn(|| run(&self.beside, client));
            let hit = run(&self.target, client);
            (hit, beside.join())
        });
        let finished = running.interrupt()?;
        let beside = beside.map_err(|_| anyhow::anyhow!("the bystander's thread panicked"))??;
        Ok((hit?, beside, finished.summary()?))
    }

    /// The client once more, after the run: as if nothing had been.
    fn afterwards(&self, client: &[&str]) -> Result<Answer> {
        run(&self.target, client)?.expect(0).context("after the run")
    }

    /// Under delay both clients succeed, and `milliseconds` of the target's answer shows the delay, the bystander's not.
    /// Where this kernel cannot delay, the run is refused.
    fn delayed(&self, client: &[&str], milliseconds: impl Fn(&Answer) -> Result<f64>) -> Result<()> {
        if delay_missing()?.is_some() {
            let finished =
                Kchaos::inject("--delay 300ms", self.target_cgroup.path()).at(&self.runner).run()?;
            finished.expect_status(8)?;
            return Ok(());
        }
        let (hit, beside, summary) = self.under("--delay 300ms", client)?;
        let (hit_ms, beside_ms) = (milliseconds(&hit.expect(0)?)?, milliseconds(&beside.expect(0)?)?);
        measure("client_delay", json!({"client": client[0], "target_ms": hit_ms, "bystander_ms": beside_ms}));
        ensure!(hit_ms >= DELAY_MS - 1.0, "{client:?}: {hit_ms} ms under a delay of {DELAY_MS} ms");
        ensure!(beside_ms < DELAY_MS, "{client:?}: the bystander took {beside_ms} ms");
        ensure!(summary.rule()?.injected.events > 0, "{summary:?}");
        Ok(())
    }

    /// Under loss both clients succeed, and packets were lost.
    fn lossy(&self, faults: &str, client: &[&str]) -> Result<(Answer, Answer)> {
        let (hit, beside, summary) = self.under(faults, client)?;
        let injected = summary.rule()?.injected.events;
        measure(
            "client_loss",
            json!({"client": client[0], "lost": injected,
            "target_s": hit.took.as_secs_f64(), "bystander_s": beside.took.as_secs_f64()}),
        );
        ensure!(injected > 0, "nothing was lost: {summary:?}");
        Ok((hit.expect(0).context("under loss")?, beside.expect(0).context("beside loss")?))
    }

    /// Under a partition the target's client fails with this status, the bystander's succeeds, and both do afterwards.
    fn partitioned(&self, client: &[&str], status: i32) -> Result<Answer> {
        let (hit, beside, summary) = self.under("--partition", client)?;
        ensure!(summary.rules.iter().any(|rule| rule.injected.events > 0), "nothing was lost: {summary:?}");
        beside.expect(0).context("beside a partition")?;
        self.afterwards(client)?;
        hit.expect(status).context("under a partition")
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ping_sees_the_delay_the_loss_and_the_partition() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    for to in [FAR4, FAR6] {
        scene.delayed(&["ping", "-q", "-c", "3", "-i", "0.2", to], |answer| {
            answer.number("rtt min/avg/max/mdev = ")
        })?;
        let count = pings();
        let flood = ["ping", "-q", "-c", &count.to_string(), "-i", "0.005", "-W", "1", to];
        let (hit, beside) = scene.lossy("--loss 30%", &flood)?;
        let got = |answer: &Answer| answer.number("packets transmitted, ").map(|received| received as u64);
        check_share("echo requests", count - got(&hit)?, count, 0.3)?;
        ensure!(got(&beside)? == count, "the bystander lost some: {beside:?}");
        let gone = scene.partitioned(&["ping", "-q", "-c", "3", "-i", "0.2", "-W", "1", to], 1)?;
        ensure!(gone.out.contains("100% packet loss"), "{gone:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn dig_waits_retries_and_gives_up() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let to = format!("@{FAR4}");
    let ask = ["dig", &to, "+short", "+tries=1", "+timeout=2", "db.example.test"];
    let _dnsmasq = serve(&scene.server, &dnsmasq(FAR4), scene.log("dnsmasq")?, &ask, &scene.beside)?;
    let once = ["dig", &to, "+tries=1", "+timeout=5", "db.example.test"];
    scene.delayed(&once, |answer| answer.number("Query time: "))?;
    // Each question is asked up to 15 times: all of them are lost once in 10^10 cases.
    let batch = scene.file("questions", &"db.example.test\n".repeat(70))?;
    let many = ["dig", &to, "+short", "+tries=15", "+timeout=1", "-f", &batch];
    let (hit, beside) = scene.lossy("--loss 20%", &many)?;
    for answer in [hit, beside] {
        let answered = answer.out.lines().filter(|line| *line == "192.0.2.7").count();
        ensure!(answered == 70, "{answered} of 70 questions were answered: {answer:?}");
    }
    let gone = scene.partitioned(&ask, 9)?;
    ensure!(gone.out.contains("timed out") || gone.out.contains("no servers could be reached"), "{gone:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn curl_and_nginx_are_slow_recover_and_time_out() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let page = "kchaos ".repeat(6_000);
    scene.file("page", &page)?;
    let home = scene.files.path().display().to_string();
    let conf = scene.file("nginx.conf", &nginx_conf(&home, &format!("{FAR4}:8080")))?;
    let url = format!("http://{FAR4}:8080/page");
    let ask = [
        "curl",
        "-sS",
        "--max-time",
        "30",
        "-o",
        "/dev/null",
        "-w",
        "connect %{time_connect} total %{time_total}",
        &url,
    ];
    let _nginx =
        serve(&scene.server, &["nginx", "-p", &home, "-c", &conf], scene.log("nginx")?, &ask, &scene.beside)?;
    scene.delayed(&ask, |answer| Ok(answer.number("connect ")? * 1e3))?;
    // Often enough that some of the target's few packets get lost: once in 10^7 runs none does.
    let mut body = vec!["curl", "-sS", "--max-time", "80", "--fail"];
    body.extend([url.as_str(); 40]);
    let all = page.repeat(40);
    let (hit, beside) = scene.lossy("--loss 30%", &body)?;
    ensure!(hit.out == all && beside.out == all, "the page is not what was served");
    let arriving = scene.lossy("--loss 10% --direction ingress", &body)?;
    ensure!(arriving.0.out == all, "the page is not what was served");
    let ask = ["curl", "-sS", "--connect-timeout", "2", "-o", "/dev/null", &url];
    let gone = scene.partitioned(&ask, 28)?;
    ensure!(gone.err.contains("curl: (28)"), "{gone:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn redis_is_slow_recovers_and_hangs() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let home = scene.files.path().display().to_string();
    let server = ["redis-server", "--bind", FAR4, "--protected-mode", "no", "--save", "", "--dir", &home];
    let ask = ["timeout", "3", "redis-cli", "-h", FAR4, "ping"];
    let _redis = serve(&scene.server, &server, scene.log("redis")?, &ask, &scene.beside)?;
    let bench = |requests: &'static str| {
        ["redis-benchmark", "-h", FAR4, "-t", "ping_mbulk", "-n", requests, "-c", "2", "--csv"]
    };
    // "test","rps","avg_latency_ms","min_latency_ms",...
    let least_ms = |answer: &Answer| -> Result<f64> {
        let line = answer.out.lines().find(|line| line.contains("PING")).context("no result")?;
        let field = line.split(',').nth(3).with_context(|| format!("no minimum in {line}"))?;
        Ok(field.trim_matches('"').parse()?)
    };
    scene.delayed(&bench("10"), least_ms)?;
    let (hit, beside) = scene.lossy("--loss 10%", &bench("200"))?;
    least_ms(&hit)?;
    least_ms(&beside)?;
    // redis-cli has no time limit of its own: it hangs, as users know.
    scene.partitioned(&ask, 124)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn postgres_is_slow_recovers_and_times_out() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let data = scene.files.path().join("data").display().to_string();
    let nobody = scene.server.clone().as_nobody();
    let init = postgres("initdb")?;
    run(&nobody, &[&init, "-D", &data, "-A", "trust", "-U", "kchaos", "--no-sync", "--no-locale"])?
        .expect(0)?;
    scene.file("data/pg_hba.conf", "host all all 0.0.0.0/0 trust\n")?;
    let listen = format!("listen_addresses={FAR4}");
    let sockets = format!("unix_socket_directories={}", scene.files.path().display());
    let server = postgres("postgres")?;
    let words = [&server, "-D", &data, "-c", &listen, "-c", &sockets, "-c", "fsync=off", "-c", "jit=off"];
    let to = format!("host={FAR4} user=kchaos dbname=postgres connect_timeout=2");
    let ask = ["psql", "-tAc", "SELECT 42", &to];
    let _postgres = serve(&nobody, &words, scene.log("postgres")?, &ask, &scene.beside)?;
    let script = scene.file("script.sql", "SELECT 42;\n")?;
    let bench = postgres("pgbench")?;
    let to_bench = format!("host={FAR4} user=kchaos dbname=postgres");
    let pgbench = |transactions: &'static str| {
        [bench.as_str(), "-n", "-f", &script, "-c", "2", "-t", transactions, &to_bench]
    };
    scene.delayed(&pgbench("5"), |answer| answer.number("latency average = "))?;
    let (hit, beside) = scene.lossy("--loss 10%", &pgbench("100"))?;
    for answer in [hit, beside] {
        ensure!(answer.number("number of transactions actually processed: ")? == 200.0, "{answer:?}");
        ensure!(answer.number("number of failed transactions: ")? == 0.0, "{answer:?}");
    }
    let gone = scene.partitioned(&ask, 2)?;
    ensure!(gone.err.contains("timeout expired"), "{gone:?}");
    Ok(())
}
