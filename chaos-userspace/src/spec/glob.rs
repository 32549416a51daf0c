//! Patterns of single names, as a shell has them.

/// Bytes of a pattern at most: matching takes time in the square of it.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// Whether a text has a character with a meaning in patterns.
pub fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| b"*?[".contains(byte))
}

/// What is wrong with a pattern.
pub fn problem(pattern: &[u8]) -> Option<String> {
    let shown = String::from_utf8_lossy(pattern);
    if pattern.len() > PATTERN_BYTES_MAX {
        return Some(format!(
            "a pattern of {} bytes is above the limit of {PATTERN_BYTES_MAX}",
            pattern.len()
        ));
    }
    let mut at = 0;
    while at < pattern.len() {
        if pattern[at] == b'[' {
            match class(&pattern[at..]) {
                Some(class) => at += class.len,
                None => return Some(format!("{shown:?} has a [ without its ]: write [[] for the character")),
            }
        } else {
            at += 1;
        }
    }
    None
}

/// Whether a name fits: `*` stands for any characters, `?` for one, `[a-z]` for one of these, `[!a-z]` for another one.
/// Bytes are compared, and nothing escapes: a backslash is itself, as in names of systemd's units.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where the last star is, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        let step = match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[at..]).filter(|class| class.has(name[seen])).map(|class| class.len),
            Some(byte) => (*byte == name[seen]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(step), _) => (at, seen) = (at + step, seen + 1),
            (None, Some((of_star, taken))) => {
                star = Some((of_star, taken + 1));
                (at, seen) = (of_star + 1, taken + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// `[...]` at the beginning of a pattern.
struct Class<'a> {
    /// Without the brackets and the exclamation mark.
    members: &'a [u8],
    negated: bool,
    /// Of the whole.
    len: usize,
}

fn class(pattern: &[u8]) -> Option<Class<'_>> {
    let negated = pattern.get(1) == Some(&b'!');
    let first = 1 + usize::from(negated);
    // A bracket right at the beginning is a member.
    let members = pattern.get(first..)?;
    let end = members.iter().skip(1).position(|byte| *byte == b']')? + 1;
    Some(Class { members: &members[..end], negated, len: first + end + 1 })
}

impl Class<'_> {
    fn has(&self, byte: u8) -> bool {
        let mut rest = self.members;
        let mut found = false;
        while let [first, more @ ..] = rest {
            rest = more;
            match more {
                [b'-', last, after @ ..] => {
                    found |= (*first..=*last).contains(&byte);
                    rest = after;
                }
                _ => found |= *first == byte,
            }
        }
        found != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_fit_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("web", "web", true),
            ("web", "webs", false),
            ("web-*.service", "web-1.service", true),
            ("web-*.service", "web-1.scope", false),
            ("*", "", true),
            ("a*b*c", "aXbbc", true),
            ("a*b*c", "aXbb", false),
            ("pod?", "pod1", true),
            ("pod?", "pod", false),
            ("pod[0-9]", "pod7", true),
            ("pod[0-9]", "podx", false),
            ("pod[!0-9]", "podx", true),
            ("pod[ab]", "podb", true),
            ("pod[]]", "pod]", true),
            ("[*]", "*", true),
            ("[*]", "x", false),
            ("a\\x2d*", "a\\x2db", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
            assert_eq!(problem(pattern.as_bytes()), None, "{pattern}");
        }
        assert!(problem(b"pod[0-9").unwrap().contains("pod[0-9"));
        assert!(problem(&[b'*'; PATTERN_BYTES_MAX + 1]).is_some());
        assert!(is_pattern(b"a[b]") && !is_pattern(b"a-b\\x2d@.service"));
    }

    proptest! {
        /// Any pattern ends on any name, and a name without wildcards fits itself alone.
        #[test]
        fn any_pattern_is_matched(pattern in ".{0,40}", name in ".{0,40}") {
            let fit = fits(pattern.as_bytes(), name.as_bytes());
            if !is_pattern(pattern.as_bytes()) {
                prop_assert_eq!(fit, pattern == name);
            }
            let _ = problem(pattern.as_bytes());
            prop_assert!(fits(b"*", name.as_bytes()));
        }
    }
}
