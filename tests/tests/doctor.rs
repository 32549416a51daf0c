//! `doctor` and `plan` tell the truth about this kernel and change nothing.

use anyhow::{Context as _, Result, ensure};
use integration_tests::capability::{
    delay_missing, fails_syscalls, fmod_ret_security_works, fmod_ret_sys_works, has_kprobes, has_tcx,
    kprobe_multi_works, kprobe_override_works, lsm_lists_bpf, lsm_works, on_host, socket_hooks_work,
};
use integration_tests::cgroup::{TestCgroup, v1_mount_point};
use integration_tests::kchaos::binary;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::netns::{NetNs, RECEIVED_PACKETS};
use integration_tests::patience::wait_until;
use integration_tests::skip;
use integration_tests::spawn::Place;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Deserialize;
use std::net::UdpSocket;
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

/// The verdicts of `doctor --json`, by mechanism.
fn verdicts(output: &Output) -> Result<Vec<Verdict>> {
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Report = serde_json::from_str(&said).with_context(|| format!("reading {}", text(output)))?;
    Ok(report.rows)
}

#[derive(Deserialize)]
struct Report {
    rows: Vec<Verdict>,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    what: String,
    mechanism: String,
    works: bool,
    why: String,
    remedy: String,
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn doctor_agrees_with_what_was_tried_here() -> Result<()> {
    let output = harmless("doctor --json")?;
    ensure!(output.status.success(), "{}", text(&output));
    let verdicts = verdicts(&output)?;
    let expected = [
        ("tcx", has_tcx()),
        ("line", delay_missing()?.is_none()),
        ("cgroup_skb", true),
        ("lsm", lsm_works()?),
        ("fmod_ret_security", fmod_ret_security_works()?),
        ("fmod_ret_sys", fmod_ret_sys_works()?),
        ("kprobe_multi", kprobe_multi_works()),
        ("kprobe", kprobe_override_works()),
        ("cgroup_sock_addr", socket_hooks_work()),
        ("seccomp", true),
        ("spin", has_kprobes()),
        ("stop_continue", has_kprobes() && fmod_ret_security_works()?),
        // fmod_ret is a trampoline as well.
        ("fentry", fmod_ret_security_works()?),
    ];
    for (mechanism, works) in expected {
        let found = verdicts.iter().find(|verdict| verdict.mechanism == mechanism);
        let verdict = found.with_context(|| format!("doctor says nothing of {mechanism}"))?;
        ensure!(verdict.works == works, "{mechanism} works here: {works}, but doctor says {verdict:?}");
    }
    for verdict in &verdicts {
        ensure!(!verdict.why.is_empty(), "no reason given: {verdict:?}");
        ensure!(verdict.works || !verdict.remedy.is_empty(), "no remedy given: {verdict:?}");
    }
    Ok(())
}

fn is_call_on_files(verdict: &Verdict) -> bool {
    verdict.what == "system call errors" && verdict.mechanism != "cgroup_sock_addr"
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn doctor_says_when_no_system_call_can_fail() -> Result<()> {
    if fails_syscalls()? {
        skip!("system calls can fail here");
    }
    let output = harmless("doctor --json")?;
    let verdicts = verdicts(&output)?;
    let calls: Vec<&Verdict> = verdicts.iter().filter(|verdict| is_call_on_files(verdict)).collect();
    ensure!(!calls.is_empty() && calls.iter().all(|verdict| !verdict.works), "{calls:?}");
    let kprobe = calls.iter().find(|verdict| verdict.mechanism == "kprobe").context("no row for kprobe")?;
    ensure!(kprobe.remedy.contains("CONFIG_BPF_KPROBE_OVERRIDE"), "{kprobe:?}");
    // For people: the same, in words.
    let output = harmless("doctor")?;
    let said = text(&output);
    ensure!(said.contains("no ") && said.contains("remedy"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn doctor_recognises_lsm_programs_that_never_fire() -> Result<()> {
    if lsm_lists_bpf() {
        skip!("bpf is among the active security modules");
    }
    let output = harmless("doctor --json")?;
    let verdicts = verdicts(&output)?;
    let lsm = verdicts.iter().find(|verdict| verdict.mechanism == "lsm").context("no row for lsm")?;
    ensure!(!lsm.works, "{lsm:?}");
    // Where securityfs tells which modules are active, the remedy is the kernel command line.
    if std::path::Path::new("/sys/kernel/security/lsm").exists() {
        ensure!(format!("{} {}", lsm.why, lsm.remedy).contains("lsm="), "{lsm:?}");
    }
    Ok(())
}

/// A packet on each processor that goes round and round in a namespace of its own until that goes.
fn keep_processors_busy(netns: &NetNs) -> Result<()> {
    netns.run("tc", "qdisc add dev lo clsact")?;
    netns.run("tc", "filter add dev lo ingress matchall action mirred egress redirect dev lo")?;
    netns.enter(|| {
        for processor in 0..std::thread::available_parallelism()?.get() {
            let mut only = CpuSet::new();
            only.set(processor)?;
            sched_setaffinity(Pid::from_raw(0), &only)?;
            UdpSocket::bind("127.0.0.1:0")?.send_to(b"round", "127.0.0.1:9")?;
        }
        Ok(())
    })?;
    let packets = || netns.counter("lo", RECEIVED_PACKETS);
    let before = packets()?;
    wait_until("packets to go round", || packets().is_ok_and(|now| now > before + 10_000)).map(drop)
}

/// Before Linux 6.4 a kernel that is busy with packets leaves further ones to a thread, and a datagram over loopback
/// arrives some time after it was sent (`ksoftirqd_running`, kernel/softirq.c).
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn doctor_is_right_while_packets_keep_the_processors_busy() -> Result<()> {
    if on_host() {
        skip!("processors of a machine with others are not ours to keep busy");
    }
    let busy = NetNs::new()?;
    keep_processors_busy(&busy)?;
    let output = run("doctor --json", &Place::default())?;
    drop(busy);
    let verdicts = verdicts(&output)?;
    let losses: Vec<_> = verdicts.iter().filter(|verdict| verdict.what.starts_with("packet loss")).collect();
    ensure!(losses.len() == 3, "{verdicts:?}");
    for verdict in losses {
        let works = verdict.mechanism != "tcx" || has_tcx();
        ensure!(verdict.works == works, "{works}, but doctor says {verdict:?}");
    }
    Ok(())
}

/// What `doctor --json` says in this place: its rows about the host itself, and how it ended.
fn rows(place: &Place) -> Result<(Vec<Verdict>, i32)> {
    let output = run("doctor --json", place)?;
    let rows = verdicts(&output)?.into_iter().filter(|verdict| verdict.mechanism.is_empty()).collect();
    Ok((rows, output.status.code().context("doctor was killed")?))
}

fn row<'a>(rows: &'a [Verdict], what: &str) -> Result<&'a Verdict> {
    let found = rows.iter().find(|verdict| verdict.what == what);
    found.with_context(|| format!("doctor says nothing of {what}"))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn doctor_says_what_the_host_says_of_itself() -> Result<()> {
    let (rows_here, _) = rows(&Place::default())?;
    let here = |what| row(&rows_here, what);
    let (cgroup, hybrid) = (here("cgroup v2")?, v1_mount_point()?.is_some());
    ensure!(cgroup.works && cgroup.why.contains("hybrid") == hybrid, "hybrid: {hybrid}, but {cgroup:?}");
    let lockdown = here("lockdown")?;
    let locked = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    ensure!(lockdown.works != locked.contains("[confidentiality]"), "{locked}: {lockdown:?}");
    let modules = here("security modules")?;
    if std::path::Path::new("/sys/kernel/security/lsm").exists() {
        ensure!(modules.works == lsm_lists_bpf(), "bpf is listed: {}, but {modules:?}", lsm_lists_bpf());
        ensure!(modules.works || modules.remedy.contains("lsm="), "{modules:?}");
    }
    let types = here("type information")?;
    ensure!(types.works == std::path::Path::new("/sys/kernel/btf/vmlinux").exists(), "{types:?}");
    ensure!(here("privileges")?.works, "{:?}", here("privileges"));
    let (rows_without, _) = rows(&Place::default().without_btf())?;
    let types = row(&rows_without, "type information")?;
    ensure!(!types.works && types.remedy.contains("CONFIG_DEBUG_INFO_BTF"), "{types:?}");
    // Nothing works for them, and doctor ends so.
    let (rows_of_nobody, status) = rows(&Place::default().as_nobody())?;
    let privileges = row(&rows_of_nobody, "privileges")?;
    ensure!(
        !privileges.works && privileges.why.contains("CAP_SYS_ADMIN") && status == 8,
        "{status}: {privileges:?}"
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
