//! Programs people run, under failing system calls: they do what their documentation promises, and the same as under
//! `strace -e inject`; beside them nobody notices.

use std::ops::Deref;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use integration_tests::alone::Alone;
use integration_tests::capability::{
    counted_errors_missing, file_errors_missing, fmod_ret_sys_works, kprobe_override_works,
};
use integration_tests::client::{Answer, image_missing, postgres, run, serve};
use integration_tests::kchaos::Kchaos;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_for;
use integration_tests::skip;
use integration_tests::spawn::{Place, Process};
use integration_tests::summary::Summary;
use serde_json::json;

/// Where a program is the target.
struct Scene(Alone);

impl Deref for Scene {
    type Target = Alone;

    fn deref(&self) -> &Alone {
        &self.0
    }
}

impl Scene {
    fn new() -> Result<Self> {
        Ok(Self(Alone::in_netns(NetNs::new()?)?))
    }

    fn read(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.files.path().join(name))?)
    }

    /// Does something while faults hit the target.
    fn under<T>(&self, faults: &str, act: impl FnOnce() -> Result<T>) -> Result<(T, Summary)> {
        let mut running = Kchaos::inject(faults, self.target_cgroup.path()).at(&self.runner).start()?;
        running.armed()?;
        let done = act().with_context(|| faults.to_owned());
        let summary = running.interrupt()?.summary()?;
        let done = done?;
        ensure!(summary.rule()?.injected.events > 0, "{faults} hit nothing: {summary:?}");
        Ok((done, summary))
    }

    /// A program under the fault, beside it and afterwards; and under the same fault by strace, with the same result.
    fn like_strace(&self, fault: &Fault, words: &[&str]) -> Result<Answer> {
        let Fault { call, errno, own_turn, strace_turn } = fault;
        let when =
            |turn: &Option<usize>, prefix: &str| turn.map_or(String::new(), |n| format!("{prefix}when={n}"));
        let faults = format!("--fail {call}={errno}{}", when(own_turn, ","));
        let act = || Ok((run(&self.target, words)?, run(&self.beside, words)?));
        let ((hit, beside), _) = self.under(&faults, act)?;
        beside.expect(0).with_context(|| format!("beside {faults}"))?;
        run(&self.target, words)?.expect(0).with_context(|| format!("after {faults}"))?;
        let inject = format!("inject={call}:error={errno}{}", when(strace_turn, ":"));
        let traced = [&["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject], words].concat();
        let by_strace = run(&self.beside, &traced)?;
        let visible = |answer: &Answer| (answer.status, answer.out.clone(), timeless(&answer.err));
        ensure!(visible(&hit) == visible(&by_strace), "{faults}: {hit:?}, but by {inject}: {by_strace:?}");
        Ok(hit)
    }

    /// The turn of the call of a program that names `text`: among those that succeed, and among all.
    fn turn(&self, call: &str, text: &str, words: &[&str]) -> Result<(usize, usize)> {
        let (trace, list) = (format!("trace={call}"), self.path("trace"));
        let traced = [&["strace", "-f", "-qqq", "-o", &list, "-e", &trace], words].concat();
        run(&self.beside, &traced)?.expect(0)?;
        let listed = self.read("trace")?;
        let lines: Vec<&str> = listed.lines().filter(|line| line.contains(call)).collect();
        let all = lines.iter().position(|line| line.contains(text)).with_context(|| listed.clone())? + 1;
        let succeeded = lines[..all].iter().filter(|line| !line.contains(" = -1 ")).count();
        Ok((succeeded, all))
    }
}

struct Fault {
    call: &'static str,
    errno: &'static str,
    /// Which of the calls: a security hook counts those that come to it, strace counts all.
    own_turn: Option<usize>,
    strace_turn: Option<usize>,
}

impl Fault {
    fn always(call: &'static str, errno: &'static str) -> Self {
        Self { call, errno, own_turn: None, strace_turn: None }
    }

    fn at(call: &'static str, errno: &'static str, (own, strace): (usize, usize)) -> Self {
        Self { call, errno, own_turn: Some(own), strace_turn: Some(strace) }
    }
}

/// Without the milliseconds that curl prints.
fn timeless(text: &str) -> String {
    let words = text.split(' ');
    let words = words.map(|word| if word.chars().all(|c| c.is_ascii_digit()) { "N" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn entries_work() -> Result<bool> {
    Ok(fmod_ret_sys_works()? || kprobe_override_works())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn coreutils_say_what_failed_and_exit_with_1() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let copy = scene.path("copy");
    let to = format!("of={copy}");
    let dd = ["dd", "if=/dev/zero", &to, "bs=4096", "count=1", "status=none"];
    let said = scene.like_strace(&Fault::at("write", "ENOSPC", (1, 1)), &dd)?;
    ensure!(said.status == 1, "{said:?}");
    ensure!(said.err.contains("error writing") && said.err.contains("No space left on device"), "{said:?}");
    let cat = ["cat", copy.as_str()];
    let turn = scene.turn("openat", &copy, &cat)?;
    let said = scene.like_strace(&Fault::at("openat", "EIO", turn), &cat)?;
    ensure!(
        said.status == 1 && said.err.trim_end() == format!("cat: {copy}: Input/output error"),
        "{said:?}"
    );
    if entries_work()? {
        let sync = ["sync", copy.as_str()];
        let said = scene.like_strace(&Fault::always("fsync", "EIO"), &sync)?;
        ensure!(said.status == 1 && said.err.contains("error syncing"), "{said:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_dynamic_loader_reports_memory_it_does_not_get() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    // The first one that maps a library: without any memory at all, the loader crashes, also under strace.
    let turn = scene.turn("mmap", "MAP_DENYWRITE", &["true"])?;
    let said = scene.like_strace(&Fault::at("mmap", "ENOMEM", turn), &["true"])?;
    ensure!(said.status == 127 && said.err.contains("error while loading shared libraries"), "{said:?}");
    Ok(())
}

/// A fault hundreds of calls away: what is left is the cost of looking.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_traced_program_is_slower_than_an_injected_one() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    const CALLS: u64 = 2000;
    let scene = Scene::new()?;
    let count = format!("count={CALLS}");
    let dd = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", &count, "status=none"];
    let last = format!("when={CALLS}");
    let plain = run(&scene.target, &dd)?.expect(0)?;
    let (injected, _) = scene.under(&format!("--fail write=EIO,{last}"), || run(&scene.target, &dd))?;
    let inject = format!("inject=write:error=EIO:{last}");
    let traced =
        run(&scene.beside, &[&["strace", "-qqq", "-o", "/dev/null", "-e", &inject], &dd[..]].concat())?;
    ensure!(
        injected.status == 1 && traced.status == 1 && injected.err == traced.err,
        "{injected:?} {traced:?}"
    );
    let ms = |answer: &Answer| answer.took.as_secs_f64() * 1e3;
    measure(
        "syscall_slowdown",
        json!({"calls": 2 * CALLS, "plain_ms": ms(&plain), "kchaos_ms": ms(&injected), "strace_ms": ms(&traced)}),
    );
    ensure!(ms(&injected) < ms(&traced), "kchaos {} ms, strace {} ms", ms(&injected), ms(&traced));
    Ok(())
}

/// Starts nginx on a port, with its log in `nginx-PORT`.
fn nginx(scene: &Scene, place: &Place, port: u16) -> Result<Process> {
    let home = scene.path("");
    let conf = format!(
        "user root; daemon off; master_process off; pid {home}/nginx-{port}.pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {home}/t; proxy_temp_path {home}/t;\n\
         fastcgi_temp_path {home}/t; uwsgi_temp_path {home}/t; scgi_temp_path {home}/t;\n\
         server {{ listen 127.0.0.1:{port}; root {home}; }} }}\n"
    );
    let file = scene.path(&format!("conf-{port}"));
    std::fs::write(&file, conf)?;
    let log = scene.log(&format!("nginx-{port}"))?;
    let url = url(port);
    serve(place, &["nginx", "-p", &home, "-c", &file], log, &get(&url), &scene.beside)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/page")
}

fn get(url: &str) -> [&str; 8] {
    ["curl", "-sS", "--max-time", "3", "-o", "/dev/null", "-w%{http_code}", url]
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nginx_answers_500_and_waits_for_descriptors() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    std::fs::write(scene.path("page"), "kchaos")?;
    let (hit, beside) = (url(8080), url(8081));
    let _hit = nginx(&scene, &scene.target, 8080)?;
    let _beside = nginx(&scene, &scene.beside, 8081)?;
    let both = || Ok((run(&scene.beside, &get(&hit))?, run(&scene.beside, &get(&beside))?));

    let ((answer, other), _) = scene.under("--fail openat=EIO", both)?;
    ensure!(answer.out == "500" && other.out == "200", "{answer:?} {other:?}");
    let log = scene.read("nginx-8080")?;
    ensure!(log.contains("open() ") && log.contains("failed (5: Input/output error)"), "{log}");

    // It stops to accept for accept_mutex_delay, half a second, each time; the client waits until it gives up.
    let ((answer, other), _) = scene.under("--fail accept4=EMFILE", both)?;
    ensure!(answer.status == 28 && other.out == "200", "{answer:?} {other:?}");
    let log = scene.read("nginx-8080")?;
    ensure!(log.contains("accept4() failed (24: Too many open files)"), "{log}");
    let (answer, _) = both()?;
    ensure!(answer.out == "200", "after the run {answer:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn curl_exits_with_7_when_it_cannot_connect() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    std::fs::write(scene.path("page"), "kchaos")?;
    let _nginx = nginx(&scene, &scene.beside, 8080)?;
    let url = url(8080);
    for (errno, statuses) in [("ECONNREFUSED", &[7][..]), ("ETIMEDOUT", &[7, 28][..])] {
        let said = scene.like_strace(&Fault::always("connect", errno), &get(&url))?;
        ensure!(statuses.contains(&said.status) && said.out == "000", "{errno}: {said:?}");
    }
    Ok(())
}

fn redis(scene: &Scene, port: &str, options: &[&str]) -> Result<Process> {
    let home = scene.path("");
    let words = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", &home];
    let log = scene.log(&format!("redis-{port}"))?;
    let ask = ["redis-cli", "-p", port, "ping"];
    serve(&scene.target, &[&words, options].concat(), log, &ask, &scene.beside)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn redis_refuses_writes_it_cannot_save() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let _redis = redis(&scene, "6379", &["--save", "3600 1"])?;
    let ask = |words: &[&str]| -> Result<String> {
        Ok(run(&scene.beside, &[&["redis-cli", "-p", "6379"], words].concat())?.out)
    };
    ensure!(ask(&["set", "k", "1"])?.starts_with("OK"), "redis does not work");
    // redis.conf: stop-writes-on-bgsave-error.
    let saved = |with: &str| -> Result<()> {
        ask(&["bgsave"])?;
        let status = || Ok(ask(&["info", "persistence"])?.contains(with).then_some(()));
        wait_for(with, status).map(|_| ())
    };
    let (refused, _) = scene.under("--fail openat=ENOSPC", || {
        saved("rdb_last_bgsave_status:err")?;
        ask(&["set", "k", "2"])
    })?;
    ensure!(refused.starts_with("MISCONF"), "{refused}");
    saved("rdb_last_bgsave_status:ok")?;
    ensure!(ask(&["set", "k", "3"])?.starts_with("OK"), "it still refuses writes");
    ensure!(Path::new(&scene.path("dump.rdb")).exists(), "nothing was saved");

    if entries_work()? {
        // redis.conf: appendfsync always; what was acknowledged is on the disk, or redis ends.
        let options = ["--appendonly", "yes", "--appendfsync", "always", "--dbfilename", "aof.rdb"];
        let mut server = redis(&scene, "6380", &options)?;
        let set = |value: &str| run(&scene.beside, &["redis-cli", "-p", "6380", "set", "k", value]);
        ensure!(set("1")?.out.starts_with("OK"), "redis does not work");
        let (answer, _) = scene.under("--fail fdatasync=EIO", || set("2"))?;
        ensure!(!answer.out.starts_with("OK"), "it acknowledged what it could not sync: {answer:?}");
        let status = server.wait()?;
        let log = scene.read("redis-6380")?;
        ensure!(status.code() == Some(1) && log.contains("AOF fsync policy is 'always'"), "{status}: {log}");
    }
    Ok(())
}

/// PostgreSQL in `home`, which goes by no other files.
struct Postgres<'a> {
    scene: &'a Scene,
    home: &'static str,
    port: &'static str,
}

impl Postgres<'_> {
    fn serve(&self, place: &Place) -> Result<Process> {
        let data = self.scene.path(&format!("{}/data", self.home));
        let (listen, sockets) = ("listen_addresses=127.0.0.1", "unix_socket_directories=");
        let server = postgres("postgres")?;
        let mut words = vec![server.as_str(), "-D", &data, "-p", self.port];
        // Whoever panics stays down, so that it can be seen.
        for setting in [listen, sockets, "jit=off", "autovacuum=off", "restart_after_crash=off"] {
            words.extend(["-c", setting]);
        }
        let (log, to) = (self.scene.log(&format!("{}-log", self.home))?, self.to());
        let ask = ["psql", "-tAc", "SELECT 42", &to];
        serve(&place.clone().as_nobody(), &words, log, &ask, &self.scene.beside)
    }

    fn to(&self) -> String {
        format!("host=127.0.0.1 port={} user=kchaos dbname=postgres connect_timeout=10", self.port)
    }

    fn ask(&self, sql: &str) -> Result<Answer> {
        run(&self.scene.beside, &["psql", "-tAc", sql, &self.to()])
    }

    fn rows(&self) -> Result<u64> {
        let answer = self.ask("SELECT count(*) FROM t")?;
        answer.out.trim().parse().with_context(|| format!("{answer:?}"))
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn postgresql_reports_a_full_disk_and_ends_where_it_cannot_sync() -> Result<()> {
    const INSERT: &str = "INSERT INTO t SELECT generate_series(1, 1000)";
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let hit = Postgres { scene: &scene, home: "hit", port: "5432" };
    let spared = Postgres { scene: &scene, home: "spared", port: "5433" };
    let nobody = scene.beside.clone().as_nobody();
    let (data, init) = (scene.path("hit/data"), postgres("initdb")?);
    run(&nobody, &["mkdir", &scene.path("hit")])?.expect(0)?;
    run(&nobody, &[&init, "-D", &data, "-A", "trust", "-U", "kchaos", "--no-sync", "--no-locale"])?
        .expect(0)?;
    run(&nobody, &["cp", "-a", &scene.path("hit"), &scene.path("spared")])?.expect(0)?;
    // Tables of both below one path, and nothing else there.
    let tables = scene.path("tables");
    run(&nobody, &["mkdir", &tables])?.expect(0)?;
    for home in ["hit", "spared"] {
        let (base, moved) = (scene.path(&format!("{home}/data/base")), format!("{tables}/{home}"));
        run(&nobody, &["mv", &base, &moved])?.expect(0)?;
        run(&nobody, &["ln", "-s", &moved, &base])?.expect(0)?;
    }
    let mut server = hit.serve(&scene.target)?;
    let _beside = spared.serve(&scene.beside)?;
    for side in [&hit, &spared] {
        side.ask("CREATE TABLE t (v int)")?.expect(0)?;
    }

    // The statement fails, with a hint; nothing of it stays, and the server goes on.
    let full = format!("--fail pwrite64=ENOSPC,path={tables}/*");
    let ((answer, beside), _) = scene.under(&full, || Ok((hit.ask(INSERT)?, spared.ask(INSERT)?)))?;
    ensure!(answer.status == 1 && answer.err.contains("could not extend file"), "{answer:?}");
    ensure!(answer.err.contains("No space left on device") && answer.err.contains("HINT"), "{answer:?}");
    beside.expect(0)?;
    ensure!((hit.rows()?, spared.rows()?) == (0, 1000), "{} and {} rows", hit.rows()?, spared.rows()?);
    hit.ask(INSERT)?.expect(0)?;

    if !entries_work()? {
        return Ok(());
    }
    // data_sync_retry: what could not be synced once may never be, so that the server ends before it acknowledges a commit.
    let insert = "INSERT INTO t VALUES (0)";
    let ((answer, beside), _) =
        scene.under("--fail fdatasync=EIO", || Ok((hit.ask(insert)?, spared.ask(insert)?)))?;
    ensure!(answer.status != 0 && answer.err.contains("server closed the connection"), "{answer:?}");
    beside.expect(0)?;
    let status = server.wait()?;
    let log = scene.read("hit-log")?;
    ensure!(!status.success() && log.contains("PANIC:  could not fdatasync file"), "{status}: {log}");
    // All that was acknowledged is there again.
    let _again = hit.serve(&scene.target)?;
    let rows = hit.rows()?;
    ensure!((1000..=1001).contains(&rows), "{rows} rows after the recovery");
    ensure!(spared.rows()? == 1001, "{} rows beside", spared.rows()?);
    Ok(())
}
