//! Experiments on real services: one that holds, one that deviates, one that is given up; all of them recover.

use anyhow::{Context as _, Result, ensure};
use integration_tests::alone::Alone;
use integration_tests::client::{image_missing, nginx_conf, postgres, run, serve};
use integration_tests::experiment::document;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::skip;
use integration_tests::spawn::Process;
use serde_json::{Value, json};

/// Where a service is the target.
fn scene() -> Result<Alone> {
    Alone::in_netns(NetNs::new()?.with_clsact_where_needed()?)
}

/// nginx as the target, which serves `/page`.
fn nginx(scene: &Alone, listen: &str, ask: &[&str]) -> Result<Process> {
    let home = scene.path("");
    std::fs::write(scene.path("page"), "kchaos")?;
    std::fs::write(scene.path("conf"), nginx_conf(&home, listen))?;
    let words = ["nginx", "-p", &home, "-c", &scene.path("conf")];
    serve(&scene.target, &words, scene.log("nginx")?, ask, &scene.beside)
}

/// Runs an experiment on the target to its verdict; nothing is left, and the steady state is back.
fn verdict(scene: &Alone, duration: &str, loss: &str, port: u16, rest: &str, status: i32) -> Result<Value> {
    let before = KernelObjects::now()?;
    let (file, report) = (scene.path("experiment.yaml"), scene.path("record.json"));
    let text = format!(
        "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {{name: service}}\nspec:\n  hypothesis: It serves.\n  \
         duration: {duration}\n  targets: [{{cgroup: {}}}]\n  faults:\n    - network: {{loss: {loss}, match: {{protocol: tcp, \
         localPorts: [{port}]}}}}\n  recovery: 5m\n{rest}",
        scene.target_cgroup.path().display()
    );
    std::fs::write(&file, text)?;
    let finished = Kchaos::new(&format!("run --json {file} --report {report}")).at(&scene.runner).run()?;
    finished.expect_status(status)?;
    let record: Value = serde_json::from_str(&std::fs::read_to_string(&report)?)?;
    ensure!(record["faults"][0]["finding"] == "confirmed", "{}", record["faults"]);
    ensure!(record["summary"]["bystander"]["lost"] == 0, "{}", record["summary"]);
    let recovered = record["recovery"]["took_s"].as_f64().context("it did not recover")?;
    measure(
        "experiment",
        json!({"outcome": record["verdict"]["outcome"], "recovered_s": recovered,
        "undone_ms": record["summary"]["undone"]["took_ms"], "abort": record["abort"]}),
    );
    KernelObjects::now()?.since(&before).wait_gone()?;
    Ok(record)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nginx_serves_over_a_lossy_link() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = scene()?;
    let url = "http://127.0.0.1:8080/page";
    let _nginx = nginx(&scene, "127.0.0.1:8080", &["curl", "-sSf", "--max-time", "3", url])?;
    // TCP sends again what is lost, and the client asks again what took too long.
    let probe = "  steadyState:\n    - name: page\n      http: {url: \"http://127.0.0.1:8080/page\", measure: body}\n      \
                 tolerance: {equals: kchaos}\n      timeout: 60s\n      retries: 3\n      interval: 50ms\n";
    let record = verdict(&scene, "8s", "30%", 8080, probe, 0)?;
    ensure!(record["verdict"]["outcome"] == "held", "{}", record["verdict"]);
    ensure!(
        record["probes"][0]["during"].as_array().is_some_and(|all| all.len() > 1),
        "{}",
        record["probes"]
    );
    Ok(())
}

