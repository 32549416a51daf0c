//! Which of a target's calls a system call fault applies to.

mod argument;
mod caller;
mod pattern;
mod text;

pub use argument::{Access, Kind, Size};
pub use caller::{COMM_MAX, Comm, User};
pub use pattern::{PATTERN_MAX, Pattern};
pub use text::{escape, split_options, unescape};

use super::{
    Problems,
    network::{self, Ports},
};
use ipnet::IpNet;
use std::{fmt, str::FromStr};

/// Which calls a fault applies to. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Names of the calling task.
    pub comm: Choice<Comm>,
    /// Its real user.
    pub uid: Choice<User>,
    /// What the call works on.
    pub path: Choice<Pattern>,
    /// What kind of file its descriptor is of.
    pub kind: Choice<Kind>,
    /// How many bytes it is for.
    pub size: Size,
    /// What a file is opened for.
    pub access: Option<Access>,
    /// Prefixes of the remote end; of one that is wanted and one that is not, the longer counts.
    pub remote: Choice<IpNet>,
    /// Ports of the remote end.
    pub remote_ports: Ports,
}

/// These, but not those. Empty means all; an exception always wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<T> {
    /// These; all if there are none.
    pub only: Vec<T>,
    /// But not these.
    pub except: Vec<T>,
}

impl<T> Default for Choice<T> {
    fn default() -> Self {
        Self { only: vec![], except: vec![] }
    }
}

impl<T> Choice<T> {
    /// Whether nothing is chosen.
    pub fn is_empty(&self) -> bool {
        self.only.is_empty() && self.except.is_empty()
    }

    fn read(&mut self, text: &str) -> Result<(), String>
    where
        T: FromStr<Err = String>,
    {
        self.read_with(text, str::parse)
    }

    fn read_with(&mut self, text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<(), String> {
        match text.strip_prefix('!') {
            Some(text) => self.except.push(parse(text)?),
            None => self.only.push(parse(text)?),
        }
        Ok(())
    }
}

impl<T: fmt::Display> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[T], word: &str| {
            let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
            texts.join(word)
        };
        f.write_str(&list(&self.only, " or "))?;
        if !self.except.is_empty() {
            let all = if self.only.is_empty() { "any but" } else { " but not" };
            write!(f, "{all} {}", list(&self.except, " or "))?;
        }
        Ok(())
    }
}

impl Match {
    /// Reads one option of a fault, such as `comm=nginx`; `false` if it is none of a match.
    pub fn read(&mut self, option: &str, problems: &mut Problems) -> bool {
        let Some((key, value)) = option.split_once('=') else { return false };
        let read = match key {
            "comm" => self.comm.read(value),
            "uid" => self.uid.read(value),
            "path" => self.path.read(value),
            "fd" => self.kind.read(value),
            "size" | "size>" | "size<" => self.size.read(key, value),
            "access" => value.parse().map(|access| self.access = Some(access)),
            "remote" => self.remote.read_with(value, network::prefix),
            "remote-port" => match value.strip_prefix('!') {
                Some(value) => network::ports(value).map(|ports| self.remote_ports.except.push(ports)),
                None => network::ports(value).map(|ports| self.remote_ports.only.push(ports)),
            },
            _ => return false,
        };
        problems.take(read.map_err(|problem| format!("{key}={value}: {problem}")));
        true
    }

    /// Whether it asks for the call's arguments.
    pub fn has_arguments(&self) -> bool {
        !self.path.is_empty()
            || !self.kind.is_empty()
            || self.size != Size::default()
            || self.access.is_some()
            || self.has_remote()
    }

    /// Whether it asks for the remote end.
    pub fn has_remote(&self) -> bool {
        !self.remote.is_empty() || !self.remote_ports.is_empty()
    }

