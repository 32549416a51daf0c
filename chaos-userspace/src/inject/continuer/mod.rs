//! The continuer: a process that lets processes go on that kernel programs have stopped, when their time has come.
//!
//! Whoever is stopped stays so until somebody sends SIGCONT, so nobody is stopped who does not stand in a map before. The
//! continuer has that map, and so have the owner and the guardian: whichever of the three is left lets all go on.

mod standing;
mod waiting;

use super::{
    attendant,
    control::ControlPage,
    grace,
    holder::{BEAT, Holder, Role},
    identity,
};
use crate::host::kernel::{allow_descriptors, monotonic_ns};
use aya::maps::{Array, Map, MapData, RingBuf};
use chaos_common::latency::{Held, STOPPED_MAX};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use standing::{Standing, State, StoppedMap};
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};
use waiting::{Step, Waiting};

const ROLE: Role = Role {
    process: "kchaos-continuer",
    command: "continuer",
    gone: "the continuer is gone: no process is stopped any more, those that were go on",
};

/// The maps of an engine by which processes are stopped.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    /// `KC_CONTROL`.
    pub control: BorrowedFd<'a>,
    /// `KC_STOPPED`.
    pub stopped: BorrowedFd<'a>,
    /// `KC_STOPS`.
    pub stops: BorrowedFd<'a>,
    /// `KC_HELD`.
    pub held: BorrowedFd<'a>,
}

/// Starts one for the engine with these maps and waits until it serves. `program` is `kchaos`.
pub fn start(program: &Path, maps: Maps<'_>, page: Arc<ControlPage>) -> io::Result<Holder> {
    let stopped = maps.stopped.try_clone_to_owned()?;
    let let_go = {
        let page = page.clone();
        move || {
            let let_go = stopped.try_clone().and_then(|map| let_all_go(&page, map));
            let_go.unwrap_or_else(|error| log::error!("letting stopped processes go on: {error}"));
        }
    };
    Holder::start(program, &ROLE, &[maps.control, maps.stopped, maps.stops, maps.held], page, let_go)
}

/// Stops nobody any more and lets everybody go on who stands in the map `KC_STOPPED`. Nothing is done where there never was a
/// continuer.
pub fn let_all_go(page: &ControlPage, map: OwnedFd) -> io::Result<()> {
    let_go(page, StoppedMap::of(map)?)
}

fn let_go(page: &ControlPage, mut map: StoppedMap) -> io::Result<()> {
    if !map.is_used() {
        return Ok(());
    }
    page.set_handle(0);
    // Those who stand still already, at once.
    for stopped in map.all() {
        if let Some(process) = Standing::find(&stopped)
            && process.state() == State::Stopped
        {
            process.go_on();
        }
    }
    // Programs that were about to stop somebody have done so.
    grace::wait_for_readers();
    for stopped in map.all() {
        if let Some(process) = Standing::find(&stopped)
            && process.state() != State::StoppedByAnother
        {
            process.go_on();
        }
        map.forget(stopped.process)?;
    }
    map.is_served()
}

/// The continuer's whole life.
pub fn live() -> io::Result<()> {
    // SAFETY: the owner passes these maps, and this process has opened nothing.
    let [control, stopped, stops, held] = unsafe { attendant::received() }?;
    let page = ControlPage::map(&control)?;
    drop(control);
    page.set_own_tgid(2, identity::thread_group_id());
    page.set_sleeper_ns(monotonic_ns());
    allow_descriptors(STOPPED_MAX as usize);
    let map = |fd| MapData::from_fd(fd).map_err(io::Error::other);
    let mut ring = RingBuf::try_from(Map::RingBuf(map(stops)?)).map_err(io::Error::other)?;
    let mut held: Array<MapData, Held> = Array::try_from(Map::Array(map(held)?)).map_err(io::Error::other)?;
    let mut stopped = StoppedMap::of(stopped)?;
    stopped.is_served()?;
    page.set_handle(std::process::id());
    attendant::say_ready()?;
    let mut waiting = Waiting::default();
    let owner = io::stdin();
    let mut scanned_ns = monotonic_ns();
    loop {
        let next = waiting.next(monotonic_ns()).unwrap_or(BEAT).min(BEAT);
        let mut polled =
            vec![PollFd::new(owner.as_fd(), PollFlags::POLLIN), PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        // Of a process that is killed.
        polled.extend(waiting.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match ppoll(&mut polled, Some(TimeSpec::from_duration(next)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if polled.first().and_then(PollFd::any).unwrap_or(false) {
            // The owner is done or dead.
            return let_go(&page, stopped);
        }
        let killed = polled.iter().skip(2).any(|fd| fd.any().unwrap_or(false));
        drop(polled);
        let mut told = vec![];
        while let Some(record) = ring.next() {
            told.extend(<[u8; 8]>::try_from(&*record).map(|bytes| u64::from_ne_bytes(bytes) as u32));
        }
        for process in told {
            stopped.get(process).into_iter().for_each(|one| waiting.add(one));
        }
        let now = monotonic_ns();
        page.set_sleeper_ns(now);
        // What found no room in the ring.
        if now.saturating_sub(scanned_ns) > BEAT.as_nanos() as u64 {
            scanned_ns = now;
            stopped.all().into_iter().for_each(|one| waiting.add(one));
        }
        let all = !page.may_act(now);
        for (one, step) in waiting.due(now, all, killed) {
            // Written down before it is out of the map, so that somebody knows of it whatever happens in between; out of the
            // map before it goes on, so that its next call can be stopped.
            stopped.begin(&one.stopped)?;
            stopped.forget(one.stopped.process)?;
            if step == Step::GoOn {
                one.process.iter().for_each(Standing::go_on);
            }
            stopped.is_served()?;
            account(&mut held, &one.stopped, step, monotonic_ns(), all)?;
        }
    }
}

/// Only the continuer counts, where calls are held back by it.
fn account(
    held: &mut Array<MapData, Held>,
    stopped: &standing::Stop,
    step: Step,
    now_ns: u64,
    all: bool,
) -> io::Result<()> {
    let took_ns = now_ns.saturating_sub(stopped.since_ns);
    let mut sum = held.get(&stopped.rule, 0).map_err(io::Error::other)?;
    sum.calls += 1;
    sum.asked_ns += stopped.asked_ns;
    sum.took_ns += took_ns;
    sum.longest_ns = sum.longest_ns.max(took_ns);
    let early = step == Step::Over || (all && took_ns < stopped.asked_ns);
    sum.cut_short += u64::from(early);
    held.set(stopped.rule, sum, 0).map_err(io::Error::other)
}

/// Whether processes have the ids that kernel programs see.
pub fn sees_all_processes() -> bool {
    /// `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
    const INITIAL: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL)
}

/// How long after it was stopped a process may take to stand still.
const STANDS_WITHIN: Duration = Duration::from_secs(10);
