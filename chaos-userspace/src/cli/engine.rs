//! `kchaos engine`: one owner for the runs that others start on this host.

use super::{
    Cli, Command, Common, console, exit,
    failure::Failure,
    run, safety,
    session::{Ends, Session, block_on},
    signals::{Arrived, Signals},
    target::Chosen,
};
use crate::{
    host::{cgroup::Hierarchy, process},
    inject::engine::{Engine, HOST_NAME, Options},
    plan,
    probe::kernel::Kernel,
    report::event::{Event, Sink},
    runs::{
        self, MESSAGE_MAX,
        message::{Answer, Interrupt, Request, Told},
        server::{Caller, Server},
    },
};
use clap::Parser;
use nix::sys::signal::Signal;
use std::{cell::RefCell, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, watch},
    task::{JoinSet, LocalSet},
    time::timeout,
};

/// How long who has asked for a run may take to hear of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hosts runs until a signal arrives.
pub fn run(common: &Common, sink: &mut Sink) -> Result<u8, Failure> {
    run::check_privileges(true)?;
    let socket = runs::socket_of_engine();
    if runs::connect(&socket).map_err(Failure::internal)?.is_some() {
        return Err(Failure::new(
            exit::USAGE,
            format!("an engine hosts the runs of this machine already: it listens on {}", socket.display()),
        ));
    }
    block_on(async {
        let mut signals = Signals::take().map_err(Failure::internal)?;
        let name = format!("{HOST_NAME}{}", std::process::id());
        let options = Options { shared_as: Some(&name), ..run::options(false, common.verbose, None) };
        let engine = Rc::new(RefCell::new(Engine::open(&[], options)?));
        let mut server = Server::listen(socket).map_err(Failure::internal)?;
        console::tell(sink, "kchaos engine: ready; kchaos inject joins it\n", false);
        sink.write(&Event::Hosting { pid: std::process::id() });
        let (end, ending) = watch::channel(false);
        let mut hosted = JoinSet::new();
        LocalSet::new()
            .run_until(async {
                loop {
                    tokio::select! {
                        arrived = signals.next() => {
                            arrived.map_err(Failure::internal)?;
                            break;
                        }
                        Some(caller) = server.next() => {
                            hosted.spawn_local(host(caller, Rc::clone(&engine), ending.clone()));
                        }
                        // Only so that what has ended is forgotten.
                        Some(_) = hosted.join_next() => {}
                    }
                }
                // Nobody comes any more, and who is there goes.
                drop(server);
                let _nobody_listens = end.send(true);
                while hosted.join_next().await.is_some() {}
                Ok::<_, Failure>(())
            })
            .await?;
        let engine = Rc::into_inner(engine).ok_or_else(|| Failure::internal("a run is still hosted"))?;
        let closed = engine.into_inner().close();
        let problems = closed.problems.clone();
        closed.finish();
        if problems.is_empty() {
            return Ok(exit::DONE);
        }
        Err(Failure::new(exit::ROLLBACK_INCOMPLETE, problems.join("\n")))
    })
}

/// Hosts one run from its beginning to its end.
async fn host(caller: Caller, engine: Rc<RefCell<Engine>>, ending: watch::Receiver<bool>) {
    let (words, detached) = match &caller.request {
        Request::Join { words, detached } => (words.clone(), *detached),
        _ => {
            let message = "an engine only hosts: ask its runs by their ids".to_owned();
            return caller.answer(&Answer::Refused { code: exit::USAGE, message }).await;
        }
    };
    let pid = caller.pid;
    let (reader, writer) = caller.into_stream().into_split();
    let (tell, told) = mpsc::unbounded_channel();
    let (ask, ends) = mpsc::channel(4);
    let listening = tokio::spawn(listen(reader, ask, ending, detached));
    let telling = tokio::spawn(pass_on(told, writer));
    let mut sink = Sink::Client(tell.clone());
    let end = match inject(&words, pid, &engine, Ends::Client(ends), &mut sink).await {
        Ok(code) => Told::End { code, failure: None },
        Err(failure) => Told::End { code: failure.code, failure: Some(failure.message) },
    };
    let _gone = tell.send(end);
    drop((tell, sink));
    listening.abort();
    let _told_or_gone = telling.await;
}

