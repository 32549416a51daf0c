//! Commands that join the engine of their host: each is felt by its target as from an engine of its own, and ends as such.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::capability::{has_tcx, on_host};
use integration_tests::control::{ask, ask_from, is_listed};
use integration_tests::engine_host::{SOCKET, Scene, engine, owner};
use integration_tests::engine_scene::{loses_more, loses_nothing};
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::patience::{wait_for, wait_until};
use integration_tests::samples::full;
use integration_tests::spawn::Place;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Names of programs and the like of this many of them.
fn counts(objects: &KernelObjects) -> (usize, usize) {
    (objects.programs.len(), objects.maps.len())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn commands_join_and_end_as_on_their_own() -> Result<()> {
    let scene = Scene::new()?;
    let (first, second) = (scene.ground.target.clone(), scene.beside.clone());
    let third = scene.ground.cgroup.child("third")?;
    let mut victims = [scene.victim(&first, 7001)?, scene.victim(&second, 7002)?];
    let mut bystander = scene.victim(&third, 7003)?;
    let planned = ask_from(
        &scene.ground.runner,
        &format!("plan --cgroup {} --loss 5% --duration 1s", first.path().display()),
    )?;
    ensure!(planned.fine()?.event()?["engine"] == scene.engine.pid(), "plan does not say who hosts the run");

    let (one, one_run) = scene.join("--loss 40%", &first)?;
    let alone = KernelObjects::now()?.since(&scene.ground.objects);
    let (two, two_run) = scene.join("--loss 60%", &second)?;
    let both = KernelObjects::now()?.since(&scene.ground.objects);
    ensure!(counts(&alone) == counts(&both), "{both:?} for two runs, {alone:?} for one");
    for victim in &victims {
        loses_more(victim, "a victim")?;
    }
    // Two engines could not judge packets of one target.
    let (again, _) = scene.join("--loss 0%", &first)?;
    let refused = scene.inject("--loss 5% --own", &first).run()?;
    refused.expect_status(6)?;

    // By its id, by Ctrl-C, by its time, and for having done nothing.
    ask(&format!("set {one_run} --loss 70%"))?.fine()?;
    loses_more(&victims[0], "the victim of the run that goes on otherwise")?;
    let stopped = ask(&format!("stop {one_run}"))?.fine()?;
    ensure!(stopped.event()?["code"] == 143, "{:?}", stopped.events);
    let finished = one.finish()?;
    let summary = finished.expect_status(143)?.summary()?;
    ensure!(finished.events("summary")[0]["run"] == one_run, "{}", finished.text());
    ensure!(summary.rule()?.injected.events > 20, "{summary:?}");
    ensure!(!is_listed(&one_run)? && is_listed(&two_run)?);
    ensure!(again.interrupt()?.summary()?.rule()?.injected.events == 0);
    loses_nothing(&victims[0], "the victim of no run")?;
    loses_more(&victims[1], "the victim of the other run")?;
    let over = |faults: &str| {
        let line = format!("inject --json --cgroup {} {faults} --duration 300ms", first.path().display());
        Kchaos::new(&line).at(&scene.ground.runner).run()
    };
    let done = over("--loss 50%")?;
    ensure!(done.expect_status(0)?.summary()?.rule()?.injected.events > 0);
    over("--loss 50% --remote-port 9")?.expect_status(9)?;

    // One of its own beside it, for another target.
    let mut own = scene.inject("--loss 50% --own", &third.child("below")?).start()?;
    let own_run = own.armed()?.run;
    ensure!(owner(&own_run)? == u64::from(own.pid()));
    own.interrupt()?;

    if !on_host() {
        let halted = ask("halt")?;
        ensure!(halted.status == 0, "{}: {}", halted.status, halted.said);
        two.finish()?.expect_status(5)?;
        scene.inject("--loss 5%", &first).run()?.expect_status(6)?;
        ask("resume")?.fine()?;
    } else {
        two.interrupt()?;
    }
    for victim in &mut victims {
        loses_nothing(victim, "a victim after the end")?;
        victim.stop(Role::Second)?;
    }
    bystander.stop(Role::Second)?;
    Traffic::read(&bystander.board)?.check_unharmed()?;
    scene.end()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_run_goes_with_who_has_asked_for_it_unless_it_is_detached() -> Result<()> {
    let scene = Scene::new()?;
    let (first, second) = (scene.ground.target.clone(), scene.beside.clone());
    let mut victims = [scene.victim(&first, 7001)?, scene.victim(&second, 7002)?];
    let (mut killed, run) = scene.join("--loss 40%", &first)?;
    let (other, _) = scene.join("--loss 60%", &second)?;
    loses_more(&victims[0], "the victim")?;
    killed.signal(Signal::SIGKILL)?;
    killed.finish()?.expect_status(137)?;
    wait_for("the run to end", || Ok((!is_listed(&run)?).then_some(())))?;
    loses_nothing(&victims[0], "the victim of who was killed")?;
    loses_more(&victims[1], "the victim of who lives")?;
    let line = format!("inject --cgroup {} --loss 40% --duration 600s --detach", first.path().display());
    let detached = ask_from(&scene.ground.runner, &line)?.fine()?;
    let run = detached.event()?["run"].as_str().context("no id")?.to_owned();
    ensure!(owner(&run)? == u64::from(scene.engine.pid()));
    let client = detached.event()?["pid"].as_i64().context("no pid")? as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(client), Signal::SIGKILL)?;
    wait_until("the client to die", || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(client), None).is_err()
    })?;
    loses_more(&victims[0], "the victim of a detached run")?;
    ensure!(is_listed(&run)?);
    ask(&format!("stop {run}"))?.fine()?;
    loses_nothing(&victims[0], "the victim of a detached run that was stopped")?;
    // Who ends with the engine has the code of a run that was ended by a signal.
    let (ground, mut engine) = (scene.ground, scene.engine);
    engine.signal(Signal::SIGTERM)?;
    engine.finish()?.expect_status(0)?;
    other.finish()?.expect_status(143)?.summary()?;
    for victim in &mut victims {
        loses_nothing(victim, "a victim after the engine's end")?;
        victim.stop(Role::Second)?;
    }
    ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn all_runs_end_with_an_engine_that_is_killed() -> Result<()> {
    let mut scene = Scene::new()?;
    let (first, second) = (scene.ground.target.clone(), scene.beside.clone());
    let mut victims = [scene.victim(&first, 7001)?, scene.victim(&second, 7002)?];
    let (one, one_run) = scene.join("--loss 40%", &first)?;
    let (two, _) = scene.join("--loss 60%", &second)?;
    for victim in &victims {
        loses_more(victim, "a victim")?;
    }
    scene.engine.signal(Signal::SIGKILL)?;
    for running in [one, two] {
        let finished = running.finish()?;
        let error = finished.expect_status(1)?.error()?;
        ensure!(error.message.contains("has died"), "{error:?}");
    }
    for victim in &victims {
        loses_nothing(victim, "a victim after the engine's death")?;
    }
    wait_for("what was left to go", || Ok(scene.ground.check_clean().ok()))?;
    ensure!(!is_listed(&one_run)?, "a run is listed after its engine was killed");
    // Without an engine a run has its own; and another engine takes the place of the one that is gone.
    let mut own = scene.inject("--loss 50%", &first).start()?;
    let own_run = own.armed()?.run;
    ensure!(owner(&own_run)? == u64::from(own.pid()));
    own.interrupt()?;
    let killed = std::mem::replace(&mut scene.engine, engine(&scene.ground)?);
    killed.finish()?.expect_status(137)?;
    scene.join("--loss 50%", &first)?.0.interrupt()?;
    for victim in &mut victims {
        victim.stop(Role::Second)?;
    }
    scene.end()
}

