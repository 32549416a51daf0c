//! How large the kernel programs are, as the verifier follows them and as machine code: compared with tests/baseline.json
//! by `cargo xtask test`.

use std::os::fd::AsFd as _;

use anyhow::{Result, ensure};
use chaos_userspace::inject::bpf::AttachType;
use chaos_userspace::inject::program::Kind;
use chaos_userspace::plan::{EntryHook, Mechanism, SecurityHook, SocketHook, syscall::hooks};
use chaos_userspace::spec::corrupt::Corrupt;
use chaos_userspace::spec::network::{Direction, Effect};
use chaos_userspace::spec::{Fault, syscall};
use integration_tests::loaded::{Loaded, call, late_arrival, loss, packets, plan, strangers};
use integration_tests::measure::measure;
use integration_tests::program_info::info;
use serde_json::json;

const FUNCTION: &str = "__x64_sys_read";

/// Loads a program and tells its size; what a kernel cannot load has none.
fn tell(what: &str, loaded: &mut Loaded, kind: &Kind) -> bool {
    let Ok(program) = loaded.load(kind) else { return false };
    let Ok(info) = info(program.as_fd()) else { return false };
    // Below 5.16 the kernel does not tell what it has followed.
    let name = format!("{} {what}", kind.program());
    measure(
        "program_size",
        json!({"program": name, "verified": info.verified, "translated": info.translated, "jited": info.jited}),
    );
    true
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn programs_are_told_with_their_sizes() -> Result<()> {
    let one = strangers(1, 2);
    let mut told = 0;
    let mut add = |what: &str, loaded: &mut Loaded, kind: &Kind| told += u32::from(tell(what, loaded, kind));

    let mut lossy = Loaded::new(&plan(vec![loss("10%")?])?, &one)?;
    add("loss", &mut lossy, &Kind::NetEgress);
    add("loss", &mut lossy, &Kind::Witness);
    add("loss", &mut lossy, &Kind::Exec);
    add(
        "loss, 100 targets",
        &mut Loaded::new(&plan(vec![loss("10%")?])?, &strangers(100, 2))?,
        &Kind::NetEgress,
    );
    let rules = (0..64).map(|_| loss("10%")).collect::<Result<Vec<_>>>()?;
    add("loss, 64 rules", &mut Loaded::new(&plan(rules)?, &one)?, &Kind::NetEgress);
    let changing = [Effect::Duplicate, Effect::Corrupt(Corrupt::Payload), Effect::Reset];
    let changing =
        changing.map(|effect| Ok((packets(Direction::Egress, effect, "10%")?, vec![Mechanism::Tcx])));
    let changing = changing.into_iter().collect::<Result<Vec<_>>>()?;
    add("duplicate, corrupt, reset", &mut Loaded::new(&plan(changing)?, &one)?, &Kind::NetEgress);
    let arriving = (packets(Direction::Ingress, Effect::Loss, "10%")?, vec![Mechanism::CgroupSkb]);
    add("loss", &mut Loaded::new(&plan(vec![arriving])?, &one)?, &Kind::NetIngress);
    let mut late = Loaded::new(&plan(vec![late_arrival()?])?, &one)?;
    add("delay", &mut late, &Kind::NetArrival { namespace: 0 });
    add("delay", &mut late, &Kind::LineA);
    add("delay", &mut late, &Kind::LineB);

    let entry = |by| Mechanism::Entry { by, function: FUNCTION.to_owned() };
    let mut read = Loaded::new(&plan(vec![call("read=EIO@10%", entry(EntryHook::Kprobe))?])?, &one)?;
    add("read", &mut read, &Kind::Kprobe);
    add("read", &mut read, &Kind::Entry { function: FUNCTION.to_owned() });
    add("read", &mut read, &Kind::WatchBegin { function: FUNCTION.to_owned(), slot: 0 });
    add("read", &mut read, &Kind::WatchEnd { function: FUNCTION.to_owned(), slot: 0, arguments: 1 });
    let slow = |holding| -> Result<Loaded> {
        let fault = Fault::Syscall(Box::new(syscall::Fault::slow("read=1ms@10%")?));
        Loaded::new(&plan(vec![(fault, vec![entry(EntryHook::Look), holding])])?, &one)
    };
    add("read, spin", &mut slow(Mechanism::Spin)?, &Kind::Slow);
    let mut stopping = slow(Mechanism::Stop { function: FUNCTION.to_owned(), arguments: 1 })?;
    add("read, stop", &mut stopping, &Kind::Slow);
    add("read", &mut stopping, &Kind::Stop { function: FUNCTION.to_owned(), arguments: 1 });
    let by_process = plan(vec![call("read=EIO,when=3", entry(EntryHook::Kprobe))?])?;
    add("when", &mut Loaded::new(&by_process, &one)?, &Kind::Exit);
    let mut alone = plan(vec![call("read=EIO@10%", entry(EntryHook::Kprobe))?])?;
    alone.trees = vec![1];
    let mut alone = Loaded::new(&alone, &one)?;
    add("read, pid only", &mut alone, &Kind::Kprobe);
    add("pid only", &mut alone, &Kind::Fork);
    add("pid only", &mut alone, &Kind::Exit);
    let (hook, id) = ("file_open", hooks::id("file_open"));
    let function = || format!("security_{hook}");
    for (what, fault) in [("openat", "openat=EIO@10%"), ("openat by path", "openat=EIO@10%,path=/data/*")] {
        let by = SecurityHook::Lsm;
        let mut open = Loaded::new(&plan(vec![call(fault, Mechanism::Security { by, hook, id })?])?, &one)?;
        add(what, &mut open, &Kind::Lsm { hook, id });
        add(&format!("{what}, fmod_ret"), &mut open, &Kind::Security { function: function(), id });
    }
    let connect = plan(vec![call("connect=ECONNREFUSED", Mechanism::Socket(SocketHook::Connect4))?])?;
    let attach_type = AttachType::Inet4Connect;
    add("connect", &mut Loaded::new(&connect, &one)?, &Kind::Socket { attach_type, slot: 0 });
    // Packets can be judged on every kernel of the matrix.
    ensure!(told >= 6, "only {told} programs could be loaded");
    Ok(())
}
