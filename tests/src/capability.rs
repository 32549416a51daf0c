//! What this kernel can do, found by trying; only tests whose subject is missing may skip.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Btf;
use aya_obj::btf::BtfKind;
use nix::errno::Errno;

use crate::netns::NetNs;

/// Name of this machine in the kernel matrix.
pub fn kernel_name() -> String {
    std::env::var("KCHAOS_KERNEL").unwrap_or_else(|_| "host".into())
}

/// Whether this is the developer's own machine rather than an emulated one of the matrix.
pub fn on_host() -> bool {
    kernel_name() == "host"
}

/// Whether alarms ring (CONFIG_POSIX_TIMERS).
pub fn has_posix_timers() -> bool {
    // SAFETY: all bytes zero are a value of the plain structure, and it lives through the call.
    unsafe {
        let mut left: libc::itimerval = std::mem::zeroed();
        libc::getitimer(libc::ITIMER_REAL, &raw mut left) == 0
    }
}

/// Whether tcx hooks exist (6.6): where they do not, kchaos uses clsact filters.
pub fn has_tcx() -> bool {
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    const BPF_LINK_CREATE: u32 = 28;
    const BPF_TCX_EGRESS: u32 = 47;
    const NO_SUCH_DEVICE: u32 = i32::MAX as u32;
    let Ok(program) = load(BPF_PROG_TYPE_SCHED_CLS, 0, 0, &RETURN_ZERO) else {
        return false;
    };
    // struct bpf_attr.link_create {prog_fd, target_ifindex, attach_type, flags}
    let mut attribute = [0u32; 16];
    attribute[..3].copy_from_slice(&[program as u32, NO_SUCH_DEVICE, BPF_TCX_EGRESS]);
    let created = bpf(BPF_LINK_CREATE, &attribute);
    close(program);
    // An attach type the kernel does not know is refused as such (EINVAL), one it knows goes on to the device.
    matches!(created, Err(Errno::ENODEV))
}

/// Whether BPF programs are asked by the LSM framework: without `bpf` in this list they load, attach and never fire.
pub fn lsm_lists_bpf() -> bool {
    std::fs::read_to_string("/sys/kernel/security/lsm")
        .is_ok_and(|list| list.split(',').any(|name| name.trim() == "bpf"))
}

/// Whether an LSM program can be attached and will be asked.
pub fn lsm_works() -> Result<bool> {
    Ok(lsm_lists_bpf() && attaches_lsm_program()?)
}

/// Whether a kprobe on a system call can set its result.
pub fn kprobe_override_works() -> bool {
    let marker = if cfg!(target_arch = "aarch64") { "__arm64_sys_openat" } else { "__x64_sys_openat" };
    let listed = std::fs::read_to_string("/sys/kernel/debug/error_injection/list")
        .is_ok_and(|list| list.lines().any(|line| line.split_whitespace().next() == Some(marker)));
    listed && loads_override_program()
}

/// Whether a trampoline can replace the functions that ask the security modules.
pub fn fmod_ret_security_works() -> Result<bool> {
    attaches_fmod_ret("security_file_open")
}

/// Whether a trampoline can replace the functions of system calls.
pub fn fmod_ret_sys_works() -> Result<bool> {
    attaches_fmod_ret("__x64_sys_openat")
}

/// Whether a trampoline can replace a system call function without arguments, which is known by its body's name.
pub fn fmod_ret_reaches_bodies() -> Result<bool> {
    attaches_fmod_ret("__do_sys_getppid")
}

/// Whether a kprobe.multi program that overrides can be loaded and attached.
pub fn kprobe_multi_works() -> bool {
    const BPF_PROG_TYPE_KPROBE: u32 = 2;
    const BPF_LINK_CREATE: u32 = 28;
    const BPF_TRACE_KPROBE_MULTI: u32 = 42;
    let Ok(program) = load(BPF_PROG_TYPE_KPROBE, BPF_TRACE_KPROBE_MULTI, 0, &OVERRIDE) else {
        return false;
    };
    // struct bpf_attr.link_create {prog_fd, target, attach_type, flags, kprobe_multi {flags, cnt, syms, addrs, cookies}};
    // a system call that nobody makes.
    let names = [c"__x64_sys_vhangup".as_ptr()];
    let symbols = names.as_ptr() as u64;
    let (low, high) = (symbols as u32, (symbols >> 32) as u32);
    let attribute = [program as u32, 0, BPF_TRACE_KPROBE_MULTI, 0, 0, 1, low, high, 0, 0, 0, 0];
    let link = bpf(BPF_LINK_CREATE, &attribute);
    close(program);
    link.map(close).is_ok()
}

