//! Which hooks carry a network fault.

use super::Mechanism;
use crate::{
    probe::{Abilities, Unable},
    spec::network::{Direction, Effect, Fault},
};

/// Chooses the hooks for each direction.
pub fn mechanisms(fault: &Fault, abilities: &impl Abilities) -> Result<Vec<Mechanism>, Unable> {
    if matches!(fault.effect, Effect::Delay(_) | Effect::Reorder) {
        return line(fault, abilities);
    }
    if fault.effect == Effect::Duplicate && fault.direction != Direction::Egress {
        return Err(Unable::new(
            "only leaving packets can be sent twice",
            "leave --direction out, or duplicate at the peer",
        ));
    }
    let mut chosen = vec![];
    if fault.direction.has_egress() {
        // A cgroup_skb program could drop on egress too, but the sender would see EPERM.
        match abilities.tcx() {
            Ok(()) => chosen.push(Mechanism::Tcx),
            Err(no_tcx) => {
                abilities.clsact().map_err(|no_clsact| no_tcx.and(no_clsact))?;
                chosen.push(Mechanism::Clsact);
            }
        }
    }
    if fault.direction.has_ingress() {
        abilities.cgroup_skb()?;
        chosen.push(Mechanism::CgroupSkb);
    }
    Ok(chosen)
}

/// A line takes packets from the egress hook. Below 6.6 that hook is a filter, which would lead packets into a line
/// that has gone with its owner.
fn line(fault: &Fault, abilities: &impl Abilities) -> Result<Vec<Mechanism>, Unable> {
    if fault.direction != Direction::Egress {
        return Err(Unable::new(
            "line: only leaving packets can be held back",
            "leave --direction out: for requests and their answers, a delay on one way has the same effect",
        ));
    }
    abilities.tcx()?;
    abilities.line()?;
    Ok(vec![Mechanism::Tcx, Mechanism::Line])
}
