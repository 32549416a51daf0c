//! Delay lines: veth pairs between the target's network namespace and one that only this process holds, so that they
//! go with their owner.

use super::link::Link;
use crate::{
    encode::netem::Netem,
    host::{
        device,
        namespace::NetworkNamespace,
        netlink::{attribute, request},
    },
};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
    tc::{TcAttribute, TcHandle, TcHeader, TcMessage},
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// What every network device of kchaos is called in the beginning.
pub const NAME_PREFIX: &str = "kc-";
/// Longest packet a veth takes; loopback's are as long.
const MTU: u32 = 65_535;
/// How long an orderly end waits for packets at most.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// By how much a packet comes out of its line later than it is to.
const LATE: Duration = Duration::from_millis(100);
/// `TC_H_ROOT` (include/uapi/linux/pkt_sched.h).
const TC_H_ROOT: u32 = u32::MAX;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;
const TCMSG_BYTES: usize = 20;

/// All lines of one engine.
#[derive(Debug)]
pub struct Lines {
    // Dropped in this order: the lines with the programs inside, and what is behind them.
    lines: Vec<Line>,
    program_a: OwnedFd,
    program_b: OwnedFd,
    behind: NetworkNamespace,
    prefix: String,
}

#[derive(Debug)]
struct Line {
    // The device goes with the namespace behind it.
    links: [Link; 2],
    namespace: Arc<NetworkNamespace>,
    place: Place,
    rule: u32,
    device: u32,
    name: String,
    longest: Duration,
}

impl Line {
    fn is(&self, (place, rule): (Place, u32)) -> bool {
        self.place == place && self.rule == rule
    }
}

/// Which packets share a line: those with a bottleneck in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The namespace as in the keys of lines: by the engine's count, and whether packets arrive or leave.
    pub namespace: u32,
    /// Those of the loopback device, or those of all others.
    pub loopback: bool,
}

/// What became of the packets in the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Queue {
    /// Lost because a line was full.
    pub overflowed: u64,
    /// Still in a line when it went.
    pub undelivered: u64,
}

impl Lines {
    /// Prepares for lines of this run; `program_a` serves the ends in the target's namespace, `program_b` the others.
    pub fn new(run: &str, program_a: OwnedFd, program_b: OwnedFd) -> io::Result<Self> {
        let mut short: String = run.chars().filter(char::is_ascii_alphanumeric).collect();
        short = short.split_off(short.len().saturating_sub(8));
        Ok(Self {
            lines: vec![],
            program_a,
            program_b,
            behind: NetworkNamespace::anonymous()?,
            prefix: format!("{NAME_PREFIX}{short}-"),
        })
    }

    /// Index of the device that leads into the rule's line in this namespace, made if it is not there.
    pub fn device(
        &mut self,
        namespace: &Arc<NetworkNamespace>,
        rule: u32,
        netem: &Netem,
        place: Place,
    ) -> io::Result<u32> {
        if let Some(line) = self.lines.iter().find(|line| line.is((place, rule))) {
            return Ok(line.device);
        }
        let name = self.free_name();
        namespace.within(|| make_pair(&name, &self.behind))??;
        match self.furnish(namespace, &name, netem) {
            Ok((device, links)) => {
                let (namespace, longest) = (Arc::clone(namespace), netem.longest);
                self.lines.push(Line { links, namespace, place, rule, device, name, longest });
                Ok(device)
            }
            Err(error) => {
                let gone = namespace.within(|| remove(index_of(&name)?)).and_then(|gone| gone);
                gone.unwrap_or_else(|error| log::warn!("the device {name} of a delay line: {error}"));
                Err(error)
            }
        }
    }

    /// Makes a line of the pair of this name: the near end's index, and the programs inside.
    fn furnish(
        &self,
        namespace: &NetworkNamespace,
        name: &str,
        netem: &Netem,
    ) -> io::Result<(u32, [Link; 2])> {
        let far = self.behind.within(|| -> io::Result<u32> {
            let index = index_of(name)?;
            bring_up(index)?;
            Ok(index)
        })??;
        let near = namespace.within(|| -> io::Result<u32> {
            let index = index_of(name)?;
            bring_up(index)?;
            set_netem(index, netem.options.clone(), NLM_F_CREATE | NLM_F_EXCL)?;
            Ok(index)
        })??;
        let (a, b) = (self.program_a.as_fd(), self.program_b.as_fd());
        let inside = self.behind.within(|| Link::tcx_ingress(b, far, name))??;
        let outside = namespace.within(|| Link::tcx_ingress(a, near, name))??;
        Ok((near, [inside, outside]))
    }

