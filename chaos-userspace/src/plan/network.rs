//! Which hooks carry a network fault.

use super::Mechanism;
use crate::{
    probe::{Abilities, Unable},
    spec::{
        corrupt::Corrupt,
        network::{Direction, Effect, Fault},
    },
};

/// What several delays do together.
pub const DELAYS_ADD: &str = "A packet that several delays hit passes their lines one after another: the times add up, and the \
                              tightest rate wins.";

/// Chooses the hooks for each direction.
pub fn mechanisms(fault: &Fault, abilities: &impl Abilities) -> Result<Vec<Mechanism>, Unable> {
    if matches!(fault.effect, Effect::Delay(_) | Effect::Reorder) {
        return line(fault, abilities);
    }
    if fault.direction != Direction::Egress {
        match fault.effect {
            Effect::Duplicate => {
                return Err(Unable::new(
                    "only leaving packets can be sent twice",
                    "leave --direction out, or duplicate at the peer",
                ));
            }
            Effect::Corrupt(_) => {
                return Err(Unable::new(
                    "arriving packets cannot be changed: the hook at the target's sockets (cgroup_skb) may read and drop them, \
                     not write to them",
                    "leave --direction out, or corrupt at the peer; what the checksum shows feels to the target like \
                     --loss --direction ingress",
                ));
            }
            Effect::Reset => {
                return Err(Unable::new(
                    "connections are reset by what the target sends on them, which both ends feel",
                    "leave --direction out",
                ));
            }
            _ => {}
        }
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

/// What the user should know of how a fault is carried out, in words.
pub fn limits(fault: &Fault) -> Vec<String> {
    let said: &[&str] = match fault.effect {
        Effect::Corrupt(Corrupt::Detected) => &[
            "The checksum of a packet that is hit is computed here and not by the device, so that loopback and veth deliver a \
             wrong one, too. Of a super-packet (GSO) that is hit the first wire segment arrives, corrupted; the rest is lost.",
        ],
        Effect::Corrupt(Corrupt::Payload) => &[
            "Packets without payload are not hit. Of a super-packet (GSO) one bit of its first wire segment is wrong.",
        ],
        Effect::Reset => &[
            "A connection is reset when the target next sends on it: data, an acknowledgement, a keep-alive. Both ends \
             see ECONNRESET; who connects, to the target or from it, sees ECONNREFUSED.",
        ],
        _ => &[],
    };
    said.iter().map(|line| (*line).to_owned()).collect()
}

/// A line takes packets from hooks of devices. Below 6.6 such a hook is a filter, which would lead packets into a line
/// that has gone with its owner.
fn line(fault: &Fault, abilities: &impl Abilities) -> Result<Vec<Mechanism>, Unable> {
    abilities.tcx()?;
    abilities.line()?;
    let mut chosen = vec![];
    if fault.direction.has_egress() {
        chosen.push(Mechanism::Tcx);
    }
    if fault.direction.has_ingress() {
        abilities.arrival()?;
        abilities.cgroup_skb()?;
        // The second one counts what could not be held back.
        chosen.extend([Mechanism::Arrival, Mechanism::CgroupSkb]);
    }
    chosen.push(Mechanism::Line);
    Ok(chosen)
}
