//! Faults on system calls.

use super::{
    call_class::Class,
    latency::Latency,
    returns::{Needs, Returns},
    syscall_match::Match,
    when::When,
};
use chaos_common::limits::ERRNO_MAX;
use std::{fmt, str::FromStr};
use syscalls::Errno;
use syscalls::x86_64::Sysno;

/// A system call fault: which calls, what they return, how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The calls.
    pub calls: Calls,
    /// What becomes of them.
    pub effect: Effect,
    /// Which calls it applies to.
    pub matches: Match,
    /// Which of them are hit.
    pub when: When,
}

/// What becomes of a call that is hit.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// It does nothing and returns this.
    Return(Returns),
    /// It is held back, then goes on.
    Latency(Latency),
}

impl Effect {
    /// The flag that asks for it, without its hyphens.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Return(_) => "fail",
            Self::Latency(_) => "slow",
        }
    }
}

/// As on the command line, so that it can serve as a name.
impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return(returns) => returns.fmt(f),
            Self::Latency(latency) => latency.fmt(f),
        }
    }
}

/// One call or a class of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calls {
    /// This call.
    One(Call),
    /// Those of the class that can be reached on the host.
    Class {
        /// The class.
        class: Class,
        /// Calls that are part of it although their failure can make a process unusable.
        allowed: Vec<Call>,
    },
}

impl Calls {
    /// The name, as on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::One(call) => call.name(),
            Self::Class { class, .. } => class.name(),
        }
    }

    /// Whether this call is among them.
    pub fn contain(&self, call: Call) -> bool {
        match self {
            Self::One(one) => *one == call,
            Self::Class { class, .. } => class.contains(call),
        }
    }
}

impl FromStr for Calls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('%') {
            return Ok(Self::Class { class: text.parse()?, allowed: vec![] });
        }
        text.parse().map(Self::One)
    }
}

/// How a call is made to fail.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Mechanism {
    /// BPF LSM hook, gated by the system call number
    Lsm,
    /// trampoline on the kernel's function that asks an LSM hook, gated likewise
    FmodRetSecurity,
    /// trampoline on the call's entry
    FmodRetSys,
    /// one kprobe.multi link on the entries of all calls
    KprobeMulti,
    /// kprobe on the call's entry with `bpf_override_return`
    Kprobe,
    /// socket hooks of the target's cgroup: connect, bind, unconnected UDP send
    CgroupSockAddr,
    /// for --slow: a BPF LSM program that sleeps, until a process of kchaos answers it or goes (Linux 6.12)
    LsmSleep,
    /// for --slow, of any call on any kernel: the processor waits, for at most 1 ms
    Spin,
    /// for --slow, of any call: the whole process is stopped behind the call, from 1 ms on
    StopContinue,
    /// for kchaos exec: the kernel asks a process of kchaos before the command's call (seccomp user notification, Linux
    /// 5.10); also for --slow
    Seccomp,
}

impl Mechanism {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::FmodRetSecurity => "fmod_ret_security",
            Self::FmodRetSys => "fmod_ret_sys",
            Self::KprobeMulti => "kprobe_multi",
            Self::Kprobe => "kprobe",
            Self::CgroupSockAddr => "cgroup_sock_addr",
            Self::LsmSleep => "lsm_sleep",
            Self::Spin => "spin",
            Self::StopContinue => "stop_continue",
            Self::Seccomp => "seccomp",
        }
    }
}

/// A system call by number and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(Sysno);

impl Call {
    /// The number at 64-bit entry.
    pub fn number(self) -> u32 {
        self.0.id() as u32
    }

