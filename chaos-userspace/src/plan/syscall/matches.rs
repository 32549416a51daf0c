//! Whether a mechanism can tell what a fault's match asks for.

use super::super::Mechanism;
use crate::{
    probe::{Abilities, Unable},
    spec::{
        syscall::Fault,
        syscall_match::{Match, User},
    },
};

/// The same match with users by number.
pub fn resolved(matches: &Match, abilities: &impl Abilities) -> Result<Match, String> {
    let mut matches = matches.clone();
    for user in matches.uid.only.iter_mut().chain(&mut matches.uid.except) {
        if let User::Name(name) = user {
            let uid = abilities.uid(name).ok_or_else(|| {
                format!("uid={name}: /etc/passwd of this host has no such user: give the number")
            })?;
            *user = User::Uid(uid);
        }
    }
    Ok(matches)
}

/// Refuses hooks that cannot tell what is asked for.
pub fn served_by(fault: &Fault, hooks: &[Mechanism]) -> Result<(), Unable> {
    let at_socket = hooks.iter().any(|hook| matches!(hook, Mechanism::Socket(_)));
    if at_socket && fault.matches.has_caller() {
        return Err(Unable::new(
            "cgroup_sock_addr: socket hooks choose by socket, whoever uses it: comm= and uid= cannot be told there",
            "leave them out",
        ));
    }
    Ok(())
}

/// What is matched and what is not, in words.
pub fn limits(matches: &Match) -> Vec<String> {
    let mut limits = vec![];
    if matches.has_caller() {
        limits.push(
            "comm= is the name of the calling thread (/proc/PID/task/TID/comm) and uid= its real user as this host \
             numbers it, both at the time of the call; a ring's own threads (iou-...) have names of their own."
                .to_owned(),
        );
    }
    limits
}
