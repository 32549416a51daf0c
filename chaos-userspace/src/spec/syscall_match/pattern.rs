//! Patterns of paths.

use super::text::{escape, unescape};
use chaos_common::syscall_match::PATTERN_BYTES;
use std::{fmt, str::FromStr};

/// Longest beginning and longest end of a path pattern; a whole path counts its final zero byte.
pub const PATTERN_MAX: usize = PATTERN_BYTES;
/// A path, or how it begins and ends. The star between stands for anything, also for slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// The path up to the star.
    pub begin: Vec<u8>,
    /// The path behind the star; `None` for a whole path.
    pub end: Option<Vec<u8>>,
}

impl Pattern {
    /// Whether it matches a path.
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.end {
            None => path == self.begin,
            Some(end) => {
                path.len() >= self.begin.len() + end.len()
                    && path.starts_with(&self.begin)
                    && path.ends_with(end)
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    /// Reads `/etc/passwd`, `/data/*`, `*.log` or `/data/*.log`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = unescape(text)?;
        if parts.len() > 2 {
            return Err("more than one * is not known: write /dir/*, *.log or /dir/*.log".to_owned());
        }
        let end = if parts.len() == 2 { parts.pop() } else { None };
        let begin = parts.swap_remove(0);
        if begin.first().is_some_and(|first| *first != b'/') || (begin.is_empty() && end.is_none()) {
            return Err(format!(
                "paths are compared from the root on: write /{text} or */{text}, as in /dir/*, *.log or /dir/*.log"
            ));
        }
        if begin.len() > 1 && begin.ends_with(b"/") && end.is_none() {
            let name = text.trim_end_matches('/');
            return Err(format!("no path ends in a slash: write {name} or {name}/*"));
        }
        let longest = if end.is_none() { PATTERN_MAX - 1 } else { PATTERN_MAX };
        let length = begin.len().max(end.as_ref().map_or(0, Vec::len));
        if length > longest {
            return Err(format!("{length} bytes are above the limit of {longest}: shorten it with *"));
        }
        Ok(Self { begin, end })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.begin))?;
        match &self.end {
            Some(end) => write!(f, "*{}", escape(end)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_read_and_matched() {
        let matching = |text: &str, path: &[u8]| text.parse::<Pattern>().unwrap().matches(path);
        assert!(matching("/a", b"/a") && !matching("/a", b"/a/b") && !matching("/a", b"/"));
        assert!(matching("/a/*", b"/a/b/c") && !matching("/a/*", b"/a") && matching("*", b"/"));
        assert!(matching("*.log", b"/x/y.log") && !matching("*.log", b"/x.log/y"));
        assert!(matching("/a*a/", b"/a/a/") && !matching("/ab*b/", b"/ab/"));
        assert!(matching("/\\xff*", b"/\xff\xfe"));
        for text in ["/a,b", "/a*b", "*", "/x\\*"] {
            let text = escape(text.as_bytes()).replace("\\*", "*");
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn lengths_are_bounded(length in 1usize..600) {
            let path = format!("/{}", "x".repeat(length));
            prop_assert_eq!(path.parse::<Pattern>().is_ok(), path.len() < PATTERN_MAX);
            prop_assert_eq!(format!("{path}*").parse::<Pattern>().is_ok(), path.len() <= PATTERN_MAX);
        }
    }
}
