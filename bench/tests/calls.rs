//! What hooks cost system calls, in instructions where the machine counts them.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use bench::arms::Arms;
use bench::bystander::{Bystander, while_in};
use bench::kernel::{counted, empty};
use chaos_common::syscall::HOOK_FILE_PERMISSION;
use chaos_userspace::host::cgroup::Hierarchy;
use chaos_userspace::host::types::KernelTypes;
use chaos_userspace::inject::bpf::{AttachType, ProgramType};
use chaos_userspace::inject::link::{Link, OnCgroup};
use chaos_userspace::inject::program::Kind;
use chaos_userspace::plan::{EntryHook, Mechanism, SecurityHook, SocketHook};
use integration_tests::capability::{
    fmod_ret_security_works, fmod_ret_sys_works, kernel_name, kprobe_multi_works, kprobe_override_works,
    lsm_works, socket_hooks_work,
};
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::loaded::{Loaded, call, plan, strangers};
use integration_tests::measure::measure;
use integration_tests::program_info::info;
use integration_tests::samples;
use integration_tests::skip;
use serde_json::json;

const FUNCTION: &str = "__x64_sys_read";
const HOOK: &str = "file_permission";

fn read_byte(file: &File) -> isize {
    let mut byte = 0u8;
    // SAFETY: one byte of the stack.
    unsafe { libc::read(file.as_raw_fd(), (&raw mut byte).cast(), 1) }
}

/// What the processor counts, per call: the least of many batches, which nothing else has interrupted. Guest instructions where
/// the machine counts them, cycles elsewhere.
fn per_call(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 100;
    let batches = if samples::full() { 60 } else { 5 };
    let mut batch = || {
        let start = counted();
        for _ in 0..CALLS {
            call();
        }
        (counted() - start) as f64 / f64::from(CALLS)
    };
    batch();
    (0..batches).map(|_| batch()).fold(f64::INFINITY, f64::min)
}

/// A way to hook a one-byte read of /dev/zero.
struct Way {
    name: &'static str,
    mechanism: Mechanism,
    kind: Kind,
    program_type: ProgramType,
    attach_type: AttachType,
    /// The kernel function in a trampoline.
    traced: Option<String>,
}

impl Way {
    fn attach(&self, program: &impl AsFd) -> Result<Link> {
        let link = match self.kind {
            Kind::Kprobe => Link::kprobe(program.as_fd(), FUNCTION),
            Kind::KprobeMulti => Link::kprobe_multi(program.as_fd(), &[FUNCTION]),
            _ => Link::function(program.as_fd(), self.name),
        };
        link.with_context(|| format!("attaching by {}", self.name))
    }

    fn empty(&self) -> Result<OwnedFd> {
        let id = match &self.traced {
            Some(function) => {
                let types = KernelTypes::read().context("no type information")?;
                types.function(function).with_context(|| format!("no function {function}"))?
            }
            None => 0,
        };
        empty(self.program_type, self.attach_type, id)
    }
}