/// What the engine says to a line, up to its end.
fn said_to(line: &str) -> Result<Vec<Value>> {
    let mut stream = UnixStream::connect(SOCKET).context("asking the engine")?;
    // What is too long is refused before it is read to its end, and the connection closed with the rest in it.
    let written = stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n"));
    let answers: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).collect();
    if answers.is_empty() {
        written.context("asking the engine")?;
    }
    answers
        .iter()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect()
}

/// What an engine does for one run only is done by one of that run's own, without being told to.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_cannot_be_shared_has_an_engine_of_its_own() -> Result<()> {
    let scene = Scene::new()?;
    let mut victims = [scene.victim(&scene.ground.target, 7001)?, scene.victim(&scene.beside, 7002)?];
    let (joined, _) = scene.join("--loss 40%", &scene.ground.target)?;
    let events = tempfile::NamedTempFile::new()?;
    let recorded = format!("--loss 50% --events {}", events.path().display());
    let mut own = scene.inject(&recorded, &scene.beside).start()?;
    let run = own.armed()?.run;
    ensure!(owner(&run)? == u64::from(own.pid()), "the run {run} has no engine of its own");
    loses_more(&victims[1], &recorded)?;
    let finished = own.interrupt()?;
    ensure!(finished.summary()?.rules.iter().any(|rule| rule.injected.events > 0), "{}", finished.text());
    if !on_host() {
        let beside = scene.beside.path().display();
        let plan = format!("plan --cgroup {beside} --slow openat=1ms --mechanism spin --duration 1s");
        ensure!(ask_from(&scene.ground.runner, &plan)?.fine()?.event()?["engine"].is_null());
    }
    ensure!(events.as_file().metadata()?.len() > 0, "no event was recorded");
    loses_more(&victims[0], "the victim of the run that has joined")?;
    joined.interrupt()?;
    for victim in &mut victims {
        victim.stop(Role::Second)?;
    }
    scene.end()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_is_refused_touches_nobody() -> Result<()> {
    let scene = Scene::new()?;
    let mut victim = scene.victim(&scene.ground.target, 7001)?;
    let (running, run) = scene.join("--loss 40%", &scene.ground.target)?;
    let before = KernelObjects::now()?.since(&scene.ground.objects);
    let cgroup = scene.beside.path().display().to_string();
    let join = |words: &[&str]| json!({"ask": "join", "words": words, "detached": false}).to_string();
    let long = "x".repeat(70_000);
    for (line, told) in [
        ("", "cannot be read"),
        ("{}", "cannot be read"),
        (r#"{"ask":"join","words":["list"],"detached":false,"more":1}"#, "cannot be read"),
        (r#"{"ask":"stop"}"#, "only hosts"),
        (&long, "more than 65536 bytes"),
        (&join(&["list"]), "only `kchaos inject`"),
        (&join(&["exec", "--loss", "5%", "--", "true"]), "only `kchaos inject`"),
        (&join(&["inject", "--cgroup", &cgroup, "--loss", "5", "--duration", "1s"]), "unit"),
        (&join(&["inject", "--cgroup", "/", "--loss", "5%", "--duration", "1s"]), "root"),
        (&join(&["inject", "--loss", "5%", "--duration", "1s"]), "no target"),
        (
            &join(&["inject", "--cgroup", &cgroup, "--loss", "5%", "--duration", "1s", "--events", "/x"]),
            "--own",
        ),
    ] {
        let answers = said_to(line)?;
        let text = answers.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        ensure!(text.contains(told), "to {:.100}: {text}", line);
    }
    ensure!(
        Kchaos::new("engine --json")
            .at(&scene.ground.runner)
            .run()?
            .expect_status(2)?
            .text()
            .contains("already")
    );
    // Who is neither root nor the engine's user does not get past the directory, nor past the socket.
    let mode = |path: &str, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    ensure!(std::fs::metadata("/run/kchaos")?.permissions().mode() & 0o077 == 0);
    mode("/run/kchaos", 0o755)?;
    mode(SOCKET, 0o666)?;
    let nobody = Place::default().as_nobody();
    let refused = ask_from(&nobody, &format!("inject --cgroup {cgroup} --loss 5% --duration 1s"));
    let through = nobody_asks();
    mode("/run/kchaos", 0o700)?;
    mode(SOCKET, 0o600)?;
    ensure!(refused?.status == 8);
    let through = through?;
    ensure!(through.contains("may not ask"), "{through}");
    let now = KernelObjects::now()?.since(&scene.ground.objects);
    ensure!(now == before, "{now:?} instead of {before:?}");
    loses_more(&victim, "the victim of the run that goes on")?;
    ask(&format!("stop {run}"))?.fine()?;
    running.finish()?.expect_status(143)?;
    victim.stop(Role::Second)?;
    scene.end()
}

/// What the engine says to a process of user nobody.
fn nobody_asks() -> Result<String> {
    let (reader, writer) = std::io::pipe()?;
    let thread = std::thread::spawn(move || -> Result<()> {
        // This thread's credentials alone: the library's call would change those of all threads.
        // SAFETY: the call takes a plain number.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        ensure!(changed == 0, "setresuid: {}", std::io::Error::last_os_error());
        let mut writer = writer;
        for answer in said_to(r#"{"ask":"join","words":["inject"],"detached":false}"#)? {
            writeln!(writer, "{answer}")?;
        }
        Ok(())
    });
    let text = std::io::read_to_string(reader)?;
    match thread.join() {
        Ok(result) => result.map(|()| text),
        Err(_) => anyhow::bail!("the thread of user nobody panicked"),
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn many_commands_join_at_once() -> Result<()> {
    let runs = if full() || on_host() { 50 } else { 8 };
    let scene = Scene::new()?;
    let cgroups =
        (0..runs).map(|run| scene.ground.cgroup.child(&format!("run{run}"))).collect::<Result<Vec<_>>>()?;
    let mut bystander = scene.victim(&scene.beside, 7003)?;
    let mut victims = [scene.victim(&cgroups[0], 7001)?, scene.victim(&cgroups[runs - 1], 7002)?];
    let start = std::time::Instant::now();
    let mut running = cgroups
        .iter()
        .map(|cgroup| scene.inject("--loss 40%", cgroup).start())
        .collect::<Result<Vec<_>>>()?;
    for one in &mut running {
        one.armed()?;
    }
    measure("engine_joins", json!({"runs": runs, "all_armed_ms": start.elapsed().as_millis() as u64}));
    let objects = KernelObjects::now()?.since(&scene.ground.objects);
    ensure!(objects.programs.len() == 2, "{} programs for {runs} runs", objects.programs.len());
    for victim in &victims {
        loses_more(victim, "a victim")?;
    }
    let listed = ask("list")?.fine()?;
    let hosted = listed.events.iter().filter(|event| event["pid"] == scene.engine.pid()).count();
    ensure!(hosted == runs, "{hosted} of {runs} runs are listed");
    let hits = [0, runs - 1];
    for (number, one) in running.into_iter().enumerate() {
        let finished = one.interrupt()?;
        let injected = finished.summary()?.rule()?.injected.events;
        ensure!(hits.contains(&number) == (injected > 0), "run {number} has injected {injected}");
    }
    for victim in &mut victims {
        loses_nothing(victim, "a victim after the end")?;
        victim.stop(Role::Second)?;
    }
    bystander.stop(Role::Second)?;
    let traffic = Traffic::read(&bystander.board)?;
    // Adding and removing clsact costs everybody packets.
    ensure!(!has_tcx() || traffic.check_unharmed().is_ok(), "{traffic}");
    scene.end()
}
