//! The ways of packets through lines, and what they take of the kernel's tables: each has an entrance at its device, and shares
//! with others the slot that says where a packet goes on, and the load that bounds it.

use crate::inject::line::Place;
use chaos_common::limits::LINE_SLOTS_MAX;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Where lines begin: a device, for packets that leave or that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hook {
    pub(super) place: Place,
    /// Its index.
    pub(super) device: u32,
}

/// Packets that share lines and what they are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) place: Place,
    /// The rules that delay them.
    pub(super) rules: u64,
}

/// All ways of an engine.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// With an entrance, by where it is.
    open: BTreeMap<Hook, BTreeSet<u64>>,
    /// What packets have that have the lines of these rules still to pass.
    exits: BTreeMap<(Hook, u64), Exit>,
    slots: Vec<Slot>,
    /// By number of their load.
    loads: Vec<Option<Way>>,
}

#[derive(Clone, Copy, Debug)]
struct Exit {
    slot: u32,
    /// Until when packets may have it whose way is closed.
    held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Taken,
    /// Of no way any more, but until then packets in lines may have it.
    Rests(Instant),
    Free,
}

/// Without its first rule: what is left to a packet behind the first line.
pub(super) fn rest(rules: u64) -> u64 {
    rules & rules.wrapping_sub(1)
}

impl Ways {
    /// Those of `wanted` that have no entrance at the hook, each behind what is left of it without its first rule.
    pub(super) fn missing(&self, hook: Hook, wanted: &BTreeSet<u64>) -> Vec<u64> {
        let open = self.open.get(&hook);
        wanted.iter().filter(|way| open.is_none_or(|open| !open.contains(way))).copied().collect()
    }

    /// The slot behind which these rules are left, if there is one.
    pub(super) fn exit(&self, hook: Hook, rest: u64) -> Option<u32> {
        self.exits.get(&(hook, rest)).map(|exit| exit.slot)
    }

    /// A slot for that which no packet has, if one is left.
    pub(super) fn new_exit(&mut self, hook: Hook, rest: u64, now: Instant) -> Option<u32> {
        let is_free = |slot: &Slot| match slot {
            Slot::Taken => false,
            Slot::Rests(until) => *until < now,
            Slot::Free => true,
        };
        let place = self.slots.iter().position(is_free).unwrap_or(self.slots.len());
        match self.slots.get_mut(place) {
            Some(slot) => *slot = Slot::Taken,
            None if place < LINE_SLOTS_MAX => self.slots.push(Slot::Taken),
            None => return None,
        }
        self.exits.insert((hook, rest), Exit { slot: place as u32, held_until: None });
        Some(place as u32)
    }

    /// The number of the way's load, and whether it is new.
    pub(super) fn load(&mut self, way: Way) -> (u32, bool) {
        let known = self.loads.iter().position(|known| *known == Some(way));
        let place = known.or_else(|| self.loads.iter().position(Option::is_none));
        let place = place.unwrap_or(self.loads.len());
        match self.loads.get_mut(place) {
            Some(load) => *load = Some(way),
            None => self.loads.push(Some(way)),
        }
        (place as u32, known.is_none())
    }

    /// By number of their load.
    pub(super) fn loads(&self) -> impl Iterator<Item = (u32, Way)> {
        (0..).zip(&self.loads).filter_map(|(number, way)| Some((number, (*way)?)))
    }

    /// The way has its entrance.
    pub(super) fn opened(&mut self, hook: Hook, rules: u64) {
        self.open.entry(hook).or_default().insert(rules);
    }

    /// Where there are entrances.
    pub(super) fn hooks(&self) -> impl Iterator<Item = Hook> {
        self.open.keys().copied()
    }

    /// Those with an entrance for which `wanted` is not true.
    pub(super) fn unwanted(&self, wanted: impl Fn(Hook, u64) -> bool) -> Vec<(Hook, u64)> {
        let all = self.open.iter().flat_map(|(hook, ways)| ways.iter().map(|rules| (*hook, *rules)));
        all.filter(|(hook, rules)| !wanted(*hook, *rules)).collect()
    }

