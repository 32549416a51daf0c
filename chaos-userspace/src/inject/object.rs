//! The embedded object file and its maps.

use super::{bpf, engine::Recording, map_errors::ignore_gone, program};
use crate::{
    encode::{EMPTY, Image},
    host::causes::told,
};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya_obj::{EbpfSectionKind, Object};
use chaos_common::{
    chain::CHAIN_NONE,
    control::FIRST_SET,
    counter::{Counter, RuleCounters},
    event::{EVENTS_NONE, RING_BYTES_MIN},
    latency::{Held, LATENCY_SLEEP, LATENCY_STOP},
    limits::RULES_MAX,
    results::Results,
    rule::{
        CORRUPT_CHECKSUM, CORRUPT_PAYLOAD, KIND_CORRUPT, KIND_CORRUPT_PAYLOAD, KIND_DUPLICATE, KIND_RESET,
        MATCH_ACCESS, MATCH_KIND, MATCH_SIZE, Rule, WHEN_PER_FLOW, table_index,
    },
    syscall::Call,
    target::{SELECT_LEVELS, SELECT_WALK, Target, filter_place, filter_shift},
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

/// The kernel programs; empty in a build without them.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kchaos.bpf.o"));

/// Why the maps could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object or a program.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// The kernel refused a map.
    #[error("making map {name}: {}", told(.source))]
    Make {
        /// Its name.
        name: String,
        /// Why.
        source: MapError,
    },
    /// A map could not be written or read.
    #[error("map {name}: {}", told(.source))]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// The object lacks a map this half expects.
    #[error("the embedded kernel programs have no map {0}: both halves must come from one build")]
    NoMap(&'static str),
    /// A raw map command failed.
    #[error("map {name}: {source}")]
    Io {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The map of the one global that is written while programs run.
const FAST_IDS: &str = ".data";

/// The map of the read-only ones.
const GLOBALS: &str = ".rodata";

/// The maps of one engine.
pub struct Maps(BTreeMap<String, Map>);

pub(super) fn of(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { name, source }
}

/// Reads the object file, for programs with maps that exist already.
pub fn parse() -> Result<Object, program::Error> {
    if OBJECT.is_empty() {
        return Err(program::Error::NoObject);
    }
    Object::parse(OBJECT).map_err(unreadable)
}

fn unreadable(error: aya_obj::ParseError) -> program::Error {
    program::Error::Parse(error.to_string())
}

/// Reads the object file and makes its maps, sized for what `image` needs, with its read-only globals. `log_level` is
/// aya-log's: 0 for none. Returns the object with its maps' definitions still in it, for [`program::Programs`].
///
/// aya's own loader would parse the kernel's type information first (50 ms), which most engines do not need.
pub fn open(image: &Image, log_level: u8, recording: Option<Recording>) -> Result<(Maps, Object), Error> {
    let object = parse_with(&globals(image, FIRST_SET, log_level, recording))?;
    let mut maps = BTreeMap::new();
    for (name, definition) in &object.maps {
        let mut definition = definition.clone();
        if let Some(entries) = entries(name, image, recording) {
            definition.set_max_entries(entries);
        }
        maps.insert(name.clone(), make(name, definition)?);
    }
    Ok((Maps(maps), object))
}

/// The values of the read-only globals, by symbol.
pub type Globals = Vec<(&'static str, Vec<u8>)>;

/// Reads the object file and gives its read-only globals these values.
fn parse_with(globals: &Globals) -> Result<Object, Error> {
    let mut object = parse()?;
    let globals = globals.iter().map(|(name, bytes)| (*name, (&bytes[..], true))).collect();
    object.patch_map_data(globals).map_err(unreadable)?;
    Ok(object)
}

fn make(name: &str, definition: aya_obj::Map) -> Result<Map, Error> {
    let failed = |source| Error::Make { name: name.to_owned(), source };
    let read_only = definition.section_kind() == EbpfSectionKind::Rodata;
    let contents = definition.data().to_vec();
    let map = MapData::create(definition, name, None).map_err(failed)?;
    if read_only {
        bpf::fill(map.fd().as_fd(), &contents)
            .and_then(|()| bpf::freeze(map.fd().as_fd()))
            .map_err(|source| Error::Io { name: ".rodata", source })?;
    }
    Map::from_map_data(map).map_err(failed)
}

/// The read-only globals of another set of programs, in a map of their own.
pub struct NewGlobals(Map);

/// Reads the object file for another set of programs on the maps of an engine: all but its read-only globals, which are
/// made anew.
pub fn open_set(globals: &Globals) -> Result<(NewGlobals, Object), Error> {
    let object = parse_with(globals)?;
    let definition = object.maps.get(GLOBALS).ok_or(Error::NoMap(GLOBALS))?.clone();
    Ok((NewGlobals(make(GLOBALS, definition)?), object))
}

/// The read-only globals for a set of programs that serves `image`.
pub fn globals(image: &Image, set: u32, log_level: u8, recording: Option<Recording>) -> Globals {
    let word = |value: u32| value.to_ne_bytes().to_vec();
    let flag = |set: bool| word(set.into());
    let asks = |what: u32| image.rules.iter().any(|rule| rule.matches & what != 0);
    vec![
        ("KC_SET", word(set)),
        ("KC_SELECT_SKB", word(image.select_skb)),
        ("KC_SELECT_TASK", word(image.select_task)),
        ("KC_FAST_LEVEL", word(image.fast_level)),
        ("KC_FAST_COUNT", word(image.fast_ids.iter().filter(|id| **id != 0).count() as u32)),
        ("KC_LEVELS", word(image.levels)),
        // Without a walk it is not asked, and must not make other programs wanted.
        (
            "KC_WALK_COUNT",
            word(if image.select_task == SELECT_WALK { image.targets.len() as u32 } else { 0 }),
        ),
        ("KC_LEVEL_FIRST", word(image.levels.trailing_zeros())),
        ("KC_LEVEL_LAST", word(image.levels.checked_ilog2().unwrap_or(0))),
        ("KC_FILTER_SHIFT", word(filter_shift(image.filter_words()))),
        ("KC_RUN_COUNT", word(image.runs.len() as u32)),
        ("KC_RULE_COUNT", word(rule_count(image))),
        // A line asks for the protocol: TCP takes no memory of its own there.
        ("KC_PARSE", flag(image.parse || recording.is_some() || !image.lines.is_empty())),
        ("KC_REMOTE", flag(image.remote)),
        ("KC_REMOTE_PORT", flag(image.remote_port)),
        ("KC_CLSACT", flag(image.clsact)),
        ("KC_LOCAL_PORT", flag(!image.local_ports.is_empty())),
        ("KC_FLOW", flag(image.rules.iter().any(|rule| rule.when & WHEN_PER_FLOW != 0))),
        ("KC_CHAIN", flag(image.rules.iter().any(|rule| rule.chain != CHAIN_NONE))),
        ("KC_DRAWN_RESULTS", flag(!image.results.is_empty())),
        ("KC_PROCESS_RULES", image.process_rules().to_ne_bytes().to_vec()),
        ("KC_DUPLICATE", flag(image.rules.iter().any(|rule| rule.kind == KIND_DUPLICATE))),
        ("KC_CORRUPT", word(corrupting(image))),
        ("KC_RESET", flag(image.rules.iter().any(|rule| rule.kind == KIND_RESET))),
        ("KC_LATENCY", word(image.latency)),
        ("KC_LINE", flag(!image.lines.is_empty())),
        // Lines outlive the programs that were there when they came.
        ("KC_CHAINED", flag(image.lines.len() > 1 || image.shared && !image.lines.is_empty())),
        ("KC_EXACT", flag(image.exact)),
        ("KC_COMM", flag(!image.comms.is_empty())),
        ("KC_UID", flag(!image.uids.is_empty())),
        ("KC_UID_OTHERS", image.uid_others.to_ne_bytes().to_vec()),
        ("KC_PATH", flag(!image.path_beginnings.is_empty())),
        ("KC_KIND", flag(asks(MATCH_KIND))),
        ("KC_SIZE", flag(asks(MATCH_SIZE))),
        ("KC_ACCESS", flag(asks(MATCH_ACCESS))),
        ("KC_PEER", flag(image.peer)),
        ("KC_PATH_ENDS", flag(!image.path_endings.is_empty())),
        ("KC_LAYOUT", image.registers.layout.iter().flat_map(|offset| offset.to_ne_bytes()).collect()),
        (
            "KC_SIGNAL_LAYOUT",
            image.registers.signals.iter().flat_map(|offset| offset.to_ne_bytes()).collect(),
        ),
        ("KC_REGISTERS", word(image.registers.traced)),
        ("KC_SOCKET_REGISTERS", word(image.registers.socket)),
        ("KC_TASK_STACK", word(image.registers.task_stack)),
        ("KC_TASK_STATUS", word(image.registers.task_status)),
        ("KC_TASK_CRED", word(image.registers.task_cred)),
        ("KC_TASK_REAL_CRED", word(image.registers.task_real_cred)),
        ("KC_TREE", flag(image.tree)),
        ("KC_TASK_TGID", word(image.registers.task_tgid)),
        ("KC_TASK_SIGNAL", word(image.registers.task_signal)),
        ("KC_SIGNAL_LIVE", word(image.registers.signal_live)),
        ("KC_EVENTS", word(recording.map_or(EVENTS_NONE, |recording| recording.of))),
        ("KC_EVENTS_SHARE", recording.map_or(0, |recording| recording.share_q32).to_ne_bytes().to_vec()),
        (aya_log::LEVEL, vec![log_level]),
    ]
}

/// How many rules programs go by. Where runs come and go, there is room for more, so that not each that comes needs other
/// programs.
fn rule_count(image: &Image) -> u32 {
    const ROOM: usize = 8;
    let rules = image.rules.len();
    if image.shared { rules.next_power_of_two().clamp(ROOM, RULES_MAX) as u32 } else { rules as u32 }
}

/// Globals that may say more than is needed, at no cost for anybody but targets: counts, and sets of what there may be.
const GENEROUS: [&str; 15] = [
    "KC_RUN_COUNT",
    "KC_RULE_COUNT",
    "KC_PARSE",
    "KC_REMOTE",
    "KC_REMOTE_PORT",
    "KC_LOCAL_PORT",
    "KC_FLOW",
    "KC_CHAIN",
    "KC_DRAWN_RESULTS",
    "KC_PROCESS_RULES",
    "KC_DUPLICATE",
    "KC_CORRUPT",
    "KC_RESET",
    "KC_EXACT",
    "KC_SET",
];

/// Whether a set of programs with the globals `made` does all that one with the globals `wanted` would do.
pub fn covers(made: &Globals, wanted: &Globals) -> bool {
    made.iter().zip(wanted).all(|((name, made), (other, wanted))| {
        let has_all = || match *name {
            "KC_SET" => true,
            "KC_RULE_COUNT" | "KC_RUN_COUNT" => number(made) >= number(wanted),
            _ => wanted.iter().zip(made).all(|(wanted, made)| wanted & !made == 0),
        };
        name == other && (made == wanted || GENEROUS.contains(name) && has_all())
    })
}

fn number(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    u64::from_ne_bytes(all)
}

/// Whether the maps and programs made for one image serve another one, if the rule table and the lines are replaced.
pub fn serves(made: &Image, wanted: &Image) -> bool {
    let rest = Image { rules: made.rules.clone(), lines: made.lines.clone(), ..wanted.clone() };
    let lines = |image: &Image| image.lines.iter().map(|(rule, _)| *rule).collect::<Vec<_>>();
    rest == *made
        && made.rules.len() == wanted.rules.len()
        && lines(made) == lines(wanted)
        && globals(made, FIRST_SET, 0, None) == globals(wanted, FIRST_SET, 0, None)
}

/// How packets are corrupted, for `KC_CORRUPT`.
fn corrupting(image: &Image) -> u32 {
    image.rules.iter().fold(0, |all, rule| match rule.kind {
        KIND_CORRUPT => all | CORRUPT_CHECKSUM,
        KIND_CORRUPT_PAYLOAD => all | CORRUPT_PAYLOAD,
        _ => all,
    })
}

/// Entries of the maps whose size depends on the plan.
fn entries(map: &str, image: &Image, recording: Option<Recording>) -> Option<u32> {
    let count = match map {
        "KC_NAMESPACES" | "KC_HOLDS" | "KC_UNDER_WAY" | "KC_TIMES" | "KC_TREE_MEMBERS" if image.shared => 0,
        "KC_RING" if recording.is_none() => RING_BYTES_MIN as usize,
        // What comes needs room, and maps do not grow.
        _ if image.shared => return None,
        // One more: the cgroup of a target that is made anew is entered before the old one is removed.
        "KC_TARGETS" => image.targets.len() + 1,
        "KC_TARGET_BITS" => image.filter_words(),
        "KC_REMOTE4" => image.remote4.len(),
        "KC_REMOTE6" => image.remote6.len(),
        "KC_COMMS" => image.comms.len(),
        "KC_UIDS" => image.uids.len(),
        "KC_PATH_BEGINNINGS" => image.path_beginnings.len(),
        "KC_PATH_ENDINGS" => image.path_endings.len(),
        "KC_PATH_LENGTHS" => image.path_lengths.len(),
        "KC_ARGUMENTS" | "KC_CALL_SCRATCH" if image.arguments.is_empty() => 0,
        "KC_WANTED" if image.wanted.is_empty() => 0,
        "KC_PORTS" if !image.remote_port && !image.peer => 0,
        "KC_LOCAL_PORTS" if image.local_ports.is_empty() => 0,
        "KC_HOLDS" if !matches!(image.latency, LATENCY_SLEEP | LATENCY_STOP) => 0,
        "KC_STOPPED" if image.latency != LATENCY_STOP => 0,
        "KC_RESULTS" if image.results.is_empty() => 0,
        "KC_PROCESSES" if image.process_rules() == 0 => 0,
        "KC_TREE_MEMBERS" if !image.tree => 0,
        "KC_NAMESPACES" if image.egress_rules == 0 => 0,
        "KC_LINES" | "KC_EXITS" | "KC_LOADS" if image.lines.is_empty() => 0,
        "KC_UNDER_WAY" if image.watched == 0 => 0,
        "KC_TIMES" => image.watched,
        _ => return None,
    };
    Some(count.max(1) as u32)
}

impl Maps {
    /// Name and descriptor of every map.
    pub fn descriptors(&self) -> Vec<(String, RawFd)> {
        self.0
            .iter()
            .filter_map(|(name, map)| Some((name.to_owned(), data(map)?.fd().as_fd().as_raw_fd())))
            .collect()
    }

    /// The same with other read-only globals.
    pub fn descriptors_with(&self, globals: &NewGlobals) -> Vec<(String, RawFd)> {
        let own = data(&globals.0).map(|map| (GLOBALS.to_owned(), map.fd().as_fd().as_raw_fd()));
        let others = self.descriptors().into_iter().filter(|(name, _)| name != GLOBALS);
        others.chain(own).collect()
    }

    /// Goes on with other read-only globals.
    pub fn exchange_globals(&mut self, globals: NewGlobals) {
        self.0.insert(GLOBALS.to_owned(), globals.0);
    }

    /// Descriptor of one map.
    pub fn descriptor(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        self.0.get(name).and_then(data).map(|map| map.fd().as_fd()).ok_or(Error::NoMap(name))
    }

    pub(super) fn map(&mut self, name: &'static str) -> Result<&mut Map, Error> {
        self.0.get_mut(name).ok_or(Error::NoMap(name))
    }

    /// One map, to be read as what it is.
    pub(super) fn view<'a, T>(&'a self, name: &'static str) -> Result<T, Error>
    where
        T: TryFrom<&'a Map, Error = MapError>,
    {
        let map = self.0.get(name).ok_or(Error::NoMap(name))?;
        map.try_into().map_err(of(name))
    }

    /// Writes everything but the control page. Targets come last: with them the programs begin to match.
    pub fn fill(&mut self, image: &Image, cgroups: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.set_rules(0, &image.rules)?;
        let mut results: Array<_, Results> = self.map("KC_RESULTS")?.try_into().map_err(of("KC_RESULTS"))?;
        for (rule, drawn) in &image.results {
            results.set(*rule, drawn, 0).map_err(of("KC_RESULTS"))?;
        }
        let mut calls: Array<_, Call> = self.map("KC_CALLS")?.try_into().map_err(of("KC_CALLS"))?;
        for (number, call) in &image.calls {
            calls.set(*number, call, 0).map_err(of("KC_CALLS"))?;
        }
        self.fill_matches(image)?;
        let mut walk: Array<_, Target> =
            self.map("KC_WALK_TARGETS")?.try_into().map_err(of("KC_WALK_TARGETS"))?;
        let walks = image.select_task == SELECT_WALK;
        if walks || image.has_socket_hooks {
            for (slot, target) in image.slots().iter().enumerate() {
                walk.set(slot as u32, target, 0).map_err(of("KC_WALK_TARGETS"))?;
            }
        }
        if walks {
            let array = self.descriptor("KC_WALK")?;
            for (slot, cgroup) in cgroups.iter().enumerate() {
                bpf::set_cgroup_slot(array, slot as u32, *cgroup)
                    .map_err(|source| Error::Io { name: "KC_WALK", source })?;
            }
        }
        self.fill_filter(image)?;
        self.set_fast_ids(image)?;
        let mut targets: HashMap<_, u64, Target> =
            self.map("KC_TARGETS")?.try_into().map_err(of("KC_TARGETS"))?;
        for (id, target) in image.targets.iter().filter(|target| **target != EMPTY) {
            targets.insert(id, target, 0).map_err(of("KC_TARGETS"))?;
        }
        Ok(())
    }

    /// The filter before the target table. Nothing matches by it alone.
    fn fill_filter(&mut self, image: &Image) -> Result<(), Error> {
        let name = "KC_TARGET_BITS";
        let mut filter: Array<_, u64> = self.map(name)?.try_into().map_err(of(name))?;
        for (place, word) in (0..).zip(&filter_of(image)).filter(|(_, word)| **word != 0) {
            filter.set(place, word, 0).map_err(of(name))?;
        }
        Ok(())
    }

    /// The ids that are compared before the target table is asked. Nothing matches by them alone.
    fn set_fast_ids(&mut self, image: &Image) -> Result<(), Error> {
        let ids: Vec<u8> = image.fast_ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
        bpf::fill(self.descriptor(FAST_IDS)?, &ids).map_err(|source| Error::Io { name: FAST_IDS, source })
    }

    /// From `old` to `new`, which differ in the ids of their targets alone: `cgroup` is that of the target in `place`, which
    /// was made anew. Events of the new one match as soon as this returns; none of another target is missed meanwhile.
    pub fn replace_target(
        &mut self,
        (old, new): (&Image, &Image),
        place: usize,
        cgroup: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let (Some((before, _)), Some((id, target))) = (old.targets.get(place), new.targets.get(place)) else {
            return Ok(());
        };
        // What is in front of the target table comes last: with it the programs begin to match.
        let mut targets: HashMap<_, u64, Target> =
            self.map("KC_TARGETS")?.try_into().map_err(of("KC_TARGETS"))?;
        targets.insert(id, target, 0).map_err(of("KC_TARGETS"))?;
        let (had, has) = (filter_of(old), filter_of(new));
        let name = "KC_TARGET_BITS";
        let mut filter: Array<_, u64> = self.map(name)?.try_into().map_err(of(name))?;
        for (place, (_, word)) in (0..).zip(had.iter().zip(&has)).filter(|(_, (had, has))| had != has) {
            filter.set(place, word, 0).map_err(of(name))?;
        }
        self.set_fast_ids(new)?;
        if new.select_task == SELECT_WALK {
            bpf::set_cgroup_slot(self.descriptor("KC_WALK")?, place as u32, cgroup)
                .map_err(|source| Error::Io { name: "KC_WALK", source })?;
        }
        let mut targets: HashMap<_, u64, Target> =
            self.map("KC_TARGETS")?.try_into().map_err(of("KC_TARGETS"))?;
        if targets.get(before, 0).is_ok() { targets.remove(before).map_err(of("KC_TARGETS")) } else { Ok(()) }
    }

    /// Nothing matches the target in `place` any more.
    pub fn leave_target(&mut self, image: &Image, place: usize) -> Result<(), Error> {
        let Some((id, _)) = image.targets.get(place) else { return Ok(()) };
        if image.select_task == SELECT_WALK {
            let name = "KC_WALK_TARGETS";
            let mut walk: Array<_, Target> = self.map(name)?.try_into().map_err(of(name))?;
            walk.set(place as u32, Target::default(), 0).map_err(of(name))?;
        }
        let mut targets: HashMap<_, u64, Target> =
            self.map("KC_TARGETS")?.try_into().map_err(of("KC_TARGETS"))?;
        ignore_gone(targets.remove(id)).map_err(of("KC_TARGETS"))
    }

    /// A network namespace is told again when a target makes a socket there.
    pub fn forget_namespace(&mut self, cookie: u64) -> Result<(), Error> {
        let name = "KC_NAMESPACES";
        let mut known: HashMap<_, u64, u32> = self.map(name)?.try_into().map_err(of(name))?;
        ignore_gone(known.remove(&cookie)).map_err(of(name))
    }

    /// Writes a bank of the rule table, which must not be in use.
    pub fn set_rules(&mut self, bank: u32, rules: &[Rule]) -> Result<(), Error> {
        let mut table: Array<_, Rule> = self.map("KC_RULES")?.try_into().map_err(of("KC_RULES"))?;
        for (index, rule) in rules.iter().enumerate() {
            table.set(table_index(bank, index as u32), rule, 0).map_err(of("KC_RULES"))?;
        }
        Ok(())
    }

    /// Recorded events that found no room.
    pub fn events_lost(&self) -> Result<u64, Error> {
        self.sum("KC_EVENTS_LOST", 0)
    }

    /// One of the sums of leaving packets (`LEAVING_*`).
    pub fn leaving(&self, which: u32) -> Result<u64, Error> {
        self.sum("KC_LEAVING", which)
    }

    /// An entry of a map of numbers, summed over the CPUs.
    fn sum(&self, name: &'static str, index: u32) -> Result<u64, Error> {
        let map = self.0.get(name).ok_or(Error::NoMap(name))?;
        let numbers: PerCpuArray<_, u64> = map.try_into().map_err(of(name))?;
        Ok(numbers.get(&index, 0).map_err(of(name))?.iter().sum())
    }

    /// What became of a rule's calls that were to be held back.
    pub fn held(&self, rule: u32) -> Result<Held, Error> {
        let map = self.0.get("KC_HELD").ok_or(Error::NoMap("KC_HELD"))?;
        let held: Array<_, Held> = map.try_into().map_err(of("KC_HELD"))?;
        held.get(&rule, 0).map_err(of("KC_HELD"))
    }

    /// Counters of one rule, summed over the CPUs.
    pub fn counters(&self, rule: u32) -> Result<RuleCounters, Error> {
        let map = self.0.get("KC_COUNTERS").ok_or(Error::NoMap("KC_COUNTERS"))?;
        let counters: PerCpuArray<_, RuleCounters> = map.try_into().map_err(of("KC_COUNTERS"))?;
        let per_cpu = counters.get(&rule, 0).map_err(of("KC_COUNTERS"))?;
        let mut sum = RuleCounters::default();
        for cpu in per_cpu.iter() {
            for (total, part) in sum.outcomes.iter_mut().zip(&cpu.outcomes) {
                *total = Counter {
                    events: total.events + part.events,
                    segments: total.segments + part.segments,
                    bytes: total.bytes + part.bytes,
                };
            }
        }
        Ok(sum)
    }
}

/// Words of the filter before the target table; none where it is not used.
pub(super) fn filter_of(image: &Image) -> Vec<u64> {
    if image.select_skb != SELECT_LEVELS && image.select_task != SELECT_LEVELS {
        return vec![];
    }
    let mut words = vec![0u64; image.filter_words()];
    let shift = filter_shift(words.len());
    for (id, _) in image.targets.iter().filter(|target| **target != EMPTY) {
        let (place, bit) = filter_place(*id, shift);
        if let Some(word) = words.get_mut(place as usize) {
            *word |= bit;
        }
    }
    words
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::CgroupArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_may_do_more_than_is_asked_where_only_targets_pay_for_it() {
        let globals = |image: &Image, set| globals(image, set, 0, None);
        let rule = |number, kind| Rule { number, kind, ..Rule::default() };
        let few = Image { shared: true, rules: vec![rule(0, KIND_RESET)], levels: 0b100, ..Image::default() };
        let more =
            Image { parse: true, rules: (0..9).map(|number| rule(number, 1)).collect(), ..few.clone() };
        let (has_few, has_more) = (globals(&few, 1), globals(&more, 2));
        assert!(covers(&has_few, &globals(&few, 2)));
        // Other kinds, more rules than there is room for, packets to be looked into.
        assert!(!covers(&has_few, &has_more) && !covers(&has_more, &has_few));
        let all = Image { rules: vec![rule(0, KIND_RESET); 9], ..more.clone() };
        assert!(covers(&globals(&all, 1), &has_few) && covers(&globals(&all, 1), &has_more));
        // Of levels everybody pays for each.
        let deeper = Image { levels: 0b1100, ..few.clone() };
        assert!(!covers(&globals(&deeper, 1), &has_few) && !covers(&has_few, &globals(&deeper, 1)));
    }
}
