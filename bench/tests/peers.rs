//! The same faults by what people use today, side by side: what a bystander pays, what the target feels, what is left.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bench::flow::Flow;
use integration_tests::capability::{fails_syscalls, has_tool, netem_missing};
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::held_back::plain_stream;
use integration_tests::kchaos::{Kchaos, binary};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::patience::monotonic_ns;
use integration_tests::samples;
use integration_tests::skip;
use integration_tests::spawn::Place;
use integration_tests::topology::{FAR4, Pair, endpoint};
use nix::sys::signal::Signal;
use serde_json::json;

/// One fault, in the words of those who make it.
struct Asked {
    what: &'static str,
    netem: &'static str,
    kchaos: &'static str,
    /// The end of a rule of iptables that does the same, if one does.
    iptables: Option<&'static str>,
    /// What of it is told of those who feel it.
    felt: fn(&Traffic) -> Result<String>,
}

fn share_lost(traffic: &Traffic) -> Result<String> {
    let (sent, lost) = (traffic.sent, traffic.lost());
    let errors: u64 = traffic.sender_errors.iter().map(counted).sum();
    let share = 100.0 * lost as f64 / sent as f64;
    Ok(format!("{lost} of {sent} lost ({share:.1}%), {errors} errors at the sender"))
}

fn time_taken(traffic: &Traffic) -> Result<String> {
    let [least, most] =
        [1, 99].map(|percentile| traffic.delays_ms.get(percentile).copied().unwrap_or(f64::NAN));
    let lost = 100.0 * traffic.lost() as f64 / traffic.sent as f64;
    Ok(format!("{:.2} ms ({least:.2} to {most:.2}), {lost:.1}% lost", traffic.median_ms()?))
}

const LOSS: Asked = Asked {
    what: "Loss of 10% of one cgroup's UDP",
    netem: "loss 10%",
    kchaos: "--loss 10%",
    iptables: Some("-m statistic --mode random --probability 0.1 -j DROP"),
    felt: share_lost,
};

const DELAY: Asked = Asked {
    what: "A delay of 50 ms for one cgroup's UDP",
    netem: "delay 50ms limit 100000",
    kchaos: "--delay 50ms",
    iptables: None,
    felt: time_taken,
};

struct Scene {
    pair: Pair,
    target: Cgroup,
    place: Place,
    beside: Place,
    outside: Place,
    flow: Flow,
    _cgroup: TestCgroup,
}

/// Who makes the fault: shell lines that begin and end it, or kchaos itself.
struct Peer {
    by: &'static str,
    begin: Option<String>,
    end: Vec<String>,
}

fn peers(asked: &Asked, device: &str, target: &Cgroup) -> Result<Vec<Peer>> {
    let root = integration_tests::cgroup::mount_point()?;
    let path = target.path().strip_prefix(&root).context("a target outside of the hierarchy")?.display();
    let netem = format!(
        "tc qdisc add dev {device} root handle 1: prio bands 4 && \
         tc qdisc add dev {device} parent 1:4 handle 40: netem {}",
        asked.netem
    );
    let unqueue = format!("tc qdisc del dev {device} root");
    let mark = format!("POSTROUTING -m cgroup --path {path} -j MARK --set-mark 7");
    let statistic = asked.iptables.map(|rule| format!("OUTPUT -o {device} -m cgroup --path {path} {rule}"));
    let shell = |by, begin: String, end| Peer { by, begin: Some(begin), end };
    let mut all = vec![
        Peer { by: "nothing", begin: None, end: vec![] },
        Peer { by: "nothing again", begin: None, end: vec![] },
        Peer { by: "kchaos inject", begin: None, end: vec![] },
        shell(
            "netem below prio, u32 filter on the address (everybody who talks to it)",
            format!(
                "{netem} && tc filter add dev {device} parent 1: protocol ip u32 match ip dst {FAR4}/32 flowid 1:4"
            ),
            vec![unqueue.clone()],
        ),
    ];
    if has_tool("iptables-legacy") {
        all.push(shell(
            "netem below prio, iptables mark by cgroup",
            format!(
                "{netem} && tc filter add dev {device} parent 1: protocol ip handle 7 fw flowid 1:4 && \
                 iptables-legacy -t mangle -A {mark}"
            ),
            vec![format!("iptables-legacy -t mangle -D {mark}"), unqueue],
        ));
        all.extend(statistic.map(|statistic| {
            shell(
                "iptables statistic and cgroup matches",
                format!("iptables-legacy -A {statistic}"),
                vec![format!("iptables-legacy -D {statistic}")],
            )
        }));
    }
    Ok(all)
}

