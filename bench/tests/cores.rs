//! A sender's whole packet beside others that send at the same time, each on a processor of its own.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Barrier;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use bench::arms::Arms;
use bench::bystander::Bystander;
use bench::flow::Flow;
use bench::kernel::thread_time_ns;
use bench::leaving::{Leaving, classifier};
use bench::packet::PORT;
use chaos_userspace::host::cgroup::Hierarchy;
use chaos_userspace::inject::bpf::AttachType;
use chaos_userspace::inject::link::{Link, OnCgroup};
use chaos_userspace::inject::program::Kind;
use chaos_userspace::plan::Mechanism;
use chaos_userspace::spec::network::{Direction, Effect};
use integration_tests::loaded::{Loaded, packets, plan};
use integration_tests::measure::measure;
use integration_tests::samples;
use integration_tests::topology::Pair;
use serde_json::json;

/// What lies on the way of a packet of somebody else.
const ARMS: [&str; 6] = [
    "nothing attached",
    "nothing attached again",
    "empty program",
    "kchaos, loss of what leaves",
    "kchaos, 50 runs in one engine",
    "kchaos, loss of what arrives",
];
/// Datagrams in a row.
const SLICE: usize = 200;

/// Programs of arriving packets, on the cgroup of a target that is somebody else.
fn loss_of_arriving(bystander: &Bystander) -> Result<(Loaded, OwnedFd, Link)> {
    let target = bystander.cgroup().child("target")?;
    let opened = Hierarchy::find()?.open(target.path())?;
    let fault = packets(Direction::Ingress, Effect::Loss, "100%")?;
    let rules = vec![(fault, vec![Mechanism::CgroupSkb])];
    let mut loaded = Loaded::new(&plan(rules)?, &[(opened.id(), opened.level())])?;
    let program = loaded.load(&Kind::NetIngress)?;
    let attach_type = AttachType::CgroupInetIngress;
    let on = OnCgroup { cgroup: opened.id(), program: 0, attach_type };
    let link = Link::cgroup(program.as_fd(), opened.as_fd(), on, "the target")?;
    Ok((loaded, program, link))
}

/// Processor time of so many datagrams.
fn slice_ns(flow: &Flow) -> Result<f64> {
    let start = thread_time_ns()?;
    flow.send(SLICE)?;
    let ns = thread_time_ns()? - start;
    flow.drain()?;
    Ok(ns)
}

/// One flow per arm, which takes turns with the others; processor time of one datagram, per round and arm. Whoever fails goes on
/// nevertheless, since the others wait for it.
fn send(flows: &[Flow], rounds: usize, slices: usize, together: &Barrier) -> Result<Vec<Vec<f64>>> {
    let (mut figures, mut failure) = (vec![], None);
    for _ in 0..rounds {
        let mut spent = vec![0.0; flows.len()];
        for turn in 0..slices {
            for place in 0..flows.len() {
                let arm = (place + turn) % flows.len();
                together.wait();
                match slice_ns(&flows[arm]) {
                    Ok(ns) => spent[arm] += ns,
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        figures.push(spent.iter().map(|ns| ns / (SLICE * slices) as f64).collect());
    }
    failure.map_or(Ok(figures), Err)
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn packets_per_second() -> Result<()> {
    let bystander = Bystander::new()?;
    let base = classifier()?;
    let (_one, leaving) = Leaving::of(1).load(bystander.level)?;
    let many = Leaving { targets: 50, rules: 50, runs: 50, levels: 1 };
    let (_many, shared) = many.load(bystander.level)?;
    let _arriving = loss_of_arriving(&bystander)?;
    let programs = [None, None, Some(&base), Some(&leaving), Some(&shared), None];
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // A round is as long as it takes for a disturbance to be one among many.
    let (rounds, slices) = if samples::full() { (31, 30) } else { (5, 2) };
    for senders in (0..).map(|doublings| 1usize << doublings).take_while(|senders| *senders <= cores) {
        let mut links = vec![];
        let mut pairs = vec![];
        let mut flows = vec![];
        for _ in 0..senders {
            let mut of_sender = vec![];
            for program in programs {
                let pair = Pair::veth()?;
                if let Some(program) = program {
                    links.push(pair.near.enter(|| {
                        let device =
                            nix::net::if_::if_nametoindex(pair.near_device).context("the near device")?;
                        Ok(Link::tcx_egress(program.as_fd(), device, "near")?)
                    })?);
                }
                of_sender.push(Flow::between(&pair, PORT)?);
                pairs.push(pair);
            }
            flows.push(of_sender);
        }
        let together = Barrier::new(senders);
        let by_sender = thread::scope(|scope| {
            let threads: Vec<_> =
                flows.iter().map(|flows| scope.spawn(|| send(flows, rounds, slices, &together))).collect();
            let ended =
                threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a sender panicked"))?);
            ended.collect::<Result<Vec<_>>>()
        })?;
        let mean = |round: usize, arm: usize| {
            by_sender.iter().map(|rounds| rounds[round][arm]).sum::<f64>() / senders as f64
        };
        let rounds_of: Vec<Vec<f64>> =
            (0..rounds).map(|round| (0..ARMS.len()).map(|arm| mean(round, arm)).collect()).collect();
        measure("pps", json!({"senders": senders, "arms": Arms::of_rounds(&ARMS, &rounds_of).told()}));
    }
    Ok(())
}
