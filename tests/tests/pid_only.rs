//! Processes that are hit without the others of their cgroup: with what they start, before the run and during it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use integration_tests::capability::file_errors_missing;
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::control::ask;
use integration_tests::kchaos::{Kchaos, Running};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::patience::wait_until;
use integration_tests::plan::plan;
use integration_tests::skip;
use integration_tests::spawn::{Place, Process};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

/// Makes a directory for each line, in a process of its own, and says how that went.
const LOOP: &str = "while read name; do if (mkdir $name 2>&-); then echo made; else echo failed; fi; done\n";
const FAULT: &str = "--fail mkdir=EIO";

/// A shell that is told to make directories.
struct Shell {
    dir: PathBuf,
    name: &'static str,
    words: File,
    asked: usize,
}

impl Shell {
    /// Makes the way to tell it; it is started with that as its standard input.
    fn prepare(dir: &Path, name: &'static str) -> Result<Self> {
        let path = dir.join(name);
        mkfifo(&path, Mode::S_IRWXU)?;
        // Both ends: neither we nor it wait for the other one.
        let words = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self { dir: dir.to_owned(), name, words, asked: 0 })
    }

    /// How it is started.
    fn line(&self) -> String {
        format!("sh loop <{name} >{name}.out", name = self.name)
    }

    /// Has directories made, and returns how many could not be.
    fn fails(&mut self, count: usize) -> Result<usize> {
        let before = self.asked;
        for number in before..before + count {
            writeln!(self.words, "{}-{number}", self.name)?;
        }
        self.asked += count;
        let said = || fs::read_to_string(self.dir.join(format!("{}.out", self.name))).unwrap_or_default();
        wait_until(&format!("{} to have tried", self.name), || said().lines().count() == self.asked)?;
        Ok(said().lines().skip(before).filter(|line| *line == "failed").count())
    }
}

/// Starts a shell with this line in a cgroup.
fn start(cgroup: &Cgroup, dir: &Path, line: &str) -> Result<Process> {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(dir);
    Place::default().in_cgroup(cgroup).apply(&mut command)?;
    Process::start(command)
}

/// A process with a child in a cgroup in which there is a stranger, too.
struct Scene {
    parent: Shell,
    child: Shell,
    stranger: Shell,
    root: Process,
    _stranger: Process,
    late: Shell,
    objects: KernelObjects,
    target: Cgroup,
    cgroup: TestCgroup,
    dir: TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        let (cgroup, dir) = (TestCgroup::new()?, tempfile::tempdir()?);
        let target = cgroup.child("target")?;
        fs::write(dir.path().join("loop"), LOOP)?;
        let shell = |name| Shell::prepare(dir.path(), name);
        let (parent, child, stranger, late) =
            (shell("parent")?, shell("child")?, shell("stranger")?, shell("late")?);
        let start = |line: &str| start(&target, dir.path(), line);
        let root = start(&format!("{} & exec {}", child.line(), parent.line()))?;
        let beside = start(&format!("exec {}", stranger.line()))?;
        let mut scene = Self {
            parent,
            child,
            stranger,
            root,
            _stranger: beside,
            late,
            objects: KernelObjects::now()?,
            target,
            cgroup,
            dir,
        };
        for shell in [&mut scene.parent, &mut scene.child, &mut scene.stranger] {
            ensure!(shell.fails(2)? == 0, "{} fails without a fault", shell.name);
        }
        Ok(scene)
    }

    /// The run, and its name.
    fn inject(&self) -> Result<(Running, String)> {
        let line = format!("inject --json --pid {} --pid-only {FAULT} --duration 600s", self.root.pid());
        let mut running = Kchaos::new(&line).at(&self.cgroup.runner()?).start()?;
        let run = running.armed()?.run;
        Ok((running, run))
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_process_and_what_it_starts_are_hit_and_nobody_else() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let mut scene = Scene::new()?;
    let (running, run) = scene.inject()?;
    // Each directory is made by a process that was started during the run.
    ensure!(scene.parent.fails(20)? == 20, "the parent's children were not all hit");
    ensure!(scene.child.fails(20)? == 20, "the child's children were not all hit");
    ensure!(scene.stranger.fails(20)? == 0, "a stranger in the same cgroup was hit");
    // Started beside it during the run.
    let _late = start(&scene.target, scene.dir.path(), &format!("exec {}", scene.late.line()))?;
    ensure!(scene.late.fails(20)? == 0, "a stranger that came later was hit");
    // Another share does not change who is hit.
    ask(&format!("set {run} --fail mkdir=EIO@0%"))?.fine()?;
    ensure!(scene.child.fails(5)? == 0 && scene.parent.fails(5)? == 0, "hit at 0%");
    ask(&format!("set {run} {FAULT}"))?.fine()?;
    ensure!(scene.parent.fails(5)? == 5 && scene.stranger.fails(5)? == 0, "not the same as before");
    // Who has lost its parent is hit on.
    kill(Pid::from_raw(scene.root.pid() as i32), Signal::SIGKILL)?;
    scene.root.wait()?;
    ensure!(scene.child.fails(5)? == 5, "an orphan was let go");
    let rule = running.interrupt()?.summary()?.rule()?.clone();
    ensure!((rule.seen.events, rule.injected.events) == (60, 50), "{rule:?}");
    ensure!(scene.child.fails(5)? == 0, "it goes on behind its end");
    KernelObjects::now()?.since(&scene.objects).wait_gone()?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_is_left_when_the_owner_is_killed() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let mut scene = Scene::new()?;
    let (mut running, _) = scene.inject()?;
    ensure!(scene.child.fails(3)? == 3, "not hit");
    running.signal(Signal::SIGKILL)?;
    running.finish()?;
    KernelObjects::now()?.since(&scene.objects).wait_gone()?;
    ensure!(scene.child.fails(3)? == 0 && scene.parent.fails(3)? == 0, "hit without an owner");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_plan_says_who_is_hit_and_refuses_what_cannot_be() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let pid = scene.root.pid();
    let runner = scene.cgroup.runner()?;
    let beside = scene.cgroup.child("beside")?;
    let refused =
        |words: &str| Kchaos::new(&format!("plan --pid {pid} --pid-only {words}")).at(&runner).run();
    let said = plan(&format!("--pid {pid} --pid-only {FAULT}"))?["target"].to_string();
    ensure!(said.contains(&format!("process {pid} and what it starts")), "{said}");
    ensure!(said.contains("2 processes now"), "{said}");
    for (words, status, telling) in [
        ("--loss 5%", 2, "packet"),
        (&format!("--fail mkdir=EIO --cgroup {}", beside.path().display()), 2, "another run"),
        ("--fail mkdir=EIO --select one", 2, "--select"),
    ] {
        let finished = refused(words)?;
        ensure!(finished.status() == status && finished.text().contains(telling), "{}", finished.text());
    }
    // The highest id there can be (`PID_MAX_LIMIT`) and one more.
    let gone = format!("inject --pid 4194305 --pid-only {FAULT} --duration 1s");
    let finished = Kchaos::new(&gone).at(&runner).run()?;
    ensure!(finished.status() == 2 && finished.text().contains("4194305"), "{}", finished.text());
    KernelObjects::now()?.since(&scene.objects).wait_gone()?;
    Ok(())
}