    /// A name that none of the lines has.
    fn free_name(&self) -> String {
        let names = (0..).map(|number| format!("{}{number:x}", self.prefix));
        names.into_iter().find(|name| self.lines.iter().all(|line| line.name != *name)).unwrap_or_default()
    }

    /// Gives all lines of a rule other parameters. Packets in them keep the times they have.
    pub fn change(&mut self, rule: u32, netem: &Netem) -> io::Result<()> {
        for line in self.lines.iter_mut().filter(|line| line.rule == rule) {
            line.namespace.within(|| set_netem(line.device, netem.change.clone(), 0))??;
            line.longest = line.longest.max(netem.longest);
        }
        Ok(())
    }

    /// How many attachments there are.
    pub fn links(&self) -> usize {
        self.lines.iter().map(|line| line.links.len()).sum()
    }

    /// The programs inside.
    pub fn programs(&self) -> [&OwnedFd; 2] {
        [&self.program_a, &self.program_b]
    }

    /// Where there are lines, and of which rules.
    pub fn all(&self) -> impl Iterator<Item = (Place, u32)> {
        self.lines.iter().map(|line| (line.place, line.rule))
    }

    /// How long a packet may stay in this line; nothing without one.
    pub fn longest(&self, of: (Place, u32)) -> Duration {
        self.lines.iter().find(|line| line.is(of)).map_or(Duration::ZERO, |line| line.longest)
    }

    /// Whether a packet is in a line of one of these rules, and may come out of it within the time that an orderly end waits.
    pub fn hold(&self, rules: u64, since: Instant) -> bool {
        let own: Vec<_> = self.lines.iter().filter(|line| rules & 1 << line.rule != 0).collect();
        since.elapsed() < patience(&own) && own.iter().any(|line| line.queue().undelivered > 0)
    }

    /// Waits until nothing is in the lines any more, then removes them. Nothing must lead into them by then. What could
    /// not be undone is returned in words.
    pub fn end(mut self) -> (Queue, Vec<String>) {
        self.remove(|_| true, |_| false, Instant::now())
    }

    /// The same for the lines that go, into which nothing leads since then but others that packets may be in before, some time
    /// longer.
    pub fn remove(
        &mut self,
        goes: impl Fn((Place, u32)) -> bool,
        before: impl Fn((Place, u32)) -> bool,
        since: Instant,
    ) -> (Queue, Vec<String>) {
        let (going, stay): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.lines).into_iter().partition(|line| goes((line.place, line.rule)));
        let before = stay.iter().filter(|line| before((line.place, line.rule))).collect();
        let queue = drain(&going, before, since);
        self.lines = stay;
        let mut problems = vec![];
        // Their namespace takes its devices along as well, but a worker of the kernel does that at its leisure
        // (cleanup_net, net/core/net_namespace.c).
        for Line { links, namespace, device, name, .. } in going {
            drop(links);
            let gone = namespace.within(|| {
                remove(device)?;
                Ok(device::list()?.iter().all(|there| there.index != device))
            });
            let why = match gone.and_then(|gone: io::Result<bool>| gone) {
                Ok(true) => continue,
                Ok(false) => "it is still there".to_owned(),
                Err(error) => error.to_string(),
            };
            problems.push(format!("the device {name} of a delay line: {why}"));
        }
        (queue, problems)
    }
}

impl Line {
    /// What is in it; of a line that cannot be asked nothing.
    fn queue(&self) -> Queue {
        self.namespace.within(|| queue(self.device)).and_then(|queue| queue).unwrap_or_default()
    }
}

/// How long an orderly end waits for what is in these lines.
fn patience(lines: &[&Line]) -> Duration {
    // A packet may pass the lines of all rules, one after another.
    let mut longest: BTreeMap<u32, Duration> = BTreeMap::new();
    for line in lines {
        let of_rule = longest.entry(line.rule).or_default();
        *of_rule = line.longest.max(*of_rule);
    }
    let longest = longest.values().fold(Duration::ZERO, |sum, time| sum.saturating_add(*time));
    longest.saturating_add(Duration::from_secs(1)).min(DRAIN_MAX)
}