impl Scene {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = cgroup.child("target")?;
        let pair = Pair::veth()?;
        let flow = Flow::between(&pair, 7100)?;
        let place = Place::default().in_cgroup(&target).in_netns(&pair.near);
        let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
        let beside = Place::default().in_cgroup(&cgroup.child("beside")?).in_netns(&pair.near);
        Ok(Self { pair, target, place, beside, outside, flow, _cgroup: cgroup })
    }

    /// What the processor counts per datagram of a bystander, the least of many batches.
    fn bystander(&self) -> Result<f64> {
        let batches = if samples::full() { 60 } else { 5 };
        let least = self.flow.least_per_datagram(batches)?;
        // What is still on its way would fill the receiver later.
        std::thread::sleep(Duration::from_millis(200));
        self.flow.drain()?;
        Ok(least)
    }

    /// What datagrams suffer that come from there.
    fn suffered(&self, from: &Place) -> Result<Traffic> {
        let count = if samples::full() { 4_000 } else { 1_000 };
        plain_stream(from, &self.outside, &endpoint(FAR4, 7001)?, count, "--alone --rate-per-ms 2")
    }

    /// Devices, queues, filters and rules in the target's namespace, and programs of kchaos in the kernel.
    fn inventory(&self) -> Result<Vec<String>> {
        let mut lines: Vec<_> = self.pair.near.furniture()?.lines().map(str::to_owned).collect();
        if has_tool("iptables-legacy") {
            for table in ["filter", "mangle"] {
                let rules = self.pair.near.run("iptables-legacy", &format!("-t {table} -S"))?;
                lines.extend(rules.lines().filter(|rule| rule.starts_with("-A")).map(str::to_owned));
            }
        }
        let programs = KernelObjects::now()?.programs;
        lines.extend(programs.into_iter().map(|program| format!("program {program}")));
        Ok(lines)
    }
}

/// Errors of all kinds: `{"EPERM": 12}`.
fn counted(kinds: &serde_json::Value) -> u64 {
    kinds.as_object().map_or(0, |kinds| kinds.values().filter_map(serde_json::Value::as_u64).sum())
}

fn ms(begin_ns: u64) -> String {
    format!("{:.1}", (monotonic_ns() - begin_ns) as f64 / 1e6)
}

