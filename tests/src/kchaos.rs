//! Running kchaos and reading what it says.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::board::SharedBoard;
use crate::patience::patience;
use crate::spawn::{Place, Process, victim_words};
use crate::summary::{Armed, ErrorEvent, Summary};

/// The program under test.
pub fn binary() -> Result<String> {
    std::env::var("KCHAOS_BIN").context("KCHAOS_BIN must name the kchaos binary: run by `cargo xtask test`")
}

/// A command line of kchaos.
pub struct Kchaos {
    words: Vec<String>,
    place: Place,
    stdout: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    own_process_group: bool,
    variables: Vec<(&'static str, String)>,
}

impl Kchaos {
    /// A command line, split at blanks.
    pub fn new(line: &str) -> Self {
        Self {
            words: line.split_whitespace().map(str::to_owned).collect(),
            place: Place::default(),
            stdout: None,
            terminal: None,
            own_process_group: false,
            variables: vec![],
        }
    }

    /// `kchaos exec --json FAULTS -- CMD`
    pub fn exec(faults: &str, command: &[&str]) -> Self {
        let mut line = Self::new(&format!("exec --json {faults} --"));
        line.words.extend(command.iter().map(|word| (*word).to_owned()));
        line
    }

    /// `kchaos inject --json --cgroup TARGET FAULTS`, for longer than any test lasts.
    pub fn inject(faults: &str, target: &Path) -> Self {
        Self::new(&format!("inject --json --cgroup {} {faults} --duration 600s", target.display()))
    }

    /// `kchaos exec --json FAULTS -- victim ...`, the victim reporting to the board.
    pub fn exec_victim(faults: &str, arguments: &str, board: &SharedBoard) -> Result<Self> {
        let words = victim_words(arguments)?;
        let mut line = Self::exec(faults, &words.iter().map(String::as_str).collect::<Vec<_>>());
        line.stdout = Some(board.handle()?);
        Ok(line)
    }

    /// Lets the command report to the board.
    pub fn with_board(mut self, board: &SharedBoard) -> Result<Self> {
        self.stdout = Some(board.handle()?);
        Ok(self)
    }

    /// Runs in this place.
    pub fn at(mut self, place: &Place) -> Self {
        self.place = place.clone();
        self
    }

    /// Gives it this terminal, as its controlling one.
    pub fn on_terminal(mut self, terminal: OwnedFd) -> Self {
        self.terminal = Some(terminal);
        self
    }

    /// The same, and it draws there as well.
    pub fn on_screen(mut self, terminal: OwnedFd) -> Result<Self> {
        self.stdout = Some(terminal.try_clone()?);
        Ok(self.on_terminal(terminal))
    }

    /// Runs in a process group of its own, as a job of a shell does.
    pub fn as_job(mut self) -> Self {
        self.own_process_group = true;
        self
    }

    /// With this variable in its environment.
    pub fn with_variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Running> {
        let mut command = Command::new(binary()?);
        command.envs(self.variables);
        command.args(&self.words).stderr(Stdio::piped()).stdin(Stdio::null());
        command.stdout(self.stdout.map_or_else(Stdio::null, Stdio::from));
        if self.own_process_group {
            command.process_group(0);
        }
        if let Some(terminal) = self.terminal {
            command.stdin(Stdio::from(terminal));
            // SAFETY: the closure makes two system calls and allocates nothing.
            unsafe {
                command.pre_exec(|| {
                    nix::unistd::setsid()?;
                    Errno::result(libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0))?;
                    Ok(())
                });
            }
        }
        self.place.apply(&mut command)?;
        let mut process = Process::start(command)?;
        let stderr = process.take_stderr().context("no standard error")?;
        let said = Arc::new(Said::default());
        let listener = std::thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in BufReader::new(stderr).split(b'\n').map_while(|line| line.ok()) {
                    said.add(String::from_utf8_lossy(&line).into_owned());
                }
                said.end();
            }
        });
        Ok(Running { process, said, listener: Some(listener), line: self.words.join(" ") })
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<Finished> {
        self.start()?.finish()
    }
}

