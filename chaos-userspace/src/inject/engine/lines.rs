//! The delay lines of an engine: which device's packets lead into which line.

use super::{
    Engine, Error, Hosted, Placement,
    devices::{leading_program, line_key, namespaces_of},
    io_error,
    wanted::Wanted,
    ways::{Hook, Way, Ways, rest, ways},
};
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
    time::{Duration, Instant},
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
        self.lines = Some(Lines::new(run, a, b).map_err(io_error(NO_NAMESPACE))?);
        for mechanism in [Mechanism::Tcx, Mechanism::Arrival] {
            let arriving = mechanism == Mechanism::Arrival;
            let users = || {
                placements.iter().filter(|placement| {
                    placement.plan.rules.iter().any(|rule| rule.mechanisms.contains(&mechanism))
                })
            };
            if users().next().is_none() {
                continue;
            }
            let together = delayed_together(&self.image, self.hosted.values(), arriving);
            for (number, namespace) in namespaces_of(users())?.into_iter().enumerate() {
                let number = number as u32;
                let program = self.keep(programs.load(&leading_program(number, arriving))?);
                self.add_place(namespace, number, &mechanism, program, together.clone())?;
            }
        }
        Ok(())
    }

    /// Leads packets that leave `device`, or arrive at it, into the lines of the rules that delay them `together`. Ways that are
    /// there stay as they are.
    pub(super) fn lay_lines(
        &mut self,
        namespace: &Arc<NetworkNamespace>,
        number: u32,
        device: &Device,
        arriving: bool,
        together: &[u64],
    ) -> Result<(), Error> {
        let number = line_key(number, arriving);
        let place = Place { namespace: number, loopback: device.is_loopback() };
        let hook = Hook { place, device: device.index };
        let missing = self.ways.missing(hook, &ways(together));
        if missing.is_empty() {
            return Ok(());
        }
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
        let failed = |source| Error::Attach { what: format!("a delay line for {}", device.name), source };
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let delaying = missing.iter().fold(0, |all, rules| all | rules);
        let mut devices = BTreeMap::new();
        for (rule, netem) in self.image.lines.iter().filter(|(rule, _)| delaying & 1 << rule != 0) {
            let line = lines.device(namespace, *rule, netem, place).map_err(failed)?;
            devices.insert(*rule, line);
        }
        let mut entrances = vec![];
        for rules in missing {
            let Some(line) = devices.get(&rules.trailing_zeros()) else { continue };
            // Where a packet goes on that still has these lines to pass, none at first.
            let left = rest(rules);
            let slot = match self.ways.exit(hook, left) {
                Some(slot) => slot,
                None => {
                    let behind = self.ways.exit(hook, rest(left)).unwrap_or_default();
                    let exit = match devices.get(&left.trailing_zeros()) {
                        Some(line) => Exit { device: *line, layer: LAYER_LINE, next: behind },
                        None => Exit { device: device.index, layer, next: 0 },
                    };
                    let slot = self.ways.new_exit(hook, left, Instant::now());
                    let slot = slot.ok_or_else(|| {
                        failed(io::Error::other(format!(
                            "all {LINE_SLOTS_MAX} ways behind a line are taken: a device takes one, and twice as many for \
                             each further delay of a packet"
                        )))
                    })?;
                    self.maps.set_exit(slot, exit)?;
                    slot
                }
            };
            let (load, is_new) = self.ways.load(Way { place, rules });
            if load < LOADS_MAX {
                if is_new {
                    self.maps.forget_load(load)?;
                }
                self.maps.set_load(load, &load_of(&self.image, rules))?;
            } else {
                log::warn!(
                    "{}: the {LOADS_MAX} ways through delay lines whose bytes are counted are taken: this one takes up to \
                     64 KiB for each packet of its queue",
                    device.name
                );
            }
            entrances.push((rules, Entrance { device: *line, slot, layer, load }));
        }
        // Who may be delayed by a rule alone may be so together with others, which comes first.
        for (rules, entrance) in entrances.into_iter().rev() {
            self.maps.add_entrance(key(hook, rules), entrance)?;
            self.ways.opened(hook, rules);
        }
        Ok(())
    }

    /// Leads nothing of a device that has gone into lines. What is in them goes nowhere.
    pub(super) fn forget_device(&mut self, number: u32, arriving: bool, device: u32) -> Result<(), Error> {
        let number = line_key(number, arriving);
        let is_its = |hook: Hook| hook.place.namespace == number && hook.device == device;
        self.close_ways(|hook, _| !is_its(hook), |_| true, Instant::now()).map(drop)
    }

    /// Takes the entrances of ways away that are not wanted, and returns those: nobody is led into them any more since then. `stays`
    /// says of which lines packets come out still.
    fn close_ways(
        &mut self,
        wanted: impl Fn(Hook, u64) -> bool,
        stays: impl Fn((Place, u32)) -> bool,
        since: Instant,
    ) -> Result<Vec<(Hook, u64)>, Error> {
        let unwanted = self.ways.unwanted(wanted);
        for (hook, rules) in &unwanted {
            self.maps.remove_entrance(key(*hook, *rules))?;
            let first = (hook.place, rules.trailing_zeros());
            let longest = self.lines.as_ref().map_or(Duration::ZERO, |lines| lines.longest(first));
            let held_until = since.checked_add(longest.saturating_add(LATE));
            self.ways.closed(*hook, *rules, held_until.filter(|_| stays(first)));
        }
        Ok(unwanted)
    }

    /// Takes the lines away that no way at a place of the engine leads through, once what is in them has come out, and what made
    /// them possible with the last one. Nobody is subject to their rules any more `since` then.
    pub(super) fn take_lines_away(&mut self, wanted: &Wanted, since: Instant) -> Result<(), Error> {
        if self.lines.is_none() {
            return Ok(());
        }
        let of_place = |place: &super::devices::Place| ways(wanted.together(place));
        let wanted: BTreeMap<u32, BTreeSet<u64>> =
            self.places.iter().map(|place| (place.key(), of_place(place))).collect();
        let is_wanted = |place: Place, of: &dyn Fn(u64) -> bool| {
            wanted.get(&place.namespace).is_some_and(|ways| ways.iter().any(|rules| of(*rules)))
        };
        let stays = |(place, rule): (Place, u32)| is_wanted(place, &|rules| rules & 1 << rule != 0);
        let closed =
            self.close_ways(|hook, rules| is_wanted(hook.place, &|other| other == rules), stays, since)?;
        self.ways.drop_unused_exits();
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let goes = |of| !stays(of);
        if lines.all().any(goes) {
            // A packet passes its lines in the order of their rules.
            let leads_on = |(place, rule): (Place, u32)| {
                let ways =
                    closed.iter().filter(|(hook, rules)| hook.place == place && rules & 1 << rule != 0);
                let behind = ways.fold(0, |all, (_, rules)| all | rules) & (u64::MAX << rule) & !(1 << rule);
                (0..u64::BITS).any(|other| behind & 1 << other != 0 && goes((place, other)))
            };
            let (queue, problems) = lines.remove(goes, leads_on, since);
            if let Some(shared) = &mut self.shared {
                shared.left.overflowed += queue.overflowed;
                shared.left.undelivered += queue.undelivered;
                shared.problems.extend(problems);
            }
        }
        for load in self.ways.take_unused_loads().into_iter().filter(|load| *load < LOADS_MAX) {
            let full = self.maps.forget_load(load)?;
            if let Some(shared) = &mut self.shared {
                shared.left.overflowed += full;
            }
        }
        if self.lines.as_ref().is_some_and(|lines| lines.all().next().is_none()) {
            (self.lines, self.ways) = (None, Ways::default());
        }
        Ok(())
    }

    /// What lines are made of, before the first of them.
    pub(super) fn prepare_lines(&mut self) -> Result<(), Error> {
        let Some(shared) = self.shared.as_mut().filter(|_| self.lines.is_none()) else { return Ok(()) };
        let (a, b) = (shared.loader.load(&Kind::LineA)?, shared.loader.load(&Kind::LineB)?);
        self.lines = Some(Lines::new(&self.journal.run, a, b).map_err(io_error(NO_NAMESPACE))?);
        Ok(())
    }

    /// The number of a namespace at whose devices these rules delay packets `together`, which has `now` or none (0) so far. Where
    /// nothing that leaves is delayed it is 0, where runs come and go.
    pub(super) fn number_for(&self, now: u32, together: &[u64], arriving: bool) -> u32 {
        match now {
            _ if together.is_empty() && !arriving => 0,
            0 => self.free_namespace_number(),
            number => number,
        }
    }

    /// A number for a namespace with lines that none has.
    fn free_namespace_number(&self) -> u32 {
        let taken: BTreeSet<u32> = self
            .places
            .iter()
            .map(super::devices::Place::number)
            .chain(self.ways.hooks().map(|hook| hook.place.namespace & !ARRIVING))
            .collect();
        (1..).find(|number| !taken.contains(number)).unwrap_or_default()
    }

    /// Whether packets of the run in `slot`, which was disarmed, are in its lines still and may come out: the end of the run
    /// waits for them, and others need not. From the first time on that this is asked.
    pub fn holds_back(&mut self, slot: usize) -> bool {
        let (Some(lines), Some(hosted)) = (&self.lines, self.hosted.get_mut(&slot)) else { return false };
        let since = *hosted.disarmed.get_or_insert_with(Instant::now);
        lines.hold(delaying(&self.image) & hosted.seat.mask(), since)
    }
}

