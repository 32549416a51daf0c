//! The table of device kinds in docs/faults/network.md: on each, a packet is judged once, what is spared is delivered,
//! nobody else feels it, and nothing is left after kill -9.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{has_tcx, netem_missing};
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::device_share::left_to;
use integration_tests::kchaos::{Kchaos, Running};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::{Traffic, idle_ms};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::spawn::{Place, Victim};
use integration_tests::summary::Summary;
use integration_tests::topology::{Kind, Pair, endpoint};
use integration_tests::{leave_to_soak, skip};
use nix::sys::signal::Signal;
use serde_json::json;

/// Twice judged, three quarters were lost.
const LOSS: &str = "--loss 50% --protocol udp";
const LOST: f64 = 0.5;
const PACKETS: u64 = 600;
const DELAY: &str = "--delay 150ms --protocol udp";
const HELD_BACK_MS: f64 = 150.0;

struct Scene {
    pair: Pair,
    target: Cgroup,
    inside: Place,
    outside: Place,
    beside: Place,
    runner: Place,
    /// What was there before the first run, whose devices go with a worker of the kernel.
    furniture: String,
    _cgroup: TestCgroup,
}

/// What went to one address.
struct Stream {
    to: String,
    board: Arc<SharedBoard>,
    receiver: Victim,
}

impl Scene {
    fn new(pair: Pair) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = cgroup.child("target")?;
        let inside = Place::default().in_cgroup(&target).in_netns(&pair.near);
        let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
        let beside = Place::default().in_cgroup(&cgroup.child("beside")?).in_netns(&pair.near);
        let runner = cgroup.runner()?.in_netns(&pair.near);
        let furniture = pair.near.furniture()?;
        Ok(Self { pair, target, inside, outside, beside, runner, furniture, _cgroup: cgroup })
    }

    fn inject(&self, faults: &str) -> Result<Running> {
        let mut running = Kchaos::inject(faults, self.target.path()).at(&self.runner).start()?;
        running.armed()?;
        Ok(running)
    }

    fn receive(&self, to: String) -> Result<Stream> {
        let board = Arc::new(SharedBoard::create()?);
        let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
        let mut receiver = Victim::start_on(&self.outside, &listen, Arc::clone(&board))?;
        receiver.ready()?;
        Ok(Stream { to, board, receiver })
    }

    /// One run while `n` datagrams go to each address of the far side.
    fn run(&self, faults: &str, n: u64) -> Result<(Vec<(String, Traffic)>, Summary)> {
        let running = self.inject(faults)?;
        let mut streams = vec![];
        for address in self.pair.far_addresses() {
            let stream = self.receive(endpoint(address, 7001)?)?;
            let words = format!("udp-send --to {} -n {n}", stream.to);
            Victim::start_on(&self.inside, &words, Arc::clone(&stream.board))?.finish(Role::First)?;
            streams.push(stream);
        }
        let summary = running.interrupt()?.summary()?;
        let rule = summary.rule()?;
        let lost = if rule.fault == "loss" { rule.injected.events } else { 0 };
        let sum = |what: fn(&Stream) -> u64| streams.iter().map(what).sum::<u64>();
        wait_until(&format!("all but {lost} datagrams"), || {
            sum(|stream| stream.board.datagrams.received.load(Acquire)) + lost
                == sum(|stream| stream.board.datagrams.sent.load(Acquire))
        })?;
        let mut traffic = vec![];
        for mut stream in streams {
            let counts = &stream.board.datagrams;
            counts.known_lost.store(counts.sent.load(Acquire) - counts.received.load(Acquire), Release);
            stream.receiver.finish(Role::Second)?;
            traffic.push((stream.to, Traffic::read(&stream.board)?));
        }
        Ok((traffic, summary))
    }

    /// What the one beside sends goes through as if there were nothing.
    fn check_beside(&self, address: &str) -> Result<()> {
        let mut stream = self.receive(endpoint(address, 7009)?)?;
        let words = format!("udp-send --to {} -n 100", stream.to);
        Victim::start_on(&self.beside, &words, Arc::clone(&stream.board))?.finish(Role::First)?;
        stream.receiver.finish(Role::Second)?;
        let traffic = Traffic::read(&stream.board)?;
        traffic.check_unharmed()?;
        // A busy machine may add to what a packet takes, but not to all of them as much as that.
        ensure!(traffic.delays_ms[0] < HELD_BACK_MS - 0.1, "{:?}", traffic.delays_ms);
        Ok(())
    }

    /// Kills kchaos under the target's traffic. Nothing is left, and nothing is lost any more.
    fn check_kill_9(&self, faults: &str) -> Result<()> {
        let address = self.pair.far_addresses()[0];
        let before = KernelObjects::now()?;
        let stream = self.receive(endpoint(address, 7010)?)?;
        let words = format!("udp-send --to {} --rate-per-ms 1 --alone", stream.to);
        let mut running = self.inject(faults)?;
        let mut sender = Victim::start_on(&self.inside, &words, Arc::clone(&stream.board))?;
        let counts = &stream.board.datagrams;
        wait_until("datagrams", || counts.received.load(Acquire) > 20)?;
        self.check_beside(address)?;
        let objects = KernelObjects::now()?.since(&before);
        ensure!(!objects.programs.is_empty(), "no program is loaded");
        running.signal(Signal::SIGKILL)?;
        objects.wait_gone()?;
        wait_until("devices to be as before", || {
            self.pair.near.furniture().is_ok_and(|now| now == self.furniture)
        })?;
        // What was on its way before has arrived or is counted as lost when the first later one has come.
        let sent = counts.sent.load(Acquire);
        wait_until("a datagram without faults", || counts.highest.load(Acquire) > sent)?;
        let (received, lost) = (counts.received.load(Acquire), counts.lost.load(Acquire));
        wait_until("more of them", || counts.received.load(Acquire) > received + 100)?;
        wait_until("no more to be lost with nothing of kchaos left", || counts.lost.load(Acquire) <= lost)?;
        stream.board.stop.store(1, Release);
        sender.finish(Role::First)?;
        // It could only wait for those that were lost before.
        drop(stream.receiver);
        Ok(())
    }
}

