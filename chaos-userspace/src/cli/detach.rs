//! A run without a terminal: the same command line in a session of its own.

use super::console;
use super::failure::Failure;
use nix::unistd;
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

/// Flag of the process that is to run on its own, in place of this one.
const FLAG: &str = "--detach";
const FLAG_OF_CHILD: &str = "--detached";

/// Starts the command line `words` on its own and waits until its faults are live. Returns its exit code if they never
/// are; it has then said why.
pub fn start(words: &[OsString]) -> Result<u8, Failure> {
    let words =
        words.iter().skip(1).map(|word| if word == FLAG { FLAG_OF_CHILD.into() } else { word.clone() });
    let mut command = Command::new("/proc/self/exe");
    command.arg0("kchaos").args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(|| unistd::setsid().map(drop).map_err(io::Error::from)) };
    let mut child = command.spawn().map_err(Failure::internal)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(Failure::internal)?;
    }
    if line.is_empty() {
        let status = child.wait().map_err(Failure::internal)?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return code.ok_or_else(|| Failure::internal(format!("the detached process ended: {status}")));
    }
    console::out_text(&line);
    Ok(super::exit::DONE)
}

/// Tells who waits in [`start`] that the faults of this run are live, and lets go of the terminal.
pub fn leave(run: &str, json: bool) -> io::Result<()> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::json!({"event": "detached", "run": run, "pid": std::process::id()}))?;
    } else {
        writeln!(out, "{run}")?;
    }
    out.flush()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    unistd::dup2_stdout(&null)?;
    unistd::dup2_stderr(&null)?;
    std::env::set_current_dir("/")
}
