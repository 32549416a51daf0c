//! The bpf(2) commands aya 0.14 has no call for. The only place that talks to the kernel in raw attributes.

use super::functions::Types;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const PROG_LOAD: i32 = 5;
const MAP_FREEZE: i32 = 22;
const RAW_TRACEPOINT_OPEN: i32 = 17;
const BTF_LOAD: i32 = 18;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const ENABLE_STATS: i32 = 32;

/// Program types (`enum bpf_prog_type`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ProgramType {
    /// kprobe.
    Kprobe = 2,
    /// tc classifier.
    SchedCls = 3,
    /// Packets at a cgroup's sockets.
    CgroupSkb = 8,
    /// Making of sockets by a cgroup.
    CgroupSock = 9,
    /// Raw tracepoint.
    RawTracepoint = 17,
    /// A cgroup's socket hooks.
    CgroupSockAddr = 18,
    /// Trampolines.
    Tracing = 26,
    /// BPF LSM.
    Lsm = 29,
}

/// Attach types (`enum bpf_attach_type`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// Packets arriving at a cgroup's sockets; also what program types without an attach type carry.
    CgroupInetIngress = 0,
    /// Packets leaving a cgroup's sockets.
    CgroupInetEgress = 1,
    /// Making of an IP socket.
    CgroupInetSockCreate = 2,
    /// bind of an IPv4 socket.
    Inet4Bind = 8,
    /// bind of an IPv6 socket.
    Inet6Bind = 9,
    /// connect of an IPv4 socket.
    Inet4Connect = 10,
    /// connect of an IPv6 socket.
    Inet6Connect = 11,
    /// Sending from an unconnected IPv4 UDP socket.
    Udp4Sendmsg = 14,
    /// Sending from an unconnected IPv6 UDP socket.
    Udp6Sendmsg = 15,
    /// Trampoline before the function (`fentry`).
    FunctionEntry = 24,
    /// Trampoline behind the function (`fexit`).
    FunctionExit = 25,
    /// Trampoline that may replace the function (`fmod_ret`).
    ModifyReturn = 26,
    /// LSM hook for all tasks.
    LsmMac = 27,
    /// kprobe through a perf event.
    PerfEvent = 41,
    /// One link for many kprobes.
    KprobeMulti = 42,
    /// tcx, arriving at a device.
    TcxIngress = 46,
    /// tcx, leaving a device.
    TcxEgress = 47,
}

/// `BPF_F_SLEEPABLE` (5.10).
const F_SLEEPABLE: u32 = 1 << 4;

/// `BPF_F_BEFORE` without a relative program: first in the chain.
const F_FIRST: u32 = 1 << 3;

fn call<T>(command: i32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: every `T` of this module mirrors the head of `union bpf_attr` for its command; the kernel treats what
    // lies behind the given size as zero. Pointers inside stay valid for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn call_for_fd<T>(command: i32, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: on success these commands return a new descriptor (with O_CLOEXEC) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// How often a program is given to a verifier that a signal interrupts.
const LOADS: u32 = 32;

/// Loads a program. The verifier gives up with `EAGAIN` when a signal arrives (`do_check` in kernel/bpf/verifier.c, 5.0),
/// which says nothing about the program.
fn call_for_program(attributes: &mut ProgLoad) -> io::Result<OwnedFd> {
    for _ in 1..LOADS {
        match call_for_fd(PROG_LOAD, attributes) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                log::debug!("a signal interrupted the verifier")
            }
            result => return result,
        }
    }
    call_for_fd(PROG_LOAD, attributes)
}

/// What to load.
pub struct Load<'a> {
    /// Shown by bpftool; at most 15 characters.
    pub name: &'a str,
    /// Program type.
    pub program_type: ProgramType,
    /// Attach type the verifier checks for.
    pub attach_type: AttachType,
    /// Instructions, 8 bytes each.
    pub instructions: &'a [u64],
    /// Function in the kernel's type information that the program attaches to, or 0.
    pub attach_btf_id: u32,
    /// Whether it may sleep.
    pub sleepable: bool,
    /// What functions the program consists of, if it has more than one.
    pub types: Option<&'a Types>,
}

#[repr(C)]
struct BtfLoad {
    btf: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    /// Below 6.4 the kernel refuses anything but 0 behind the last field (`CHECK_ATTR`, kernel/bpf/syscall.c).
    reserved: u32,
}

