//! Matches of system call faults as contents of the match tables.

mod arguments;
mod patterns;

pub use arguments::add_arguments;
use patterns::Patterns;

use super::{Error, Image, within};
use crate::spec::syscall_match::{Choice, Comm, Kind, Match, Pattern, Size, User};
use chaos_common::{
    limits::CALLERS_MAX,
    rule::{MATCH_ACCESS, MATCH_CALLER, MATCH_KIND, MATCH_PATH, MATCH_SIZE, Rule},
    syscall_match::Wanted,
};
use std::collections::BTreeMap;

/// Rules that a value belongs to, one bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    only: u64,
    except: u64,
}

/// What the rules of an engine ask for, before it becomes tables.
#[derive(Debug, Default)]
pub struct Matches {
    /// Beginnings of task names. A whole name ends in a zero byte, as the kernel stores it.
    comms: BTreeMap<Vec<u8>, Rules>,
    uids: BTreeMap<u32, Rules>,
    /// Rules that name tasks or users they want; a rule that only has exceptions wants all others.
    with_comms: u64,
    with_uids: u64,
    patterns: Patterns,
    wanted: Vec<(u32, Wanted)>,
}

impl Matches {
    /// Nothing is asked for yet; these patterns keep their bits. `shared`: others may come and go.
    pub fn new(patterns: Vec<Option<Pattern>>, shared: bool) -> Self {
        Self { patterns: Patterns::new(patterns, shared), ..Self::default() }
    }

    /// Writes a match into the rule and remembers what it asks for.
    pub fn add(&mut self, matches: &Match, rule: &mut Rule) {
        let bit = 1u64 << rule.number;
        let mut wanted = Wanted::default();
        if !matches.path.is_empty() {
            rule.matches |= MATCH_PATH;
            wanted.paths = self.patterns.bits(&matches.path.only);
            wanted.paths_except = self.patterns.bits(&matches.path.except);
        }
        if !matches.kind.is_empty() {
            rule.matches |= MATCH_KIND;
            let bits = |kinds: &[Kind]| kinds.iter().fold(0, |bits, kind| bits | kind.bit());
            let only =
                if matches.kind.only.is_empty() { u32::from(u16::MAX) } else { bits(&matches.kind.only) };
            wanted.kinds = only & !bits(&matches.kind.except);
        }
        if matches.size != Size::default() {
            rule.matches |= MATCH_SIZE;
            (wanted.size_min, wanted.size_max) = (matches.size.min, matches.size.max);
        }
        if let Some(access) = matches.access {
            rule.matches |= MATCH_ACCESS;
            wanted.access = access.bit();
        }
        if wanted != Wanted::default() {
            self.wanted.push((rule.number, wanted));
        }
        if matches.has_caller() {
            rule.matches |= MATCH_CALLER;
        }
        add(&matches.comm, &mut self.comms, &mut self.with_comms, bit, |Comm { name, is_prefix }| {
            let end = if *is_prefix { None } else { Some(0) };
            Some(name.iter().copied().chain(end).collect())
        });
        add(&matches.uid, &mut self.uids, &mut self.with_uids, bit, |user| match user {
            User::Uid(uid) => Some(*uid),
            // Planning has replaced them.
            User::Name(_) => None,
        });
    }

    /// Makes the tables.
    pub fn finish(self, image: &mut Image) -> Result<(), Error> {
        self.patterns.finish(image)?;
        image.wanted = self.wanted;
        if !self.comms.is_empty() {
            // What no other entry begins.
            image.comms.push((vec![], !self.with_comms));
            for name in self.comms.keys() {
                // The kernel finds only the longest beginning, so each has the rules of all shorter ones.
                let beginnings = self.comms.iter().filter(|(other, _)| name.starts_with(other));
                image
                    .comms
                    .push((name.clone(), allowed(self.with_comms, beginnings.map(|(_, rules)| rules))));
            }
        }
        for (uid, rules) in &self.uids {
            image.uids.push((*uid, allowed(self.with_uids, std::iter::once(rules))));
        }
        image.uid_others = !self.with_uids;
        within("task names", image.comms.len(), CALLERS_MAX as usize)?;
        within("users", image.uids.len(), CALLERS_MAX as usize)
    }
}

