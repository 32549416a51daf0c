//! One QEMU machine: started, listened to, ended in time.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{apt, lines};

/// What a machine is made of.
pub struct Machine<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub image: &'a Path,
    pub cmdline: &'a str,
    pub limit: Duration,
    /// One processor, whose clock counts instructions.
    pub counted: bool,
    /// Gets every line of the machine, then the kernel's own console.
    pub log: &'a Path,
}

impl Machine<'_> {
    /// Runs the machine until it ends itself, giving each line of its init and tests to `on_line`.
    pub fn run(&self, mut on_line: impl FnMut(&str)) -> Result<()> {
        let console = self.log.with_extension("console");
        let mut log =
            File::create(self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut qemu = Qemu(self.command(&console)?.spawn().context("cannot start qemu-system-x86_64")?);
        let output = qemu.0.stdout.take().context("no output of qemu")?;
        let lines = lines::read(output);
        let start = Instant::now();
        let result = loop {
            match lines.recv_timeout(self.limit.saturating_sub(start.elapsed())) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    on_line(&line);
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    break Err(format!(
                        "not finished after {} s (limit_s in tests/matrix.toml)",
                        self.limit.as_secs()
                    ));
                }
            }
        };
        let complaint = qemu.end(result.is_ok())?;
        append_console(&console, self.log)?;
        match result {
            Err(message) => bail!(message),
            Ok(()) if !complaint.is_empty() => bail!("qemu: {complaint}"),
            Ok(()) => Ok(()),
        }
    }

    /// Emulation pays for what keeps processors from guessing, and for clocks other than the TSC, of which some kernels do not
    /// believe that two processors show the same. Where instructions are counted, they are those of a kernel as it comes.
    fn quickly(&self) -> &'static str {
        if self.counted { "" } else { "mitigations=off tsc=reliable " }
    }

    fn command(&self, console: &Path) -> Result<Command> {
        let mut qemu = Command::new(apt::program("setpriv")?);
        // It must not outlive an xtask that is killed.
        qemu.args(["--pdeathsig", "KILL", "--"]).arg(apt::program("qemu-system-x86_64")?);
        // Emulation works everywhere; nested KVM often claims to be there and is not.
        let (accelerator, cpu) = match env::var("KCHAOS_ACCEL").as_deref() {
            Ok("kvm") => ("kvm", "host"),
            // One thread for all CPUs: with several, QEMU 7.2 now and then misses that the guest patched its own code,
            // and a CPU runs into an int3 that is long gone, for ever. Without cmpxchg16b: it gives that one wrong
            // flags, and one boot of Linux 6.12 in three died of an interrupt right after one.
            _ => ("tcg,thread=single", "max,cx16=off"),
        };
        qemu.args([
            "-accel",
            accelerator,
            "-cpu",
            cpu,
            "-smp",
            if self.counted { "1" } else { "2" },
            "-m",
            "2048",
        ])
        .args(self.counted.then_some(["-icount", "shift=0"]).into_iter().flatten())
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(self.kernel)
        .arg("-initrd")
        .arg(self.initramfs)
        .arg("-append")
        .arg(format!("console=ttyS0 panic=-1 oops=panic {}{}", self.quickly(), self.cmdline))
        .arg("-drive")
        .arg(format!("file={},format=raw,if=virtio,readonly=on", self.image.display()))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        Ok(qemu)
    }
}

fn append_console(console: &Path, log: &Path) -> Result<()> {
    let mut log = OpenOptions::new().append(true).open(log)?;
    writeln!(log, "---- kernel messages ----")?;
    log.write_all(&fs::read(console).unwrap_or_default())?;
    // It may not exist when qemu did not start.
    let _ignored = fs::remove_file(console);
    Ok(())
}

/// The process; it does not outlive us.
struct Qemu(Child);

impl Qemu {
    /// Waits for the end of a machine that is done, or makes an end; returns qemu's complaints.
    fn end(&mut self, done: bool) -> Result<String> {
        if !done {
            self.0.kill()?;
        }
        let status = self.0.wait()?;
        let mut complaint = String::new();
        if done && !status.success() {
            if let Some(mut stderr) = self.0.stderr.take() {
                std::io::Read::read_to_string(&mut stderr, &mut complaint)?;
            }
            complaint.push_str(&status.to_string());
        }
        Ok(complaint)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail when it has ended.
        let _ignored = self.0.kill();
        let _ignored = self.0.wait();
    }
}
