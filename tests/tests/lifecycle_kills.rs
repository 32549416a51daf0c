//! Owners that are killed at any moment, many of them: how long faults are felt, and that nothing is left.

use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::capability::mechanism_works;
use integration_tests::ground::Ground;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::leave_to_soak;
use integration_tests::measure::measure;
use integration_tests::patience::{felt_ms_max, monotonic_ns, wait_until};
use integration_tests::samples::full;
use integration_tests::spawn::Victim;
use integration_tests::tasks::read_tasks;
use nix::sys::signal::Signal;
use serde_json::json;

/// Kills under packets, and under calls by each mechanism.
const PACKET_KILLS: usize = 200;
const CALL_KILLS: usize = 40;

/// Who feels it: events so far, those that a fault hit, and when the last of these was.
struct Sufferer {
    victim: Victim,
    all: fn(&Victim) -> u64,
    hit: fn(&Victim) -> u64,
    last_ns: fn(&Victim) -> u64,
}

/// Lets up to 51 ms pass, so that the owner is not always killed at the same moment of its loop.
fn any_moment() -> Result<()> {
    let mut random = [0u8; 1];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    std::thread::sleep(Duration::from_micros(200 * u64::from(random[0])));
    Ok(())
}

/// Kills the owner under load; how long the victim felt the fault, and until nothing of it was loaded, in milliseconds.
fn kill(ground: &Ground, sufferer: &Sufferer, faults: &str) -> Result<(f64, f64)> {
    let Sufferer { victim, all, hit, last_ns } = sufferer;
    let before = KernelObjects::now()?;
    let mut running = Kchaos::inject(faults, ground.target.path()).at(&ground.runner).start()?;
    running.armed()?;
    let loaded = KernelObjects::now()?.since(&before);
    ensure!(!loaded.programs.is_empty(), "nothing of kchaos is loaded: {loaded:?}");
    let already = hit(victim);
    wait_until("the fault to be felt", || hit(victim) > already + 20)?;
    any_moment()?;
    let kill_ns = monotonic_ns();
    running.signal(Signal::SIGKILL)?;
    running.process.wait()?;
    loaded.wait_gone()?;
    let gone_ms = (monotonic_ns() - kill_ns) as f64 / 1e6;
    let from = all(victim);
    wait_until("what is felt no more", || all(victim) > from + 300)?;
    // Losses that nothing has overtaken yet are not known: so many have passed since that there are none.
    let felt_ms = (last_ns(victim) as f64 - kill_ns as f64) / 1e6;
    Ok((felt_ms, gone_ms))
}

fn kills(ground: &Ground, sufferer: &Sufferer, what: &str, faults: &str, times: usize) -> Result<()> {
    let (mut felt, mut gone) = (vec![], vec![]);
    for turn in 0..times {
        let (felt_ms, gone_ms) =
            kill(ground, sufferer, faults).with_context(|| format!("{what}, kill {turn}"))?;
        felt.push(felt_ms);
        gone.push(gone_ms);
    }
    for times in [&mut felt, &mut gone] {
        times.sort_by(f64::total_cmp);
    }
    let percentiles = |times: &[f64]| [50, 90, 99, 100].map(|p| times[(times.len() - 1) * p / 100]);
    measure(
        "kills",
        json!({"what": what, "times": times, "felt_p50_90_99_100_ms": percentiles(&felt),
            "gone_p50_90_99_100_ms": percentiles(&gone)}),
    );
    let (worst, limit) = (felt[times - 1], felt_ms_max());
    ensure!(worst <= limit, "{what}: felt for {worst} ms after SIGKILL, the limit is {limit} ms: {felt:?}");
    ground.check_clean().with_context(|| what.to_owned())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sigkill_at_any_moment_ends_it() -> Result<()> {
    if !full() {
        leave_to_soak!(
            "lifecycle::sigkill_ends_packet_loss_and_leaves_nothing and its neighbours, on all kernels"
        );
    }
    let ground = Ground::new()?;
    let mut packets = Sufferer {
        victim: ground.victim(&ground.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 5")?,
        all: |victim| victim.board.datagrams.received.load(Acquire),
        hit: |victim| victim.board.datagrams.lost.load(Acquire),
        last_ns: |victim| victim.board.datagrams.last_lost_sent_ns.load(Acquire),
    };
    packets.victim.ready()?;
    let faults = "--loss 50% --direction both --protocol udp";
    kills(&ground, &packets, "packets", faults, PACKET_KILLS)?;
    packets.victim.board.stop.store(1, Release);
    packets.victim.finish(Role::Second)?;
    for (call, errno, mechanisms) in [
        ("openat", "EIO", &["lsm", "fmod_ret_security", "fmod_ret_sys", "kprobe_multi", "kprobe"][..]),
        ("connect", "ETIMEDOUT", &["cgroup_sock_addr"]),
    ] {
        let mut calls = Sufferer {
            victim: ground
                .victim(&ground.target, &format!("calls --call {call} --no-controls --pause-us 50"))?,
            all: |victim| read_tasks(&victim.board).iter().map(|task| task.calls).sum(),
            hit: |victim| read_tasks(&victim.board).iter().map(|task| task.calls - task.succeeded).sum(),
            last_ns: |victim| {
                read_tasks(&victim.board).iter().map(|task| task.last_error_ns).max().unwrap_or_default()
            },
        };
        calls.victim.ready()?;
        for mechanism in mechanisms {
            if mechanism_works(mechanism)? {
                let faults = format!("--mechanism {mechanism} --fail {call}={errno}@50%");
                kills(&ground, &calls, mechanism, &faults, CALL_KILLS)?;
            }
        }
        calls.victim.stop(Role::First)?;
    }
    Ok(())
}
