//! `doctor` and `plan` tell the truth about this kernel and change nothing.

use anyhow::{Context as _, Result, ensure};
use integration_tests::capability::{
    fails_syscalls, has_tcx, kprobe_override_works, lsm_lists_bpf, lsm_works,
};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::binary;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::netns::NetNs;
use integration_tests::spawn::Place;
use std::process::{Command, Output};

fn run(words: &str, place: &Place) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(words.split_whitespace());
    place.apply(&mut command)?;
    command.output().with_context(|| format!("running kchaos {words}"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs kchaos where it must leave nothing and make no cgroup of its own for long.
fn harmless(words: &str) -> Result<Output> {
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?;
    let place = Place::default().in_cgroup(cgroup.root()).in_netns(&netns);
    let (furniture, before) = (netns.furniture()?, KernelObjects::now()?);
    let output = run(words, &place)?;
    KernelObjects::now()?.since(&before).wait_gone()?;
    ensure!(netns.furniture()? == furniture, "kchaos {words} left {}", netns.furniture()?);
    let left = cgroup.root().children()?;
    ensure!(left.is_empty(), "kchaos {words} left cgroups {left:?}");
    Ok(output)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn doctor_knows_the_mechanisms() -> Result<()> {
    let output = harmless("doctor --json")?;
    let said = text(&output);
    println!("{said}");
    println!(
        "probed: tcx {} lsm {} {} kprobe {} fails {}",
        has_tcx(),
        lsm_lists_bpf(),
        lsm_works()?,
        kprobe_override_works(),
        fails_syscalls()?
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn plan_explains_and_changes_nothing() -> Result<()> {
    let output = harmless("plan --loss 10% --direction both --protocol udp")?;
    ensure!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mechanism = if has_tcx() { "tcx" } else { "clsact" };
    for word in ["10%", "egress", "ingress", "udp", mechanism, "cgroup_skb"] {
        ensure!(said.contains(word), "{word:?} is missing in the plan: {said}");
    }
    Ok(())
}
