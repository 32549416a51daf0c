//! Which functions of the kernel tell how long calls take.

use super::{Error, Plan, syscall::entry};
use crate::{
    probe::{Abilities, Unable},
    spec::syscall::Call,
};
use std::{collections::BTreeMap, fmt::Write as _};

/// A call that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The call.
    pub call: Call,
    /// The functions that implement it, for 64-bit callers and, where there are such, for 32-bit callers.
    pub functions: Vec<Function>,
}

/// A function of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its arguments: 1, the caller's registers, or 0.
    pub arguments: u32,
}

impl Watched {
    /// Its name, and the names of its functions as JSON.
    pub fn functions(&self) -> (String, serde_json::Value) {
        let names = self.functions.iter().map(|function| function.name.as_str());
        (self.call.name().to_owned(), names.collect())
    }
}

/// Says what is watched where; nothing if nothing is.
pub fn explain(watched: &[Watched]) -> String {
    watched.iter().fold(String::new(), |mut text, call| {
        let functions: Vec<_> = call.functions.iter().map(|function| function.name.as_str()).collect();
        let _ =
            writeln!(text, "Watched: {} by fentry and fexit on {}.", call.call.name(), functions.join(", "));
        text
    })
}

/// Plans to watch these calls of a target, each once, beside the faults of `plan`.
pub fn watch(
    calls: impl IntoIterator<Item = Call>,
    plan: &Plan,
    abilities: &impl Abilities,
) -> Result<Vec<Watched>, Error> {
    let overridden = |call: Call| {
        let mut hooks = plan.rules.iter().flat_map(|rule| &rule.calls).filter(|(other, _)| *other == call);
        hooks.find_map(|(_, hooks)| hooks.iter().find(|hook| hook.overridden_function().is_some()))
    };
    let calls: BTreeMap<u32, Call> = calls.into_iter().map(|call| (call.number(), call)).collect();
    let mut all = vec![];
    let mut unable: Vec<(String, Unable)> = vec![];
    for call in calls.into_values() {
        if let Some(hook) = overridden(call) {
            let why = format!("{}: a fault of it has no effect where fentry and fexit look on", hook.name());
            let remedy = "choose another mechanism, or let the probe ask somebody who makes the call";
            unable.push((format!("watching {}", call.name()), Unable::new(why, remedy)));
            continue;
        }
        match watched(call, abilities) {
            Ok(watched) => all.push(watched),
            Err(reason) => unable.push((format!("watching {}", call.name()), reason)),
        }
    }
    if unable.is_empty() { Ok(all) } else { Err(Error::Unable(unable)) }
}

/// Plans to watch one call.
pub fn watched(call: Call, abilities: &impl Abilities) -> Result<Watched, Unable> {
    let name = entry::function(call.name(), true);
    abilities.fentry(&name)?;
    let (compat, _) = entry::compat_functions(call.name(), |name| abilities.has_function(name));
    let compat = compat.into_iter().filter(|name| abilities.fentry(name).is_ok());
    let arguments = u32::from(!entry::is_without_arguments(call.name()));
    let functions = std::iter::once(Function { name, arguments })
        .chain(compat.map(|name| Function { name, arguments: 1 }))
        .collect();
    Ok(Watched { call, functions })
}
