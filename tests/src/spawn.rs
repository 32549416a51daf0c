//! Starting a process in its place: cgroup, network namespace, user, and a system without BTF if a test asks for it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::board::{Role, SharedBoard};
use crate::cgroup::Cgroup;
use crate::netns::NetNs;
use crate::patience::wait_for;

/// Where a process is started.
#[derive(Clone, Default)]
pub struct Place {
    cgroup: Option<PathBuf>,
    netns: Option<PathBuf>,
    nobody: bool,
    without_btf: bool,
    capabilities: Option<u64>,
    without_journal: bool,
}

impl Place {
    /// Starts in this cgroup.
    pub fn in_cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.path().join("cgroup.procs"));
        self
    }

    /// Starts in this network namespace.
    pub fn in_netns(mut self, netns: &NetNs) -> Self {
        self.netns = Some(netns.path());
        self
    }

    /// Starts as user nobody, without capabilities.
    pub fn as_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Starts with these capabilities (a bit each) and no others, which nobody it starts gets back either.
    pub fn with_capabilities(mut self, capabilities: u64) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Hides the kernel's type information from the process.
    pub fn without_btf(mut self) -> Self {
        self.without_btf = true;
        self
    }

    /// Gives the process a file system without room where journals are written.
    pub fn without_room_for_journals(mut self) -> Self {
        self.without_journal = true;
        self
    }

    /// Makes the command start in this place.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        let open = |path: &PathBuf, write: bool| -> Result<File> {
            let file = File::options().read(!write).write(write).open(path);
            file.with_context(|| format!("opening {}", path.display()))
        };
        let cgroup = self.cgroup.as_ref().map(|path| open(path, true)).transpose()?;
        let netns = self.netns.as_ref().map(|path| open(path, false)).transpose()?;
        let (nobody, without_btf, capabilities) = (self.nobody, self.without_btf, self.capabilities);
        let without_journal = self.without_journal;
        if without_journal {
            std::fs::create_dir_all("/run/kchaos")?;
        }
        // SAFETY: the closure makes system calls only, allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                // A shell without job control starts what it puts into the background with both ignored.
                for signal in [libc::SIGINT, libc::SIGQUIT] {
                    if libc::signal(signal, libc::SIG_DFL) == libc::SIG_ERR {
                        return Err(io::Error::last_os_error());
                    }
                }
                if let Some(cgroup) = &cgroup {
                    succeeded(libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) as i32)?;
                }
                if let Some(netns) = &netns {
                    succeeded(libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET))?;
                }
                if without_btf {
                    cover(c"/sys/kernel/btf", c"")?;
                }
                if without_journal {
                    cover(c"/run/kchaos", c"size=4k,mode=700")?;
                    let page = [0u8; 4096];
                    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC;
                    let file = libc::open(c"/run/kchaos/full".as_ptr(), flags, 0o600);
                    succeeded(file)?;
                    succeeded(libc::write(file, page.as_ptr().cast(), page.len()) as i32)?;
                    succeeded(libc::close(file))?;
                }
                // What root gets by exec is bounded by it (capabilities(7)).
                for capability in (0..64).filter(|bit| capabilities.is_some_and(|own| own >> bit & 1 == 0)) {
                    if libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) == 1 {
                        succeeded(libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0))?;
                    }
                }
                if nobody {
                    succeeded(libc::setgroups(0, std::ptr::null()))?;
                    succeeded(libc::setgid(65_534))?;
                    succeeded(libc::setuid(65_534))?;
                }
                Ok(())
            });
        }
        Ok(())
    }
}

fn succeeded(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Covers a directory by an empty file system, in a mount namespace of this process.
///
/// # Safety
///
/// Only for a child between fork and exec: system calls only.
unsafe fn cover(directory: &CStr, options: &CStr) -> io::Result<()> {
    let none = std::ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: constant null-terminated strings.
    unsafe {
        succeeded(libc::unshare(libc::CLONE_NEWNS))?;
        succeeded(libc::mount(none, c"/".as_ptr(), none, private, none.cast()))?;
        let (directory, options) = (directory.as_ptr(), options.as_ptr().cast());
        succeeded(libc::mount(c"tmpfs".as_ptr(), directory, c"tmpfs".as_ptr(), 0, options))
    }
}

/// A process that is ended when the test lets go of it.
pub struct Process {
    child: Child,
    what: String,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command.
    pub fn start(mut command: Command) -> Result<Self> {
        let what = format!("{command:?}");
        let child = command.spawn().with_context(|| format!("starting {what}"))?;
        Ok(Self { child, what, ended: None })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes the stream of standard error, if piped.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// The status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("waiting for {}", self.what))?;
        }
        Ok(self.ended)
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.what);
        wait_for(&what, || self.ended()).map(|(status, _)| status)
    }

    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_none() {
            kill(Pid::from_raw(self.pid() as i32), signal).with_context(|| format!("sending {signal}"))?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            // The process may have ended meanwhile; there is nobody to tell anything else.
            let _ignored = self.child.kill().and_then(|()| self.child.wait());
        }
    }
}

/// The victim's binary.
pub fn victim_binary() -> Result<String> {
    std::env::var("KCHAOS_VICTIM")
        .context("KCHAOS_VICTIM must name the victim binary: run by `cargo xtask test`")
}

/// The words of a victim's command line, reporting to the board behind its standard output.
pub fn victim_words(arguments: &str) -> Result<Vec<String>> {
    let mut words = vec![victim_binary()?, "--board".into(), "1".into()];
    words.extend(arguments.split_whitespace().map(str::to_owned));
    Ok(words)
}

/// A victim started by the test itself.
pub struct Victim {
    process: Process,
    /// Where it reports.
    pub board: Arc<SharedBoard>,
}

impl Victim {
    /// Starts a victim with a board of its own.
    pub fn start(place: &Place, arguments: &str) -> Result<Self> {
        Self::start_on(place, arguments, Arc::new(SharedBoard::create()?))
    }

    /// Starts a victim that keeps sending itself datagrams over loopback, and waits until it is prepared.
    pub fn talking_to_itself(cgroup: &Cgroup, netns: &NetNs, port: u16) -> Result<Self> {
        let place = Place::default().in_cgroup(cgroup).in_netns(netns);
        let mut victim = Self::start(&place, &format!("udp-pair --to 127.0.0.1:{port} --rate-per-ms 2"))?;
        victim.ready()?;
        Ok(victim)
    }

    /// Starts a victim that shares its board with others.
    pub fn start_on(place: &Place, arguments: &str, board: Arc<SharedBoard>) -> Result<Self> {
        let words = victim_words(arguments)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::from(board.handle()?));
        place.apply(&mut command)?;
        Ok(Self { process: Process::start(command)?, board })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it is prepared.
    pub fn ready(&mut self) -> Result<()> {
        let board = Arc::clone(&self.board);
        wait_for("a victim to be ready", || {
            if board.ready.load(std::sync::atomic::Ordering::Acquire) != 0 {
                return Ok(Some(()));
            }
            match self.process.ended()? {
                Some(status) => bail!("a victim ended before it was ready: {status}"),
                None => Ok(None),
            }
        })
        .map(|_| ())
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self, role: Role) -> Result<serde_json::Value> {
        self.board.stop.store(1, std::sync::atomic::Ordering::Release);
        self.finish(role)
    }

    /// Waits for its end and takes its result.
    pub fn finish(&mut self, role: Role) -> Result<serde_json::Value> {
        let status = self.process.wait()?;
        if !status.success() {
            bail!("a victim failed with {status}");
        }
        self.board.result(role)?.context("a victim ended without a result")
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }
}
