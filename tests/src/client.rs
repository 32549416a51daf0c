//! Programs people run, as clients and servers of a test: found, started in their place, and read.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::capability::{has_posix_timers, on_host};
use crate::patience::wait_for;
use crate::spawn::{Place, Process};

/// Why the programs of the image are not used here.
///
/// They are in the image of the test machines; what a developer's machine has installed proves nothing. ping(8) and
/// timeout(1) end by POSIX timers: without them they wait for ever.
pub fn image_missing() -> Option<&'static str> {
    if on_host() {
        return Some("the programs are in the image of the test machines");
    }
    (!has_posix_timers()).then_some("no POSIX timers, which clients need to give up")
}

/// What a program did.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status, or 128 + signal as a shell puts it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it ran, its start included.
    pub took: Duration,
}

impl Answer {
    /// Fails unless it ended with this status.
    pub fn expect(self, status: i32) -> Result<Self> {
        ensure!(self.status == status, "exit status {} instead of {status}: {self:?}", self.status);
        Ok(self)
    }

    /// The number behind `label` in what it printed, up to the next character that is none of a number's.
    pub fn number(&self, label: &str) -> Result<f64> {
        let at = self.out.find(label).with_context(|| format!("no {label:?} in {self:?}"))?;
        let rest = self.out[at + label.len()..].trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].parse().with_context(|| format!("no number behind {label:?} in {self:?}"))
    }
}

/// Runs a program to its end. Every client has to have a limit of its own: this waits for as long as it takes.
pub fn run(place: &Place, words: &[&str]) -> Result<Answer> {
    let mut command = command(words)?;
    place.apply(&mut command)?;
    let start = Instant::now();
    let output = command.output().with_context(|| format!("running {words:?}"))?;
    Ok(Answer {
        status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default()),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    })
}

/// Starts a server that stays in the foreground, and waits until `asks` is answered with success.
pub fn serve(place: &Place, words: &[&str], log: File, asks: &[&str], from: &Place) -> Result<Process> {
    let mut command = command(words)?;
    command.stdout(log.try_clone()?).stderr(log);
    place.apply(&mut command)?;
    let mut server = Process::start(command)?;
    wait_for(&format!("{} to serve", words[0]), || {
        if let Some(status) = server.ended()? {
            anyhow::bail!("{words:?} ended: {status}");
        }
        Ok((run(from, asks)?.status == 0).then_some(()))
    })?;
    Ok(server)
}

fn command(words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("no program")?;
    let mut command = Command::new(program);
    // Names of months and decimal points as the tests read them.
    command.args(arguments).stdin(Stdio::null()).env("LC_ALL", "C");
    Ok(command)
}

/// A configuration with which nginx serves the files of `home` on `listen`, in the foreground.
pub fn nginx_conf(home: &str, listen: &str) -> String {
    format!(
        "user root; daemon off; master_process off; pid {home}/nginx.pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {home}/t; proxy_temp_path {home}/t;\n\
         fastcgi_temp_path {home}/t; uwsgi_temp_path {home}/t; scgi_temp_path {home}/t;\n\
         server {{ listen {listen}; root {home}; }} }}\n"
    )
}

/// A server of names in the foreground, which knows all names below `example.test` as 192.0.2.7 and nothing else.
pub fn dnsmasq(listen: &str) -> [&str; 11] {
    [
        "dnsmasq",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        "--address=/example.test/192.0.2.7",
        "--bind-interfaces",
        "--listen-address",
        listen,
    ]
}

/// A program of PostgreSQL, which Debian puts where not everybody's path leads.
pub fn postgres(program: &str) -> Result<String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").context("no PostgreSQL in the image")?;
    let mut found: Vec<PathBuf> =
        versions.filter_map(|entry| Some(entry.ok()?.path().join("bin").join(program))).collect();
    found.sort();
    let path = found.pop().context("no version of PostgreSQL")?;
    Ok(path.display().to_string())
}