fn add<T, Key: Ord>(
    choice: &Choice<T>,
    table: &mut BTreeMap<Key, Rules>,
    with: &mut u64,
    bit: u64,
    key: impl Fn(&T) -> Option<Key>,
) {
    for key in choice.only.iter().filter_map(&key) {
        table.entry(key).or_default().only |= bit;
        *with |= bit;
    }
    for key in choice.except.iter().filter_map(&key) {
        table.entry(key).or_default().except |= bit;
    }
}

/// Rules that a value with these entries does not rule out.
fn allowed<'a>(with: u64, entries: impl Iterator<Item = &'a Rules>) -> u64 {
    let all = entries.fold(Rules::default(), |all, rules| Rules {
        only: all.only | rules.only,
        except: all.except | rules.except,
    });
    (all.only | !with) & !all.except
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Problems, syscall_match::split_options};

    fn encode(options: &[&str]) -> (Image, Vec<Rule>) {
        let (mut image, mut matches) = (Image::default(), Matches::default());
        let rules = options.iter().enumerate().map(|(index, options)| {
            let (mut wanted, mut problems) = (Match::default(), Problems::default());
            for option in split_options(options) {
                assert!(wanted.read(option, &mut problems) && problems.0.is_empty(), "{problems}");
            }
            let mut rule = Rule { number: index as u32, ..Rule::default() };
            matches.add(&wanted, &mut rule);
            rule
        });
        let rules = rules.collect();
        matches.finish(&mut image).unwrap();
        (image, rules)
    }

    /// What the kernel finds for a task's name.
    fn comm(image: &Image, name: &str) -> u64 {
        let name = [name.as_bytes(), &[0]].concat();
        let found = image.comms.iter().filter(|(begin, _)| name.starts_with(begin));
        found.max_by_key(|(begin, _)| begin.len()).unwrap().1
    }

    #[test]
    fn names_are_found_by_their_longest_beginning() {
        let (image, rules) =
            encode(&["comm=nginx*,comm=redis", "comm=!nginx", "comm=n*,comm=!nginx-w*", "uid=5"]);
        assert!(rules.iter().all(|rule| rule.matches == MATCH_CALLER));
        for (name, expected) in [
            ("nginx", 0b1101),
            ("nginx-worker", 0b1011),
            ("redis", 0b1011),
            ("redis2", 0b1010),
            ("n", 0b1110),
            ("", 0b1010),
        ] {
            assert_eq!(comm(&image, name) & 0b1111, expected, "{name}");
        }
    }

    #[test]
    fn rules_share_patterns() {
        let (image, rules) = encode(&["path=/a/*,path=!*.log", "path=*.log", "uid=0"]);
        assert_eq!((rules[0].matches, rules[2].matches), (MATCH_PATH, MATCH_CALLER));
        let wanted = |paths, paths_except| Wanted { paths, paths_except, ..Wanted::default() };
        assert_eq!(image.wanted, [(0, wanted(1, 2)), (1, wanted(2, 0))]);
        let many: Vec<String> = (0..65).map(|number| format!("path=/{number}")).collect();
        let mut matches = Matches::default();
        let mut much = Match::default();
        many.iter().for_each(|option| assert!(much.read(option, &mut Problems::default())));
        matches.add(&much, &mut Rule::default());
        let problem = matches.finish(&mut Image::default()).unwrap_err().to_string();
        assert!(problem.contains("65 path patterns are above the limit of 64"), "{problem}");
    }

    #[test]
    fn users_are_found_or_are_others() {
        let (image, _) = encode(&["uid=0,uid=33", "uid=!33", "comm=x"]);
        let masks: Vec<_> = image.uids.iter().map(|(uid, mask)| (*uid, mask & 0b111)).collect();
        assert_eq!(masks, [(0, 0b111), (33, 0b101)]);
        assert_eq!(image.uid_others & 0b111, 0b110);
    }
}
