//! Host names in packet matches become addresses when a plan is made, and stay those for the run.

use crate::{
    host::resolver,
    spec::{Fault, Problems},
};
use std::{collections::BTreeMap, io, net::IpAddr};

/// The faults with the addresses of all names in their matches.
pub fn resolve(faults: &[Fault]) -> Result<Vec<Fault>, Problems> {
    resolve_with(faults, resolver::addresses)
}

fn resolve_with(
    faults: &[Fault],
    look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>>,
) -> Result<Vec<Fault>, Problems> {
    let mut problems = Problems::default();
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut faults = faults.to_vec();
    for fault in &mut faults {
        let Fault::Network(fault) = fault else { continue };
        for name in &mut fault.matches.names {
            if !known.contains_key(&name.name) {
                let found = look_up(&name.name).and_then(|found| {
                    if found.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(found) }
                });
                let found = problems.take(found.map_err(|error| {
                    format!(
                        "--remote: '{}' does not resolve: {error}: check the name and this host's resolver, or write its \
                         address",
                        name.name
                    )
                }));
                known.insert(name.name.clone(), found.unwrap_or_default());
            }
            name.addresses = known.get(&name.name).cloned().unwrap_or_default();
        }
    }
    problems.or(|| faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::network::{self, Direction, Effect, Match, Name};

    fn lossy(names: &[&str]) -> Fault {
        let names = names.iter().map(|name| Name { name: (*name).into(), ..Name::default() }).collect();
        Fault::Network(Box::new(network::Fault {
            direction: Direction::Egress,
            matches: Match { names, ..Match::default() },
            effect: Effect::Loss,
            when: Default::default(),
            per_flow: false,
        }))
    }

    fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "db" => Ok(vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]),
            "empty" => Ok(vec![]),
            _ => Err(io::Error::other("nobody knows it")),
        }
    }

    #[test]
    fn names_get_all_their_addresses() {
        let faults = resolve_with(&[lossy(&["db"])], look_up).unwrap();
        let said = faults[0].to_string();
        assert!(said.contains("remote db (10.0.0.1, fd00::1)"), "{said}");
    }

    #[test]
    fn all_names_without_addresses_are_told_once() {
        let problems =
            resolve_with(&[lossy(&["db", "gone", "empty"]), lossy(&["gone"])], look_up).unwrap_err();
        assert_eq!(problems.0.len(), 2, "{problems}");
        assert!(problems.0[0].contains("'gone'") && problems.0[0].contains("nobody knows it"), "{problems}");
        assert!(problems.0[1].contains("'empty'"), "{problems}");
    }
}
