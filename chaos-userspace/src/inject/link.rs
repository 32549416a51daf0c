//! Attachments. Each is a set of descriptors; closing them detaches.

use super::bpf::{self, AttachType};
use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Where hitting links are moved to: the kernel closes a dead process's descriptors last-in first-out, so what lies
/// high is detached first.
const HIGH_FD: i32 = 500;

/// One attachment.
#[derive(Debug)]
pub struct Link {
    fds: Vec<OwnedFd>,
    what: String,
    arming: bool,
    place: Option<Place>,
}

/// What a link is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A cgroup.
    Cgroup(OnCgroup),
    /// A device.
    Device(OnDevice),
    /// What is the whole host's: a function or a tracepoint.
    Host(OnHost),
}

/// Which device a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDevice {
    /// Inode of its network namespace.
    pub namespace: u64,
    /// Its index.
    pub device: u32,
    /// Whether it meets what arrives there; what leaves, if not.
    pub arriving: bool,
    /// The program's place among those of its engine.
    pub program: usize,
}

/// Which program is attached to something of the whole host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnHost {
    /// To what, in words that nothing else has.
    pub what: String,
    /// The program's place among those of its engine.
    pub program: usize,
}

/// What is attached to a cgroup, and to which: enough to attach it to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnCgroup {
    /// The cgroup's id.
    pub cgroup: u64,
    /// The program's place among those of its engine.
    pub program: usize,
    /// The hook.
    pub attach_type: AttachType,
}

impl Link {
    fn new(fd: OwnedFd, what: String) -> Self {
        Self { fds: vec![fd], what, arming: false, place: None }
    }

    /// What is attached where.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Whether it only serves to arm a run.
    pub fn is_arming(&self) -> bool {
        self.arming
    }

    /// Attaches to a device of the calling thread's network namespace.
    pub fn tcx_egress(program: BorrowedFd<'_>, device: u32, name: &str) -> io::Result<Self> {
        Ok(Self::new(bpf::link_tcx_egress(program, device)?, format!("tcx egress on {name}")))
    }

    /// Attaches to packets arriving at a device of the calling thread's network namespace.
    pub fn tcx_ingress(program: BorrowedFd<'_>, device: u32, name: &str) -> io::Result<Self> {
        Ok(Self::new(bpf::link_tcx_ingress(program, device)?, format!("tcx ingress on {name}")))
    }

    /// Attaches to packets leaving or arriving at a cgroup, or to one of its socket hooks, as `on` says.
    pub fn cgroup(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        on: OnCgroup,
        what: &str,
    ) -> io::Result<Self> {
        let fd = bpf::link_cgroup(program, cgroup, on.attach_type)?;
        Ok(Self { place: Some(Place::Cgroup(on)), ..Self::new(fd, what.to_owned()) })
    }

    /// The same, attached there.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// What it is attached to, as far as it was told.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Counts as attached to this cgroup, if it is to any.
    pub fn count_for(&mut self, cgroup: u64) {
        if let Some(Place::Cgroup(on)) = &mut self.place {
            on.cgroup = cgroup;
        }
    }

    /// What is attached to which cgroup, of a link that is.
    pub fn on_cgroup(&self) -> Option<OnCgroup> {
        match self.place {
            Some(Place::Cgroup(on)) => Some(on),
            _ => None,
        }
    }

    /// What is attached to which device, of a link that is.
    pub fn on_device(&self) -> Option<OnDevice> {
        match self.place {
            Some(Place::Device(on)) => Some(on),
            _ => None,
        }
    }