/// Whether socket hooks can set any errno (5.18).
pub fn socket_hooks_work() -> bool {
    const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
    const BPF_CGROUP_INET4_CONNECT: u32 = 10;
    // r1 = -1; call bpf_set_retval; r0 = 1; exit
    const SET: [u64; 4] =
        [0xffff_ffff_0000_01b7, 0x0000_00bb_0000_0085, 0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, 0, &SET).map(close).is_ok()
}

/// Whether io_uring's threads are tasks of whoever made the ring (`create_io_thread`, Linux 5.12).
pub fn rings_belong_to_their_makers() -> Result<bool> {
    at_least(5, 12)
}

/// Whether a handled signal waits for the answer of a seccomp listener (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19).
pub fn answers_come_before_signals() -> Result<bool> {
    at_least(5, 19)
}

/// Whether this kernel is of this release or a later one.
fn at_least(major: u32, minor: u32) -> Result<bool> {
    let asked = (major, minor);
    let name = nix::sys::utsname::uname()?;
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("'{release}' is no release of Linux");
    };
    Ok((major, minor) >= asked)
}

/// Whether a mechanism, by its name on the command line, works here.
pub fn mechanism_works(name: &str) -> Result<bool> {
    Ok(match name {
        "lsm" => lsm_works()?,
        "fmod_ret_security" => fmod_ret_security_works()?,
        "fmod_ret_sys" => fmod_ret_sys_works()?,
        "kprobe_multi" => kprobe_multi_works(),
        "kprobe" => kprobe_override_works(),
        "cgroup_sock_addr" => socket_hooks_work(),
        "lsm_sleep" => lsm_works()? && at_least(6, 12)?,
        other => anyhow::bail!("no mechanism is called {other}"),
    })
}

/// Whether programs can look on at any function (CONFIG_KPROBES).
pub fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe").exists()
}

/// The mechanism that carries `openat` here, if any.
pub fn openat_mechanism() -> Result<Option<&'static str>> {
    for name in ["lsm", "fmod_ret_security", "fmod_ret_sys", "kprobe_multi", "kprobe"] {
        if mechanism_works(name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether `--fail` has any mechanism for calls on files here.
pub fn fails_syscalls() -> Result<bool> {
    Ok(openat_mechanism()?.is_some())
}

/// Whether the packages the tests need are there.
pub fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).any(|directory| directory.join(name).exists())
        || ["/usr/sbin", "/sbin"].iter().any(|directory| Path::new(directory).join(name).exists())
}

/// Why netem cannot be used here, if it cannot.
pub fn netem_missing() -> Result<Option<String>> {
    if !has_tool("tc") {
        return Ok(Some("no tc (package iproute2)".into()));
    }
    let scratch = NetNs::new()?;
    Ok(scratch
        .try_run("tc", "qdisc add dev lo root netem loss 1%")?
        .err()
        .map(|said| format!("no netem: {said}")))
}

/// Why packets cannot be delayed here, if they cannot.
pub fn delay_missing() -> Result<Option<String>> {
    if !has_tcx() {
        return Ok(Some("no tcx links (6.6)".into()));
    }
    netem_missing()
}

/// Why no mechanism of this kernel fails calls on files, if none does.
pub fn file_errors_missing() -> Result<Option<&'static str>> {
    Ok((!fails_syscalls()?).then_some("no mechanism fails calls on files"))
}

/// Why calls on files cannot be failed by their number, if they cannot.
pub fn counted_errors_missing() -> Result<Option<&'static str>> {
    if !counts_exactly() {
        return Ok(Some("no fetching atomics"));
    }
    file_errors_missing()
}