    /// Whether it asks for the calling task.
    pub fn has_caller(&self) -> bool {
        !self.comm.is_empty() || !self.uid.is_empty()
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        if !self.comm.is_empty() {
            parts.push(format!("comm {}", self.comm));
        }
        if !self.uid.is_empty() {
            parts.push(format!("uid {}", self.uid));
        }
        if !self.path.is_empty() {
            parts.push(format!("path {}", self.path));
        }
        if !self.kind.is_empty() {
            parts.push(format!("descriptor of a {}", self.kind));
        }
        if self.size != Size::default() {
            parts.push(format!("size {}", self.size));
        }
        if let Some(access) = self.access {
            parts.push(format!("opened to {access}"));
        }
        if !self.remote.is_empty() {
            parts.push(format!("remote {}", self.remote));
        }
        if !self.remote_ports.is_empty() {
            parts.push(format!("remote port {}", self.remote_ports));
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(options: &str) -> Result<Match, String> {
        let (mut matches, mut problems) = (Match::default(), Problems::default());
        for option in split_options(options) {
            assert!(matches.read(option, &mut problems), "{option}");
        }
        if problems.0.is_empty() { Ok(matches) } else { Err(problems.to_string()) }
    }

    #[test]
    fn callers_are_read() {
        let matches = read("comm=nginx,comm=redis*,uid=1000,uid=!www-data,comm=!a\\,b").unwrap();
        assert_eq!(matches.comm.only.len(), 2);
        assert!(!matches.comm.only[0].is_prefix && matches.comm.only[1].is_prefix);
        assert_eq!(matches.comm.except[0].name, b"a,b");
        assert_eq!(matches.uid.only, [User::Uid(1000)]);
        assert_eq!(matches.uid.except, [User::Name("www-data".into())]);
        assert_eq!(matches.to_string(), "comm nginx or redis* but not a\\,b, uid 1000 but not www-data");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (option, words) in [
            ("comm=", "at least one byte"),
            ("comm=*", "at least one byte"),
            ("comm=a*b", "only end in *"),
            ("comm=kworker/0:0H-events", "19 bytes are above the limit of 15"),
            ("comm=a\\", "backslash"),
            ("comm=a\\xzz", "hexadecimal"),
            ("comm=a\\x00", "not 0"),
            ("path=", "from the root"),
            ("path=etc/passwd", "*/etc/passwd"),
            ("path=/data/", "/data/*"),
            ("path=/a*b*c", "more than one *"),
            ("uid=", "no user"),
            ("uid=4294967295", "4294967294"),
            ("uid=99999999999", "4294967294"),
        ] {
            let problem = read(option).unwrap_err();
            assert!(problem.contains(words) && problem.contains(option), "{option}: {problem}");
        }
    }

    #[test]
    fn arguments_are_read() {
        let matches = read(
            "fd=socket,fd=!pipe,size>=4096,size<=8192,access=write,remote=10.0.0.0/8,remote=!10.1.0.0/16",
        )
        .unwrap();
        assert_eq!((matches.kind.only[0].bit(), matches.kind.except[0].bit()), (1 << 12, 1 << 1));
        assert_eq!((matches.size.min, matches.size.max), (4096, 8192));
        assert!(matches.has_remote() && matches.has_arguments() && !matches.has_caller());
        assert_eq!(
            matches.to_string(),
            "descriptor of a socket but not pipe, size 4096 to 8192, opened to write, remote 10.0.0.0/8 but not 10.1.0.0/16"
        );
        assert_eq!(read("size=5").unwrap().size.to_string(), "5");
        assert!(read("remote-port=80,remote-port=!8000-8010").unwrap().has_remote());
        for (option, words) in [
            ("fd=thing", "socket"),
            ("size>=many", "whole numbers"),
            ("size>=5,size<=4", "at least 5 and at most 4"),
            ("access=append", "access=write"),
            ("remote=10.0.0.0/40", "10.0.0.0/40"),
            ("remote-port=70000", "65535"),
        ] {
            assert!(read(option).unwrap_err().contains(words), "{option}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = Match::default().read(&format!("comm={text}"), &mut Problems::default());
            let _ = Match::default().read(&format!("uid={text}"), &mut Problems::default());
            let _ = Match::default().read(&format!("path={text}"), &mut Problems::default());
        }
    }
}