/// By how much a packet may come out of its line later than it is to, on a busy machine.
const LATE: Duration = Duration::from_secs(5);

const NO_NAMESPACE: &str = "making a network namespace for lines";

fn key(hook: Hook, rules: u64) -> LineKey {
    LineKey { namespace: hook.place.namespace, device: hook.device, rules }
}

impl Engine {
    /// Bounds the ways as `image` has it, for which the lines have been changed already.
    pub(super) fn change_loads(&mut self, image: &Image) -> Result<(), object::Error> {
        for (number, way) in self.ways.loads().filter(|(number, _)| *number < LOADS_MAX) {
            self.maps.set_load(number, &load_of(image, way.rules))?;
        }
        Ok(())
    }

    /// Packets that were lost since their lines had taken as many bytes as they may.
    pub(super) fn overflowed(&self) -> Result<u64, object::Error> {
        let counted = self.ways.loads().filter(|(number, _)| *number < LOADS_MAX);
        counted.map(|(number, _)| self.maps.overflowed(number)).sum()
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

/// The rules that have lines.
pub(super) fn delaying(image: &Image) -> u64 {
    image.lines.iter().fold(0, |rules, (rule, _)| rules | 1 << rule)
}

/// The rules of `runs` that may delay one packet that leaves, or that arrives, each set of them once: a target's own and those
/// of targets above it.
pub(super) fn delayed_together<'a>(
    image: &Image,
    runs: impl Iterator<Item = &'a Hosted>,
    arriving: bool,
) -> Vec<u64> {
    let delaying = delaying(image) & if arriving { image.ingress_rules } else { image.egress_rules };
    let mut by_path: BTreeMap<&Path, u64> = BTreeMap::new();
    for hosted in runs {
        for path in &hosted.paths {
            *by_path.entry(path).or_default() |= hosted.seat.mask() & delaying;
        }
    }
    let above =
        |path: &Path| path.ancestors().filter_map(|upper| by_path.get(upper)).fold(0, |all, one| all | one);
    let together: BTreeSet<_> = by_path.keys().map(|path| above(path)).filter(|rules| *rules != 0).collect();
    together.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::netem::Netem;

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
