//! The devices whose packets an engine judges: those of the targets' network namespaces, also the ones that appear.

use super::{Engine, Error, Placement, io_error};
use crate::{
    host::{
        device::{self, Device},
        link_events::LinkEvents,
        namespace::NetworkNamespace,
    },
    inject::{
        clsact,
        journal::{Filter, Journal},
        line,
        link::{self, Link, OnDevice},
        program::Kind,
    },
    plan::Mechanism,
};
use chaos_common::line::ARRIVING;
use std::{collections::BTreeSet, io, os::fd::AsFd, sync::Arc};

/// A network namespace whose devices carry a program.
#[derive(Clone)]
pub(super) struct Place {
    namespace: Arc<NetworkNamespace>,
    /// Number of the namespace in the keys of lines.
    number: u32,
    mechanism: Mechanism,
    /// Place of the program among the engine's.
    program: usize,
    /// Sets of rules that may delay the same packet; none without lines.
    together: Vec<u64>,
    /// Indices of the devices.
    devices: BTreeSet<u32>,
}

impl Place {
    pub(super) fn namespace(&self) -> &NetworkNamespace {
        &self.namespace
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// What the keys of its lines have as their namespace.
    pub(super) fn key(&self) -> u32 {
        line_key(self.number, self.is_for_arriving())
    }

    pub(super) fn together(&self) -> &[u64] {
        &self.together
    }

    /// Whether its programs meet what arrives; what leaves, if not.
    pub(super) fn is_for_arriving(&self) -> bool {
        self.mechanism == Mechanism::Arrival
    }

    /// Whether that is on one of its devices.
    pub(super) fn has(&self, on: OnDevice) -> bool {
        (on.namespace, on.arriving) == (self.namespace.inode(), self.is_for_arriving())
    }

    pub(super) fn is_clsact(&self) -> bool {
        self.mechanism == Mechanism::Clsact
    }

    pub(super) fn mechanism(&self) -> &Mechanism {
        &self.mechanism
    }

    pub(super) fn program(&self) -> usize {
        self.program
    }
}

impl Engine {
    pub(super) fn add_place(
        &mut self,
        namespace: impl Into<Arc<NetworkNamespace>>,
        number: u32,
        mechanism: &Mechanism,
        program: usize,
        together: Vec<u64>,
    ) -> Result<(), Error> {
        let namespace = namespace.into();
        let place = Place {
            namespace,
            number,
            mechanism: mechanism.clone(),
            program,
            together,
            devices: BTreeSet::new(),
        };
        // Each costs a grace period, and nothing passes one that is down: it is followed like one that appears.
        let mut devices = devices_in(&place.namespace)?;
        devices.retain(Device::is_up);
        for device in &devices {
            self.attach_to_device(&place, device)?;
        }
        let devices = devices.iter().map(|device| device.index).collect();
        self.places.push(Place { devices, ..place });
        Ok(())
    }

    /// Leads the packets of a place into the lines of the rules that delay them `together`, by a program that knows its lines, or
    /// by the one without if there are none. Each packet meets one of both. Ways that are not wanted have been taken away.
    pub(super) fn lead_into_lines(&mut self, index: usize, together: &[u64]) -> Result<(), Error> {
        let Some(place) = self.places.get(index).filter(|place| place.together != together) else {
            return Ok(());
        };
        let mut place = place.clone();
        let arriving = place.is_for_arriving();
        place.number = self.number_for(place.number, together, arriving);
        place.together = together.to_vec();
        let devices = devices_in(&place.namespace)?;
        for device in devices.iter().filter(|device| place.devices.contains(&device.index)) {
            let laid = self.lay_lines(&place.namespace, place.number, device, arriving, together);
            or_gone(laid, &place.namespace, device)?;
        }
        let before = place.program;
        place.program = self.program(&device_program(place.number, arriving))?;
        if let Err(error) = self.hand_over_devices(&place, place.program) {
            // What was there was accepted before.
            if let Err(again) = self.hand_over_devices(&place, before) {
                log::warn!("going back to the program before: {again}");
            }
            return Err(error);
        }
        self.places[index] = place;
        Ok(())
    }

    /// Puts a program in the place of those on the devices of a place.
    fn hand_over_devices(&mut self, place: &Place, number: usize) -> Result<(), Error> {
        let program = self.programs[&number].as_fd();
        let is_other = |on: OnDevice| place.has(on) && on.program != number;
        for link in self.links.iter_mut().filter(|link| link.on_device().is_some_and(is_other)) {
            let handed = link.hand_over(program, number);
            handed.map_err(|source| Error::Attach { what: link.what().to_owned(), source })?;
        }
        Ok(())
    }

    /// The device's lines first, the program that leads into them last.
    fn attach_to_device(&mut self, place: &Place, device: &Device) -> Result<(), Error> {
        let Place { namespace, number, mechanism, program, .. } = place;
        let (program, arriving) = (*program, place.is_for_arriving());
        let what = format!(
            "{} {} of {}",
            mechanism.name(),
            if arriving { "on arrival" } else { "egress" },
            device.name
        );
        if *mechanism == Mechanism::Clsact {
            return self
                .add_filter(namespace, device.index, program)
                .map_err(|source| Error::Attach { what, source });
        }
        self.lay_lines(namespace, *number, device, arriving, &place.together)?;
        let on = OnDevice { namespace: namespace.inode(), device: device.index, arriving, program };
        self.link(&what, |this| {
            let program = this.programs[&program].as_fd();
            let link = namespace.within(|| match arriving {
                true => Link::tcx_ingress(program, device.index, &device.name),
                false => Link::tcx_egress(program, device.index, &device.name),
            })?;
            Ok(link?.at(link::Place::Device(on)))
        })
    }