    /// Every call, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        Sysno::iter().map(Self)
    }

    /// The call with this number.
    pub fn numbered(number: u32) -> Option<Self> {
        Sysno::new(number as usize).map(Self)
    }

    /// Why a failure of the call needs to be allowed by name, if it does.
    pub fn danger(self) -> Option<&'static str> {
        Some(match self.name() {
            "exit" | "exit_group" => "a process whose exit fails runs on into nothing",
            "rt_sigreturn" | "restart_syscall" => {
                "a process cannot return from its signal handlers without it"
            }
            "execve" | "execveat" => "no program can be started without it",
            "munmap" | "brk" | "arch_prctl" | "set_tid_address" | "set_robust_list" | "rseq" => {
                "programs do not expect it to fail, and most cannot even start without it"
            }
            _ => return None,
        })
    }

    /// The name, as in `man 2`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Sysno::from_str(text).map(Self).map_err(|_| {
            let close = closest(text, Sysno::iter().map(|call| call.name()));
            format!("'{text}' is not an x86-64 system call{close}")
        })
    }
}

/// An errno: the number, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(u32);

impl Error {
    /// The number, positive.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// The name, as in `man 3 errno`; the number where it has none.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match errnos().find(|errno| errno.into_raw() as u32 == self.0).and_then(|errno| errno.name()) {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

fn errnos() -> impl Iterator<Item = Errno> {
    // 133 (EHWPOISON) is the last one user space may see; 512 and above are internal to the kernel.
    (1..=133).map(Errno::new).filter(|errno| errno.name().is_some())
}

impl FromStr for Error {
    type Err = String;

    /// Reads a name or a number.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let number = text.parse().ok().filter(|number| (1..=ERRNO_MAX).contains(number));
            return number
                .map(Self)
                .ok_or_else(|| format!("'{text}' is not an errno: numbers go from 1 to {ERRNO_MAX}"));
        }
        let alias = match text {
            "EWOULDBLOCK" => "EAGAIN",
            "EDEADLOCK" => "EDEADLK",
            "ENOTSUP" => "EOPNOTSUPP",
            other => other,
        };
        let found = errnos().find(|errno| errno.name() == Some(alias));
        found.map(|errno| Self(errno.into_raw() as u32)).ok_or_else(|| {
            let close = closest(text, errnos().filter_map(|errno| errno.name()));
            format!("'{text}' is not an errno name{close}")
        })
    }
}

/// `: did you mean X?` when something is near.
fn closest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> String {
    let near = names
        .map(|name| {
            (strsim::damerau_levenshtein(&text.to_ascii_lowercase(), &name.to_ascii_lowercase()), name)
        })
        .min();
    match near {
        Some((distance, name)) if distance <= 2 => format!(": did you mean {name}?"),
        _ => String::new(),
    }
}

impl FromStr for Fault {
    type Err = super::Problems;

    /// Reads `openat=EIO`, `%file=EIO@10%`, `write=ENOSPC:3,return=0:1@10%,every=7,after=100,limit=1000,comm=nginx` and
    /// the like.
    fn from_str(text: &str) -> Result<Self, super::Problems> {
        let mut problems = super::Problems::default();
        let Some((call, rest)) = text.split_once('=') else {
            problems.0.push(format!(
                "'{text}' is not a system call fault: write SYSCALL=ERRNO or SYSCALL=ERRNO@PERCENT, as in openat=EIO@10%"
            ));
            return Err(problems);
        };
        let (returns, options) = Returns::split(rest);
        Self::read(call, returns.map(Effect::Return), options, problems)
    }
}

impl Fault {
    /// Reads `openat=20ms`, `%file=20ms@10%,jitter=5ms,path=/data/*` and the like.
    pub fn slow(text: &str) -> Result<Self, super::Problems> {
        let mut problems = super::Problems::default();
        let Some((call, rest)) = text.split_once('=') else {
            problems.0.push(format!(
                "'{text}' does not say what is held back: write SYSCALL=TIME or SYSCALL=TIME@PERCENT, as in openat=20ms@10%"
            ));
            return Err(problems);
        };
        let (latency, options) = Latency::split(rest);
        Self::read(call, latency.map(Effect::Latency), options, problems)
    }

