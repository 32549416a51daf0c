//! Who is hit without the others of its cgroup, as the programs read it.

use super::{
    map_errors::ignore_gone,
    object::{Error, Maps, of},
};
use aya::maps::{HashMap, MapError};
use chaos_common::limits::TREE_NOBODY;

const TREE: &str = "KC_TREE_MEMBERS";

impl Maps {
    /// From now on the process is hit, among the others of its cgroup. [`TREE_NOBODY`] comes first: with it, those are counted
    /// that find no room.
    pub fn take_into_tree(&mut self, pid: u32) -> Result<(), Error> {
        let mut members: HashMap<_, u32, u64> = self.map(TREE)?.try_into().map_err(of(TREE))?;
        members.insert(pid, 0, 0).map_err(of(TREE))
    }

    /// It is not hit any more.
    pub fn take_out_of_tree(&mut self, pid: u32) -> Result<(), Error> {
        let mut members: HashMap<_, u32, u64> = self.map(TREE)?.try_into().map_err(of(TREE))?;
        ignore_gone(members.remove(&pid)).map_err(of(TREE))
    }

    /// Processes that were started by one that is hit and for which there was no room.
    pub fn left_out_of_tree(&mut self) -> Result<u64, Error> {
        let members: HashMap<_, u32, u64> = self.map(TREE)?.try_into().map_err(of(TREE))?;
        match members.get(&TREE_NOBODY, 0) {
            Ok(count) => Ok(count),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(source) => Err(Error::Map { name: TREE, source }),
        }
    }
}