/// A shell that begins a fault and lives on, as a tool that watches over it would.
fn begin(scene: &Scene, lines: &str) -> Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{lines} && echo begun && exec sleep 1000")]).stdout(Stdio::piped());
    Place::default().in_netns(&scene.pair.near).apply(&mut command)?;
    let mut child = command.spawn().context("starting a shell")?;
    let out = child.stdout.take().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    ensure!(line == "begun\n", "it did not begin: {lines}");
    Ok(child)
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn a_tenth_of_the_datagrams_lost() -> Result<()> {
    side_by_side(&LOSS)
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn datagrams_delayed() -> Result<()> {
    side_by_side(&DELAY)
}

fn side_by_side(asked: &Asked) -> Result<()> {
    if let Some(reason) = netem_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let device = scene.pair.near_device;
    let mut base = None;
    for peer in peers(asked, device, &scene.target)? {
        let before = scene.inventory()?;
        let begin_ns = monotonic_ns();
        let is_kchaos = peer.by.starts_with("kchaos");
        let run = |duration: &str| -> Result<_> {
            let line = format!(
                "inject --json --cgroup {} {} --duration {duration}",
                scene.target.path().display(),
                asked.kchaos
            );
            let place = Place::default().in_netns(&scene.pair.near);
            let mut running = Kchaos::new(&line).at(&place).start()?;
            running.armed()?;
            Ok(running)
        };
        let running = is_kchaos.then(|| run("600s")).transpose()?;
        let mut shell = peer.begin.as_deref().map(|lines| begin(&scene, lines)).transpose()?;
        let setup_ms = ms(begin_ns);
        let bystander = scene.bystander()?;
        let (felt, beside) = (scene.suffered(&scene.place)?, scene.suffered(&scene.beside)?);
        // Killed, and given time in which whoever watches could act.
        let mut left = String::from("nothing");
        if let Some(mut running) = running {
            running.signal(Signal::SIGKILL)?;
            running.finish()?;
        }
        if let Some(shell) = &mut shell {
            shell.kill()?;
            shell.wait()?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let after = scene.inventory()?;
        let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        if !more.is_empty() {
            left = format!("the fault: {} queues, filters and rules", more.len());
        }
        let undo_ms = if is_kchaos {
            let running = run("600s")?;
            let begin_ns = monotonic_ns();
            running.interrupt()?;
            ms(begin_ns)
        } else {
            let begin_ns = monotonic_ns();
            for line in &peer.end {
                let (program, arguments) = line.split_once(' ').context("no program")?;
                scene.pair.near.run(program, arguments)?;
            }
            ms(begin_ns)
        };
        let base = *base.get_or_insert(bystander);
        let nothing = peer.by.starts_with("nothing");
        measure(
            "peer",
            json!({
                "what": asked.what, "by": peer.by, "felt": (asked.felt)(&felt)?,
                "bystander": format!("{bystander:.0} instructions per datagram, {:+.1}%; {}",
                    100.0 * (bystander / base - 1.0), (asked.felt)(&beside)?),
                "added": bystander - base,
                "setup_ms": if nothing { "-".to_owned() } else { setup_ms },
                "undo_ms": if nothing { "-".to_owned() } else { undo_ms },
                "left": if nothing { "-".to_owned() } else { left },
            }),
        );
    }
    Ok(())
}

/// A fault on a call that the program does not make: what all its other calls pay.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn calls_under_a_fault_on_another() -> Result<()> {
    if !fails_syscalls()? {
        skip!("system calls cannot fail here");
    }
    // Long beside whatever the owner of a fault still has to do as its command begins.
    let count = 20_000;
    let work = format!("dd if=/dev/zero of=/dev/null bs=1 count={count}");
    let kchaos = binary()?;
    let mut ways = vec![
        ("nothing", String::new()),
        ("nothing again", String::new()),
        ("kchaos exec", format!("{kchaos} exec --fail mkdir=EIO@10% --")),
        (
            "kchaos exec --mechanism seccomp",
            format!("{kchaos} exec --fail mkdir=EIO@10% --mechanism seccomp --"),
        ),
    ];
    if has_tool("strace") {
        ways.push((
            "strace -f -e inject",
            "strace -f -o /dev/null -e inject=mkdir:error=EIO:when=1+10".to_owned(),
        ));
        ways.push((
            "strace --seccomp-bpf -f -e inject",
            "strace --seccomp-bpf -f -o /dev/null -e trace=mkdir -e inject=mkdir:error=EIO:when=1+10"
                .to_owned(),
        ));
    }
    if has_tool("fiu-run") {
        ways.push((
            "fiu-run (libfiu's preload)",
            "fiu-run -x -c enable_random:name=posix/io/dir/mkdir,probability=0.1".to_owned(),
        ));
    }
    let mut base = None;
    for (by, prefix) in ways {
        let line = format!("{prefix} {work}");
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        // One argument with blanks in it.
        words.iter_mut().for_each(|word| *word = word.replace("enable_random:", "enable_random "));
        let mut least = f64::INFINITY;
        for _ in 0..3 {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::piped());
            let output = command.output().with_context(|| line.clone())?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{line}: {text}");
            // dd's own account: `20000 bytes (20 kB, 20 KiB) copied, 0.0123 s, 1.6 MB/s`.
            let seconds = text.lines().find_map(|line| {
                let (_, rest) = line.split_once("copied, ")?;
                rest.split(' ').next()?.parse::<f64>().ok()
            });
            least = least.min(seconds.with_context(|| format!("dd said {text}"))? * 1e9 / f64::from(count));
        }
        let base = *base.get_or_insert(least);
        measure(
            "peer",
            json!({
                "what": "A fault on mkdir, and what a program's other calls pay", "by": by,
                "felt": format!("{least:.0} ns of this machine per read and write, {:.2}x", least / base),
                "bystander": if by == "kchaos exec" { "see the hooks above" } else { "not touched" },
            }),
        );
    }
    Ok(())
}
