//! Programs, links and maps of kchaos in the kernel: what is there, and when it is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

use crate::patience::{patience, wait_for};

/// Ids of kernel objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelObjects {
    /// Programs whose names start with `kc_`.
    pub programs: BTreeSet<u32>,
    /// Links of those programs.
    pub links: BTreeSet<u32>,
    /// Maps those programs use.
    pub maps: BTreeSet<u32>,
}

impl KernelObjects {
    /// What is in the kernel now.
    pub fn now() -> Result<Self> {
        // Objects may go between being listed and being asked about, and links are not to be had while somebody makes them
        // (EAGAIN of `bpf_link_by_id`, kernel/bpf/syscall.c); the list then starts anew.
        let mut last = None;
        for _ in 0..500 {
            match Self::try_now() {
                Ok(objects) => return Ok(objects),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        match last {
            Some(error) => Err(error),
            None => bail!("not tried"),
        }
    }

    /// Those of one process: the programs it has descriptors of, with their links and maps.
    pub fn of_process(pid: u32) -> Result<Self> {
        let mut programs = BTreeSet::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).context("listing descriptors")? {
            // A descriptor may be closed meanwhile.
            let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
            let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
            programs.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
        }
        let mut own = Self { programs, ..Self::default() };
        for program in loaded_programs().flatten().filter(|program| own.programs.contains(&program.id())) {
            own.maps.extend(program.map_ids().context("listing a program's maps")?.unwrap_or_default());
        }
        let links = loaded_links().flatten().filter(|link| own.programs.contains(&link.program_id()));
        own.links = links.map(|link| link.id()).collect();
        Ok(own)
    }

    /// These and those.
    pub fn with(mut self, others: &Self) -> Self {
        self.programs.extend(&others.programs);
        self.links.extend(&others.links);
        self.maps.extend(&others.maps);
        self
    }

    fn try_now() -> Result<Self> {
        let mut objects = Self::default();
        for program in loaded_programs() {
            let program = program.context("listing programs")?;
            if program.name().starts_with(b"kc_") {
                objects.programs.insert(program.id());
                objects
                    .maps
                    .extend(program.map_ids().context("listing a program's maps")?.unwrap_or_default());
            }
        }
        for link in loaded_links() {
            let link = link.context("listing links")?;
            if objects.programs.contains(&link.program_id()) {
                objects.links.insert(link.id());
            }
        }
        Ok(objects)
    }

    /// What is here and not in `before`.
    pub fn since(&self, before: &Self) -> Self {
        let new = |now: &BTreeSet<u32>, before: &BTreeSet<u32>| now.difference(before).copied().collect();
        Self {
            programs: new(&self.programs, &before.programs),
            links: new(&self.links, &before.links),
            maps: new(&self.maps, &before.maps),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.links.is_empty() && self.maps.is_empty()
    }

    /// Those of these objects that still exist.
    pub fn remaining(&self) -> Result<Self> {
        let now = Self::now()?;
        let mut left = Self {
            programs: self.programs.intersection(&now.programs).copied().collect(),
            links: self.links.intersection(&now.links).copied().collect(),
            maps: BTreeSet::new(),
        };
        if !self.maps.is_empty() {
            // A map may outlive the programs that named it.
            let all: BTreeSet<u32> = loaded_maps().filter_map(|map| map.ok().map(|map| map.id())).collect();
            left.maps = self.maps.intersection(&all).copied().collect();
        }
        Ok(left)
    }

    /// Waits until none of these objects exists any more.
    pub fn wait_gone(&self) -> Result<Duration> {
        let mut left = self.clone();
        let gone = wait_for("kernel objects to go", || {
            left = self.remaining()?;
            Ok(left.is_empty().then_some(()))
        });
        match gone {
            Ok(((), took)) => Ok(took),
            Err(_) => bail!("still in the kernel after {:?}: {left:?}", patience()),
        }
    }
}