fn ways() -> Result<Vec<Way>> {
    let id = HOOK_FILE_PERMISSION;
    let entry = |by| Mechanism::Entry { by, function: FUNCTION.to_owned() };
    let security = |by| Mechanism::Security { by, hook: HOOK, id };
    let none = AttachType::CgroupInetIngress;
    let all = [
        (
            kprobe_override_works(),
            Way {
                name: "kprobe",
                mechanism: entry(EntryHook::Kprobe),
                kind: Kind::Kprobe,
                program_type: ProgramType::Kprobe,
                attach_type: none,
                traced: None,
            },
        ),
        (
            kprobe_multi_works(),
            Way {
                name: "kprobe_multi",
                mechanism: entry(EntryHook::KprobeMulti),
                kind: Kind::KprobeMulti,
                program_type: ProgramType::Kprobe,
                attach_type: AttachType::KprobeMulti,
                traced: None,
            },
        ),
        (
            fmod_ret_sys_works()?,
            Way {
                name: "fmod_ret_sys",
                mechanism: entry(EntryHook::FmodRet),
                kind: Kind::Entry { function: FUNCTION.to_owned() },
                program_type: ProgramType::Tracing,
                attach_type: AttachType::ModifyReturn,
                traced: Some(FUNCTION.to_owned()),
            },
        ),
        (
            fmod_ret_security_works()?,
            Way {
                name: "fmod_ret_security",
                mechanism: security(SecurityHook::FmodRet),
                kind: Kind::Security { function: format!("security_{HOOK}"), id },
                program_type: ProgramType::Tracing,
                attach_type: AttachType::ModifyReturn,
                traced: Some(format!("security_{HOOK}")),
            },
        ),
        (
            lsm_works()?,
            Way {
                name: "lsm",
                mechanism: security(SecurityHook::Lsm),
                kind: Kind::Lsm { hook: HOOK, id },
                program_type: ProgramType::Lsm,
                attach_type: AttachType::LsmMac,
                traced: Some(format!("bpf_lsm_{HOOK}")),
            },
        ),
    ];
    Ok(all.into_iter().filter(|(works, _)| *works).map(|(_, way)| way).collect())
}

/// One arm: what is attached for it.
struct Arm {
    name: String,
    program: Option<OwnedFd>,
    loaded: Option<Loaded>,
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn hooked_reads() -> Result<()> {
    let caller = Bystander::new()?;
    let own = Hierarchy::find()?.open(caller.path())?;
    let zero = File::open("/dev/zero").context("/dev/zero")?;
    for way in ways()? {
        let nothing = |name: &str| Arm { name: name.to_owned(), program: None, loaded: None };
        let mut arms = vec![nothing("nothing attached"), nothing("nothing attached again")];
        for name in ["empty program", "empty program again"] {
            arms.push(Arm { name: name.to_owned(), program: Some(way.empty()?), loaded: None });
        }
        let strangers_of = |count| {
            (format!("kchaos, {count} targets, none of them the caller's"), strangers(count, own.level()))
        };
        let mut cases: Vec<_> =
            [1, 8, 100, 1_000].map(|count| (strangers_of(count), "read=EIO@1%", 1)).into();
        cases.push((
            ("kchaos, 1 target, 64 rules, not the caller's".to_owned(), strangers(1, own.level())),
            "read=EIO@1%",
            64,
        ));
        let hit = vec![(own.id(), own.level())];
        cases.push((("kchaos, the caller's call passes".to_owned(), hit.clone()), "read=EIO@0%", 1));
        cases.push((("kchaos, the caller's call fails".to_owned(), hit), "read=EIO@100%", 1));
        for ((name, targets), fault, rules) in cases {
            let rules = (0..rules).map(|_| call(fault, way.mechanism.clone())).collect::<Result<_>>()?;
            let plan = plan(rules)?;
            if !plan.task_ancestor && targets.len() > 64 {
                continue;
            }
            // Below 5.12 targets are asked for one by one, by descriptors of cgroups that strangers do not have.
            if !plan.task_ancestor {
                continue;
            }
            let mut loaded = Loaded::new(&plan, &targets)?;
            let program = loaded.load(&way.kind)?;
            arms.push(Arm { name, program: Some(program), loaded: Some(loaded) });
        }
        let names: Vec<_> = arms.iter().map(|arm| arm.name.as_str()).collect();
        let rounds = if samples::full() { 7 } else { 2 };
        let told = Arms::measure(&names, rounds, |arm| {
            let link = arms[arm].program.as_ref().map(|program| way.attach(program)).transpose()?;
            let figure = per_call(|| {
                read_byte(&zero);
            });
            drop(link);
            Ok(figure)
        })?;
        ensure!(read_byte(&zero) == 1, "reading still fails");
        let instructions = |arm: &Arm| arm.program.as_ref().and_then(|program| info(program.as_fd()).ok());
        let about: Vec<_> = arms
            .iter()
            .filter_map(|arm| Some((&arm.name, instructions(arm)?, arm.loaded.is_some())))
            .map(|(name, about, ours)| {
                json!({"arm": name, "ours": ours, "translated": about.translated, "jited_bytes": about.jited,
                       "verified": about.verified})
            })
            .collect();
        measure(
            "hooked_read",
            json!({"kernel": kernel_name(), "way": way.name, "arms": told.told(), "programs": about}),
        );
    }
    Ok(())
}

/// Where a socket hook is attached.
#[derive(Clone, Copy)]
enum On {
    Nothing,
    Others,
    Own,
}

/// Hooks of one cgroup's sockets: what connecting pays in it, and beside it.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn hooked_connects() -> Result<()> {
    if !socket_hooks_work() {
        skip!("socket hooks cannot set an errno");
    }
    let cgroup = TestCgroup::new()?;
    let (others, own) = (cgroup.child("target")?, cgroup.child("caller")?);
    while_in(own.path(), || hooked_connects_in(&others, &own))
}

