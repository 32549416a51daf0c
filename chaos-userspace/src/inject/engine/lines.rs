//! The delay lines of an engine: which device's packets lead into which line.

use super::{Engine, Error, Placement, devices::namespaces_of, io_error};
use crate::{
    encode::Image,
    host::{
        device::{Device, NO_FRAMES, NO_LINE},
        namespace::NetworkNamespace,
    },
    inject::{
        line::{Lines, Place},
        object,
        program::{Kind, Programs},
    },
    plan::Mechanism,
};
use chaos_common::{
    limits::LINE_SLOTS_MAX,
    line::{ARRIVING, Entrance, Exit, LAYER_LINE, LineKey},
    line_load::{LOADS_MAX, Load},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

impl Engine {
    /// Makes lines and loads the programs that lead into them.
    pub(super) fn attach_with_lines(
        &mut self,
        programs: &mut Programs,
        placements: &[Placement<'_>],
    ) -> Result<(), Error> {
        let run = placements.first().map(|placement| placement.plan.run.as_str()).unwrap_or_default();
        let (a, b) = (programs.load(&Kind::LineA)?, programs.load(&Kind::LineB)?);
        self.delayed_together = delayed_together(&self.image, placements);
        self.lines = Some(Lines::new(run, a, b).map_err(io_error("making a network namespace for lines"))?);
        for mechanism in [Mechanism::Tcx, Mechanism::Arrival] {
            let users = || {
                placements.iter().filter(|placement| {
                    placement.plan.rules.iter().any(|rule| rule.mechanisms.contains(&mechanism))
                })
            };
            if users().next().is_none() {
                continue;
            }
            for (number, namespace) in namespaces_of(users())?.into_iter().enumerate() {
                let number = number as u32;
                let kind = match mechanism {
                    Mechanism::Arrival => Kind::NetArrival { namespace: number },
                    _ => Kind::NetEgressWithLines { namespace: number },
                };
                let program = self.keep(programs.load(&kind)?);
                self.add_place(namespace, number, &mechanism, program)?;
            }
        }
        Ok(())
    }

    /// Leads packets that leave `device`, or arrive at it, into the lines of all rules that have one.
    pub(super) fn lay_lines(
        &mut self,
        namespace: &Arc<NetworkNamespace>,
        number: u32,
        device: &Device,
        arriving: bool,
    ) -> Result<(), Error> {
        let layer = if arriving { device.arrival_layer() } else { device.line_layer() };
        let Some(layer) = layer else {
            log::warn!(
                "{} {}: what {} there is not held back and counts as an error",
                device.name,
                if arriving { NO_FRAMES } else { NO_LINE },
                if arriving { "arrives" } else { "leaves" },
            );
            return Ok(());
        };
        let what = || format!("a delay line for {}", device.name);
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let mut devices = BTreeMap::new();
        for (rule, netem) in &self.image.lines {
            let line = lines
                .device(namespace, *rule, netem, Place { loopback: device.is_loopback(), arriving })
                .map_err(|source| Error::Attach { what: what(), source })?;
            devices.insert(*rule, line);
        }
        // Where a packet goes on that still has these lines to pass, none at first.
        let mut exits: BTreeMap<u64, u32> = BTreeMap::new();
        for rules in ways(&self.delayed_together) {
            let first = rules.trailing_zeros();
            let rest = rules & !(1 << first);
            let Some(line) = devices.get(&first) else { continue };
            let slot = match exits.get(&rest) {
                Some(slot) => *slot,
                None => {
                    let next = rest.trailing_zeros();
                    let behind = exits.get(&(rest & rest.wrapping_sub(1))).copied().unwrap_or_default();
                    let exit = match devices.get(&next) {
                        Some(line) => Exit { device: *line, layer: LAYER_LINE, next: behind },
                        None => Exit { device: device.index, layer, next: 0 },
                    };
                    let slot = self.exits;
                    if slot as usize >= LINE_SLOTS_MAX {
                        let source = io::Error::other(format!(
                            "all {LINE_SLOTS_MAX} ways behind a line are taken: a device takes one, and twice as many for \
                             each further delay of a packet"
                        ));
                        return Err(Error::Attach { what: what(), source });
                    }
                    self.exits += 1;
                    self.maps.set_exit(slot, exit)?;
                    exits.insert(rest, slot);
                    slot
                }
            };
            let namespace = if arriving { number | ARRIVING } else { number };
            let way = Way { namespace, loopback: device.is_loopback(), rules };
            let load = match self.ways.iter().position(|known| *known == way) {
                Some(load) => load,
                None => {
                    self.ways.push(way);
                    self.ways.len() - 1
                }
            } as u32;
            if load < LOADS_MAX {
                self.maps.set_load(load, &load_of(&self.image, rules))?;
            } else {
                log::warn!(
                    "{}: the {LOADS_MAX} ways through delay lines whose bytes are counted are taken: this one takes up to \
                     64 KiB for each packet of its queue",
                    device.name
                );
            }
            let key = LineKey { namespace, device: device.index, rules };
            self.maps.add_entrance(key, Entrance { device: *line, slot, layer, load })?;
        }
        Ok(())
    }
}

/// Packets that share lines and what they are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// As in the keys of lines.
    namespace: u32,
    /// Of the loopback device, or of all others.
    loopback: bool,
    /// The rules that delay them.
    rules: u64,
}

impl Engine {
    /// Bounds the ways as `image` has it, for which the lines have been changed already.
    pub(super) fn change_loads(&mut self, image: &Image) -> Result<(), object::Error> {
        for (number, way) in (0..LOADS_MAX).zip(&self.ways) {
            self.maps.set_load(number, &load_of(image, way.rules))?;
        }
        Ok(())
    }

    /// Packets that were lost since their lines had taken as many bytes as they may.
    pub(super) fn overflowed(&self) -> Result<u64, object::Error> {
        self.maps.overflowed((self.ways.len() as u32).min(LOADS_MAX))
    }
}

/// How the way through the lines of these rules is bounded: as the one that takes least. Its rate is the one that has a burst,
/// or the tightest.
fn load_of(image: &Image, rules: u64) -> Load {
    let passed = || image.lines.iter().filter(|(rule, _)| rules & 1 << rule != 0);
    let stays: Duration = passed().map(|(_, netem)| netem.stays).sum();
    let room = passed().map(|(_, netem)| netem.room_bytes).min();
    let load = Load::new(room.unwrap_or_default(), stays.as_nanos() as u64);
    let rates = passed().filter(|(_, netem)| netem.rate != 0);
    match rates.min_by_key(|(_, netem)| (netem.burst_bytes == 0, netem.rate)) {
        Some((rule, netem)) => load.with_rate(netem.rate, netem.burst_bytes, *rule),
        None => load,
    }
}

/// The rules that may delay one packet, each set of them once: a target's own and those of targets above it.
fn delayed_together(image: &Image, placements: &[Placement<'_>]) -> Vec<u64> {
    let delaying = image.lines.iter().fold(0, |rules, (rule, _)| rules | 1u64 << rule);
    let by_id: BTreeMap<_, _> = image.targets.iter().map(|(id, target)| (*id, target.rules)).collect();
    let cgroups = placements.iter().flat_map(|placement| &placement.cgroups);
    let by_path: BTreeMap<_, _> = cgroups
        .map(|cgroup| (cgroup.path(), by_id.get(&cgroup.id()).copied().unwrap_or_default() & delaying))
        .collect();
    let above =
        |path: &Path| path.ancestors().filter_map(|upper| by_path.get(upper)).fold(0, |all, one| all | one);
    let together: BTreeSet<_> = by_path.keys().map(|path| above(path)).collect();
    together.into_iter().collect()
}

/// All sets of rules that a packet may have drawn, each behind what is left of it without its first rule.
fn ways(together: &[u64]) -> BTreeSet<u64> {
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
    use crate::encode::netem::Netem;

    #[test]
    fn ways_are_all_sets_of_rules_that_meet() {
        assert_eq!(ways(&[0b100]), [0b100].into());
        assert_eq!(ways(&[0b011, 0b100, 0]), [0b001, 0b010, 0b011, 0b100].into());
        assert_eq!(ways(&[0b1111]).len(), 15);
    }

    #[test]
    fn a_way_is_bounded_by_the_line_that_takes_least_and_the_time_in_all_of_them() {
        let netem = |stays, rate, burst_bytes, room_bytes| Netem {
            options: vec![],
            change: vec![],
            longest: Duration::ZERO,
            stays: Duration::from_nanos(stays),
            rate,
            burst_bytes,
            room_bytes,
        };
        let lines = vec![
            (0, netem(100, 0, 0, 9_000)),
            (2, netem(60, 500, 0, 5_000)),
            (3, netem(0, 400, 0, 7_000)),
            (4, netem(0, 600, 80, 7_000)),
        ];
        let image = Image { lines, ..Image::default() };
        assert_eq!(load_of(&image, 0b0_0001), Load::new(9_000, 100));
        assert_eq!(load_of(&image, 0b0_1101), Load::new(5_000, 160).with_rate(400, 0, 3));
        assert_eq!(load_of(&image, 0b1_1101), Load::new(5_000, 160).with_rate(600, 80, 4));
    }
}
