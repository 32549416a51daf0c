//! What a call is made with: kinds of descriptors, numbers of bytes, how a file is opened.

use chaos_common::syscall_match::{ACCESS_READ, ACCESS_WRITE};
use std::{fmt, str::FromStr};

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(usize);

/// Names of kinds with their numbers in `i_mode` (`S_IFMT` of include/uapi/linux/stat.h).
const KINDS: [(&str, u32); 6] =
    [("file", 8), ("dir", 4), ("socket", 12), ("pipe", 1), ("char", 2), ("block", 6)];

impl Kind {
    /// One bit for the kind.
    pub fn bit(self) -> u32 {
        1 << KINDS[self.0].1
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = KINDS.iter().position(|(name, _)| *name == text);
        place.map(Self).ok_or_else(|| {
            "this is no kind of descriptor: write file, dir, socket, pipe, char or block".to_owned()
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KINDS[self.0].0)
    }
}

/// A number of bytes. The default is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// At least so many.
    pub min: u64,
    /// At most so many.
    pub max: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self { min: 0, max: u64::MAX }
    }
}

impl Size {
    /// Reads one bound, by its key: `size`, `size>` or `size<`.
    pub(super) fn read(&mut self, key: &str, text: &str) -> Result<(), String> {
        let bytes: u64 = text.parse().map_err(|_| "sizes are whole numbers of bytes, as in size>=4096")?;
        match key {
            "size>" => self.min = self.min.max(bytes),
            "size<" => self.max = self.max.min(bytes),
            _ => (self.min, self.max) = (self.min.max(bytes), self.max.min(bytes)),
        }
        if self.min > self.max {
            return Err(format!("no size is at least {} and at most {}", self.min, self.max));
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, max) if min == max => write!(f, "{min}"),
            (min, u64::MAX) => write!(f, "{min} or more"),
            (0, max) => write!(f, "{max} or less"),
            (min, max) => write!(f, "{min} to {max}"),
        }
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Writing, or both.
    Write,
}

impl Access {
    /// One of `ACCESS_*` of chaos-common.
    pub fn bit(self) -> u32 {
        match self {
            Self::Read => ACCESS_READ,
            Self::Write => ACCESS_WRITE,
        }
    }
}

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            _ => {
                Err("write access=read (for reading only) or access=write (for writing, or both)".to_owned())
            }
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read only",
            Self::Write => "write",
        })
    }
}
