//! Who makes a call.

use super::text::{escape, unescape};
use std::{fmt, str::FromStr};

/// Longest name a task can have (`TASK_COMM_LEN` of include/linux/sched.h less its end).
pub const COMM_MAX: usize = 15;

/// A task's name (`/proc/PID/comm`), or how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comm {
    /// The name or its beginning, at most [`COMM_MAX`] bytes.
    pub name: Vec<u8>,
    /// Whether more may follow.
    pub is_prefix: bool,
}

impl FromStr for Comm {
    type Err = String;

    /// Reads `nginx` or `nginx*`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = unescape(text)?;
        let is_prefix = parts.len() == 2 && parts[1].is_empty();
        if parts.len() > 1 && !is_prefix {
            return Err(
                "a task's name may only end in *: write a name or its beginning, as in nginx*".to_owned()
            );
        }
        let name = parts.swap_remove(0);
        match name.len() {
            0 => Err("a task's name has at least one byte".to_owned()),
            length if length > COMM_MAX => Err(format!(
                "{length} bytes are above the limit of {COMM_MAX}: the kernel keeps no more of a task's name; write \
                 {}",
                escape(&name[..COMM_MAX])
            )),
            _ => Ok(Self { name, is_prefix }),
        }
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", escape(&self.name), if self.is_prefix { "*" } else { "" })
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// By number.
    Uid(u32),
    /// By name, to be looked up.
    Name(String),
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(':') {
            return Err("this is no user: write a number or a name, as in 1000 or www-data".to_owned());
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        // The last number means "unchanged" and is nobody's (setresuid(2)).
        let uid = text.parse().ok().filter(|uid| *uid < u32::MAX);
        uid.map(Self::Uid).ok_or_else(|| format!("numbers of users go from 0 to {}", u32::MAX - 1))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => uid.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}
