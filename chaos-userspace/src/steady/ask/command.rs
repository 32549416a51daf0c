//! Asking commands.

use super::super::value::Value;
use crate::experiment::document_steady::CommandMeasure;
use nix::sys::signal::SigSet;
use std::{os::unix::process::ExitStatusExt as _, process::Stdio, time::Instant};
use tokio::process::Command;

/// Runs a command and measures. It is killed if nobody waits for it any more, with its process group.
pub async fn measure(argv: &[String], measure: CommandMeasure, mask: SigSet) -> Result<Value, String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no command is named".to_owned()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // The terminal's signals are for us; a command must not die of them before it is asked for its answer.
    command.process_group(0);
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(move || mask.thread_set_mask().map_err(Into::into));
    }
    let began = Instant::now();
    let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let _group = child.id().map(Group);
    let output = child.wait_with_output().await.map_err(|error| format!("{program}: {error}"))?;
    let took = began.elapsed();
    let code = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => code,
        (None, signal) => {
            return Err(format!("{program} was ended by signal {}", signal.unwrap_or_default()));
        }
    };
    if measure == CommandMeasure::Exit {
        return Ok(Value::Number(f64::from(code)));
    }
    if code != 0 {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        return Err(format!("{program} ended with status {code}: {last}"));
    }
    Ok(match measure {
        CommandMeasure::Time => Value::Number(took.as_secs_f64()),
        _ => Value::Text(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
    })
}

/// What a command has started ends with it.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        // It is gone already if all of it has ended.
        let group = nix::unistd::Pid::from_raw(self.0 as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}