/// Whom a probe trusts is what this host says, so that services with an authority of their own can be asked.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn https_is_asked_as_this_host_trusts() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = scene()?;
    let (certificate, key) = (scene.path("certificate"), scene.path("key"));
    let made = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=kchaos -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out \
         {certificate}"
    );
    let made = run(&scene.beside, &made.split(' ').collect::<Vec<_>>())?;
    ensure!(made.status == 0, "{}", made.err);
    let listen = format!("127.0.0.1:8443 ssl; ssl_certificate {certificate}; ssl_certificate_key {key}");
    let url = "https://127.0.0.1:8443/page";
    let ask = ["curl", "-sSf", "--max-time", "3", "--cacert", &certificate, url];
    let _nginx = nginx(&scene, &listen, &ask)?;
    let file = scene.path("https.yaml");
    let fields = "  duration: 1s\n  faults: [{network: {loss: 1%, match: {protocol: tcp, localPorts: [8443]}}}]\n  mode: observe\n  \
                  steadyState:\n    - {name: page, http: {url: \"https://127.0.0.1:8443/page\", measure: body}, tolerance: {equals: kchaos}, \
                  timeout: 60s}\n";
    std::fs::write(&file, document(scene.target_cgroup.path(), fields))?;
    let unknown = Kchaos::new(&format!("run {file}")).at(&scene.runner).run()?;
    unknown.expect_status(3)?;
    ensure!(unknown.text().contains("certificate"), "{}", unknown.text());
    let known = Kchaos::new(&format!("run {file}"))
        .with_variable("SSL_CERT_FILE", &certificate)
        .at(&scene.runner)
        .run()?;
    known.expect_status(0)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn postgresql_does_not_answer_while_it_is_cut_off() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = scene()?;
    let data = scene.path("data");
    let nobody = scene.target.clone().as_nobody();
    let init = postgres("initdb")?;
    run(&nobody, &[&init, "-D", &data, "-A", "trust", "-U", "kchaos", "--no-sync", "--no-locale"])?
        .expect(0)?;
    let server = postgres("postgres")?;
    let sockets = format!("unix_socket_directories={}", scene.files.path().display());
    let words = [
        &server,
        "-D",
        &data,
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        &sockets,
        "-c",
        "fsync=off",
        "-c",
        "jit=off",
    ];
    let to = "host=127.0.0.1 user=kchaos dbname=postgres connect_timeout=2";
    let ask = ["psql", "-tAc", "SELECT 42", to];
    let _postgres = serve(&nobody, &words, scene.log("postgres")?, &ask, &scene.beside)?;
    let bench = postgres("pgbench")?;
    std::fs::write(scene.path("script.sql"), "SELECT 42;\n")?;
    let probe = format!(
        "  steadyState:\n    - name: transactions\n      command: {{argv: [{bench}, -n, -f, {}, -c, \"1\", -t, \"2\", \
         \"host=127.0.0.1 user=kchaos dbname=postgres\"]}}\n      timeout: 8s\n      interval: 100ms\n",
        scene.path("script.sql")
    );
    let record = verdict(&scene, "12s", "100%", 5432, &probe, 4)?;
    let deviation = record["verdict"]["deviations"][0].as_str().unwrap_or_default();
    ensure!(deviation.starts_with("transactions failed"), "{}", record["verdict"]);
    run(&scene.beside, &ask)?.expect(0).context("after the experiment")?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn redis_is_left_alone_when_too_much_fails() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    let scene = scene()?;
    let home = scene.path("");
    let words = [
        "redis-server",
        "--port",
        "6379",
        "--bind",
        "127.0.0.1",
        "--dir",
        &home,
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ];
    let ask = ["timeout", "3", "redis-cli", "ping"];
    let _redis = serve(&scene.target, &words, scene.log("redis")?, &ask, &scene.beside)?;
    let rest = "  steadyState:\n    - name: writes\n      command: {argv: [redis-cli, set, k, \"1\"], measure: stdout}\n      \
                tolerance: {equals: OK}\n      timeout: 5s\n      interval: 100ms\n  abort:\n    - {probe: writes, consecutive: 2}\n";
    let record = verdict(&scene, "600s", "100%", 6379, rest, 5)?;
    ensure!(record["abort"]["condition"] == "writes failed 2 times in a row", "{}", record["abort"]);
    let last = record["abort"]["last_fault_within_ms"].as_f64().unwrap_or(f64::INFINITY);
    ensure!(last < 10_000.0, "{}", record["abort"]);
    let answer = run(&scene.beside, &["timeout", "20", "redis-cli", "get", "k"])?;
    ensure!(answer.out.trim() == "1", "after the experiment {answer:?}");
    Ok(())
}
