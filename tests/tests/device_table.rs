//! The table of device kinds in docs/faults/network.md: on each, a packet is judged once, what is spared is delivered,
//! nobody else feels it, and nothing is left after kill -9.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::delay_missing;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::{Traffic, idle_ms, sender_in_target};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{Kind, Pair, endpoint};
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
    target: Place,
    outside: Place,
    beside: Place,
    /// What was there before the first run, whose devices go with a worker of the kernel.
    furniture: String,
    _cgroup: TestCgroup,
}

impl Scene {
    fn new(pair: Pair) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = Place::default().in_cgroup(&cgroup.child("runner")?).in_netns(&pair.near);
        let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
        let beside = Place::default().in_cgroup(&cgroup.child("beside")?).in_netns(&pair.near);
        let furniture = pair.near.furniture()?;
        Ok(Self { pair, target, outside, beside, furniture, _cgroup: cgroup })
    }

    /// What the one beside sends goes through as if there were nothing.
    fn check_beside(&self, address: &str) -> Result<()> {
        let to = endpoint(address, 7009)?;
        let board = Arc::new(SharedBoard::create()?);
        let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
        let mut receiver = Victim::start_on(&self.outside, &listen, Arc::clone(&board))?;
        receiver.ready()?;
        let words = format!("udp-send --to {to} -n 100");
        Victim::start_on(&self.beside, &words, Arc::clone(&board))?.finish(Role::First)?;
        receiver.finish(Role::Second)?;
        let traffic = Traffic::read(&board)?;
        traffic.check_unharmed()?;
        // A busy machine may add to what a packet takes, but not to all of them as much as that.
        ensure!(traffic.delays_ms[0] < HELD_BACK_MS - 0.1, "{:?}", traffic.delays_ms);
        Ok(())
    }

    /// Kills kchaos under the target's traffic. Nothing is left, and nothing is lost any more.
    fn check_kill_9(&self, faults: &str) -> Result<()> {
        let address = self.pair.far_addresses()[0];
        let to = endpoint(address, 7010)?;
        let before = KernelObjects::now()?;
        let board = Arc::new(SharedBoard::create()?);
        let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
        let mut receiver = Victim::start_on(&self.outside, &listen, Arc::clone(&board))?;
        receiver.ready()?;
        let words = format!("udp-send --to {to} --rate-per-ms 1 --alone");
        let mut running = Kchaos::exec_victim(faults, &words, &board)?.at(&self.target).start()?;
        running.armed()?;
        wait_until("datagrams", || board.datagrams.received.load(Acquire) > 20)?;
        self.check_beside(address)?;
        let objects = KernelObjects::now()?.since(&before);
        ensure!(!objects.programs.is_empty(), "no program is loaded");
        running.signal(Signal::SIGKILL)?;
        objects.wait_gone()?;
        wait_until("devices to be as before", || {
            self.pair.near.furniture().is_ok_and(|now| now == self.furniture)
        })?;
        // What was on its way before has arrived or is counted as lost when the first later one has come.
        let sent = board.datagrams.sent.load(Acquire);
        wait_until("a datagram without faults", || board.datagrams.highest.load(Acquire) > sent)?;
        let (received, lost) = (board.datagrams.received.load(Acquire), board.datagrams.lost.load(Acquire));
        wait_until("more of them", || board.datagrams.received.load(Acquire) > received + 100)?;
        let more_lost = board.datagrams.lost.load(Acquire) - lost;
        board.stop.store(1, Release);
        ensure!(more_lost == 0, "{more_lost} were lost with nothing of kchaos left");
        receiver.finish(Role::Second)?;
        drop(running);
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
    for address in scene.pair.far_addresses() {
        let to = endpoint(address, 7001)?;
        let run = sender_in_target(&faults, &scene.target, &to, PACKETS, &scene.outside, "")?;
        run.check_loss(&format!("{kind:?} {to}"), LOST)?;
        ensure!(run.summary.escaped == Some(0), "{kind:?} {to}: {:?} escaped", run.summary.escaped);
    }
    scene.check_kill_9(&faults)?;
    measure("device", json!({"kind": format!("{kind:?}"), "loss": "judged once, delivered, removed"}));
    Ok(None)
}