fn hooked_connects_in(others: &Cgroup, own: &Cgroup) -> Result<()> {
    let hierarchy = Hierarchy::find()?;
    let (others, own) = (hierarchy.open(others.path())?, hierarchy.open(own.path())?);
    let attach_type = AttachType::Inet4Connect;
    let base = empty(ProgramType::CgroupSockAddr, attach_type, 0)?;
    let loaded = |target: &chaos_userspace::host::cgroup::Cgroup, fault| -> Result<(Loaded, OwnedFd)> {
        let plan = plan(vec![call(fault, Mechanism::Socket(SocketHook::Connect4))?])?;
        let mut loaded = Loaded::new(&plan, &[(target.id(), target.level())])?;
        let program = loaded.load(&Kind::Socket { attach_type, slot: 0 })?;
        Ok((loaded, program))
    };
    let (_others, elsewhere) = loaded(&others, "connect=EIO@100%")?;
    let (_passes, passes) = loaded(&own, "connect=EIO@0%")?;
    let (_fails, fails) = loaded(&own, "connect=EIO@100%")?;
    let arms = [
        ("nothing attached", On::Nothing, &base),
        ("nothing attached again", On::Nothing, &base),
        ("empty program, on another cgroup", On::Others, &base),
        ("kchaos, on another cgroup", On::Others, &elsewhere),
        ("empty program, on the caller's", On::Own, &base),
        ("kchaos, the caller's call passes", On::Own, &passes),
        ("kchaos, the caller's call fails", On::Own, &fails),
    ];
    let socket = UdpSocket::bind("127.0.0.1:0").context("binding")?;
    let rounds = if samples::full() { 7 } else { 2 };
    let told = Arms::measure(&arms.map(|(name, ..)| name), rounds, |arm| {
        let (name, on, program) = arms[arm];
        let to = match on {
            On::Nothing => None,
            On::Others => Some(&others),
            On::Own => Some(&own),
        };
        let attach = |to: &chaos_userspace::host::cgroup::Cgroup| {
            let on = OnCgroup { cgroup: to.id(), program: 0, attach_type };
            Link::cgroup(program.as_fd(), to.as_fd(), on, name).with_context(|| name.to_owned())
        };
        let link = to.map(attach).transpose()?;
        let failing = socket.connect("127.0.0.1:9").is_err();
        ensure!(failing == name.ends_with("fails"), "{name}: connecting fails: {failing}");
        let figure = per_call(|| {
            let _fails_where_it_should = socket.connect("127.0.0.1:9");
        });
        drop(link);
        Ok(figure)
    })?;
    measure("hooked_connect", json!({"kernel": kernel_name(), "arms": told.told()}));
    Ok(())
}
