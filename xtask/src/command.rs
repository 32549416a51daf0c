//! Running other programs: what is run is said, failures name the program and the remedy.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Announces a step.
pub fn say(what: impl AsRef<str>) {
    eprintln!("==> {}", what.as_ref());
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::paths::root());
    cargo
}

/// A program that needs root: through sudo unless we are root.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if nix::unistd::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("--").arg(program);
        sudo
    }
}

/// Runs to the end with our terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs to the end; standard output is returned, standard error shown only on failure.
pub fn read(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}\n{}", line(command), String::from_utf8_lossy(&stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs to the end with the output in a log file, showing that time passes.
pub fn run_long(command: &mut Command, what: &str, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    let start = Instant::now();
    let mut progress = Progress::new(what);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.tick(start.elapsed(), || tail(log, 1));
        thread::sleep(Duration::from_millis(100));
    };
    progress.end();
    if !status.success() {
        bail!("`{}` failed: {status}\n{}\n(all of it: {})", line(command), tail(log, 20), log.display());
    }
    say(format!("{what}: done in {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// The last lines of a file.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// One line that is kept up to date on a terminal; now and then a line elsewhere.
struct Progress<'a> {
    what: &'a str,
    terminal: bool,
    shown: Duration,
}

impl<'a> Progress<'a> {
    fn new(what: &'a str) -> Self {
        Self { what, terminal: std::io::stderr().is_terminal(), shown: Duration::ZERO }
    }

    fn tick(&mut self, elapsed: Duration, detail: impl FnOnce() -> String) {
        let pause = Duration::from_secs(if self.terminal { 1 } else { 30 });
        if elapsed < self.shown + pause {
            return;
        }
        self.shown = elapsed;
        let detail: String = detail().chars().take(70).collect();
        let (start, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{start}    {}: {} s  {detail}{end}", self.what, elapsed.as_secs());
    }

    fn end(&self) {
        if self.terminal && !self.shown.is_zero() {
            eprint!("\r\x1b[K");
        }
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let mut words = vec![name(command)];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}