#[derive(Default)]
struct Said {
    lines: Mutex<Lines>,
    news: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    ended: bool,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: String) {
        self.lock().all.push(line);
        self.news.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.news.notify_all();
    }

    fn text(&self) -> String {
        self.lock().all.join("\n")
    }
}

fn events(lines: &[String], name: &str) -> Vec<Value> {
    let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|value| value["event"] == name).collect()
}

/// A kchaos that runs.
pub struct Running {
    /// The process.
    pub process: Process,
    said: Arc<Said>,
    listener: Option<JoinHandle<()>>,
    line: String,
}

impl Running {
    /// Waits until faults are live. An emulated machine takes a second and more to verify each program, and there may be
    /// one for each call.
    pub fn armed(&mut self) -> Result<Armed> {
        let event = self.event("armed", |_| true)?;
        serde_json::from_value(event).context("reading the armed event")
    }

    /// Waits for an event of this name that is `wanted`.
    pub fn event(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let limit = 3 * patience();
        let deadline = Instant::now() + limit;
        loop {
            let (found, ended) = {
                let lines = self.said.lock();
                let lines = match self.said.news.wait_timeout(lines, Duration::from_millis(50)) {
                    Ok((lines, _)) => lines,
                    Err(poisoned) => poisoned.into_inner().0,
                };
                (events(&lines.all, name).into_iter().find(|event| wanted(event)), lines.ended)
            };
            if let Some(event) = found {
                return Ok(event);
            }
            if ended || self.process.ended()?.is_some() {
                bail!("kchaos {} ended before it said {name}; it said:\n{}", self.line, self.said.text());
            }
            if Instant::now() > deadline {
                bail!(
                    "kchaos {} did not say {name} within {:?}; it said:\n{}",
                    self.line,
                    limit,
                    self.said.text()
                );
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt(mut self) -> Result<Finished> {
        self.signal(Signal::SIGINT)?;
        let finished = self.finish()?;
        finished.expect_status(130)?;
        Ok(finished)
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Result<Finished> {
        let status = self.process.wait().with_context(|| format!("it said:\n{}", self.said.text()))?;
        // The target's processes may hold the stream open for longer than kchaos lives, which is their right.
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut lines = self.said.lock();
        while !lines.ended && Instant::now() < deadline {
            lines = match self.said.news.wait_timeout(lines, Duration::from_millis(50)) {
                Ok((lines, _)) => lines,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        let ended = lines.ended;
        let said = lines.all.clone();
        drop(lines);
        if ended && let Some(listener) = self.listener.take() {
            ensure!(listener.join().is_ok(), "the listener panicked");
        }
        Ok(Finished { status, said, line: self.line })
    }
}

/// A kchaos that has ended.
pub struct Finished {
    status: std::process::ExitStatus,
    said: Vec<String>,
    line: String,
}

impl Finished {
    /// Exit status, or 128 + signal as a shell puts it.
    pub fn status(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Everything on standard error.
    pub fn text(&self) -> String {
        self.said.join("\n")
    }

    /// Fails unless it ended with this status.
    pub fn expect_status(&self, status: i32) -> Result<&Self> {
        let own = self.status();
        ensure!(
            own == status,
            "kchaos {}: exit status {own} instead of {status}; it said:\n{}",
            self.line,
            self.text()
        );
        Ok(self)
    }

    /// The account of the run, with balanced books.
    pub fn summary(&self) -> Result<Summary> {
        let found = events(&self.said, "summary");
        ensure!(found.len() == 1, "kchaos {}: {} summaries in:\n{}", self.line, found.len(), self.text());
        let summary: Summary = serde_json::from_value(found[0].clone())
            .with_context(|| format!("kchaos {}: reading {}", self.line, found[0]))?;
        summary.check_books().with_context(|| format!("kchaos {}: {}", self.line, found[0]))?;
        Ok(summary)
    }

    /// The first error it reported.
    pub fn error(&self) -> Result<ErrorEvent> {
        let found = events(&self.said, "error");
        let first = found
            .first()
            .with_context(|| format!("kchaos {}: no error event in:\n{}", self.line, self.text()))?;
        serde_json::from_value(first.clone()).context("reading the error event")
    }

    /// All events of one kind.
    pub fn events(&self, name: &str) -> Vec<Value> {
        events(&self.said, name)
    }
}
