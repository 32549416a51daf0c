//! Which hooks carry a network fault.

use super::Mechanism;
use crate::{
    probe::{Abilities, Unable},
    spec::network::Fault,
};

/// Chooses the hooks for each direction.
pub fn mechanisms(fault: &Fault, abilities: &impl Abilities) -> Result<Vec<Mechanism>, Unable> {
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