    /// Subscribes to news of the devices in the namespaces where packets are judged at devices.
    pub fn device_news(&self) -> io::Result<Vec<LinkEvents>> {
        self.places.iter().map(|place| subscribe(&place.namespace)).collect()
    }

    /// The same for the run in `slot` alone, where runs come and go.
    pub fn device_news_of(&self, slot: usize) -> io::Result<Vec<LinkEvents>> {
        let namespaces = self.hosted.get(&slot).map(|hosted| &hosted.namespaces[..]).unwrap_or_default();
        namespaces.iter().map(|namespace| subscribe(namespace)).collect()
    }

    /// Attaches to devices that have appeared, and, the first time, to those that were down at the start. Returns how many.
    pub fn follow_devices(&mut self) -> Result<usize, Error> {
        let mut attached = 0;
        for index in 0..self.places.len() {
            let place = self.places[index].clone();
            let (namespace, known) = (&place.namespace, &place.devices);
            let devices = devices_in(namespace)?;
            for device in devices.iter().filter(|device| !known.contains(&device.index)) {
                let result = self.attach_to_device(&place, device);
                attached += usize::from(or_gone(result, namespace, device)?);
            }
            // An index may come back with another device.
            let now: BTreeSet<u32> = devices.iter().map(|device| device.index).collect();
            let is_gone = |index: &u32| known.contains(index) && !now.contains(index);
            self.links
                .retain(|link| link.on_device().is_none_or(|on| !place.has(on) || !is_gone(&on.device)));
            if self.shared.is_some() {
                let inode = namespace.inode();
                self.journal.filters.retain(|one| one.namespace != inode || !is_gone(&one.device));
            }
            if !place.together.is_empty() {
                for device in known.iter().filter(|index| is_gone(index)) {
                    self.forget_device(place.number, place.is_for_arriving(), *device)?;
                }
            }
            self.places[index].devices = now;
        }
        if attached > 0 {
            for link in &mut self.links {
                link.move_high().map_err(io_error("moving a link to a high descriptor"))?;
            }
        }
        Ok(attached)
    }

    fn add_filter(&mut self, namespace: &NetworkNamespace, device: u32, program: usize) -> io::Result<()> {
        let handle = clsact::own_handle();
        // Who made it may end first: then whoever ends last removes it.
        let is_others = || Journal::live().iter().any(|other| other.made_qdisc(namespace.inode(), device));
        let there = namespace.within(|| clsact::has_qdisc(device))??;
        // Written down before it is made, or an owner that is killed in between leaves it behind.
        let filter =
            Filter { namespace: namespace.inode(), device, handle, made_qdisc: !there || is_others() };
        self.journal.filters.push(filter);
        self.journal.write()?;
        if !there && !namespace.within(|| clsact::add_qdisc(device))?? && !is_others() {
            // Somebody else has made it meanwhile.
            if let Some(filter) = self.journal.filters.last_mut() {
                filter.made_qdisc = false;
            }
            self.journal.write()?;
        }
        let program = self.programs[&program].as_fd();
        namespace.within(|| clsact::add_filter(device, handle, program, Kind::NetEgress.program()))?
    }
}

/// The program for the devices of the namespace with this number, where runs come and go.
pub(super) fn device_program(number: u32, arriving: bool) -> Kind {
    if number == 0 && !arriving { Kind::NetEgress } else { leading_program(number, arriving) }
}

/// The program that leads into the lines of the namespace with this number.
pub(super) fn leading_program(namespace: u32, arriving: bool) -> Kind {
    if arriving { Kind::NetArrival { namespace } } else { Kind::NetEgressWithLines { namespace } }
}

/// What the keys of lines have as their namespace, of the one with this number.
pub(super) fn line_key(number: u32, arriving: bool) -> u32 {
    if arriving { number | ARRIVING } else { number }
}

/// Whether it was done; a device that has gone meanwhile needs nothing.
fn or_gone(result: Result<(), Error>, namespace: &NetworkNamespace, device: &Device) -> Result<bool, Error> {
    if result.is_err() && devices_in(namespace)?.iter().all(|now| now.index != device.index) {
        return Ok(false);
    }
    result.map(|()| true)
}

fn subscribe(namespace: &NetworkNamespace) -> io::Result<LinkEvents> {
    namespace.within(LinkEvents::subscribe).and_then(|events| events)
}

/// The network namespaces of the processes in the targets of `placements`, or those of who has asked for them, or our own.
pub(super) fn namespaces_of<'a>(
    placements: impl Iterator<Item = &'a Placement<'a>>,
) -> Result<Vec<NetworkNamespace>, Error> {
    let (mut processes, mut homes) = (vec![], vec![]);
    for placement in placements {
        processes.extend(placement.cgroups.iter().flat_map(|cgroup| cgroup.processes()));
        homes.extend(placement.home);
    }
    let mut namespaces = NetworkNamespace::of_processes(&processes);
    if namespaces.is_empty() {
        namespaces = NetworkNamespace::of_processes(&homes);
    }
    if namespaces.is_empty() {
        let own = NetworkNamespace::current();
        namespaces.push(own.map_err(io_error("opening the own network namespace"))?);
    }
    Ok(namespaces)
}

/// The devices whose packets are judged: all but the ends of lines.
fn devices_in(namespace: &NetworkNamespace) -> Result<Vec<Device>, Error> {
    let mut devices = namespace
        .within(device::list)
        .and_then(|list| list)
        .map_err(io_error("listing the devices of the target's network namespace"))?;
    devices.retain(|device| !device.name.starts_with(line::NAME_PREFIX));
    Ok(devices)
}
