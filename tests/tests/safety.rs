//! Safety nets: each refuses, and each lets pass what is allowed by its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::SharedBoard;
use integration_tests::cgroup::{Cgroup, TestCgroup, mount_point};
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::spawn::{Place, Process, victim_binary, victim_words};

/// A directory of programs with the names of others.
struct Programs(PathBuf);

impl Programs {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("kchaos-programs-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Runs a process of this name in a cgroup, for as long as the value lives.
    fn run(&self, name: &str, cgroup: &Cgroup, board: &SharedBoard) -> Result<Process> {
        let program = self.0.join(name);
        fs::copy(victim_binary()?, &program)?;
        let mut command = Command::new(&program);
        command.args(&victim_words("sleep")?[1..]).stdout(board.handle()?);
        Place::default().in_cgroup(cgroup).apply(&mut command)?;
        Process::start(command)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// This process in another cgroup, for as long as the value lives.
struct Moved(Cgroup);

impl Moved {
    fn to(cgroup: &Cgroup) -> Result<Self> {
        let table = fs::read_to_string("/proc/self/cgroup")?;
        let own = table.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
        let own = Cgroup::existing(mount_point()?.join(own));
        cgroup.adopt(std::process::id())?;
        Ok(Self(own))
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if let Err(error) = self.0.adopt(std::process::id()) {
            eprintln!("could not return to the own cgroup: {error:#}");
        }
    }
}

/// Refused with this net's name, by `plan` as well; let pass with `--allow`, and the summary says so.
fn check(net: &str, target: &Path, more: &str, place: &Place) -> Result<()> {
    let target = target.display();
    let objects = KernelObjects::now()?;
    let flags = format!("--json --cgroup {target} --observe --loss 1% {more}");
    for command in ["inject", "plan"] {
        let refused = Kchaos::new(&format!("{command} {flags}")).at(place).run()?;
        refused.expect_status(6)?;
        let error = refused.error()?;
        ensure!(error.code == 6 && error.message.contains(&format!("--allow {net}")), "{net}: {error:?}");
        ensure!(error.message.lines().count() == 1, "{net}: {error:?}");
    }
    KernelObjects::now()?.since(&objects).wait_gone()?;
    let mut running = Kchaos::new(&format!("inject {flags} --allow {net}")).at(place).start()?;
    running.armed()?;
    let finished = running.interrupt()?;
    let summary = &finished.events("summary")[0];
    ensure!(summary["allowed"] == serde_json::json!([net]), "{summary}");
    KernelObjects::now()?.since(&objects).wait_gone().map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn every_net_refuses_and_can_be_passed_by_name() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let runner = cgroup.runner()?;
    let programs = Programs::new()?;
    let board = SharedBoard::create()?;
    for (number, (net, name)) in [
        ("sshd", "sshd"),
        ("kubelet", "kubelet"),
        ("container-runtime", "containerd"),
        // As the kernel cuts it.
        ("system-service", "systemd-journald"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = cgroup.child(&format!("target-{number}"))?;
        // Somewhere below counts, too.
        let _process = programs.run(name, &target.child("below")?, &board)?;
        check(net, target.path(), "--duration 600s", &runner)?;
    }
    check("whole-slice", cgroup.child("system.slice")?.path(), "--duration 600s", &runner)?;
    check("long-run", cgroup.child("long")?.path(), "--duration 2h", &runner)?;
    let own = cgroup.child("own")?;
    check("self", own.path(), "--duration 600s", &Place::default().in_cgroup(&own.child("kchaos")?))?;
    let login = cgroup.child("login")?;
    let _moved = Moved::to(&login)?;
    check("login", login.path(), "--duration 600s", &runner)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn all_nets_speak_at_once_and_others_do_not_help() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let (target, runner) = (cgroup.child("target")?, cgroup.runner()?);
    let programs = Programs::new()?;
    let board = SharedBoard::create()?;
    let _processes = [programs.run("sshd", &target, &board)?, programs.run("dockerd", &target, &board)?];
    let line = format!("inject --json --cgroup {} --loss 1% --duration 2h", target.path().display());
    for (allowed, left) in [
        ("", &["sshd", "container-runtime", "long-run"][..]),
        ("--allow long-run --allow self", &["sshd", "container-runtime"]),
    ] {
        let refused = Kchaos::new(&format!("{line} {allowed}")).at(&runner).run()?;
        refused.expect_status(6)?;
        let message = refused.error()?.message;
        ensure!(message.lines().count() == left.len(), "{message}");
        ensure!(left.iter().all(|net| message.contains(&format!("--allow {net}"))), "{message}");
    }
    let unknown = Kchaos::new(&format!("{line} --allow ssh")).at(&runner).run()?;
    unknown.expect_status(2)?;
    let message = unknown.error()?.message;
    ensure!(message.contains("'ssh'") && message.contains("whole-slice"), "{message}");
    Ok(())
}
