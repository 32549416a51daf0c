//! The integration tests on this machine's own kernel, as root.

use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::artifacts::{Artifacts, TestProgram};
use crate::command::{as_root, read, say};
use crate::results::{self, Collector};
use crate::summary::Line;
use crate::vm::{self, Samples};
use crate::{apt, lines, matrix, paths};

/// How long one test program may take with small samples.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs the tests with this name, or all; one line of the report.
pub fn run(artifacts: &Artifacts, filter: Option<&str>, samples: Samples) -> Line {
    let start = Instant::now();
    let mut collector = Collector::default();
    let filters: Vec<String> = filter.into_iter().map(str::to_owned).collect();
    let mut complaints = Vec::new();
    if let Err(error) = apt::ensure_tools(&[apt::Tool { program: "ip", package: "iproute2" }]) {
        complaints.push(format!("{error:#}"));
    }
    for test in &artifacts.tests {
        if let Some(arguments) = results::arguments(&test.name, &filters)
            && let Err(error) = program(artifacts, test, &arguments, samples, start, &mut collector)
        {
            complaints.push(format!("{}: {error:#}", test.name));
        }
    }
    match matrix::read() {
        Ok(matrix) => complaints.extend(vm::host_skip_complaints(&matrix, &collector)),
        Err(error) => complaints.push(format!("{error:#}")),
    }
    let uname = read(std::process::Command::new("uname").arg("-r")).ok().map(|name| name.trim().to_owned());
    let line = Line::of_tests("host", collector, uname, start.elapsed()).with_complaints(complaints);
    say(format!("host: {}", line.counts()));
    line
}

fn program(
    artifacts: &Artifacts,
    test: &TestProgram,
    arguments: &[String],
    samples: Samples,
    start: Instant,
    collector: &mut Collector,
) -> Result<()> {
    let (kchaos, victim) = (artifacts.kchaos.display().to_string(), artifacts.victim.display().to_string());
    // The environment goes through sudo as arguments of env.
    let mut command = as_root("env");
    for (name, value) in vm::environment("host", samples, &kchaos, &victim) {
        command.arg(format!("{name}={value}"));
    }
    let (output, input) = std::io::pipe()?;
    let mut child = command
        .arg(&test.file)
        .args(arguments)
        .current_dir(paths::root())
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()
        .context("cannot start")?;
    // Our own copies of the writing end would keep the pipe open.
    drop(command);
    collector.program_started(&test.name);
    let lines = lines::read(output);
    let began = Instant::now();
    let limit = LIMIT * if samples == Samples::Full { 10 } else { 1 };
    let status = loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                if let Some(test) = collector.line(&line) {
                    vm::show("host", test, start.elapsed().as_secs_f64());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break child.wait()?,
            // A process that a test left behind may hold the pipe: the program's end counts.
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if began.elapsed() > limit {
                    child.kill()?;
                    child.wait()?;
                    collector.program_ended("killed");
                    anyhow::bail!("not finished after {} s", limit.as_secs());
                }
            }
        }
    };
    collector.program_ended(&status.to_string());
    // 101 is libtest's own: its tests tell.
    if !status.success() && status.code() != Some(101) {
        anyhow::bail!("{status}");
    }
    Ok(())
}