/// What `kchaos inject` does in a process of its own.
async fn inject(
    words: &[String],
    caller: Option<i32>,
    engine: &Rc<RefCell<Engine>>,
    ends: Ends,
    sink: &mut Sink,
) -> Result<u8, Failure> {
    let words = std::iter::once("kchaos").chain(words.iter().map(String::as_str));
    let cli =
        Cli::try_parse_from(words).map_err(|error| Failure::new(exit::USAGE, error.to_string().trim()))?;
    let Command::Inject(inject) = cli.command else {
        return Err(Failure::new(exit::USAGE, "only `kchaos inject` joins an engine"));
    };
    let caller = caller.filter(|pid| sees_the_same(*pid)).ok_or_else(|| {
        let message = "the engine lives in other pid or cgroup namespaces: start the run in an engine of its own (--own)";
        Failure::new(exit::USAGE, message)
    })?;
    let spec = inject.spec()?;
    if let Some(alone) = inject.alone() {
        return Err(Failure::new(exit::USAGE, format!("{alone}: start it in an engine of its own (--own)")));
    }
    let chosen = Chosen::find(&Hierarchy::find()?, &spec)?;
    let processes = chosen.processes();
    let mut allowed = safety::check_for(&chosen, &processes, &spec, &process::lineage_of(caller))?;
    allowed.extend(safety::check(&chosen, &processes, &spec)?);
    allowed.sort_unstable();
    allowed.dedup();
    let plan = plan::make(&spec, &Kernel::default())?;
    let mut session = Session::join(&plan, &chosen, engine, (ends, caller), inject.with_bystander(), sink)?;
    session.allowed = allowed;
    if inject.is_detached() && !session.is_reachable() {
        return Err(Failure::new(exit::UNABLE, "a run that nobody can reach must not be detached"));
    }
    session.arm(None, sink)?;
    session.next(sink).await?;
    Ok(session.finish(sink).await?.code)
}

/// Whether pids and cgroup paths mean the same to that process as to this one.
pub fn sees_the_same(pid: i32) -> bool {
    ["pid", "cgroup"].iter().all(|kind| {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).ok();
        of(&pid.to_string()).is_some_and(|theirs| of("self") == Some(theirs))
    })
}

/// Hears of signals that arrive at who has asked for the run, of their death, and of the engine's end.
async fn listen(
    reader: OwnedReadHalf,
    ask: mpsc::Sender<Arrived>,
    mut ending: watch::Receiver<bool>,
    detached: bool,
) {
    let mut lines = BufReader::new(reader.take(MESSAGE_MAX as u64)).lines();
    let mut hears = true;
    loop {
        let signal = tokio::select! {
            line = lines.next_line(), if hears => {
                match line.ok().flatten() {
                    Some(line) => match serde_json::from_str::<Interrupt>(&line) {
                        Ok(interrupt) => Signal::try_from(interrupt.signal).unwrap_or(Signal::SIGTERM),
                        Err(_) => continue,
                    },
                    // Died or gone. What is detached goes on, and ends by itself or by its id.
                    None if detached => {
                        hears = false;
                        continue;
                    }
                    None => {
                        hears = false;
                        Signal::SIGHUP
                    }
                }
            }
            changed = ending.changed() => {
                if changed.is_err() {
                    return;
                }
                Signal::SIGTERM
            }
        };
        if ask.send(Arrived { signal, from_terminal: false }).await.is_err() {
            return;
        }
    }
}

/// Tells who has asked for the run what becomes of it. Who does not listen holds up nobody.
async fn pass_on(mut told: mpsc::UnboundedReceiver<Told>, mut writer: OwnedWriteHalf) {
    while let Some(told) = told.recv().await {
        let Ok(mut line) = serde_json::to_vec(&told) else { continue };
        line.push(b'\n');
        if !matches!(timeout(PATIENCE, writer.write_all(&line)).await, Ok(Ok(()))) {
            return;
        }
    }
}
