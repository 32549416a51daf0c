//! Which of a target's calls a system call fault applies to.

use super::Problems;
use std::{fmt, str::FromStr};

/// Longest name a task can have (`TASK_COMM_LEN` of include/linux/sched.h less its end).
pub const COMM_MAX: usize = 15;

/// Which calls a fault applies to. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Names of the calling task.
    pub comm: Choice<Comm>,
    /// Its real user.
    pub uid: Choice<User>,
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
        match text.strip_prefix('!') {
            Some(text) => self.except.push(text.parse()?),
            None => self.only.push(text.parse()?),
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
            _ => return false,
        };
        problems.take(read.map_err(|problem| format!("{key}={value}: {problem}")));
        true
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
        f.write_str(&parts.join(", "))
    }
}

/// Splits the options of a fault at commas; `\,` is a comma within one.
pub fn split_options(text: &str) -> Vec<&str> {
    let mut options = vec![];
    let (mut begin, mut escaped) = (0, false);
    for (at, character) in text.char_indices() {
        if character == ',' && !escaped {
            options.push(&text[begin..at]);
            begin = at + 1;
        }
        escaped = character == '\\' && !escaped;
    }
    options.push(&text[begin..]);
    options
}

/// A text in which `*` stands for anything: the parts between the stars. `\*`, `\,`, `\\`, `\!` and `\xHH` stand for
/// themselves and for a byte.
pub fn unescape(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut parts = vec![vec![]];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'*' => {
                parts.push(vec![]);
                continue;
            }
            b'\\' => match rest.next() {
                Some(byte @ (b'*' | b',' | b'\\' | b'!')) => byte,
                Some(b'x') => {
                    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                    match (digit(rest.next()), digit(rest.next())) {
                        (Some(high), Some(low)) if high + low > 0 => (high * 16 + low) as u8,
                        _ => {
                            return Err("\\x needs two hexadecimal digits of a byte that is not 0".to_owned());
                        }
                    }
                }
                _ => return Err("a backslash stands before *, comma, !, backslash or xHH".to_owned()),
            },
            byte => byte,
        };
        if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    Ok(parts)
}

/// Bytes in the form that [`unescape`] reads.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if matches!(character, '*' | ',' | '\\' | '!') {
                text.push('\\');
            }
            text.push(character);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

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
            ("uid=", "no user"),
            ("uid=4294967295", "4294967294"),
            ("uid=99999999999", "4294967294"),
        ] {
            let problem = read(option).unwrap_err();
            assert!(problem.contains(words) && problem.contains(option), "{option}: {problem}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_can_be_written() {
        assert_eq!(unescape("a\\xff*\\*").unwrap(), [b"a\xff".to_vec(), b"*".to_vec()]);
        assert_eq!(escape(b"a\xff,*"), "a\\xff\\,\\*");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in proptest::collection::vec(1u8.., 0..20)) {
            prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), vec![bytes.clone()]);
            let text = escape(&bytes);
            prop_assert_eq!(split_options(&text), vec![text.as_str()]);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = Match::default().read(&format!("comm={text}"), &mut Problems::default());
            let _ = Match::default().read(&format!("uid={text}"), &mut Problems::default());
        }
    }
}