fn delay_on(kind: Kind) -> Result<Option<String>> {
    if let Some(reason) = delay_missing()? {
        return Ok(Some(reason));
    }
    let pair = match Pair::new(kind)? {
        Ok(pair) => pair,
        Err(missing) => return Ok(Some(missing)),
    };
    let (scene, faults) = (Scene::new(pair)?, among_inner(kind, DELAY));
    for address in scene.pair.far_addresses() {
        let to = endpoint(address, 7001)?;
        let run = sender_in_target(&faults, &scene.target, &to, 100, &scene.outside, "")?;
        let (traffic, rule) = (&run.traffic, run.summary.rule()?);
        traffic.check_unharmed()?;
        // A busy machine can only add; the counters say that nothing was held back twice.
        let least = traffic.delays_ms[0];
        ensure!(
            (HELD_BACK_MS - 0.1..2.0 * HELD_BACK_MS).contains(&least),
            "{kind:?} {to}: {:?}",
            traffic.delays_ms
        );
        ensure!(
            rule.matched.events == 100 && rule.injected.events == 100,
            "{kind:?} {to}: 100 were sent, but {rule:?}"
        );
    }
    scene.check_kill_9(&faults)?;
    measure("device", json!({"kind": format!("{kind:?}"), "delay": "judged once, delivered, removed"}));
    Ok(None)
}

macro_rules! table {
    ($($kind:ident: $loss:ident, $delay:ident;)*) => {$(
        #[test]
        #[ignore = "needs root and BPF: run by cargo xtask test"]
        fn $loss() -> Result<()> {
            if let Some(reason) = loss_on(Kind::$kind)? {
                skip!("{reason}");
            }
            Ok(())
        }

        #[test]
        #[ignore = "needs root and BPF: run by cargo xtask test"]
        fn $delay() -> Result<()> {
            if let Some(reason) = delay_on(Kind::$kind)? {
                skip!("{reason}");
            }
            Ok(())
        }
    )*};
}

table! {
    Veth: loss_on_veth, delay_on_veth;
    Bridge: loss_on_bridge, delay_on_bridge;
    Vlan: loss_on_vlan, delay_on_vlan;
    VlanFromElsewhere: loss_on_vlan_from_elsewhere, delay_on_vlan_from_elsewhere;
    Bond: loss_on_bond, delay_on_bond;
    Vxlan: loss_on_vxlan, delay_on_vxlan;
    Macvlan: loss_on_macvlan, delay_on_macvlan;
    Ipvlan: loss_on_ipvlan, delay_on_ipvlan;
    Netkit: loss_on_netkit, delay_on_netkit;
    Tap: loss_on_tap, delay_on_tap;
    Tun: loss_on_tun, delay_on_tun;
    Wireguard: loss_on_wireguard, delay_on_wireguard;
    Ipip: loss_on_ipip, delay_on_ipip;
    Gre: loss_on_gre, delay_on_gre;
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
    let target = Place::default().in_cgroup(&cgroup.child("runner")?).in_netns(&netns);
    let before = sent_by_dummy(&netns)?;
    let board = Arc::new(SharedBoard::create()?);
    let words = format!("udp-send --to 10.79.0.2:7001 -n {PACKETS} --alone");
    let finished = Kchaos::exec_victim(faults, &words, &board)?.at(&target).run()?;
    finished.expect_status(0)?;
    let rule = finished.summary()?.rule()?.clone();
    ensure!(rule.matched.events == PACKETS, "{rule:?}");
    let through = if share < 1.0 { PACKETS - rule.injected.events } else { PACKETS };
    integration_tests::binomial::check_share("hit", rule.injected.events, PACKETS, share)?;
    let sent = sent_by_dummy(&netns)? - before;
    // Multicast of the kernel's own may be among them.
    ensure!((through..through + 20).contains(&sent), "{sent} left the device instead of {through}");
    Ok(None)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_on_dummy() -> Result<()> {
    if let Some(reason) = on_dummy(LOSS, LOST)? {
        skip!("{reason}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn delay_on_dummy() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    if let Some(reason) = on_dummy(DELAY, 1.0)? {
        skip!("{reason}");
    }
    Ok(())
}
