//! Whole injections into a scratch cgroup, judged by what a victim in it feels and a bystander beside it does not.

use super::{
    Abilities, Unable,
    felt::{self, Scratch, TELLTALE},
    kernel::Kernel,
};
use crate::{
    inject::{
        engine::{self, Engine, Options, Placement},
        watch::CallWatch,
    },
    plan::{self, Mechanism, Plan, PlannedRule, syscall},
    spec::{Fault, delay::Delay, network, syscall as spec_syscall, when::When},
};
use chaos_common::counter::Outcome;
use std::{
    io::{self, PipeReader, Read as _, Write as _},
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

/// A self-test: says how it went, or why it did not work.
type Test = fn(&Kernel) -> Result<String, Unable>;

/// The faults that are tested, by which mechanism.
pub const FAULTS: [(&str, &str, Test); 14] = [
    ("packet loss, egress", "tcx", |kernel| {
        kernel.tcx()?;
        loss(kernel, network::Direction::Egress, Mechanism::Tcx)
    }),
    ("packet loss, egress", "clsact", |kernel| {
        kernel.clsact()?;
        loss(kernel, network::Direction::Egress, Mechanism::Clsact)
    }),
    ("packet delay, egress", "line", |kernel| {
        kernel.tcx()?;
        kernel.line()?;
        delay(kernel)
    }),
    ("packet loss, ingress", "cgroup_skb", |kernel| {
        kernel.cgroup_skb()?;
        loss(kernel, network::Direction::Ingress, Mechanism::CgroupSkb)
    }),
    ("system call errors", "lsm", |kernel| error(kernel, spec_syscall::Mechanism::Lsm)),
    ("system call errors", "fmod_ret_security", |kernel| {
        error(kernel, spec_syscall::Mechanism::FmodRetSecurity)
    }),
    ("system call errors", "fmod_ret_sys", |kernel| error(kernel, spec_syscall::Mechanism::FmodRetSys)),
    ("system call errors", "kprobe_multi", |kernel| error(kernel, spec_syscall::Mechanism::KprobeMulti)),
    ("system call errors", "kprobe", |kernel| error(kernel, spec_syscall::Mechanism::Kprobe)),
    ("system call errors", "cgroup_sock_addr", |kernel| {
        error(kernel, spec_syscall::Mechanism::CgroupSockAddr)
    }),
    ("system call latency", "lsm_sleep", |kernel| latency(kernel, spec_syscall::Mechanism::LsmSleep, "40ms")),
    ("system call latency", "spin", |kernel| latency(kernel, spec_syscall::Mechanism::Spin, "1ms")),
    ("system call latency", "stop_continue", |kernel| {
        latency(kernel, spec_syscall::Mechanism::StopContinue, "40ms")
    }),
    ("calls of the command of exec", "seccomp", |kernel| {
        kernel.seccomp()?;
        Ok("self-test: a child's getsid returned the errno that it was answered".to_owned())
    }),
];

/// What else an experiment may need.
pub const BESIDE: [(&str, &str, Test); 1] = [("probes of system calls", "fentry", watch)];

fn failed(what: &str) -> impl FnOnce(io::Error) -> Unable {
    move |error| Unable::new(format!("{what}: {error}"), "run it again with -v")
}

fn plan(kernel: &Kernel, fault: Fault, mechanisms: Vec<Mechanism>) -> Result<Plan, Unable> {
    let calls = match &fault {
        Fault::Syscall(fault) => match &fault.calls {
            spec_syscall::Calls::One(call) => vec![(*call, mechanisms.clone())],
            spec_syscall::Calls::Class { .. } => vec![],
        },
        Fault::Network(_) => vec![],
    };
    Ok(Plan {
        run: format!("selftest-{}", std::process::id()),
        rules: vec![PlannedRule { name: "selftest".to_owned(), fault, mechanisms, calls, limits: vec![] }],
        duration: Some(std::time::Duration::from_secs(30)),
        observe: false,
        seed: None,
        task_ancestor: kernel.task_ancestor()?,
        registers: kernel.registers(),
        trees: vec![],
    })
}

fn start(plan: &Plan, scratch: &Scratch) -> Result<Engine, Unable> {
    let placement = Placement { plan, cgroups: vec![scratch.cgroup()], await_exec: false, home: None };
    let engine = Engine::open(&[placement], Options::default())
        .map_err(|error| Unable::new(error.to_string(), "run it again with -v"))?;
    engine.arm(0);
    Ok(engine)
}

/// Datagrams of a network self-test.
const DATAGRAMS: u8 = 20;

fn loss(kernel: &Kernel, direction: network::Direction, mechanism: Mechanism) -> Result<String, Unable> {
    let matches = network::Match::default();
    let fault = Fault::Network(Box::new(network::Fault {
        direction,
        matches,
        effect: network::Effect::Loss,
        per_flow: false,
        when: When::default(),
    }));
    let plan = plan(kernel, fault, vec![mechanism])?;
    let (victim, lost, bystander) = felt::in_empty_network(|| {
        felt::bring_loopback_up()?;
        let scratch = Scratch::make().map_err(io::Error::other)?;
        let engine = start(&plan, &scratch).map_err(|unable| io::Error::other(unable.to_string()))?;
        let (judged, mut tell) = io::pipe()?;
        let (victim, lost) = thread::scope(|scope| {
            let losses = scope.spawn(|| {
                let lost = losses_in_time(&engine);
                tell.write_all(b"0").and(lost)
            });
            // A fork shares no socket with us: it makes its own, in its own cgroup.
            let victim = felt::by_child(scratch.cgroup(), || datagrams_left(&judged).unwrap_or(u8::MAX));
            let lost = losses.join().unwrap_or_else(|_| Err(io::Error::other("the thread that counts died")));
            Ok::<_, io::Error>((victim?, lost?))
        })?;
        let bystander = datagrams_received()?;
        drop(engine);
        Ok((victim, lost, bystander))
    })
    .map_err(failed("the self-test failed"))?;
    match (victim, bystander) {
        (0, DATAGRAMS) if lost == u64::from(DATAGRAMS) => Ok(format!(
            "self-test: victim lost {DATAGRAMS} of {DATAGRAMS} datagrams without an error, bystander 0"
        )),
        (u8::MAX, _) => {
            Err(Unable::new("the self-test's victim got an error from sending", "report this as a bug"))
        }
        (victim, bystander) => Err(Unable::new(
            format!(
                "the self-test's victim received {victim} of {DATAGRAMS} datagrams, its bystander {bystander}; \
                 {lost} were dropped"
            ),
            "report this as a bug",
        )),
    }
}

/// How long datagrams may be under way: on a busy processor the kernel leaves them to a thread of its own.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// Datagrams dropped by the engine's only rule: all of them, or as many as there are in time.
fn losses_in_time(engine: &Engine) -> io::Result<u64> {
    let start = Instant::now();
    loop {
        let counters = engine.counters().map_err(io::Error::other)?;
        let lost = counters.iter().map(|rule| rule.outcomes[Outcome::Injected as usize].events).sum();
        if lost >= u64::from(DATAGRAMS) || start.elapsed() > UNDER_WAY {
            return Ok(lost);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends datagrams to itself over loopback, and counts what has arrived once all have been `judged`.
fn datagrams_left(mut judged: &PipeReader) -> io::Result<u8> {
    let socket = datagrams_to_oneself()?;
    judged.read_exact(&mut [0])?;
    socket.set_nonblocking(true)?;
    Ok(arrivals(&socket))
}

/// Sends datagrams to itself over loopback, and counts those that arrive in time.
fn datagrams_received() -> io::Result<u8> {
    let socket = datagrams_to_oneself()?;
    socket.set_read_timeout(Some(UNDER_WAY))?;
    Ok(arrivals(&socket))
}

fn datagrams_to_oneself() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(socket.local_addr()?)?;
    for _ in 0..DATAGRAMS {
        socket.send(b"kchaos")?;
    }
    Ok(socket)
}

fn arrivals(socket: &UdpSocket) -> u8 {
    (0..DATAGRAMS).take_while(|_| socket.recv(&mut [0; 8]).is_ok()).count() as u8
}

/// Delay of the self-test.
const HELD_BACK: Duration = Duration::from_millis(40);

fn delay(kernel: &Kernel) -> Result<String, Unable> {
    let fault = Fault::Network(Box::new(network::Fault {
        direction: network::Direction::Egress,
        matches: network::Match::default(),
        effect: network::Effect::Delay(Delay { latency: HELD_BACK, ..Delay::default() }),
        per_flow: false,
        when: When::default(),
    }));
    let mut plan = plan(kernel, fault, vec![Mechanism::Tcx])?;
    plan.rules.iter_mut().for_each(|rule| rule.mechanisms.push(Mechanism::Line));
    let (victim, bystander) = felt::in_empty_network(|| {
        felt::bring_loopback_up()?;
        let scratch = Scratch::make().map_err(io::Error::other)?;
        let engine = start(&plan, &scratch).map_err(|unable| io::Error::other(unable.to_string()))?;
        let victim = felt::by_child(scratch.cgroup(), || milliseconds_of_a_datagram().unwrap_or(u8::MAX))?;
        let bystander = fastest(|| milliseconds_of_a_datagram().unwrap_or(u8::MAX));
        drop(engine);
        Ok((u128::from(victim), u128::from(bystander)))
    })
    .map_err(failed("the self-test failed"))?;
    let held_back = HELD_BACK.as_millis();
    if victim >= held_back && victim < u128::from(u8::MAX) && bystander < held_back {
        Ok(format!(
            "self-test: a datagram of the victim took {victim} ms, one of the bystander {bystander} ms"
        ))
    } else {
        Err(Unable::new(
            format!(
                "the self-test's victim waited {victim} ms for a datagram held back by {held_back} ms, its bystander {bystander} ms"
            ),
            "report this as a bug",
        ))
    }
}

/// Sends a datagram to itself over loopback and waits for it.
fn milliseconds_of_a_datagram() -> io::Result<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(socket.local_addr()?)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let start = Instant::now();
    socket.send(b"kchaos")?;
    socket.recv(&mut [0; 8])?;
    Ok(start.elapsed().as_millis().min(254) as u8)
}

fn error(kernel: &Kernel, wanted: spec_syscall::Mechanism) -> Result<String, Unable> {
    let (call, make): (&str, fn() -> u8) = match wanted {
        spec_syscall::Mechanism::CgroupSockAddr => ("connect", felt::connect_loopback),
        _ => ("openat", felt::open_root),
    };
    let fault: spec_syscall::Fault =
        format!("{call}=EHWPOISON").parse().map_err(|problems: crate::spec::Problems| {
            Unable::new(problems.to_string(), "report this as a bug")
        })?;
    let call_of = call.parse().map_err(|problem: String| Unable::new(problem, "report this as a bug"))?;
    let mechanisms = syscall::Choice::only(&fault, Some(wanted)).mechanisms(call_of, kernel)?;
    let plan = plan(kernel, Fault::Syscall(Box::new(fault)), mechanisms)?;
    let scratch =
        Scratch::make().map_err(|error| Unable::new(error.to_string(), "run as root on cgroup v2"))?;
    let engine = start(&plan, &scratch)?;
    let felt = felt::by_child(scratch.cgroup(), make).map_err(failed("the self-test failed"))?;
    let bystander = make();
    drop(engine);
    if i32::from(felt) == TELLTALE && bystander == 0 {
        Ok(format!("self-test: victim's {call} returned the errno asked for, bystander's worked"))
    } else {
        Err(Unable::new(
            format!("the self-test's victim felt errno {felt}, its bystander {bystander}"),
            "report this as a bug",
        ))
    }
}

fn latency(kernel: &Kernel, by: spec_syscall::Mechanism, time: &str) -> Result<String, Unable> {
    let bug = |problem: String| Unable::new(problem, "report this as a bug");
    let fault = spec_syscall::Fault::slow(&format!("openat={time}")).map_err(|e| bug(e.to_string()))?;
    let call = "openat".parse().map_err(bug)?;
    let mechanisms = syscall::Choice::only(&fault, Some(by)).mechanisms(call, kernel)?;
    let asked = fault.latency().map(|latency| latency.time.as_millis()).unwrap_or_default();
    let plan = plan(kernel, Fault::Syscall(Box::new(fault)), mechanisms)?;
    let scratch =
        Scratch::make().map_err(|error| Unable::new(error.to_string(), "run as root on cgroup v2"))?;
    let engine = start(&plan, &scratch)?;
    let victim =
        felt::by_child(scratch.cgroup(), milliseconds_of_an_open).map_err(failed("the self-test failed"))?;
    let bystander = fastest(milliseconds_of_an_open);
    drop(engine);
    let (victim, bystander) = (u128::from(victim), u128::from(bystander));
    if victim >= asked && bystander < asked {
        Ok(format!(
            "self-test: victim's openat took {victim} ms with {asked} ms asked for, bystander's {bystander} ms"
        ))
    } else {
        Err(Unable::new(
            format!(
                "{}: the self-test's victim was held back for {victim} ms instead of {asked} ms, its bystander for \
                 {bystander} ms",
                by.name()
            ),
            "report this as a bug",
        ))
    }
}

/// The fastest of some times of the bystander: anything may be in its way.
fn fastest(milliseconds: fn() -> u8) -> u8 {
    (0..8).map(|_| milliseconds()).min().unwrap_or(u8::MAX)
}

fn watch(kernel: &Kernel) -> Result<String, Unable> {
    let call: spec_syscall::Call =
        "openat".parse().map_err(|problem: String| Unable::new(problem, "report this as a bug"))?;
    let watched = plan::watch::watched(call, kernel)?;
    let scratch =
        Scratch::make().map_err(|error| Unable::new(error.to_string(), "run as root on cgroup v2"))?;
    let unable = |error: engine::Error| Unable::new(error.to_string(), "run it again with -v");
    let watch = CallWatch::open([scratch.cgroup()], &[watched], kernel.task_ancestor()?).map_err(unable)?;
    felt::by_child(scratch.cgroup(), felt::open_root).map_err(failed("the self-test failed"))?;
    felt::open_root();
    match watch.times(call).map_err(unable)?.buckets.iter().sum() {
        1u64 => Ok("self-test: an openat of the victim was timed, and none of the bystander's".to_owned()),
        count => Err(Unable::new(
            format!("fentry: {count} calls were timed instead of the one that the self-test's victim made"),
            "report this as a bug",
        )),
    }
}

fn milliseconds_of_an_open() -> u8 {
    let start = Instant::now();
    felt::open_root();
    start.elapsed().as_millis().min(254) as u8
}
