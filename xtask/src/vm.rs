//! `cargo xtask vm`: the integration tests on the kernels of the matrix, in QEMU machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::apt::{self, Tool};
use crate::artifacts::{self, Artifacts};
use crate::command::{say, tail};
use crate::initramfs::{self, Contents};
use crate::kernels::{self, Bootable};
use crate::machine::Machine;
use crate::matrix::{self, Kernel, Matrix};
use crate::places::{self, Job};
use crate::results::{self, Collector, Outcome};
use crate::summary::{Line, Report};
use crate::{image, paths};

/// What to run where.
#[derive(Args, Clone)]
pub struct Options {
    /// Only this kernel of tests/matrix.toml; repeatable
    #[arg(long = "kernel", value_name = "NAME")]
    pub kernels: Vec<String>,
    /// Only tests whose name contains this
    pub filter: Option<String>,
    /// How many trials measurements take
    #[arg(long, value_enum, default_value_t = Samples::Small)]
    pub samples: Samples,
    /// How many machines there may be.
    #[command(flatten)]
    pub jobs: Jobs,
    /// Machines with one processor whose clock counts instructions, for measurements.
    #[arg(skip)]
    pub counted: bool,
}

/// How many machines run.
#[derive(Args, Clone, Copy)]
pub struct Jobs {
    /// Machines at the same time; each keeps one core busy [default: as many as there are cores, at most 4]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
}

impl Jobs {
    fn places(self) -> usize {
        self.jobs.map_or(cores().min(4), usize::from)
    }
}

/// Cores of this machine, and with it how many emulated machines it carries.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Sizes of measurements.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Samples {
    /// Enough to notice, as CI does
    Small,
    /// What the acceptance criteria name
    Full,
}

impl Samples {
    /// As in KCHAOS_SAMPLES.
    pub fn name(self) -> &'static str {
        match self {
            Samples::Small => "small",
            Samples::Full => "full",
        }
    }
}

/// The command.
pub fn run(options: &Options) -> Result<()> {
    let artifacts = artifacts::build()?;
    let mut report = Report::default();
    matrix(options, &artifacts, &mut report)?;
    report.conclude()
}

/// Runs the machines, and adds one line per kernel to the report: all of them, whatever fails.
pub fn matrix(options: &Options, artifacts: &Artifacts, report: &mut Report) -> Result<()> {
    matrix_beside(None, options, artifacts, report)
}

/// The same, with one job more, whose line comes first. It takes the place of a machine, and is done even if there can be no
/// machines.
pub fn matrix_beside(
    job: Option<Job<'_, Line>>,
    options: &Options,
    artifacts: &Artifacts,
    report: &mut Report,
) -> Result<()> {
    let prepared = prepare(options);
    let mut jobs: Vec<_> = job.into_iter().collect();
    let mut failure = None;
    match &prepared {
        Ok((matrix, selected, image)) => jobs.extend(selected.iter().map(|kernel| Job {
            takes_s: kernel.takes_s,
            work: Box::new(move || Bench { matrix, image, options, artifacts }.run(kernel)),
        })),
        Err(error) => failure = Some(anyhow::anyhow!("{error:#}")),
    }
    let places = options.jobs.places();
    let lines = places::run(jobs.into_iter().map(|job| in_turn(job, places)).collect(), places);
    lines.into_iter().for_each(|line| report.add(line));
    failure.map_or(Ok(()), Err)
}

