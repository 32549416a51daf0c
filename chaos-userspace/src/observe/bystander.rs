//! A bystander of our own: a process in a sibling cgroup that uses the network and the file system throughout the run
//! and counts every fault it feels. It must feel none.

use crate::host::cgroup::{self, Cgroup, Error, Hierarchy};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read as _},
    net::UdpSocket,
    os::fd::AsRawFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// What a bystander felt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Felt {
    /// Datagrams sent to itself over loopback.
    pub packets: u64,
    /// Of those, never received or refused by the sender's kernel.
    pub lost: u64,
    /// System calls made.
    pub calls: u64,
    /// Of those, failed.
    pub failed: u64,
}

/// A running bystander.
pub struct Bystander {
    cgroup: Cgroup,
    process: Child,
}

impl Bystander {
    /// Starts one in a sibling of the cgroup that `run` would get.
    pub fn start(run: &str) -> Result<Self, Error> {
        let hierarchy = Hierarchy::find()?;
        let cgroup = hierarchy.make_fresh(&format!("{run}-bystander"))?;
        let spawned = spawn(&cgroup);
        match spawned {
            Ok(process) => Ok(Self { cgroup, process }),
            Err(source) => {
                let path = cgroup.path().display().to_string();
                let _ = cgroup::remove(cgroup.path());
                Err(Error::Io { what: "starting a bystander in", path, source })
            }
        }
    }

    /// Ends it and returns what it felt.
    pub fn finish(mut self) -> io::Result<Felt> {
        // It stops at the end of its input.
        drop(self.process.stdin.take());
        let mut answer = String::new();
        if let Some(mut out) = self.process.stdout.take() {
            out.read_to_string(&mut answer)?;
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        cgroup::wait_empty(self.cgroup.path(), Some(Duration::from_secs(5)));
        let _ = cgroup::remove(self.cgroup.path());
    }
}

fn spawn(cgroup: &Cgroup) -> io::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let processes = cgroup.open_processes().map_err(io::Error::other)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("bystander").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // SAFETY: only system calls between fork and exec. A process group of its own keeps the terminal's signals away.
    unsafe {
        command.pre_exec(move || {
            libc::setpgid(0, 0);
            match libc::write(processes.as_raw_fd(), c"0".as_ptr().cast(), 1) {
                1 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command.spawn()
}

/// The bystander's whole life: until its input ends.
pub fn live() -> io::Result<Felt> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(socket.local_addr()?)?;
    // Loopback delivers at once, but on a busy machine in another task's time: what is not there after this long is lost.
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut felt = Felt::default();
    let mut poll = libc::pollfd { fd: io::stdin().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd. The timeout is the pace: a thousand rounds a second.
    while unsafe { libc::poll(&raw mut poll, 1, 1) } == 0 {
        let number = felt.packets.to_ne_bytes();
        felt.packets += 1;
        let mut answer = [0; 8];
        // A number of its own tells a datagram that is late from this round's: the late one was lost already.
        let mut came = socket.send(&number).is_ok() && socket.recv(&mut answer).is_ok();
        while came && answer != number {
            came = socket.recv(&mut answer).is_ok();
        }
        if !came {
            felt.lost += 1;
        }
        felt.calls += 2;
        felt.failed += u64::from(std::fs::File::open("/proc/self/status").is_err());
        felt.failed += u64::from(!Path::new("/").exists());
    }
    Ok(felt)
}