/// WireGuard's encrypted packets keep the socket, but not the mark: there, faults have to be told which packets to hit.
fn among_inner(kind: Kind, faults: &str) -> String {
    let inner = if kind == Kind::Wireguard { "--remote 10.77.0.0/24 --remote fd77::/64" } else { "" };
    format!("{faults} {inner}")
}

fn loss_on(kind: Kind) -> Result<Option<String>> {
    let pair = match Pair::new(kind)? {
        Ok(pair) => pair,
        Err(missing) => return Ok(Some(missing)),
    };
    let (scene, faults) = (Scene::new(pair)?, among_inner(kind, LOSS));
    let (traffic, summary) = scene.run(&faults, PACKETS)?;
    for (to, traffic) in &traffic {
        traffic.check_silent()?;
        check_share(&format!("{kind:?} {to}"), traffic.lost(), traffic.sent, LOST)?;
    }
    check_once(kind, PACKETS, &traffic, &summary)?;
    scene.check_kill_9(&faults)?;
    measure("device", json!({"kind": format!("{kind:?}"), "loss": "judged once, delivered, removed"}));
    Ok(None)
}

fn delay_on(kind: Kind) -> Result<Option<String>> {
    if let Some(reason) = netem_missing()? {
        return Ok(Some(reason));
    }
    let pair = match Pair::new(kind)? {
        Ok(pair) => pair,
        Err(missing) => return Ok(Some(missing)),
    };
    let (scene, faults) = (Scene::new(pair)?, among_inner(kind, DELAY));
    let (traffic, summary) = scene.run(&faults, 100)?;
    for (to, traffic) in &traffic {
        traffic.check_unharmed()?;
        // A busy machine can only add; the counters say that nothing was held back twice.
        let least = traffic.delays_ms[0];
        ensure!(
            (HELD_BACK_MS - 0.1..2.0 * HELD_BACK_MS).contains(&least),
            "{kind:?} {to}: {:?}",
            traffic.delays_ms
        );
    }
    check_once(kind, 100, &traffic, &summary)?;
    let rule = summary.rule()?;
    ensure!(rule.injected == rule.matched, "{kind:?}: {rule:?}");
    scene.check_kill_9(&faults)?;
    measure("device", json!({"kind": format!("{kind:?}"), "delay": "judged once, delivered, removed"}));
    Ok(None)
}

/// Every packet counts once, and none escaped.
fn check_once(kind: Kind, n: u64, traffic: &[(String, Traffic)], summary: &Summary) -> Result<()> {
    let (rule, sent) = (summary.rule()?, n * traffic.len() as u64);
    ensure!(rule.matched.events == sent, "{kind:?}: {sent} were sent, but {rule:?}");
    ensure!(summary.escaped == Some(0), "{kind:?}: {summary:?}");
    Ok(())
}