/// The job, once one of the places for machines is free.
fn in_turn(Job { takes_s, work }: Job<'_, Line>, places: usize) -> Job<'_, Line> {
    let work = Box::new(move || {
        // More machines than cores would take the time that limits count on: those of several runs of this program take
        // turns.
        let _turn = paths::lock_one_of("machine", places.max(cores()));
        work()
    });
    Job { takes_s, work }
}

/// What machines need: the matrix, the kernels that were asked for, the image.
fn prepare(options: &Options) -> Result<(Matrix, Vec<Kernel>, PathBuf)> {
    let matrix = matrix::read()?;
    let selected = matrix.select(&options.kernels)?;
    apt::ensure_tools(&[Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" }])?;
    let image = image::obtain(&matrix.image)?;
    Ok((matrix, selected, image))
}

/// What a machine said beside the tests' own lines.
#[derive(Default)]
struct Course {
    uname: Option<String>,
    ended: bool,
    complaints: Vec<String>,
}

/// What all machines of a run share.
struct Bench<'a> {
    matrix: &'a Matrix,
    image: &'a Path,
    options: &'a Options,
    artifacts: &'a Artifacts,
}

impl Bench<'_> {
    /// Boots a kernel, runs its tests and judges what came of it.
    fn run(&self, kernel: &Kernel) -> Line {
        let start = Instant::now();
        let mut collector = Collector::default();
        let mut course = Course::default();
        let log = paths::target().join("vm/logs").join(format!("{}.log", kernel.name));
        if let Err(error) = self.boot(kernel, &log, &mut collector, &mut course) {
            course.complaints.push(format!("{error:#}"));
        } else if course.uname.is_none() {
            course.complaints.push("the machine did not boot".to_owned());
        } else if !course.ended {
            course.complaints.push("the machine ended before its tests did".to_owned());
        }
        collector.program_ended("the machine is gone");
        let machine_failed = !course.complaints.is_empty();
        let whole = !machine_failed && self.options.filter.is_none();
        course.complaints.extend(skip_complaints(kernel, &collector, whole));
        if whole {
            let ran = |name: &&str| collector.tests.iter().any(|test| matrix::covers(name, &test.name));
            let unknown = self.matrix.shared_with(&kernel.name).filter(|name| !ran(name));
            let complaint =
                |name| format!("{name} is shared in tests/matrix.toml, but there is no such test");
            course.complaints.extend(unknown.map(complaint));
        }
        let line = Line::of_tests(&format!("vm {}", kernel.name), collector, course.uname, start.elapsed())
            .with_complaints(course.complaints);
        eprintln!("{}: {}", kernel.name, line.counts());
        if line.failed() && log.is_file() {
            eprintln!("{}: all output and kernel messages are in {}", kernel.name, log.display());
            if machine_failed {
                eprintln!("{}", tail(&log, 30));
            }
        }
        line
    }

    fn boot(
        &self,
        kernel: &Kernel,
        log: &Path,
        collector: &mut Collector,
        course: &mut Course,
    ) -> Result<()> {
        let name = &kernel.name;
        let Options { filter, samples, .. } = self.options;
        fs::create_dir_all(log.parent().unwrap_or(log)).context("cannot create target/vm/logs")?;
        let bootable = kernels::obtain(kernel)?;
        let modules = modules(&bootable, self.matrix, name)?;
        let filters = filter.clone().map_or_else(|| kernel.tests.clone(), |filter| vec![filter]);
        let tests = self.artifacts.tests.iter();
        let whole = filters.is_empty() && *samples == Samples::Small;
        let left: Vec<_> = self.matrix.left_by(name).filter(|_| whole).collect();
        let tests = tests.filter_map(|test| {
            let is_left = left.iter().any(|(left, _)| left.strip_suffix("::*") == Some(test.name.as_str()));
            if is_left {
                return Some((test, results::only(&test.name, self.matrix.shared_with(name))?));
            }
            let mut arguments = results::arguments(&test.name, &filters)?;
            arguments.extend(results::leaving_out(&test.name, left.iter().map(|(test, _)| *test)));
            Some((test, arguments))
        });
        let tests = tests.collect();
        left.into_iter().for_each(|(test, others)| collector.left(test, &others));
        let environment = environment(name, *samples, "/kchaos/kchaos", "/kchaos/victim");
        let initramfs = log.with_extension("initramfs");
        let contents = Contents { artifacts: self.artifacts, modules: &modules, tests, environment };
        initramfs::write(&contents, &initramfs)?;
        say(format!("{name}: booting"));
        let start = Instant::now();
        let machine = Machine {
            kernel: &bootable.image,
            initramfs: &initramfs,
            image: self.image,
            cmdline: &kernel.cmdline,
            counted: self.options.counted,
            limit: Duration::from_secs(kernel.limit_s * if *samples == Samples::Full { 10 } else { 1 }),
            log,
        };
        machine.run(|line| on_line(name, line, start, collector, course))?;
        Ok(fs::remove_file(&initramfs)?)
    }
}

fn modules(bootable: &Bootable, matrix: &Matrix, name: &str) -> Result<Vec<PathBuf>> {
    let Some(dir) = &bootable.modules else { return Ok(Vec::new()) };
    let (files, missing) = kernels::module_files(dir, &matrix.modules)?;
    if !missing.is_empty() {
        eprintln!("{name}: not in this kernel: {}", missing.join(", "));
    }
    Ok(files)
}

/// Environment of the tests, the same in a machine and on the host.
pub fn environment(
    kernel: &str,
    samples: Samples,
    kchaos: &str,
    victim: &str,
) -> BTreeMap<&'static str, String> {
    let (unstable, yes) = results::UNSTABLE;
    let seed = std::env::var("KCHAOS_SEED").ok().map(|seed| ("KCHAOS_SEED", seed));
    let fixed = BTreeMap::from([
        ("KCHAOS_BIN", kchaos.to_owned()),
        ("KCHAOS_VICTIM", victim.to_owned()),
        ("KCHAOS_KERNEL", kernel.to_owned()),
        ("KCHAOS_SAMPLES", samples.name().to_owned()),
        ("RUST_BACKTRACE", "1".to_owned()),
        (unstable, yes.to_owned()),
    ]);
    fixed.into_iter().chain(seed).collect()
}