const _: () = assert!(size_of::<BtfLoad>() == 32);

/// Loads a program's own type information (4.18). On failure the kernel's log comes with the error.
fn load_types(types: &Types) -> Result<OwnedFd, (io::Error, String)> {
    let mut attributes = BtfLoad {
        btf: types.data.as_ptr() as u64,
        log: 0,
        size: types.data.len() as u32,
        log_size: 0,
        log_level: 0,
        reserved: 0,
    };
    let error = match call_for_fd(BTF_LOAD, &mut attributes) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    let mut log = vec![0u8; 1 << 16];
    attributes.log = log.as_mut_ptr() as u64;
    attributes.log_size = log.len() as u32;
    attributes.log_level = 1;
    // Only for its log.
    let _ = call_for_fd(BTF_LOAD, &mut attributes);
    Err((error, format!("its type information: {}", text(&log))))
}

/// What the kernel has written into a log.
fn text(log: &[u8]) -> String {
    String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

const _: () = assert!(size_of::<ProgLoad>() == 112);

/// Loads a program. On failure the verifier's log comes with the error; it is asked for only then, since writing it
/// is slow.
pub fn load(what: &Load<'_>) -> Result<OwnedFd, (io::Error, String)> {
    // Held until the program is loaded, which then holds it.
    let types = what.types.map(load_types).transpose()?;
    let functions = what.types.map(|types| &types.functions[..]).unwrap_or_default();
    let mut attributes = ProgLoad {
        prog_btf_fd: types.as_ref().map_or(0, |types| types.as_raw_fd() as u32),
        func_info_rec_size: size_of::<[u32; 2]>() as u32,
        func_info: functions.as_ptr() as u64,
        func_info_cnt: functions.len() as u32,
        prog_type: what.program_type as u32,
        insn_cnt: what.instructions.len() as u32,
        insns: what.instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_type: what.attach_type as u32,
        attach_btf_id: what.attach_btf_id,
        prog_flags: if what.sleepable { F_SLEEPABLE } else { 0 },
        ..ProgLoad::default()
    };
    for (to, from) in attributes.prog_name.iter_mut().take(15).zip(what.name.bytes()) {
        *to = from;
    }
    let error = match call_for_program(&mut attributes) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    let mut log = vec![0u8; 1 << 20];
    attributes.log_level = 1;
    attributes.log_size = log.len() as u32;
    attributes.log_buf = log.as_mut_ptr() as u64;
    if let Ok(fd) = call_for_program(&mut attributes) {
        // A passing shortage; the program is fine.
        return Ok(fd);
    }
    Err((error, text(&log)))
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    extra: [u64; 4],
}

fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<OwnedFd> {
    call_for_fd(
        LINK_CREATE,
        &mut LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target,
            attach_type: attach_type as u32,
            flags,
            extra: [0; 4],
        },
    )
}

/// Attaches to a device of the calling thread's network namespace, first in its tcx egress chain (6.6).
pub fn link_tcx_egress(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    link_create(program, device, AttachType::TcxEgress, F_FIRST)
}

/// Attaches to a device of the calling thread's network namespace, first in its tcx ingress chain (6.6).
pub fn link_tcx_ingress(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    link_create(program, device, AttachType::TcxIngress, F_FIRST)
}

/// Attaches to a cgroup (5.7).
pub fn link_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    link_create(program, cgroup.as_raw_fd() as u32, attach_type, 0)
}

/// Puts another program in the place of a link's (5.7 for cgroups, 6.6 for tcx): every event meets one of both.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // struct {link_fd, new_prog_fd, flags, old_prog_fd}.
    call(LINK_UPDATE, &mut [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0]).map(drop)
}

/// Attaches a kprobe program to a perf event of the kprobe kind (5.15).
pub fn link_perf_event(program: BorrowedFd<'_>, event: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    link_create(program, event.as_raw_fd() as u32, AttachType::PerfEvent, 0)
}

#[repr(C)]
struct LinkCreateMulti {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    multi_flags: u32,
    count: u32,
    symbols: u64,
    addresses: u64,
    cookies: u64,
}

