//! The sleeper's file system and the process that makes it reachable for kernel programs.

use super::{super::identity, fuse};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::signal::{Signal, kill},
    unistd::{ForkResult, Pid, fork, pipe2},
};
use std::{
    ffi::CStr,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

/// A FUSE file system that is attached to no directory: it goes with its descriptors.
#[derive(Debug)]
pub struct Mount {
    /// Where the kernel's requests come from. Closing it answers them all.
    pub device: OwnedFd,
    root: OwnedFd,
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: these calls return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both texts live through the call.
    checked(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0)
    })
    .map(drop)
}

impl Mount {
    /// Makes one (`fsopen`, 5.2). The requests have to be served from then on.
    pub fn make() -> io::Result<Self> {
        const CLOSE_ON_EXEC: libc::c_uint = 1;
        const SET_FLAG: libc::c_uint = 0;
        const SET_STRING: libc::c_uint = 1;
        const CREATE: libc::c_uint = 6;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/fuse")?;
        let device = OwnedFd::from(device);
        // SAFETY: the name is a literal.
        let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), CLOSE_ON_EXEC) })?;
        let number = std::ffi::CString::new(device.as_raw_fd().to_string())?;
        for (key, value) in
            [(c"fd", &*number), (c"rootmode", c"40000"), (c"user_id", c"0"), (c"group_id", c"0")]
        {
            configure(&context, SET_STRING, Some(key), Some(value))?;
        }
        // Others than root ask too: the target's tasks.
        configure(&context, SET_FLAG, Some(c"allow_other"), None)?;
        configure(&context, CREATE, None, None)?;
        // SAFETY: plain numbers.
        let root = owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOSE_ON_EXEC, 0) })?;
        Ok(Self { device, root })
    }
}

/// Whether such a file system can be made; it goes at once.
pub fn try_mount() -> io::Result<()> {
    Mount::make().map(drop)
}

/// A process that runs the program on the file system, so that kernel programs find a file of it. It goes with the sleeper.
#[derive(Debug)]
pub struct Handle {
    process: Pid,
    /// Ends when the process runs its program.
    pub started: File,
}

impl Handle {
    /// Starts it; requests have to be served for it to come up.
    pub fn start(mount: &Mount) -> io::Result<Self> {
        let (started, end) = pipe2(OFlag::O_CLOEXEC)?;
        let sleeper = Pid::this();
        // SAFETY: the sleeper has a single thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                // A file would only be in the way of its end.
                drop(end);
                Ok(Self { process: child, started: File::from(started) })
            }
            ForkResult::Child => {
                drop(started);
                let failed = run(mount, File::from(end), sleeper);
                log::error!("starting the sleeper's handle: {failed}");
                // SAFETY: ends the child at once; nothing of the sleeper's may run twice.
                unsafe { libc::_exit(1) }
            }
        }
    }

    /// Its thread group id as kernel programs see it; to be asked once it has started.
    pub fn tgid(mut self) -> io::Result<u32> {
        let mut told = vec![];
        self.started.read_to_end(&mut told)?;
        let tgid = <[u8; 4]>::try_from(told.as_slice()).map(u32::from_le_bytes);
        // It writes its number before, and ends if it cannot run the program.
        let runs = nix::sys::wait::waitpid(self.process, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        match (tgid, runs) {
            (Ok(tgid), Ok(nix::sys::wait::WaitStatus::StillAlive)) => Ok(tgid),
            _ => Err(io::Error::other("the sleeper's handle did not start")),
        }
    }
}

/// Becomes the program of the file system. Returns only why that failed.
fn run(mount: &Mount, mut end: File, sleeper: Pid) -> io::Error {
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return io::Error::last_os_error();
    }
    if Pid::parent() != sleeper {
        // It died before it could be told of.
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
    if let Err(error) = end.write_all(&identity::thread_group_id().to_le_bytes()) {
        return error;
    }
    let arguments = [fuse::NAME.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: null-terminated arrays of null-terminated strings that live across the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            mount.root.as_raw_fd(),
            fuse::NAME.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            0,
        )
    };
    Errno::last().into()
}
