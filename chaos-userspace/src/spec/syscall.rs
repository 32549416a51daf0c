//! Faults on system calls.

use super::when::When;
use std::{fmt, str::FromStr};
use syscalls::Errno;
use syscalls::x86_64::Sysno;

/// A system call fault: which call, what it returns, how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The call.
    pub call: Call,
    /// The error the caller gets.
    pub error: Error,
    /// Which calls are hit.
    pub when: When,
}

/// How a call is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// kprobe on the call's entry with `bpf_override_return`.
    Kprobe,
    /// BPF LSM hook, gated by the system call number.
    Lsm,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kprobe => "kprobe",
            Self::Lsm => "lsm",
        })
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

/// An errno by number and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(Errno);

impl Error {
    /// The number, positive.
    pub fn number(self) -> u32 {
        self.0.into_raw() as u32
    }

    /// The name, as in `man 3 errno`.
    pub fn name(self) -> &'static str {
        self.0.name().unwrap_or("?")
    }
}

fn errnos() -> impl Iterator<Item = Errno> {
    // 133 (EHWPOISON) is the last one user space may see; 512 and above are internal to the kernel.
    (1..=133).map(Errno::new).filter(|errno| errno.name().is_some())
}

impl FromStr for Error {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let alias = match text {
            "EWOULDBLOCK" => "EAGAIN",
            "EDEADLOCK" => "EDEADLK",
            "ENOTSUP" => "EOPNOTSUPP",
            other => other,
        };
        errnos().find(|errno| errno.name() == Some(alias)).map(Self).ok_or_else(|| {
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

    /// Reads `openat=EIO`, `openat=EIO@10%` or `openat=EIO@10%,every=7,after=100,limit=1000`.
    fn from_str(text: &str) -> Result<Self, super::Problems> {
        let mut problems = super::Problems::default();
        let Some((call, rest)) = text.split_once('=') else {
            problems.0.push(format!(
                "'{text}' is not a system call fault: write SYSCALL=ERRNO or SYSCALL=ERRNO@PERCENT, as in openat=EIO@10%"
            ));
            return Err(problems);
        };
        let end = rest.find(['@', ',']).unwrap_or(rest.len());
        let (error, options) = rest.split_at(end);
        let call = problems.take(call.parse());
        let error = problems.take(error.parse());
        let when = if options.is_empty() {
            Some(When::default())
        } else {
            match When::from_parts(options[1..].split(',')) {
                Ok(when) => Some(when),
                Err(more) => {
                    problems.0.extend(more.0);
                    None
                }
            }
        };
        match (call, error, when) {
            (Some(call), Some(error), Some(when)) => Ok(Self { call, error, when }),
            _ => Err(problems),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fail {} of {} calls with {}", self.when, self.call.name(), self.error.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn faults() {
        let fault: Fault = "openat=EIO@10%".parse().unwrap();
        assert_eq!((fault.call.number(), fault.error.number()), (257, 5));
        assert_eq!(fault.when.probability.percent(), 10.0);
        let fault: Fault = "connect=ECONNREFUSED".parse().unwrap();
        assert_eq!(fault.when, When::default());
        let fault: Fault = "openat=EIO,every=3".parse().unwrap();
        assert_eq!(fault.when.every, Some(3));
        assert_eq!("accept4=EWOULDBLOCK".parse::<Fault>().unwrap().error.name(), "EAGAIN");
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