    /// Puts another program in the place of the one that is attached, where a link can: on cgroups and devices. Every event
    /// meets one of both.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let Some(link) = self.fds.first() else { return Err(io::ErrorKind::NotFound.into()) };
        match bpf::update_link(link.as_fd(), program) {
            // Its device or cgroup has gone (ENOLINK for both), and it does nothing any more.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
            other => other,
        }
    }

    /// The same on a device, with the place of the program among those of its engine.
    pub fn hand_over(&mut self, program: BorrowedFd<'_>, number: usize) -> io::Result<()> {
        self.update(program)?;
        if let Some(Place::Device(on)) = &mut self.place {
            on.program = number;
        }
        Ok(())
    }

    /// Attaches a program to the function it was loaded for: LSM hooks and `fmod_ret`.
    pub fn function(program: BorrowedFd<'_>, what: &str) -> io::Result<Self> {
        Ok(Self::new(bpf::open_raw_tracepoint(program, None)?, what.to_owned()))
    }

    /// Attaches to the entry of many kernel functions.
    pub fn kprobe_multi(program: BorrowedFd<'_>, functions: &[&str]) -> io::Result<Self> {
        let names = functions.iter().map(|name| CString::new(*name)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<_> = names.iter().map(|name| name.as_c_str()).collect();
        let link = bpf::link_kprobe_multi(program, &names)?;
        Ok(Self::new(link, format!("kprobe.multi {}", functions.join(", "))))
    }

    /// Attaches the program that arms a run to the tracepoint of successful execs.
    pub fn exec(program: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { arming: true, ..Self::tracepoint(program, c"sched_process_exec")? })
    }

    /// Attaches the program that forgets processes to the tracepoint of their end.
    pub fn exit(program: BorrowedFd<'_>) -> io::Result<Self> {
        Self::tracepoint(program, c"sched_process_exit")
    }

    /// Attaches the program that takes in what processes start to the tracepoint of their start.
    pub fn fork(program: BorrowedFd<'_>) -> io::Result<Self> {
        Self::tracepoint(program, c"sched_process_fork")
    }

    fn tracepoint(program: BorrowedFd<'_>, name: &CStr) -> io::Result<Self> {
        let fd = bpf::open_raw_tracepoint(program, Some(name))?;
        Ok(Self::new(fd, format!("raw tracepoint {}", name.to_string_lossy())))
    }

    /// Attaches to the entry of a kernel function. Below 5.15, which brought links for perf events, the perf event
    /// alone is the attachment.
    pub fn kprobe(program: BorrowedFd<'_>, function: &str) -> io::Result<Self> {
        let event = open_kprobe_event(function)?;
        let what = format!("kprobe {function}");
        match bpf::link_perf_event(program, event.as_fd()) {
            Ok(link) => Ok(Self { fds: vec![link, event], what, arming: false, place: None }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                attach_to_event(program, event.as_fd())?;
                Ok(Self::new(event, what))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether its descriptors have high numbers.
    pub fn is_high(&self) -> bool {
        self.fds.iter().all(|fd| fd.as_raw_fd() >= HIGH_FD)
    }

    /// Moves the descriptors to high numbers, so that they go first when the process dies.
    pub fn move_high(&mut self) -> io::Result<()> {
        for fd in &mut self.fds {
            *fd = duplicate_from(fd.as_fd(), HIGH_FD)?;
        }
        Ok(())
    }
}

/// Duplicates a descriptor to the lowest free number from `first` on, closed on exec.
pub fn duplicate_from(fd: BorrowedFd<'_>, first: i32) -> io::Result<OwnedFd> {
    let new = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(first))?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// `struct perf_event_attr` up to `config2` (include/uapi/linux/perf_event.h, version 1: 72 bytes).
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    kprobe_func: u64,
    probe_offset: u64,
}

const _: () = assert!(size_of::<PerfEventAttr>() == 72);

fn open_kprobe_event(function: &str) -> io::Result<OwnedFd> {
    const KIND: &str = "/sys/bus/event_source/devices/kprobe/type";
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    let kind = fs::read_to_string(KIND)?.trim().parse().map_err(io::Error::other)?;
    let function = CString::new(function)?;
    let attributes = PerfEventAttr {
        kind,
        size: size_of::<PerfEventAttr>() as u32,
        kprobe_func: function.as_ptr() as u64,
        ..PerfEventAttr::default()
    };
    // SAFETY: `attributes` and the name it points to live through the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn attach_to_event(program: BorrowedFd<'_>, event: BorrowedFd<'_>) -> io::Result<()> {
    const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    // SAFETY: both requests take plain numbers.
    unsafe {
        if libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) < 0
            || libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
