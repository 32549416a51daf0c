//! The delay lines of an engine: which device's packets lead into which line.

use super::{Engine, Error, Placement, devices::namespaces_of, io_error};
use crate::{
    host::{device::Device, namespace::NetworkNamespace},
    inject::{
        line::Lines,
        program::{Kind, Programs},
    },
    plan::Mechanism,
};
use chaos_common::{
    limits::LINE_SLOTS_MAX,
    line::{Entrance, Exit, LineKey},
};
use std::{io, sync::Arc};

impl Engine {
    /// Makes lines and loads the programs that lead into them.
    pub(super) fn attach_with_lines(
        &mut self,
        programs: &mut Programs,
        placements: &[Placement<'_>],
    ) -> Result<(), Error> {
        let run = placements.first().map(|placement| placement.plan.run.as_str()).unwrap_or_default();
        let (a, b) = (programs.load(&Kind::LineA)?, programs.load(&Kind::LineB)?);
        self.lines = Some(Lines::new(run, a, b).map_err(io_error("making a network namespace for lines"))?);
        let users = placements.iter().filter(|placement| {
            placement.plan.rules.iter().any(|rule| rule.mechanisms.contains(&Mechanism::Tcx))
        });
        for (number, namespace) in namespaces_of(users)?.into_iter().enumerate() {
            let number = number as u32;
            self.programs.push(programs.load(&Kind::NetEgressWithLines { namespace: number })?);
            let program = self.programs.len() - 1;
            self.add_place(namespace, number, &Mechanism::Tcx, program)?;
        }
        Ok(())
    }

    /// Leads packets that leave `device` into the lines of all rules that have one.
    pub(super) fn lay_lines(
        &mut self,
        namespace: &Arc<NetworkNamespace>,
        number: u32,
        device: &Device,
    ) -> Result<(), Error> {
        let Some(layer) = device.line_layer() else {
            log::warn!(
                "{} carries neither Ethernet frames nor packets to one other end: what leaves there is not held back \
                 and counts as an error",
                device.name
            );
            return Ok(());
        };
        let slot = self.exits;
        let what = || format!("a delay line for {}", device.name);
        if slot as usize >= LINE_SLOTS_MAX {
            let source = io::Error::other(format!("more than {LINE_SLOTS_MAX} devices"));
            return Err(Error::Attach { what: what(), source });
        }
        self.exits += 1;
        self.maps.set_exit(slot, Exit { device: device.index, layer })?;
        let Some(lines) = &mut self.lines else { return Ok(()) };
        for (rule, netem) in &self.image.lines {
            let entrance = lines
                .device(namespace, *rule, netem, device.is_loopback())
                .map_err(|source| Error::Attach { what: what(), source })?;
            let key = LineKey { namespace: number, device: device.index, rule: *rule, reserved: 0 };
            self.maps.add_entrance(key, Entrance { device: entrance, slot, layer })?;
        }
        Ok(())
    }
}
