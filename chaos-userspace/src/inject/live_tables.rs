//! Changes of the tables of an engine whose runs come and go, while its programs read them: what others go by is never less
//! than they need, and what is replaced is not used again before a grace period is over.

use super::{
    bpf, grace,
    map_errors::{ignore_gone, is_gone},
    object::{Error, Maps, of},
};
use crate::encode::{EMPTY, Image};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuValues, lpm_trie::Key},
};
use chaos_common::{
    counter::RuleCounters,
    latency::Held,
    rule::{Ordinal, ProcessCount, ProcessKey},
    syscall_match::{COMM_BYTES, PATTERN_BYTES},
    target::{SELECT_WALK, Target},
};
use std::{collections::BTreeMap, hash::Hash, os::fd::BorrowedFd};

/// Entries of an array, by index.
type Rows<V> = Vec<(u32, V)>;

/// What becomes of a table.
struct Difference<K, V> {
    new: Vec<(K, V)>,
    other: Vec<(K, V)>,
    gone: Vec<K>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Difference<K, V> {
    fn of(old: impl IntoIterator<Item = (K, V)>, new: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut old: BTreeMap<K, V> = old.into_iter().collect();
        let mut difference = Self { new: vec![], other: vec![], gone: vec![] };
        for (key, value) in new {
            match old.remove(&key) {
                None => difference.new.push((key, value)),
                Some(before) if before != value => difference.other.push((key, value)),
                Some(_) => {}
            }
        }
        difference.gone = old.into_keys().collect();
        difference
    }
}

impl Maps {
    /// Forgets what rules with these numbers have counted. No target may have them.
    pub(super) fn forget(&mut self, rules: &[u32]) -> Result<(), Error> {
        let name = "KC_COUNTERS";
        let mut counters: PerCpuArray<_, RuleCounters> = self.map(name)?.try_into().map_err(of(name))?;
        for rule in rules {
            let cpus = counters.get(rule, 0).map_err(of(name))?.len();
            let none = PerCpuValues::try_from(vec![RuleCounters::default(); cpus]);
            let none = none.map_err(|source| Error::Io { name, source })?;
            counters.set(*rule, none, 0).map_err(of(name))?;
        }
        for rule in rules {
            self.put("KC_ORDINALS", *rule, Ordinal::default())?;
            self.put("KC_HELD", *rule, Held::default())?;
        }
        let name = "KC_PROCESSES";
        let mut processes: HashMap<_, ProcessKey, ProcessCount> =
            self.map(name)?.try_into().map_err(of(name))?;
        let known: Vec<_> = processes.keys().flatten().filter(|key| rules.contains(&key.rule)).collect();
        for key in known {
            ignore_gone(processes.remove(&key)).map_err(of(name))?;
        }
        Ok(())
    }

    fn put<V: Pod>(&mut self, name: &'static str, index: u32, value: V) -> Result<(), Error> {
        let mut array: Array<_, V> = self.map(name)?.try_into().map_err(of(name))?;
        array.set(index, value, 0).map_err(of(name))
    }

    /// From the tables of `old` to those of `new`, but for the rules and who is subject to them. What no rule of `new` asks
    /// for goes only with `narrow`: then no target may be subject to others any more.
    pub(super) fn follow(&mut self, old: &Image, new: &Image, narrow: bool) -> Result<(), Error> {
        self.follow_prefixes(old, new, narrow)?;
        self.follow_callers(old, new, narrow)?;
        let ports = |ports: &BTreeMap<u16, u64>| {
            ports.iter().map(|(port, mask)| (u32::from(*port), *mask)).collect::<Vec<_>>()
        };
        self.follow_array("KC_PORTS", (ports(&old.ports), ports(&new.ports)), narrow)?;
        self.follow_array("KC_LOCAL_PORTS", (ports(&old.local_ports), ports(&new.local_ports)), narrow)?;
        self.follow_array("KC_CALLS", (pairs(&old.calls), pairs(&new.calls)), narrow)?;
        self.follow_array("KC_ARGUMENTS", (pairs(&old.arguments), pairs(&new.arguments)), narrow)?;
        self.follow_array("KC_WANTED", (old.wanted.clone(), new.wanted.clone()), narrow)?;
        self.follow_array("KC_RESULTS", (old.results.clone(), new.results.clone()), narrow)?;
        let lengths = |image: &Image| (0..).zip(image.path_lengths.iter().copied()).collect::<Vec<_>>();
        self.follow_array("KC_PATH_LENGTHS", (lengths(old), lengths(new)), narrow)
    }

