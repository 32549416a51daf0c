//! The embedded object file and its maps.

use super::{bpf, program};
use crate::encode::Image;
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use chaos_common::{
    counter::{Counter, RuleCounters},
    rule::{Rule, table_index},
    syscall::Call,
    target::Target,
};
use std::{
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
    /// aya could not make the maps.
    #[error("the kernel refused the maps: {0}")]
    Load(#[from] aya::EbpfError),
    /// A map could not be written or read.
    #[error("map {name}: {source}")]
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

/// The maps of one engine.
pub struct Maps(Ebpf);

fn of(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { name, source }
}

impl Maps {
    /// Makes the maps, sized for what `image` needs, with its read-only globals. `log_level` is aya-log's: 0 for none.
    pub fn create(image: &Image, log_level: u8) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(program::Error::NoObject.into());
        }
        let at_least_one = |count: usize| count.max(1) as u32;
        let rule_count = image.rules.len() as u32;
        let walk_count = image.targets.len() as u32;
        let flag = |set: bool| u32::from(set);
        let exact = flag(image.exact);
        let (parse, remote, port, clsact) =
            (flag(image.parse), flag(image.remote), flag(image.remote_port), flag(image.clsact));
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("KC_TARGETS", at_least_one(image.targets.len()))
            .map_max_entries("KC_REMOTE4", at_least_one(image.remote4.len()))
            .map_max_entries("KC_REMOTE6", at_least_one(image.remote6.len()))
            .override_global("KC_SELECT_SKB", &image.select_skb, true)
            .override_global("KC_SELECT_TASK", &image.select_task, true)
            .override_global("KC_FAST_LEVEL", &image.fast_level, true)
            .override_global("KC_FAST_IDS", &image.fast_ids[..], true)
            .override_global("KC_LEVELS", &image.levels, true)
            .override_global("KC_WALK_COUNT", &walk_count, true)
            .override_global("KC_RULE_COUNT", &rule_count, true)
            .override_global("KC_PARSE", &parse, true)
            .override_global("KC_REMOTE", &remote, true)
            .override_global("KC_REMOTE_PORT", &port, true)
            .override_global("KC_CLSACT", &clsact, true)
            .override_global("KC_EXACT", &exact, true)
            .override_global(aya_log::LEVEL, &log_level, true);
        if !image.remote_port {
            loader.map_max_entries("KC_PORTS", 1);
        }
        Ok(Self(loader.load(OBJECT)?))
    }

    /// The object as aya knows it, for its log reader.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.0
    }

    /// Name and descriptor of every map.
    pub fn descriptors(&self) -> Vec<(String, RawFd)> {
        self.0
            .maps()
            .filter_map(|(name, map)| Some((name.to_owned(), data(map)?.fd().as_fd().as_raw_fd())))
            .collect()
    }

    /// Descriptor of one map.
    pub fn descriptor(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        self.0.map(name).and_then(data).map(|map| map.fd().as_fd()).ok_or(Error::NoMap(name))
    }

    fn map(&mut self, name: &'static str) -> Result<&mut Map, Error> {
        self.0.map_mut(name).ok_or(Error::NoMap(name))
    }

    /// Writes everything but the control page. Targets come last: with them the programs begin to match.
    pub fn fill(&mut self, image: &Image, cgroups: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let mut rules: Array<_, Rule> = self.map("KC_RULES")?.try_into().map_err(of("KC_RULES"))?;
        for (index, rule) in image.rules.iter().enumerate() {
            rules.set(table_index(0, index as u32), rule, 0).map_err(of("KC_RULES"))?;
        }
        let mut remote: LpmTrie<_, [u8; 4], u64> =
            self.map("KC_REMOTE4")?.try_into().map_err(of("KC_REMOTE4"))?;
        for (net, mask) in &image.remote4 {
            let key = Key::new(net.prefix_len().into(), net.network().octets());
            remote.insert(&key, mask, 0).map_err(of("KC_REMOTE4"))?;
        }
        let mut remote: LpmTrie<_, [u8; 16], u64> =
            self.map("KC_REMOTE6")?.try_into().map_err(of("KC_REMOTE6"))?;
        for (net, mask) in &image.remote6 {
            let key = Key::new(net.prefix_len().into(), net.network().octets());
            remote.insert(&key, mask, 0).map_err(of("KC_REMOTE6"))?;
        }
        let mut ports: Array<_, u64> = self.map("KC_PORTS")?.try_into().map_err(of("KC_PORTS"))?;
        for (port, mask) in &image.ports {
            ports.set((*port).into(), mask, 0).map_err(of("KC_PORTS"))?;
        }
        let mut calls: Array<_, Call> = self.map("KC_CALLS")?.try_into().map_err(of("KC_CALLS"))?;
        for (number, call) in &image.calls {
            calls.set(*number, call, 0).map_err(of("KC_CALLS"))?;
        }
        let mut walk: Array<_, Target> =
            self.map("KC_WALK_TARGETS")?.try_into().map_err(of("KC_WALK_TARGETS"))?;
        if image.select_task == chaos_common::target::SELECT_WALK {
            for (slot, (_, target)) in image.targets.iter().enumerate() {
                walk.set(slot as u32, target, 0).map_err(of("KC_WALK_TARGETS"))?;
            }
            let array = self.descriptor("KC_WALK")?;
            for (slot, cgroup) in cgroups.iter().enumerate() {
                bpf::set_cgroup_slot(array, slot as u32, *cgroup)
                    .map_err(|source| Error::Io { name: "KC_WALK", source })?;
            }
        }
        let mut targets: HashMap<_, u64, Target> =
            self.map("KC_TARGETS")?.try_into().map_err(of("KC_TARGETS"))?;
        for (id, target) in &image.targets {
            targets.insert(id, target, 0).map_err(of("KC_TARGETS"))?;
        }
        Ok(())
    }

    /// Counters of one rule, summed over the CPUs.
    pub fn counters(&self, rule: u32) -> Result<RuleCounters, Error> {
        let map = self.0.map("KC_COUNTERS").ok_or(Error::NoMap("KC_COUNTERS"))?;
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
