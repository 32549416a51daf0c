//! The tables that lead packets into lines and on behind them, and bound what is in them.

use super::{
    map_errors::ignore_gone,
    object::{Error, Maps, of},
};
use aya::maps::{Array, HashMap};
use chaos_common::{
    line::{Entrance, Exit, LineKey},
    line_load::Load,
};

impl Maps {
    /// Opens the lines of some rules for packets that leave a device.
    pub fn add_entrance(&mut self, key: LineKey, entrance: Entrance) -> Result<(), Error> {
        let mut lines: HashMap<_, LineKey, Entrance> =
            self.map("KC_LINES")?.try_into().map_err(of("KC_LINES"))?;
        lines.insert(key, entrance, 0).map_err(of("KC_LINES"))
    }

    /// Leads the packets into no lines any more.
    pub fn remove_entrance(&mut self, key: LineKey) -> Result<(), Error> {
        let mut lines: HashMap<_, LineKey, Entrance> =
            self.map("KC_LINES")?.try_into().map_err(of("KC_LINES"))?;
        ignore_gone(lines.remove(&key)).map_err(of("KC_LINES"))
    }

    /// Says where the packets of a slot go on behind their line.
    pub fn set_exit(&mut self, slot: u32, exit: Exit) -> Result<(), Error> {
        let mut exits: Array<_, Exit> = self.map("KC_EXITS")?.try_into().map_err(of("KC_EXITS"))?;
        exits.set(slot, exit, 0).map_err(of("KC_EXITS"))
    }

    /// Bounds a way through lines. What is on it stays counted.
    pub fn set_load(&mut self, number: u32, load: &Load) -> Result<(), Error> {
        let mut loads: Array<_, Load> = self.map("KC_LOADS")?.try_into().map_err(of("KC_LOADS"))?;
        let now: Load = loads.get(&number, 0).map_err(of("KC_LOADS"))?;
        // The parts of another length would be others'.
        let spans = if now.span_ns == load.span_ns { now.spans } else { load.spans };
        let load = Load { spans, ..now.with_bounds_of(load) };
        loads.set(number, load, 0).map_err(of("KC_LOADS"))
    }

    /// Forgets what was on a way, which no packet takes any more. Returns for how many there was no room.
    pub fn forget_load(&mut self, number: u32) -> Result<u64, Error> {
        let full = self.overflowed(number)?;
        let mut loads: Array<_, Load> = self.map("KC_LOADS")?.try_into().map_err(of("KC_LOADS"))?;
        loads.set(number, Load::default(), 0).map_err(of("KC_LOADS"))?;
        Ok(full)
    }

    /// Packets for which there was no room on a way through lines.
    pub fn overflowed(&self, number: u32) -> Result<u64, Error> {
        let loads: Array<_, Load> = self.view("KC_LOADS")?;
        Ok(loads.get(&number, 0).map_err(of("KC_LOADS"))?.full)
    }
}