    /// The way's entrance has gone. In its first line there may be packets until `held_until`.
    pub(super) fn closed(&mut self, hook: Hook, rules: u64, held_until: Option<Instant>) {
        let Some(open) = self.open.get_mut(&hook) else { return };
        open.remove(&rules);
        let is_needed = open.iter().any(|other| rest(*other) == rest(rules));
        if open.is_empty() {
            self.open.remove(&hook);
        }
        let Some(exit) = self.exits.get_mut(&(hook, rest(rules))) else { return };
        exit.held_until = exit.held_until.max(held_until);
        if is_needed {
            return;
        }
        let Exit { slot, held_until } = *exit;
        self.exits.remove(&(hook, rest(rules)));
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            *slot = held_until.map_or(Slot::Free, Slot::Rests);
        }
    }

    /// Gives back the slots behind which no open way leads: of ways that could not be opened.
    pub(super) fn drop_unused_exits(&mut self) {
        let (open, slots) = (&self.open, &mut self.slots);
        self.exits.retain(|(hook, left), exit| {
            let is_used = open.get(hook).is_some_and(|ways| ways.iter().any(|rules| rest(*rules) == *left));
            if let Some(slot) = slots.get_mut(exit.slot as usize).filter(|_| !is_used) {
                *slot = exit.held_until.map_or(Slot::Free, Slot::Rests);
            }
            is_used
        });
    }

    /// Gives back the loads of ways without an entrance, and names them.
    pub(super) fn take_unused_loads(&mut self) -> Vec<u32> {
        let open = &self.open;
        let is_open =
            |way: &Way| open.iter().any(|(hook, ways)| hook.place == way.place && ways.contains(&way.rules));
        let mut unused = vec![];
        for (number, way) in (0..).zip(&mut self.loads) {
            if way.take_if(|way| !is_open(way)).is_some() {
                unused.push(number);
            }
        }
        unused
    }
}

/// All sets of rules that a packet may have drawn, each behind what is left of it without its first rule.
pub(super) fn ways(together: &[u64]) -> BTreeSet<u64> {
    let mut ways = BTreeSet::new();
    for rules in together {
        let mut way = *rules;
        while way != 0 {
            ways.insert(way);
            way = (way - 1) & rules;
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ways_are_all_sets_of_rules_that_meet() {
        assert_eq!(ways(&[0b100]), [0b100].into());
        assert_eq!(ways(&[0b011, 0b100, 0]), [0b001, 0b010, 0b011, 0b100].into());
        assert_eq!(ways(&[0b1111]).len(), 15);
    }

    fn hook(device: u32) -> Hook {
        Hook { place: Place { namespace: 1, loopback: false }, device }
    }

    #[test]
    fn a_slot_is_given_again_when_no_packet_can_have_it() {
        let (mut all, now) = (Ways::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        for rules in [0b01, 0b10, 0b11] {
            if all.exit(hook(7), rest(rules)).is_none() {
                all.new_exit(hook(7), rest(rules), now);
            }
            all.opened(hook(7), rules);
        }
        assert_eq!((all.exit(hook(7), 0), all.exit(hook(7), 0b10)), (Some(0), Some(1)));
        // The second rule goes, and packets of the first one's line still have it before them.
        all.closed(hook(7), 0b10, None);
        all.closed(hook(7), 0b11, Some(later));
        assert_eq!((all.exit(hook(7), 0), all.exit(hook(7), 0b10)), (Some(0), None));
        assert_eq!(all.new_exit(hook(8), 0, now), Some(2));
        assert_eq!(all.new_exit(hook(9), 0, later + Duration::from_nanos(1)), Some(1));
        // The last way takes its slot with it.
        all.closed(hook(7), 0b01, None);
        assert_eq!(all.new_exit(hook(10), 0, now), Some(0));
    }

    #[test]
    fn a_slot_rests_for_whichever_of_its_ways_needs_it_longest() {
        let (mut all, now) = (Ways::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        all.new_exit(hook(7), 0, now);
        for rules in [0b01, 0b10] {
            all.opened(hook(7), rules);
        }
        all.closed(hook(7), 0b01, Some(later));
        all.closed(hook(7), 0b10, None);
        assert_eq!(all.new_exit(hook(7), 0, now), Some(1));
        assert!(all.hooks().next().is_none());
    }

    #[test]
    fn slots_come_to_an_end() {
        let (mut all, now) = (Ways::default(), Instant::now());
        let given = (0..).map_while(|device| all.new_exit(hook(device), 0, now)).count();
        assert_eq!(given, LINE_SLOTS_MAX);
    }

    #[test]
    fn what_could_not_be_opened_leaves_no_exit() {
        let (mut all, now) = (Ways::default(), Instant::now());
        all.new_exit(hook(7), 0, now);
        all.new_exit(hook(7), 0b10, now);
        all.opened(hook(7), 0b01);
        all.drop_unused_exits();
        assert_eq!((all.exit(hook(7), 0), all.exit(hook(7), 0b10)), (Some(0), None));
        assert_eq!(all.new_exit(hook(8), 0, now), Some(1));
    }

    #[test]
    fn loads_are_those_of_ways_that_are_open() {
        let (mut all, way) = (Ways::default(), |rules| Way { place: hook(0).place, rules });
        assert_eq!(
            (all.load(way(1)), all.load(way(2)), all.load(way(1))),
            ((0, true), (1, true), (0, false))
        );
        all.opened(hook(7), 2);
        assert_eq!(all.take_unused_loads(), [0]);
        assert_eq!((all.load(way(4)), all.loads().count()), ((0, true), 2));
    }
}
