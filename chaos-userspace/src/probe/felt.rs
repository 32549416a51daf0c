//! Makes a child process feel a call inside a cgroup: the only evidence that a hook fires.

use crate::host::cgroup::{self, Cgroup, Error, Hierarchy};
use std::{io, os::fd::AsRawFd, time::Duration};

/// The errno of probes: no call returns it by itself on a machine whose memory is sound.
pub const TELLTALE: i32 = libc::EHWPOISON;

/// A cgroup of our own for trials, removed at the end.
pub struct Scratch(Cgroup);

impl Scratch {
    /// Makes one below the caller's own cgroup.
    pub fn make() -> Result<Self, Error> {
        let hierarchy = Hierarchy::find()?;
        let id = format!("probe-{}-{}", std::process::id(), crate::host::kernel::monotonic_ns());
        hierarchy.make_fresh(&id).map(Self)
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        cgroup::wait_empty(self.0.path(), Some(Duration::from_secs(5)));
        let _ = cgroup::remove(self.0.path());
    }
}

/// Runs `call` in a child that has joined `cgroup` and returns its result, 0 to 255. The child is a bare fork: `call`
/// may only make system calls.
pub fn by_child(cgroup: &Cgroup, call: impl Fn() -> u8) -> io::Result<u8> {
    let processes = cgroup.open_processes().map_err(io::Error::other)?;
    // SAFETY: the child only makes system calls and leaves with `_exit`.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: plain system calls on valid arguments.
        unsafe {
            if libc::write(processes.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                libc::_exit(254);
            }
            libc::_exit(i32::from(call()));
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: our own child and a valid place for its status.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if libc::WIFEXITED(status) {
        Ok(libc::WEXITSTATUS(status) as u8)
    } else {
        Err(io::Error::other(format!("the probing child died with status {status:#x}")))
    }
}

/// The errno of opening the root directory, 0 if that works.
pub fn open_root() -> u8 {
    // SAFETY: plain system calls on valid arguments.
    unsafe {
        if libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)
            >= 0
        {
            0
        } else {
            *libc::__errno_location() as u8
        }
    }
}

/// The result of opening a file that does not exist: a value that claims success, [`u8::MAX`] for an error.
pub fn open_missing() -> u8 {
    // SAFETY: plain system calls on valid arguments.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/kchaos/probe".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    u8::try_from(result).unwrap_or(u8::MAX)
}

/// The errno of connecting a datagram socket to the discard port of loopback, 0 if that works.
pub fn connect_loopback() -> u8 {
    // SAFETY: plain system calls on valid arguments; all-zero is a valid address.
    unsafe {
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = 9u16.to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let length = size_of_val(&address) as libc::socklen_t;
        let result = libc::connect(socket, (&raw const address).cast(), length);
        let errno = if result >= 0 { 0 } else { *libc::__errno_location() as u8 };
        libc::close(socket);
        errno
    }
}

/// Runs `work` on a thread inside a new network namespace, which goes with the thread.
pub fn in_empty_network<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace died")))
    })
}

/// Brings up the loopback device of the calling thread's network namespace.
pub fn bring_loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero is a valid request; its name stays terminated.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: a valid socket and request.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