fn on_line(kernel: &str, line: &str, start: Instant, collector: &mut Collector, course: &mut Course) {
    let elapsed = start.elapsed().as_secs_f64();
    let message = serde_json::from_str::<Value>(line).ok().filter(|message| message["vm"].is_string());
    let Some(message) = message else {
        if let Some(test) = collector.line(line) {
            show(kernel, test, elapsed);
        }
        return;
    };
    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
    match text("vm").as_str() {
        "booted" => {
            eprintln!("{kernel}: Linux {} after {elapsed:.0} s", text("uname"));
            course.uname = Some(text("uname"));
        }
        "started" => collector.program_started(&text("binary")),
        "done" => {
            let status = text("status");
            collector.program_ended(&status);
            // 101 is libtest's own: its tests tell.
            if status != "exit 0" && status != "exit 101" {
                course.complaints.push(format!("{}: {status}", text("binary")));
            }
        }
        "end" => course.ended = true,
        _ => course.complaints.push(format!("the machine's init: {}", text("message"))),
    }
}

/// One finished test, with its output if it failed.
pub fn show(place: &str, test: &results::TestResult, elapsed: f64) {
    let outcome = match &test.outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Failed => "FAILED".to_owned(),
        Outcome::Skipped(reason) => format!("skipped: {reason}"),
        Outcome::Left(reason) => format!("left to soak: {reason}"),
    };
    eprintln!("[{elapsed:5.0} s] {place}: {} ({:.1} s) {outcome}", test.name, test.seconds);
    if test.outcome == Outcome::Failed {
        eprintln!("{}", test.output.trim_end());
    }
}

/// Skips that are not listed, and, after a whole run, listed ones that did not happen.
fn skip_complaints(kernel: &Kernel, collector: &Collector, whole: bool) -> Vec<String> {
    let mut unused: BTreeSet<&String> = kernel.skips.keys().collect();
    let mut complaints = Vec::new();
    for test in &collector.tests {
        let (Outcome::Skipped(reason) | Outcome::Left(reason)) = &test.outcome else { continue };
        // A file that is left as a whole is left with what is skipped in it.
        let is_left = matches!(test.outcome, Outcome::Left(_));
        let means = |listed: &&String| {
            matrix::covers(listed, &test.name) || is_left && matrix::covers(&test.name, listed)
        };
        let listed: Vec<&String> = kernel.skips.keys().filter(means).collect();
        if listed.is_empty() && matches!(test.outcome, Outcome::Skipped(_)) {
            complaints.push(format!(
                "{} was skipped ({reason}), which tests/matrix.toml does not allow",
                test.name
            ));
        }
        for name in listed {
            unused.remove(name);
        }
    }
    if whole {
        complaints.extend(unused.into_iter().map(|name| {
            format!(
                "{name} was not skipped; take it out of the skips of {} in tests/matrix.toml",
                kernel.name
            )
        }));
    }
    complaints
}

/// Skips on the host: allowed if listed, never demanded.
pub fn host_skip_complaints(matrix: &Matrix, collector: &Collector) -> Vec<String> {
    let mut complaints = Vec::new();
    for test in &collector.tests {
        if let Outcome::Skipped(reason) = &test.outcome
            && !matrix.host.skips.keys().any(|listed| matrix::covers(listed, &test.name))
        {
            complaints
                .push(format!("{} was skipped ({reason}): list it under host.skips if it may", test.name));
        }
    }
    complaints
}