    /// Writes the words of the filter before the target table that differ from those it has.
    pub(super) fn set_filter(&mut self, has: &mut [u64], wanted: Vec<u64>) -> Result<(), Error> {
        let name = "KC_TARGET_BITS";
        let mut filter: Array<_, u64> = self.map(name)?.try_into().map_err(of(name))?;
        for (place, (has, wanted)) in (0..).zip(has.iter_mut().zip(wanted)) {
            if *has != wanted {
                filter.set(place, wanted, 0).map_err(of(name))?;
                *has = wanted;
            }
        }
        Ok(())
    }

    fn follow_array<V: Pod + Default + PartialEq>(
        &mut self,
        name: &'static str,
        (old, new): (Rows<V>, Rows<V>),
        narrow: bool,
    ) -> Result<(), Error> {
        let difference = Difference::of(old, new);
        let mut array: Array<_, V> = self.map(name)?.try_into().map_err(of(name))?;
        for (index, value) in difference.new.into_iter().chain(difference.other) {
            array.set(index, value, 0).map_err(of(name))?;
        }
        for index in difference.gone.into_iter().filter(|_| narrow) {
            array.set(index, V::default(), 0).map_err(of(name))?;
        }
        Ok(())
    }

    /// A longer key carries what the shorter ones say, so that others find the same with and without it.
    fn follow_trie<const N: usize>(
        &mut self,
        name: &'static str,
        difference: Difference<(u32, [u8; N]), u64>,
        narrow: bool,
    ) -> Result<(), Error>
    where
        Key<[u8; N]>: Pod,
        [u8; N]: Pod,
    {
        let mut trie: LpmTrie<_, [u8; N], u64> = self.map(name)?.try_into().map_err(of(name))?;
        for ((bits, key), mask) in difference.new.into_iter().chain(difference.other) {
            trie.insert(&Key::new(bits, key), mask, 0).map_err(of(name))?;
        }
        for (bits, key) in difference.gone.into_iter().filter(|_| narrow) {
            ignore_gone(trie.remove(&Key::new(bits, key))).map_err(of(name))?;
        }
        Ok(())
    }

    fn follow_prefixes(&mut self, old: &Image, new: &Image, narrow: bool) -> Result<(), Error> {
        let of_image = |image: &Image| {
            let key = |net: &ipnet::Ipv4Net| (u32::from(net.prefix_len()), net.network().octets());
            image.remote4.iter().map(|(net, mask)| (key(net), *mask)).collect::<Vec<_>>()
        };
        self.follow_trie("KC_REMOTE4", Difference::of(of_image(old), of_image(new)), narrow)?;
        let of_image = |image: &Image| {
            let key = |net: &ipnet::Ipv6Net| (u32::from(net.prefix_len()), net.network().octets());
            image.remote6.iter().map(|(net, mask)| (key(net), *mask)).collect::<Vec<_>>()
        };
        self.follow_trie("KC_REMOTE6", Difference::of(of_image(old), of_image(new)), narrow)
    }

    fn follow_callers(&mut self, old: &Image, new: &Image, narrow: bool) -> Result<(), Error> {
        let comms = Difference::of(beginnings::<COMM_BYTES>(&old.comms), beginnings(&new.comms));
        self.follow_trie("KC_COMMS", comms, narrow)?;
        let uids = Difference::of(old.uids.clone(), new.uids.clone());
        let some_go = narrow && !uids.gone.is_empty();
        self.follow_hash("KC_UIDS", uids, narrow)?;
        if some_go {
            grace::wait_for_readers();
        }
        let table = |old, new| Difference::of(beginnings::<PATTERN_BYTES>(old), beginnings(new));
        self.follow_trie("KC_PATH_BEGINNINGS", table(&old.path_beginnings, &new.path_beginnings), narrow)?;
        self.follow_trie("KC_PATH_ENDINGS", table(&old.path_endings, &new.path_endings), narrow)
    }

