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
        program::{Kind, Programs},
    },
    plan::Mechanism,
};
use chaos_common::{
    limits::LINE_SLOTS_MAX,
    line::{ARRIVING, Entrance, Exit, LAYER_LINE, LineKey},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
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
                self.programs.push(programs.load(&kind)?);
                let program = self.programs.len() - 1;
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
            let key = LineKey { namespace, device: device.index, rules };
            self.maps.add_entrance(key, Entrance { device: *line, slot, layer })?;
        }
        Ok(())
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

    #[test]
    fn ways_are_all_sets_of_rules_that_meet() {
        assert_eq!(ways(&[0b100]), [0b100].into());
        assert_eq!(ways(&[0b011, 0b100, 0]), [0b001, 0b010, 0b011, 0b100].into());
        assert_eq!(ways(&[0b1111]).len(), 15);
    }
}
