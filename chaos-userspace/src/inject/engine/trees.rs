//! Processes that are hit without the others of their cgroups.

use super::{Engine, Error};
use crate::{host::process, inject::object};
use chaos_common::limits::TREE_NOBODY;
use std::collections::BTreeSet;

impl Engine {
    /// Takes in the processes that were named and what descends from them. By now, what they start comes in by itself, and
    /// who exits goes.
    pub(super) fn take_in_trees(&mut self) -> Result<(), Error> {
        let roots: Vec<u32> = self.hosted.values().flat_map(|hosted| &hosted.plan.trees).copied().collect();
        self.maps.take_into_tree(TREE_NOBODY)?;
        let mut members = BTreeSet::new();
        loop {
            // What was started while this was looked at by one that was not a member yet is found the next time.
            let new: Vec<_> = process::trees(&roots).into_iter().filter(|pid| members.insert(*pid)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for pid in new {
                self.take_into_tree(pid)?;
            }
        }
    }

    fn take_into_tree(&mut self, pid: i32) -> Result<(), object::Error> {
        self.maps.take_into_tree(pid as u32)?;
        // Whoever had exited before is not forgotten by its exit, and its id would be another one's some time.
        if process::start(pid).is_none() { self.maps.take_out_of_tree(pid as u32) } else { Ok(()) }
    }
}