/// Attaches a kprobe program, loaded for [`AttachType::KprobeMulti`], to many functions at once (5.18).
pub fn link_kprobe_multi(program: BorrowedFd<'_>, functions: &[&std::ffi::CStr]) -> io::Result<OwnedFd> {
    let symbols: Vec<u64> = functions.iter().map(|function| function.as_ptr() as u64).collect();
    call_for_fd(
        LINK_CREATE,
        &mut LinkCreateMulti {
            prog_fd: program.as_raw_fd() as u32,
            target: 0,
            attach_type: AttachType::KprobeMulti as u32,
            flags: 0,
            multi_flags: 0,
            count: symbols.len() as u32,
            symbols: symbols.as_ptr() as u64,
            addresses: 0,
            cookies: 0,
        },
    )
}

#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

/// Attaches to a raw tracepoint, or, without a name, to the function the program was loaded for (LSM hooks, `fmod_ret`).
pub fn open_raw_tracepoint(program: BorrowedFd<'_>, name: Option<&std::ffi::CStr>) -> io::Result<OwnedFd> {
    call_for_fd(
        RAW_TRACEPOINT_OPEN,
        &mut RawTracepointOpen {
            name: name.map_or(0, |name| name.as_ptr() as u64),
            prog_fd: program.as_raw_fd() as u32,
            reserved: 0,
        },
    )
}

const PROG_TEST_RUN: i32 = 10;

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
}

/// Runs a raw tracepoint program once in the calling task (5.10) and returns its result.
pub fn run_once(program: BorrowedFd<'_>) -> io::Result<u32> {
    let context = [0u64; 12];
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    call(PROG_TEST_RUN, &mut attributes)?;
    Ok(attributes.retval)
}

/// Runs a program of packets `repeat` times on one packet, in the calling thread, and returns its last result.
pub fn run_on_packet(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<u32> {
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    call(PROG_TEST_RUN, &mut attributes)?;
    Ok(attributes.retval)
}

/// Keeps the kernel's statistics of programs on for as long as the descriptor is open (5.8).
pub fn enable_statistics() -> io::Result<OwnedFd> {
    // `BPF_STATS_RUN_TIME`.
    call_for_fd(ENABLE_STATS, &mut 0u32)
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Writes the only value of a map of globals.
pub fn fill(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0u32;
    let mut attributes = MapElement {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Forbids any later change of a map, so that the verifier may take its contents for constants (5.5).
pub fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    call(MAP_FREEZE, &mut (map.as_raw_fd() as u32)).map(drop)
}

/// Puts a cgroup into a slot of a cgroup array.
pub fn set_cgroup_slot(map: BorrowedFd<'_>, slot: u32, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let value = cgroup.as_raw_fd() as u32;
    let mut attributes = MapElement {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: std::ptr::from_ref(&slot) as u64,
        value: std::ptr::from_ref(&value) as u64,
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Empties a slot of a cgroup array.
pub fn clear_cgroup_slot(map: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    let mut attributes = MapElement {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: std::ptr::from_ref(&slot) as u64,
        value: 0,
        flags: 0,
    };
    call(MAP_DELETE_ELEM, &mut attributes).map(drop)
}

const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;

#[repr(C)]
struct GetInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The id of a loaded program: field 1 of `struct bpf_prog_info`.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0u32; 2];
    let mut attributes = GetInfo {
        fd: program.as_raw_fd() as u32,
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info[1])
}

/// How often the kernel skipped a program because the processor was already inside it (5.12): field
/// `recursion_misses` of `struct bpf_prog_info`.
pub fn program_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    const RECURSION_MISSES: usize = 208 / 8;
    let mut info = [0u64; RECURSION_MISSES + 1];
    let mut attributes = GetInfo {
        fd: program.as_raw_fd() as u32,
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info[RECURSION_MISSES])
}

const PROG_QUERY: i32 = 16;

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Ids of the programs in the tcx egress chain of a device of the calling thread's network namespace (6.6), in their
/// order.
pub fn tcx_egress_programs(device: u32) -> io::Result<Vec<u32>> {
    // `BPF_MPROG_MAX` (include/linux/bpf_mprog.h).
    let mut ids = [0u32; 64];
    let mut query = Query {
        target: device,
        attach_type: AttachType::TcxEgress as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        reserved: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    match call(PROG_QUERY, &mut query) {
        Ok(_) => Ok(ids[..(query.count as usize).min(ids.len())].to_vec()),
        // Nothing is attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Whether a program with this id is still in the kernel.
pub fn program_exists(id: u32) -> bool {
    call_for_fd(PROG_GET_FD_BY_ID, &mut [id, 0]).is_ok()
}