/// Waits until nothing is in these lines any more. Packets that may come from those `before` have come once one of them was
/// empty, or has had the time it takes.
fn drain(lines: &[Line], mut before: Vec<&Line>, since: Instant) -> Queue {
    let all: Vec<_> = lines.iter().chain(before.iter().copied()).collect();
    let limit = patience(&all);
    let mut empty_before = false;
    loop {
        let late = since.elapsed() > limit;
        before.retain(|line| {
            since.elapsed() <= line.longest.saturating_add(LATE) && line.queue().undelivered > 0
        });
        let mut sum = Queue::default();
        for queue in lines.iter().map(Line::queue) {
            sum.overflowed += queue.overflowed;
            sum.undelivered += queue.undelivered;
        }
        if sum.undelivered == 0 && before.is_empty() {
            // The last one has left its queue but may be on its way to the device or to the next line still.
            std::thread::sleep(Duration::from_millis(2));
            if empty_before || all.len() == 1 {
                return sum;
            }
            empty_before = true;
            continue;
        }
        empty_before = false;
        if late {
            return sum;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a device by index, and its other end with it. Without one it is done.
fn remove(device: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = device;
    match request(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

/// Finds out whether this kernel has what a line is made of. Must be called in a namespace of one's own.
pub fn try_parts(netem: &Netem) -> Result<(), (Part, io::Error)> {
    let behind = NetworkNamespace::anonymous().map_err(|error| (Part::Veth, error))?;
    let name = format!("{NAME_PREFIX}probe");
    make_pair(&name, &behind).map_err(|error| (Part::Veth, error))?;
    let index = index_of(&name).map_err(|error| (Part::Veth, error))?;
    set_netem(index, netem.options.clone(), NLM_F_CREATE | NLM_F_EXCL).map_err(|error| (Part::Netem, error))
}

/// What a line is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The pair of devices.
    Veth,
    /// The queueing discipline.
    Netem,
}

/// Makes a pair with one end in the calling thread's namespace and one in `behind`, both of this name.
fn make_pair(name: &str, behind: &NetworkNamespace) -> io::Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::NetNsFd(behind.as_fd().as_raw_fd()),
    ];
    let mut pair = LinkMessage::default();
    pair.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    request(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

fn index_of(name: &str) -> io::Result<u32> {
    let devices = device::list()?;
    let found = devices.iter().find(|device| device.name == name);
    found.map(|device| device.index).ok_or_else(|| io::Error::other(format!("the device {name} has gone")))
}

/// Brings a device up that speaks no ARP and gives itself no address: nothing but diverted packets is in a line.
fn bring_up(device: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = device;
    message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
    let mut quiet = message.clone();
    quiet.header.flags = LinkFlags::Noarp;
    quiet.header.change_mask = LinkFlags::Noarp;
    quiet.attributes =
        vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])])];
    match request(RouteNetlinkMessage::SetLink(quiet), 0) {
        Ok(_) => {}
        // A kernel or a namespace without IPv6 has nothing to keep quiet.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
        Err(error) => return Err(error),
    }
    request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
}

fn qdisc(device: u32) -> TcHeader {
    TcHeader { index: device as i32, parent: TcHandle::from(TC_H_ROOT), ..TcHeader::default() }
}

/// Adds netem, or without flags changes the one that is there.
fn set_netem(device: u32, options: Vec<u8>, flags: u16) -> io::Result<()> {
    let attributes = vec![
        TcAttribute::Kind("netem".to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)),
    ];
    let message = TcMessage::from_parts(qdisc(device), attributes);
    request(RouteNetlinkMessage::NewQueueDiscipline(message), flags).map(drop)
}

/// What a device's root queueing discipline holds and has lost.
fn queue(device: u32) -> io::Result<Queue> {
    let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::from_parts(qdisc(device), vec![]));
    let all = request(message, NLM_F_DUMP)?;
    let own = all.iter().find(|tc| tc.get(4..8) == Some(&device.to_ne_bytes()[..]));
    // struct gnet_stats_queue {qlen, backlog, drops, requeues, overlimits}.
    let statistics = own
        .and_then(|tc| attribute(tc.get(TCMSG_BYTES..)?, TCA_STATS2))
        .and_then(|statistics| attribute(&statistics, TCA_STATS_QUEUE))
        .ok_or_else(|| io::Error::other("the line's queueing discipline has gone"))?;
    let word = |at: usize| {
        statistics.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
    };
    Ok(Queue { undelivered: word(0).into(), overflowed: word(8).into() })
}
