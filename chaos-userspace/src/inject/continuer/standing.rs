//! Processes that kernel programs have stopped: which, and what becomes of them.

use crate::host::process;
use aya::maps::{HashMap, Map, MapData};
use chaos_common::latency::{STOP_SIGNALS, Stopped};
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
    unistd::{Pid, SysconfVar, sysconf},
};
use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// One that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Its thread group id.
    pub process: u32,
    /// Whose call it was.
    pub thread: u32,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// For so long, in nanoseconds.
    pub asked_ns: u64,
    /// By which rule.
    pub rule: u32,
}

/// The map of them. Key 0, of no process, is the one that is just let go on; once it is there, the map is in use.
pub struct StoppedMap(HashMap<MapData, u32, Stopped>);

const BEGUN: u32 = 0;

impl StoppedMap {
    /// The map behind a descriptor.
    pub fn of(map: OwnedFd) -> io::Result<Self> {
        let map = MapData::from_fd(map).map_err(io::Error::other)?;
        Ok(Self(HashMap::try_from(Map::HashMap(map)).map_err(io::Error::other)?))
    }

    /// Whether there was a continuer.
    pub fn is_used(&self) -> bool {
        self.0.get(&BEGUN, 0).is_ok()
    }

    /// There is a continuer, and nobody whom it has begun to let go on.
    pub fn is_served(&mut self) -> io::Result<()> {
        self.0.insert(BEGUN, Stopped::default(), 0).map_err(io::Error::other)
    }

    /// Writes down whom it begins to let go on.
    pub fn begin(&mut self, stop: &Stop) -> io::Result<()> {
        let Stop { process, since_ns, asked_ns, rule, .. } = *stop;
        let begun = Stopped { since_ns, asked_ns, thread: process, rule };
        self.0.insert(BEGUN, begun, 0).map_err(io::Error::other)
    }

    /// One process.
    pub fn get(&self, process: u32) -> Option<Stop> {
        stop(process, self.0.get(&process, 0).ok()?)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Stop> {
        self.0
            .iter()
            .filter_map(|entry| entry.ok().and_then(|(process, value)| stop(process, value)))
            .collect()
    }

    /// Takes one out.
    pub fn forget(&mut self, process: u32) -> io::Result<()> {
        match self.0.remove(&process) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            // Another one who was left has done so.
            Err(_) if self.0.get(&process, 0).is_err() => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

fn stop(key: u32, value: Stopped) -> Option<Stop> {
    let Stopped { since_ns, asked_ns, thread, rule } = value;
    let process = if key == BEGUN { thread } else { key };
    (process != 0).then_some(Stop { process, thread, since_ns, asked_ns, rule })
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or has not come to stand still yet.
    Runs,
    /// It stands still.
    Stopped,
    /// And somebody else has stopped it as well since it does.
    StoppedByAnother,
    /// It has ended.
    Gone,
}

/// A process that was stopped.
#[derive(Debug)]
pub struct Standing {
    process: u32,
    thread: u32,
    /// Of the process.
    pub descriptor: OwnedFd,
}

impl Standing {
    /// The process, if it is still the same.
    pub fn find(stop: &Stop) -> Option<Self> {
        let descriptor = process::pidfd(Pid::from_raw(stop.process as i32)).ok()?;
        // The number may be another one's by now, which has begun after that.
        let began = process::start(stop.process as i32)?;
        (began <= boot_ticks(stop.since_ns)?).then_some(Self {
            process: stop.process,
            thread: stop.thread,
            descriptor,
        })
    }

    /// How it is now.
    pub fn state(&self) -> State {
        let (process, thread) = (self.process, self.thread);
        let stat = fs::read_to_string(format!("/proc/{process}/task/{thread}/stat"));
        let Ok(stat) = stat.or_else(|_| fs::read_to_string(format!("/proc/{process}/stat"))) else {
            return State::Gone;
        };
        match state_of(&stat) {
            // Traced processes stand still as `t`.
            Some('T' | 't') if self.has_stop_pending() => State::StoppedByAnother,
            Some('T' | 't') => State::Stopped,
            Some('Z' | 'X' | 'x') | None => State::Gone,
            Some(_) => State::Runs,
        }
    }

    /// Whether a signal that stops waits for the process. Ours does not any more once it stands still.
    fn has_stop_pending(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process)).unwrap_or_default();
        ["SigPnd:", "ShdPnd:"].iter().any(|key| pending(&status, key) & STOP_SIGNALS != 0)
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        // SAFETY: plain numbers; without information about the signal.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.descriptor.as_raw_fd(),
                Signal::SIGCONT as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent < 0 {
            // It has ended.
            log::debug!("letting process {} go on: {}", self.process, io::Error::last_os_error());
        }
    }
}

/// The third field, behind the name in parentheses, which may contain anything.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn pending(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// A time of `CLOCK_MONOTONIC` in clock ticks since boot, rounded up.
fn boot_ticks(at_ns: u64) -> Option<u64> {
    let now = |clock| {
        let now = clock_gettime(clock).ok()?;
        Some(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
    };
    let suspended = now(ClockId::CLOCK_BOOTTIME)?.saturating_sub(now(ClockId::CLOCK_MONOTONIC)?);
    let per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    Some((at_ns + suspended).div_ceil(1_000_000_000 / per_second.max(1)) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::kernel::monotonic_ns;
    use std::process::Command;

    #[test]
    fn states_and_pending_signals_are_read() {
        assert_eq!(state_of("7 (a) b) T 1 7"), Some('T'));
        assert_eq!(state_of("7"), None);
        let status = "SigPnd:\t0000000000000000\nShdPnd:\t0000000000040000\n";
        assert_eq!(pending(status, "ShdPnd:") & STOP_SIGNALS, 1 << 18);
        assert_eq!(pending(status, "SigPnd:"), 0);
    }

    #[test]
    fn a_process_stands_still_and_goes_on() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stop =
            |since_ns| Stop { process: child.id(), thread: child.id(), since_ns, asked_ns: 1, rule: 0 };
        let signal = |signal| nix::sys::signal::kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let until = |process: &Standing, state| {
            let begin = std::time::Instant::now();
            while process.state() != state {
                assert!(begin.elapsed().as_secs() < 20, "{:?}", process.state());
                std::thread::yield_now();
            }
        };
        let process = Standing::find(&stop(monotonic_ns())).unwrap();
        assert_eq!(process.state(), State::Runs);
        signal(Signal::SIGSTOP);
        until(&process, State::Stopped);
        signal(Signal::SIGSTOP);
        until(&process, State::StoppedByAnother);
        process.go_on();
        until(&process, State::Runs);
        // One that began later is another one.
        assert!(Standing::find(&stop(0)).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.state(), State::Gone);
    }
}