    fn read(
        call: &str,
        effect: Result<Effect, super::Problems>,
        options: Vec<&str>,
        mut problems: super::Problems,
    ) -> Result<Self, super::Problems> {
        let calls = problems.take(call.parse());
        let effect = effect.map_err(|more| problems.0.extend(more.0)).ok();
        let mut matches = Match::default();
        let options: Vec<_> =
            options.into_iter().filter(|option| !matches.read(option, &mut problems)).collect();
        let when = When::from_parts(options.into_iter()).map_err(|more| problems.0.extend(more.0)).ok();
        match (calls, effect, when) {
            (Some(calls), Some(effect), Some(when)) => problems.or(|| Self { calls, effect, matches, when }),
            _ => Err(problems),
        }
    }

    /// What the call returns, if it is one that is not made.
    pub fn returns(&self) -> Option<&Returns> {
        match &self.effect {
            Effect::Return(returns) => Some(returns),
            Effect::Latency(_) => None,
        }
    }

    /// For how long the call is held back, if it is.
    pub fn latency(&self) -> Option<Latency> {
        match self.effect {
            Effect::Return(_) => None,
            Effect::Latency(latency) => Some(latency),
        }
    }

    /// What the mechanism has to be able to return.
    pub fn needs(&self) -> Needs {
        self.returns().map(Returns::needs).unwrap_or_default()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (when, calls) = (&self.when, self.calls.name());
        match &self.effect {
            Effect::Return(returns) => {
                let verb = if returns.needs().is_none() { "fail" } else { "answer" };
                write!(f, "{verb} {when} of {calls} calls with {returns}")?;
            }
            Effect::Latency(latency) => write!(f, "hold {when} of {calls} calls back by {latency}")?,
        }
        if self.matches != Match::default() {
            write!(f, " ({})", self.matches)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn faults() {
        let fault: Fault = "openat=EIO@10%".parse().unwrap();
        assert_eq!((fault.calls.name(), fault.returns().unwrap().only().unwrap().register()), ("openat", -5));
        assert_eq!(fault.when.probability.percent(), 10.0);
        let fault: Fault = "connect=ECONNREFUSED".parse().unwrap();
        assert_eq!(fault.when, When::default());
        let fault: Fault = "openat=EIO,every=3".parse().unwrap();
        assert_eq!(fault.when.every, Some(3));
        assert_eq!("accept4=EWOULDBLOCK".parse::<Fault>().unwrap().effect.to_string(), "EAGAIN");
        assert_eq!("openat=5".parse::<Fault>().unwrap().effect.to_string(), "EIO");
        assert_eq!("openat=4095".parse::<Fault>().unwrap().effect.to_string(), "4095");
        let fault: Fault = "%file=EIO:3,return=0@10%,when=2+".parse().unwrap();
        assert_eq!((fault.calls.name(), fault.effect.to_string()), ("%file", "EIO:3,return=0:1".to_owned()));
        assert!(
            fault.calls.contain("openat".parse().unwrap()) && !fault.calls.contain("close".parse().unwrap())
        );
        assert!("openat=4096".parse::<Fault>().is_err() && "openat=0".parse::<Fault>().is_err());
    }

    #[test]
    fn calls_that_are_held_back() {
        let fault = Fault::slow("openat=20ms@10%,jitter=5ms,path=/a,when=2+").unwrap();
        assert_eq!((fault.calls.name(), fault.effect.to_string()), ("openat", "20ms+-5ms".to_owned()));
        assert_eq!(fault.when.probability.percent(), 10.0);
        assert!(fault.to_string().starts_with("hold 10%"), "{fault}");
        let problems = Fault::slow("opnat=20,jiter=1ms").unwrap_err().0;
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(Fault::slow("openat").unwrap_err().to_string().contains("SYSCALL=TIME"));
    }

    #[test]
    fn every_problem_of_a_fault_is_told() {
        let problems = "opnat=EIOO@200".parse::<Fault>().unwrap_err().0;
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("did you mean openat")), "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("did you mean EIO")), "{problems:?}");
        assert!("openat".parse::<Fault>().unwrap_err().to_string().contains("SYSCALL=ERRNO"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,32}") {
            let _ = text.parse::<Fault>();
        }
    }
}
