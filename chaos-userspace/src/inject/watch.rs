//! Watching how long a target's own calls take. It changes nothing, so it needs neither lease nor guardian: the links go
//! with their descriptors.

use super::{
    engine::Error,
    link::Link,
    object::{self, Maps},
    program::{Kind, Programs},
};
use crate::{
    encode::{self, Image},
    host::{cgroup::Cgroup, kernel},
    plan::watch::Watched,
    spec::syscall::Call,
};
use aya::maps::{HashMap, MapData, PerCpuArray};
use chaos_common::watch::{Begun, Times};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Watched calls of some cgroups.
pub struct CallWatch {
    // Dropped in this order: first what fires.
    _links: Vec<Link>,
    _programs: Vec<OwnedFd>,
    state: Mutex<State>,
    calls: Vec<Call>,
}

/// The maps, and what was written to them.
struct State {
    maps: Maps,
    image: Image,
}

impl std::fmt::Debug for CallWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallWatch").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl CallWatch {
    /// Watches `watched` in `cgroups` and below them, from now on. `task_ancestor` says whether programs can ask for a
    /// task's ancestor cgroup (5.12).
    pub fn open<'a>(
        cgroups: impl IntoIterator<Item = &'a Cgroup>,
        watched: &[Watched],
        task_ancestor: bool,
    ) -> Result<Self, Error> {
        let cgroups: Vec<_> = cgroups.into_iter().collect();
        let targets: Vec<_> = cgroups.iter().map(|cgroup| (cgroup.id(), cgroup.level())).collect();
        let image = encode::watching(&targets, watched.len(), task_ancestor)?;
        let _memory_lock_limit = kernel::MemoryLockLimit::lift();
        let (mut maps, object) = object::open(&image, 0, None)?;
        maps.fill(&image, &cgroups.iter().map(|cgroup| cgroup.as_fd()).collect::<Vec<_>>())?;
        let mut programs = Programs::new(object, &maps.descriptors(), image.exact)?;
        let (mut loaded, mut links) = (vec![], vec![]);
        for (slot, call) in (0..).zip(watched) {
            for function in &call.functions {
                let (name, arguments) = (function.name.clone(), function.arguments);
                // The end first: what has begun unseen is not missed there.
                for (kind, what) in [
                    (Kind::WatchEnd { function: name.clone(), slot, arguments }, "fexit"),
                    (Kind::WatchBegin { function: name, slot }, "fentry"),
                ] {
                    let program = programs.load(&kind)?;
                    let what = format!("{what} {}", function.name);
                    let link = Link::function(program.as_fd(), &what)
                        .map_err(|source| Error::Attach { what: what.clone(), source })?;
                    links.push(link);
                    loaded.push(program);
                }
            }
        }
        let calls = watched.iter().map(|call| call.call).collect();
        Ok(Self { _links: links, _programs: loaded, state: Mutex::new(State { maps, image }), calls })
    }

    /// Watches `cgroup` in place of the one whose id was `old`.
    pub fn replace_target(&self, old: u64, cgroup: &Cgroup) -> Result<(), Error> {
        let mut state = self.state();
        let State { maps, image } = &mut *state;
        let Some(place) = image.targets.iter().position(|(id, _)| *id == old) else { return Ok(()) };
        let new = image.with_target(old, cgroup.id());
        maps.replace_target((image, &new), place, cgroup.as_fd())?;
        *image = new;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of these calls so far, taken together.
    pub fn times_of(&self, calls: &[Call]) -> Result<Times, Error> {
        let mut sum = Times::default();
        for call in calls {
            sum.add(&self.times(*call)?);
        }
        Ok(sum)
    }

    /// What became of a call so far, of all processors.
    pub fn times(&self, call: Call) -> Result<Times, Error> {
        let mut sum = Times::default();
        let Some(slot) = self.slot(call) else { return Ok(sum) };
        let state = self.state();
        let map: PerCpuArray<&MapData, Times> = state.maps.view("KC_TIMES")?;
        let per_cpu = map.get(&slot, 0).map_err(object::of("KC_TIMES"))?;
        per_cpu.iter().for_each(|cpu| sum.add(cpu));
        Ok(sum)
    }

    /// Calls of these kinds that have begun and not ended. Threads that have died or left the target since are among them.
    pub fn under_way(&self, calls: &[Call]) -> Result<Vec<Begun>, Error> {
        let slots: Vec<_> = calls.iter().filter_map(|call| self.slot(*call)).map(u64::from).collect();
        let state = self.state();
        let map: HashMap<&MapData, u64, Begun> = state.maps.view("KC_UNDER_WAY")?;
        // What ends while the table is read is left out.
        let all = map.iter().filter_map(Result::ok).map(|(_, begun)| begun);
        Ok(all.filter(|begun| slots.contains(&begun.slot)).collect())
    }

    fn slot(&self, call: Call) -> Option<u32> {
        self.calls.iter().position(|known| *known == call).map(|place| place as u32)
    }
}