    /// A hash table has room for all it may hold from the start, and takes what was freed last for what comes next
    /// (kernel/bpf/hashtab.c, `htab_map_update_elem`): programs may still read it. Behind keys that have gone the caller waits.
    fn follow_hash<K: Pod + Ord + Hash, V: Pod + PartialEq>(
        &mut self,
        name: &'static str,
        difference: Difference<K, V>,
        narrow: bool,
    ) -> Result<(), Error> {
        let mut table: HashMap<_, K, V> = self.map(name)?.try_into().map_err(of(name))?;
        for (key, value) in difference.new {
            table.insert(key, value, 0).map_err(of(name))?;
        }
        for (key, value) in difference.other {
            table.insert(key, value, 0).map_err(of(name))?;
            grace::wait_for_readers();
        }
        for key in difference.gone.iter().filter(|_| narrow) {
            ignore_gone(table.remove(key)).map_err(of(name))?;
        }
        Ok(())
    }

    /// From who is subject to what by `old` to who is by `new`. The tables must be wide enough for both. `cgroups` says which
    /// have places that are new. The caller waits for programs that found somebody who is subject to nothing any more.
    pub(super) fn follow_targets(
        &mut self,
        old: &Image,
        new: &Image,
        cgroups: &BTreeMap<u64, BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let walks = new.select_task == SELECT_WALK || old.select_task == SELECT_WALK;
        if walks || old.has_socket_hooks || new.has_socket_hooks {
            self.follow_places(old, new, walks.then_some(cgroups))?;
        }
        let of_image = |image: &Image| {
            image.targets.iter().copied().filter(|target| *target != EMPTY).collect::<Vec<_>>()
        };
        self.follow_hash("KC_TARGETS", Difference::of(of_image(old), of_image(new)), true)
    }

    /// The same for targets that are found by their places.
    fn follow_places(
        &mut self,
        old: &Image,
        new: &Image,
        walk: Option<&BTreeMap<u64, BorrowedFd<'_>>>,
    ) -> Result<(), Error> {
        let places = old.targets.len().max(new.targets.len());
        for place in 0..places {
            let of_image = |image: &Image| image.targets.get(place).copied().unwrap_or(EMPTY);
            let ((id_before, before), (id, target)) = (of_image(old), of_image(new));
            let failed = |source| Error::Io { name: "KC_WALK", source };
            if id != id_before && id_before != EMPTY.0 {
                self.put("KC_WALK_TARGETS", place as u32, Target::default())?;
                if walk.is_some() {
                    let cleared = bpf::clear_cgroup_slot(self.descriptor("KC_WALK")?, place as u32);
                    match cleared {
                        Err(error) if is_gone(&error) => {}
                        other => other.map_err(failed)?,
                    }
                }
            }
            if let Some(cgroup) = walk.and_then(|cgroups| cgroups.get(&id)) {
                bpf::set_cgroup_slot(self.descriptor("KC_WALK")?, place as u32, *cgroup).map_err(failed)?;
            }
            if (id, target) != (id_before, before) || (!old.has_socket_hooks && walk.is_none()) {
                self.put("KC_WALK_TARGETS", place as u32, target)?;
            }
        }
        Ok(())
    }
}

fn pairs<V: Clone>(table: &BTreeMap<u32, V>) -> Vec<(u32, V)> {
    table.iter().map(|(key, value)| (*key, value.clone())).collect()
}

/// Keys of a prefix tree, with their bits.
fn beginnings<const N: usize>(table: &[(Vec<u8>, u64)]) -> Vec<((u32, [u8; N]), u64)> {
    let key = |begin: &Vec<u8>| {
        let mut key = [0; N];
        key.iter_mut().zip(begin).for_each(|(to, from)| *to = *from);
        (8 * begin.len() as u32, key)
    };
    table.iter().map(|(begin, mask)| (key(begin), *mask)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_comes_what_changes_and_what_goes() {
        let difference = Difference::of([(1, 'a'), (2, 'b'), (3, 'c')], [(4, 'd'), (2, 'x'), (3, 'c')]);
        assert_eq!(
            (difference.new, difference.other, difference.gone),
            (vec![(4, 'd')], vec![(2, 'x')], vec![1])
        );
    }
}
