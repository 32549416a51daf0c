//! Network namespaces of the tests, held by a descriptor and gone with it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::capability::{has_tcx, has_tool, on_host};
use crate::spawn::Place;

/// Where the packets that came stand in a line of /proc/net/dev, behind the name.
pub const RECEIVED_PACKETS: usize = 1;
/// Where the bytes that went stand there.
pub const SENT_BYTES: usize = 8;

/// A network namespace of its own, with lo up.
pub struct NetNs {
    file: File,
}

impl NetNs {
    /// Makes a namespace.
    pub fn new() -> Result<Self> {
        keep_hooks_switched_on();
        Self::bare()
    }

    fn bare() -> Result<Self> {
        let file = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("opening the network namespace")
        })?;
        let netns = Self { file };
        netns.ip("link set lo up")?;
        netns.enter(|| {
            for (name, value) in
                [("all/disable_ipv6", "0"), ("default/disable_ipv6", "0"), ("default/accept_dad", "0")]
            {
                let path = format!("/proc/sys/net/ipv6/conf/{name}");
                std::fs::write(&path, value).with_context(|| format!("writing {path}"))?;
            }
            Ok(())
        })?;
        Ok(netns)
    }

    /// Gives lo the clsact qdisc that kchaos needs below 6.6, for tests that count exactly across the ends of a run: there,
    /// adding or removing one loses packets by itself, while one that exists is used and left.
    pub fn with_clsact_where_needed(self) -> Result<Self> {
        if !has_tcx() && has_tool("tc") {
            self.run("tc", "qdisc add dev lo clsact")?;
        }
        Ok(self)
    }

    /// A path by which others can enter the namespace.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs a closure inside.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            act()
        })
    }

    /// Runs a program inside; what it said if it failed.
    pub fn try_run(&self, program: &str, arguments: &str) -> Result<std::result::Result<String, String>> {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace());
        Place::default().in_netns(self).apply(&mut command)?;
        let output = command.output().with_context(|| format!("running {program} {arguments}"))?;
        if output.status.success() {
            return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        Ok(Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
    }

    /// Runs a program inside, and returns what it printed.
    pub fn run(&self, program: &str, arguments: &str) -> Result<String> {
        match self.try_run(program, arguments)? {
            Ok(text) => Ok(text),
            Err(said) => bail!("{program} {arguments}: {said}"),
        }
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.run("ip", arguments)
    }

    /// Runs `ip` inside with one command per line, which takes the time of one.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let output = self.batch("ip", &[], lines)?;
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        ensure!(output.status.success(), "ip -batch of {lines:?}: {said}");
        Ok(())
    }

    /// Runs a program of iproute2 on one command per line.
    fn batch(&self, program: &str, options: &[&str], lines: &[String]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(options).args(["-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Place::default().in_netns(self).apply(&mut command)?;
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all((lines.join("\n") + "\n").as_bytes()).context("writing the commands")?;
        }
        child.wait_with_output().with_context(|| format!("waiting for {program}"))
    }

    /// What a device inside has counted since it was made, at `number` in its line of /proc/net/dev, as
    /// [`RECEIVED_PACKETS`].
    pub fn counter(&self, device: &str, number: usize) -> Result<u64> {
        let table = self.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let mut named = table.lines().filter_map(|line| line.trim().split_once(':'));
        let numbers = named.find_map(|(name, numbers)| (name == device).then_some(numbers));
        let counted = numbers.and_then(|numbers| numbers.split_whitespace().nth(number)?.parse().ok());
        counted.with_context(|| format!("no {device} in {table}"))
    }

    /// Devices, qdiscs and filters: what somebody could leave behind.
    pub fn furniture(&self) -> Result<String> {
        let mut names = self.enter(|| {
            let devices = nix::net::if_::if_nameindex().context("listing devices")?;
            Ok(devices.iter().map(|device| device.name().to_string_lossy().into_owned()).collect::<Vec<_>>())
        })?;
        names.sort();
        let mut inventory = format!("devices {}\n", names.join(" "));
        if has_tool("tc") {
            inventory += &self.run("tc", "qdisc show")?;
            let places = names
                .iter()
                .flat_map(|name| ["egress", "ingress"].map(|side| format!("filter show dev {name} {side}")));
            // Without a clsact qdisc there is no such place, which is an error to some versions of tc.
            let output = self.batch("tc", &["-force"], &places.collect::<Vec<_>>())?;
            inventory += &String::from_utf8_lossy(&output.stdout);
        }
        Ok(inventory)
    }
}

/// Holds a clsact qdisc on emulated machines for as long as the test program lives.
///
/// The first and the last egress hook of a system patch the kernel's code. QEMU's emulation of several processors does not
/// always bring that about safely under traffic: Linux 6.12 died of a stale int3 in `__dev_queue_xmit`.
fn keep_hooks_switched_on() {
    static KEEPER: OnceLock<Option<NetNs>> = OnceLock::new();
    KEEPER.get_or_init(|| {
        if on_host() {
            return None;
        }
        let keeper = NetNs::bare().ok()?;
        keeper.run("tc", "qdisc add dev lo clsact").ok()?;
        Some(keeper)
    });
}

/// Runs a closure in a thread of its own: namespaces belong to threads.
fn in_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(act).join().map_err(|_| anyhow!("a thread of the harness panicked"))?
    })
}