/// Tests of one line of the table, and its name among the shares of the kernels.
macro_rules! row {
    ($name:literal: $loss:ident = $losing:expr, $delay:ident = $delaying:expr) => {
        #[test]
        #[ignore = "needs root and BPF: run by cargo xtask test"]
        fn $loss() -> Result<()> {
            if let Some(others) = left_to($name)? {
                leave_to_soak!("{others} run it");
            }
            if let Some(reason) = $losing? {
                skip!("{reason}");
            }
            Ok(())
        }

        #[test]
        #[ignore = "needs root and BPF: run by cargo xtask test"]
        fn $delay() -> Result<()> {
            if !has_tcx() {
                skip!("no tcx links (6.6)");
            }
            if let Some(others) = left_to($name)? {
                leave_to_soak!("{others} run it");
            }
            if let Some(reason) = $delaying? {
                skip!("{reason}");
            }
            Ok(())
        }
    };
}

macro_rules! table {
    ($($name:literal $kind:ident: $loss:ident, $delay:ident;)*) => {
        $(row! { $name: $loss = loss_on(Kind::$kind), $delay = delay_on(Kind::$kind) })*
    };
}

table! {
    "veth" Veth: loss_on_veth, delay_on_veth;
    "bridge" Bridge: loss_on_bridge, delay_on_bridge;
    "vlan" Vlan: loss_on_vlan, delay_on_vlan;
    "vlan_from_elsewhere" VlanFromElsewhere: loss_on_vlan_from_elsewhere, delay_on_vlan_from_elsewhere;
    "bond" Bond: loss_on_bond, delay_on_bond;
    "vxlan" Vxlan: loss_on_vxlan, delay_on_vxlan;
    "macvlan" Macvlan: loss_on_macvlan, delay_on_macvlan;
    "ipvlan" Ipvlan: loss_on_ipvlan, delay_on_ipvlan;
    "netkit" Netkit: loss_on_netkit, delay_on_netkit;
    "tap" Tap: loss_on_tap, delay_on_tap;
    "tun" Tun: loss_on_tun, delay_on_tun;
    "wireguard" Wireguard: loss_on_wireguard, delay_on_wireguard;
    "ipip" Ipip: loss_on_ipip, delay_on_ipip;
    "gre" Gre: loss_on_gre, delay_on_gre;
}

/// What a dummy device has sent.
fn sent_by_dummy(netns: &NetNs) -> Result<u64> {
    let said = netns.ip("-s -o link show dev dummy0")?;
    // ... TX: bytes packets errors ...\    BYTES PACKETS ...
    let numbers = said.rsplit('\\').next().unwrap_or_default();
    let packets = numbers.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    packets.ok_or_else(|| anyhow::anyhow!("no number of packets in {said}"))
}

fn on_dummy(faults: &str, share: f64) -> Result<Option<String>> {
    let (netns, cgroup) = (NetNs::new()?, TestCgroup::new()?);
    if let Err(said) = netns.try_run("ip", "link add dummy0 type dummy")? {
        return Ok(Some(format!("no dummy: {said}")));
    }
    netns.ip("link set dummy0 up")?;
    netns.ip("addr add 10.79.0.1/24 dev dummy0")?;
    netns.ip("-4 neigh replace 10.79.0.2 lladdr 02:77:00:00:00:02 dev dummy0 nud permanent")?;
    let target = cgroup.runner()?.in_netns(&netns);
    let before = sent_by_dummy(&netns)?;
    let board = Arc::new(SharedBoard::create()?);
    let words = format!("udp-send --to 10.79.0.2:7001 -n {PACKETS} --alone");
    let finished = Kchaos::exec_victim(faults, &words, &board)?.at(&target).run()?;
    finished.expect_status(0)?;
    let rule = finished.summary()?.rule()?.clone();
    ensure!(rule.matched.events == PACKETS, "{rule:?}");
    let through = if share < 1.0 { PACKETS - rule.injected.events } else { PACKETS };
    check_share("hit", rule.injected.events, PACKETS, share)?;
    let sent = sent_by_dummy(&netns)? - before;
    // Multicast of the kernel's own may be among them.
    ensure!((through..through + 20).contains(&sent), "{sent} left the device instead of {through}");
    Ok(None)
}

row! { "dummy": loss_on_dummy = on_dummy(LOSS, LOST), delay_on_dummy = on_dummy(DELAY, 1.0) }
