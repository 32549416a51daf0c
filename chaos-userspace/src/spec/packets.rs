//! Several effects on the same packets, as they are wished for together.

use super::{
    network::{Direction, Effect, Fault, Match, Protocol},
    units::Percent,
    when::When,
};

/// Effects on the same packets.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    /// Which packets.
    pub matches: Match,
    /// Which way they go; egress if nothing is said.
    pub direction: Option<Direction>,
    /// Whether shares are of flows.
    pub per_flow: bool,
    /// Whether all of them are lost, both ways.
    pub partition: bool,
    /// What happens to them, in any order.
    pub effects: Vec<(Effect, When)>,
}

/// Wishes that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    /// Connections are reset, of a protocol that has none.
    NoConnections(Protocol),
    /// Packets overtake, but none is held back.
    NothingOvertaken,
    /// Flows are drawn, but what is wished for is no share.
    NoShareOfFlows,
    /// A burst is of a rate, and there is none.
    BurstOfNoRate,
    /// There are several bursts, or one of a share of the packets.
    BurstOfSome,
    /// Everything is lost both ways, and something else is wished for.
    MoreThanPartition,
}

impl Packets {
    /// What does not go together.
    pub fn clashes(&self) -> Vec<Clash> {
        let mut clashes = vec![];
        let has = |wanted: fn(&Effect) -> bool| self.effects.iter().any(|(effect, _)| wanted(effect));
        if let (true, Some(protocol @ (Protocol::Udp | Protocol::Icmp))) =
            (has(|effect| *effect == Effect::Reset), self.matches.protocol)
        {
            clashes.push(Clash::NoConnections(protocol));
        }
        if has(|effect| *effect == Effect::Reorder) && !has(|effect| matches!(effect, Effect::Delay(_))) {
            clashes.push(Clash::NothingOvertaken);
        }
        let no_share = |(effect, when): &(Effect, When)| {
            matches!(effect, Effect::LossModel(_)) || when.every.is_some() || when.after.is_some()
        };
        if self.per_flow && self.effects.iter().any(no_share) {
            clashes.push(Clash::NoShareOfFlows);
        }
        let bursts = || {
            self.effects.iter().filter_map(|(effect, when)| match effect {
                Effect::Delay(delay) if delay.burst.is_some() => Some((delay, when)),
                _ => None,
            })
        };
        if bursts().any(|(delay, _)| delay.rate.is_none()) {
            clashes.push(Clash::BurstOfNoRate);
        }
        if bursts().count() > 1 || bursts().any(|(_, when)| *when != When::default()) {
            clashes.push(Clash::BurstOfSome);
        }
        let loses = has(|effect| matches!(effect, Effect::Loss | Effect::LossModel(_)));
        if self.partition && (loses || self.direction.is_some()) {
            clashes.push(Clash::MoreThanPartition);
        }
        clashes
    }

    /// The faults, in the order in which they are judged: what is lost is neither sent twice nor held back.
    pub fn faults(mut self) -> Vec<Fault> {
        if self.partition {
            self.effects.insert(0, (Effect::Loss, When::default()));
        }
        self.effects.sort_by_key(|(effect, _)| match effect {
            Effect::LossModel(_) => 0,
            Effect::Loss => 1,
            Effect::Reset => 2,
            Effect::Duplicate => 3,
            Effect::Corrupt(_) => 4,
            Effect::Reorder => 5,
            Effect::Delay(_) => 6,
        });
        let direction = if self.partition { Direction::Both } else { self.direction.unwrap_or_default() };
        let fault = |(effect, when): (Effect, When)| {
            let per_flow = self.per_flow && when.probability != Percent::ALL;
            let mut matches = self.matches.clone();
            if effect == Effect::Reset {
                matches.protocol = Some(Protocol::Tcp);
            }
            Fault { direction, matches, effect, when, per_flow }
        };
        let lines = |(effect, when): (Effect, When)| match effect {
            Effect::Delay(delay) => {
                delay.lines().into_iter().map(|delay| (Effect::Delay(delay), when)).collect()
            }
            _ => vec![(effect, when)],
        };
        self.effects.into_iter().flat_map(lines).map(fault).collect()
    }
}
