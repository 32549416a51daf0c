//! What the calls of the list work on, prepared before any of them can fail.

use std::ffi::CString;
use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;

use super::super::syscall_table::raw;

/// Rounds that can be made: calls that use something up have as much of it.
pub const ROUNDS_MAX: usize = 32;
/// Bytes that calls may overwrite.
const MEMORY_BYTES: usize = 64 * 1024;
const PAGE: usize = 4096;

/// Names that calls make or take away, one per round; files of these names exist.
const FILES: [&str; 5] = ["unlink", "unlinkat", "rename", "renameat", "renameat2"];
/// Those of which directories exist.
const DIRECTORIES: [&str; 1] = ["rmdir"];
/// Those that do not exist.
const FREE: [&str; 12] = [
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "creat",
    "rename-to",
    "renameat-to",
    "renameat2-to",
];

/// Moves a value to memory that is never freed and that the kernel may write to; its address.
pub fn leak<T>(value: T) -> usize {
    Box::into_raw(Box::new(value)) as usize
}

fn text(text: &str) -> Result<usize> {
    Ok(CString::new(text)?.into_raw() as usize)
}

/// Descriptors and addresses, as calls take them.
pub struct Fixture {
    pub file: usize,
    pub other_file: usize,
    pub directory: usize,
    pub zero: usize,
    pub null: usize,
    /// A number no descriptor of ours has.
    pub spare: usize,
    /// To be closed.
    pub doomed: [usize; ROUNDS_MAX],
    pub pipe: usize,
    pub epoll: usize,
    pub udp_sender: usize,
    pub udp_receiver: usize,
    pub udp_connected: usize,
    pub unbound: [usize; ROUNDS_MAX],
    /// With a connection to accept for every round.
    pub listeners: [usize; 2],
    pub pair: usize,
    /// Of io_uring, or no descriptor where there is none.
    pub ring: usize,
    /// A shared memory segment, or none.
    pub segment: usize,
    pub root: usize,
    pub scratch: usize,
    pub file_path: usize,
    pub symlink_path: usize,
    /// Executable, but of no format.
    pub program_path: usize,
    pub attribute: usize,
    pub arguments: usize,
    pub memory: usize,
    pub page: usize,
    pages: usize,
    /// Two descriptors that a call has made.
    pub made: usize,
    pub iovec: usize,
    /// To be sent, with an address.
    pub message: usize,
    pub messages: usize,
    /// To be received.
    pub received: usize,
    pub received_many: usize,
    pub address: usize,
    pub any_address: usize,
    pub length: usize,
    pub one: usize,
    pub zero_time: usize,
    pub moment: usize,
    pub poll: usize,
    pub event: usize,
    pub signals: usize,
    pub open_how: usize,
    pub clone_args: usize,
    pub ring_parameters: usize,
    pub bpf_attribute: usize,
    pub perf_attribute: usize,
    names: Vec<(&'static str, [usize; ROUNDS_MAX])>,
}

fn checked(what: &str, result: i64) -> Result<usize> {
    ensure!(result >= 0, "{what}: {:?}", Errno::from_raw(-result as i32));
    Ok(result as usize)
}

fn open(path: &str, flags: i32) -> Result<usize> {
    let address = text(path)?;
    let here = libc::AT_FDCWD as usize;
    checked(path, raw(libc::SYS_openat, [here, address, (flags | libc::O_CLOEXEC) as usize, 0o600, 0, 0]))
}

fn socket(family: i32, kind: i32) -> Result<usize> {
    let kind = (kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as usize;
    checked("socket", raw(libc::SYS_socket, [family as usize, kind, 0, 0, 0, 0]))
}

fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in>();

/// A listening Unix socket with a connection for every round in its queue.
fn listener() -> Result<usize> {
    let listener = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
    // An address of the family alone asks the kernel for a free abstract one.
    let any = leak(libc::AF_UNIX as u16);
    checked("bind", raw(libc::SYS_bind, [listener, any, 2, 0, 0, 0]))?;
    checked("listen", raw(libc::SYS_listen, [listener, 2 * ROUNDS_MAX, 0, 0, 0, 0]))?;
    let (address, length) = (leak([0u8; 128]), leak(128u32));
    checked("getsockname", raw(libc::SYS_getsockname, [listener, address, length, 0, 0, 0]))?;
    // SAFETY: the kernel has stored the length there.
    let length = unsafe { *(length as *const u32) } as usize;
    for _ in 0..ROUNDS_MAX {
        let client = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        checked("connect", raw(libc::SYS_connect, [client, address, length, 0, 0, 0]))?;
    }
    Ok(listener)
}

/// A UDP socket of loopback and its port.
fn receiver() -> Result<(usize, u16)> {
    let receiver = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let (address, length) = (leak(loopback(0)), leak(ADDRESS_BYTES as u32));
    checked("bind", raw(libc::SYS_bind, [receiver, address, ADDRESS_BYTES, 0, 0, 0]))?;
    checked("getsockname", raw(libc::SYS_getsockname, [receiver, address, length, 0, 0, 0]))?;
    // SAFETY: the kernel has stored an address of this family there.
    Ok((receiver, u16::from_be(unsafe { *(address as *const libc::sockaddr_in) }.sin_port)))
}

/// A segment that is removed with its last user.
fn segment() -> usize {
    let id = raw(libc::SYS_shmget, [libc::IPC_PRIVATE as usize, PAGE, 0o600, 0, 0, 0]);
    if id >= 0 {
        raw(libc::SYS_shmat, [id as usize, 0, 0, 0, 0, 0]);
        raw(libc::SYS_shmctl, [id as usize, libc::IPC_RMID as usize, 0, 0, 0, 0]);
    }
    id as usize
}

fn names(scratch: &str) -> Result<Vec<(&'static str, [usize; ROUNDS_MAX])>> {
    let mut names = vec![];
    for label in FILES.iter().chain(&DIRECTORIES).chain(&FREE) {
        let mut addresses = [0; ROUNDS_MAX];
        for (round, address) in addresses.iter_mut().enumerate() {
            let path = format!("{scratch}/{label}-{round}");
            if FILES.contains(label) {
                std::fs::write(&path, "")?;
            } else if DIRECTORIES.contains(label) {
                std::fs::create_dir(&path)?;
            }
            *address = text(&path)?;
        }
        names.push((*label, addresses));
    }
    Ok(names)
}

fn each_round(make: impl Fn() -> Result<usize>) -> Result<[usize; ROUNDS_MAX]> {
    let mut all = [0; ROUNDS_MAX];
    for one in &mut all {
        *one = make()?;
    }
    Ok(all)
}

impl Fixture {
    pub fn prepare(scratch: &str) -> Result<Self> {
        // Children end unseen.
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let file_path = format!("{scratch}/file");
        std::fs::write(&file_path, [7u8; PAGE]).context("writing a file")?;
        let symlink_path = format!("{scratch}/symlink");
        symlink(&file_path, &symlink_path).context("making a symbolic link")?;
        let program_path = format!("{scratch}/program");
        std::fs::write(&program_path, "of no format\n")?;
        std::fs::set_permissions(&program_path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let null = open("/dev/null", libc::O_WRONLY)?;
        let memory = leak([0u8; MEMORY_BYTES]);
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        let bytes = PAGE * (ROUNDS_MAX + 1);
        let pages = checked("mmap", raw(libc::SYS_mmap, [0, bytes, protection, flags, usize::MAX, 0]))?;
        let made = leak([-1i32; 2]);
        let pair = |call: &str, result: i64| -> Result<usize> {
            checked(call, result)?;
            // SAFETY: the kernel has stored two descriptors there.
            Ok(unsafe { *(made as *const [i32; 2]) }[0] as usize)
        };
        let pipe = pair("pipe2", raw(libc::SYS_pipe2, [made, libc::O_NONBLOCK as usize, 0, 0, 0, 0]))?;
        let (unix, stream) = (libc::AF_UNIX as usize, libc::SOCK_STREAM as usize);
        let pair = pair("socketpair", raw(libc::SYS_socketpair, [unix, stream, 0, made, 0, 0]))?;
        let epoll = checked("epoll_create1", raw(libc::SYS_epoll_create1, [0; 6]))?;
        let event = leak(libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 });
        let add = libc::EPOLL_CTL_ADD as usize;
        checked("epoll_ctl", raw(libc::SYS_epoll_ctl, [epoll, add, pipe, event, 0, 0]))?;
        let (udp_receiver, port) = receiver()?;
        let address = leak(loopback(port));
        let iovec = leak(libc::iovec { iov_base: memory as *mut _, iov_len: 1 });
        // SAFETY: all bytes zero are a value of this plain structure.
        let mut received: libc::msghdr = unsafe { std::mem::zeroed() };
        received.msg_iov = iovec as *mut _;
        received.msg_iovlen = 1;
        let mut message = received;
        message.msg_name = address as *mut _;
        message.msg_namelen = ADDRESS_BYTES as u32;
        let many = |msg_hdr| leak(libc::mmsghdr { msg_hdr, msg_len: 0 });
        let ring_parameters = leak([0u32; 30]);
        let ring = raw(libc::SYS_io_uring_setup, [1, ring_parameters, 0, 0, 0, 0]);
        let mut any_address = loopback(0);
        any_address.sin_addr.s_addr = 0;
        Ok(Self {
            file: open(&file_path, libc::O_RDWR)?,
            other_file: open(&format!("{scratch}/other"), libc::O_RDWR | libc::O_CREAT)?,
            directory: open(scratch, libc::O_RDONLY | libc::O_DIRECTORY)?,
            zero: open("/dev/zero", libc::O_RDONLY)?,
            null,
            spare: 900,
            doomed: each_round(|| checked("dup", raw(libc::SYS_dup, [null, 0, 0, 0, 0, 0])))?,
            pipe,
            epoll,
            udp_sender: socket(libc::AF_INET, libc::SOCK_DGRAM)?,
            udp_receiver,
            udp_connected: socket(libc::AF_INET, libc::SOCK_DGRAM)?,
            unbound: each_round(|| socket(libc::AF_INET, libc::SOCK_DGRAM))?,
            listeners: [listener()?, listener()?],
            pair,
            ring: ring as usize,
            segment: segment(),
            root: text("/")?,
            scratch: text(scratch)?,
            file_path: text(&file_path)?,
            symlink_path: text(&symlink_path)?,
            program_path: text(&program_path)?,
            attribute: text("user.kc")?,
            arguments: leak([text("program")?, 0]),
            memory,
            page: pages,
            pages: pages + PAGE,
            made,
            iovec,
            message: leak(message),
            messages: many(message),
            received: leak(received),
            received_many: many(received),
            address,
            any_address: leak(any_address),
            length: leak(128u32),
            one: leak(1u32),
            zero_time: leak([0u64; 2]),
            moment: leak([0u64, 1]),
            poll: leak(libc::pollfd { fd: pipe as i32, events: libc::POLLIN, revents: 0 }),
            event,
            signals: leak(0u64),
            open_how: leak([(libc::O_RDONLY | libc::O_DIRECTORY) as u64, 0, 0]),
            // struct clone_args, of which the fifth member is the signal at exit.
            clone_args: leak([0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, 0, 0, 0]),
            ring_parameters,
            bpf_attribute: leak([0u64; 16]),
            // struct perf_event_attr: type PERF_TYPE_SOFTWARE, size PERF_ATTR_SIZE_VER0.
            perf_attribute: leak([1 | (64u64 << 32), 0, 0, 0, 0, 0, 0, 0]),
            names: names(scratch)?,
        })
    }

    /// The path with this label for a round.
    pub fn name(&self, label: &str, round: usize) -> usize {
        self.names.iter().find(|(known, _)| *known == label).map_or(0, |(_, names)| names[round])
    }

    /// A page of memory to do away with in this round.
    pub fn page_of(&self, round: usize) -> usize {
        self.pages + round * PAGE
    }
}