/// Whether atomic operations return a value (5.12): without, nothing is counted across CPUs.
pub fn counts_exactly() -> bool {
    const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
    load(BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0, &FETCH_ADD).map(close).is_ok()
}

/// Instructions `*(u64 *)(r10 - 8) = 0; r1 = 1; r1 = atomic_fetch_add((u64 *)(r10 - 8), r1); r0 = 0; exit`.
const FETCH_ADD: [u64; 5] = [
    0x0000_0000_fff8_0a7a,
    0x0000_0001_0000_01b7,
    0x0000_0001_fff8_1adb,
    0x0000_0000_0000_00b7,
    0x0000_0000_0000_0095,
];

/// Instructions `r0 = 0; exit`.
const RETURN_ZERO: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
/// Instructions `r2 = 0; call bpf_override_return; r0 = 0; exit`.
const OVERRIDE: [u64; 4] =
    [0x0000_0000_0000_02b7, 0x0000_003a_0000_0085, 0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

const BPF_PROG_LOAD: u32 = 5;
const BPF_RAW_TRACEPOINT_OPEN: u32 = 17;

fn loads_override_program() -> bool {
    const BPF_PROG_TYPE_KPROBE: u32 = 2;
    load(BPF_PROG_TYPE_KPROBE, 0, 0, &OVERRIDE).map(close).is_ok()
}

fn attaches_lsm_program() -> Result<bool> {
    const BPF_PROG_TYPE_LSM: u32 = 29;
    const BPF_LSM_MAC: u32 = 27;
    attaches_trampoline(BPF_PROG_TYPE_LSM, BPF_LSM_MAC, "bpf_lsm_file_open")
}

fn attaches_fmod_ret(function: &str) -> Result<bool> {
    const BPF_PROG_TYPE_TRACING: u32 = 26;
    const BPF_MODIFY_RETURN: u32 = 26;
    attaches_trampoline(BPF_PROG_TYPE_TRACING, BPF_MODIFY_RETURN, function)
}

fn attaches_trampoline(kind: u32, attach_type: u32, function: &str) -> Result<bool> {
    let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
    let Ok(hook) = btf.id_by_type_name_kind(function, BtfKind::Func) else {
        return Ok(false);
    };
    let Ok(program) = load(kind, attach_type, hook, &RETURN_ZERO) else {
        return Ok(false);
    };
    // struct bpf_attr.raw_tracepoint {name (8 bytes), prog_fd}
    let mut attribute = [0u32; 16];
    attribute[2] = program as u32;
    let link = bpf(BPF_RAW_TRACEPOINT_OPEN, &attribute);
    close(program);
    Ok(link.map(close).is_ok())
}

fn load(kind: u32, attach_type: u32, attach_btf_id: u32, instructions: &[u64]) -> nix::Result<i32> {
    // struct bpf_attr of BPF_PROG_LOAD, in 32-bit words: type 0, insn_cnt 1, insns 2-3, license 4-5, expected_attach_type
    // 17, attach_btf_id 27.
    let mut attribute = [0u32; 32];
    let mut pointer = |word: usize, address: usize| {
        attribute[word] = address as u32;
        attribute[word + 1] = (address as u64 >> 32) as u32;
    };
    pointer(2, instructions.as_ptr() as usize);
    pointer(4, c"GPL".as_ptr() as usize);
    attribute[0] = kind;
    attribute[1] = instructions.len() as u32;
    attribute[17] = attach_type;
    attribute[27] = attach_btf_id;
    bpf(BPF_PROG_LOAD, &attribute)
}

fn bpf<const WORDS: usize>(command: u32, attribute: &[u32; WORDS]) -> nix::Result<i32> {
    // SAFETY: the kernel reads `attribute` and what it points to, both of which live across the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute)) };
    Errno::result(result).map(|fd| fd as i32)
}

fn close(fd: i32) {
    // SAFETY: the descriptor was made just before and nobody else knows it.
    unsafe { libc::close(fd) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_tools_on_the_path() {
        assert!(has_tool("sh") && !has_tool("no-such-tool-of-kchaos"));
    }
}
