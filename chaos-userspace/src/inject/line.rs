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
/// `TC_H_ROOT` (include/uapi/linux/pkt_sched.h).
const TC_H_ROOT: u32 = u32::MAX;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;
const TCMSG_BYTES: usize = 20;

/// All lines of one engine.
#[derive(Debug)]
pub struct Lines {
    // Dropped in this order: the programs inside, then the devices, which go with their namespace.
    links: Vec<Link>,
    program_a: OwnedFd,
    program_b: OwnedFd,
    lines: Vec<Line>,
    behind: NetworkNamespace,
    prefix: String,
}

#[derive(Debug)]
struct Line {
    namespace: Arc<NetworkNamespace>,
    rule: u32,
    place: Place,
    device: u32,
    longest: Duration,
}

/// Which packets share a line: those with a bottleneck in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Those of the loopback device, or those of all others.
    pub loopback: bool,
    /// Those that arrive, or those that leave.
    pub arriving: bool,
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
            links: vec![],
            program_a,
            program_b,
            lines: vec![],
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
        let known = self.lines.iter().find(|line| {
            line.namespace.inode() == namespace.inode() && line.rule == rule && line.place == place
        });
        if let Some(line) = known {
            return Ok(line.device);
        }
        let name = format!("{}{}", self.prefix, self.lines.len());
        namespace.within(|| make_pair(&name, &self.behind))??;
        let far = self.behind.within(|| -> io::Result<u32> {
            let index = index_of(&name)?;
            bring_up(index)?;
            Ok(index)
        })??;
        let near = namespace.within(|| -> io::Result<u32> {
            let index = index_of(&name)?;
            bring_up(index)?;
            set_netem(index, netem.options.clone(), NLM_F_CREATE | NLM_F_EXCL)?;
            Ok(index)
        })??;
        let (a, b) = (self.program_a.as_fd(), self.program_b.as_fd());
        self.links.push(self.behind.within(|| Link::tcx_ingress(b, far, &name))??);
        self.links.push(namespace.within(|| Link::tcx_ingress(a, near, &name))??);
        self.lines.push(Line {
            namespace: Arc::clone(namespace),
            rule,
            place,
            device: near,
            longest: netem.longest,
        });
        Ok(near)
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
        self.links.len()
    }

    /// The programs inside.
    pub fn programs(&self) -> [&OwnedFd; 2] {
        [&self.program_a, &self.program_b]
    }

    /// Waits until nothing is in the lines any more, then removes them. Nothing must lead into them by then. What could
    /// not be undone is returned in words.
    pub fn end(mut self) -> (Queue, Vec<String>) {
        let queue = self.drain();
        self.links.clear();
        let mut problems = vec![];
        // Their namespace takes its devices along as well, but a worker of the kernel does that at its leisure
        // (cleanup_net, net/core/net_namespace.c).
        for (number, line) in self.lines.iter().enumerate() {
            let gone = line.namespace.within(|| {
                remove(line.device)?;
                Ok(device::list()?.iter().all(|device| device.index != line.device))
            });
            let why = match gone.and_then(|gone: io::Result<bool>| gone) {
                Ok(true) => continue,
                Ok(false) => "it is still there".to_owned(),
                Err(error) => error.to_string(),
            };
            problems.push(format!("the device {}{number} of a delay line: {why}", self.prefix));
        }
        (queue, problems)
    }

    fn drain(&self) -> Queue {
        // A packet may pass the lines of all rules, one after another.
        let mut longest: BTreeMap<u32, Duration> = BTreeMap::new();
        for line in &self.lines {
            let of_rule = longest.entry(line.rule).or_default();
            *of_rule = line.longest.max(*of_rule);
        }
        let longest = longest.values().fold(Duration::ZERO, |sum, time| sum.saturating_add(*time));
        let limit = longest.saturating_add(Duration::from_secs(1)).min(DRAIN_MAX);
        let start = Instant::now();
        let mut empty_before = false;
        loop {
            let mut sum = Queue::default();
            for line in &self.lines {
                let queue = line.namespace.within(|| queue(line.device)).and_then(|queue| queue);
                let queue = queue.unwrap_or_default();
                sum.overflowed += queue.overflowed;
                sum.undelivered += queue.undelivered;
            }
            if sum.undelivered == 0 {
                // The last one has left its queue but may be on its way to the device or to the next line still.
                std::thread::sleep(Duration::from_millis(2));
                if empty_before || self.lines.len() == 1 {
                    return sum;
                }
                empty_before = true;
                continue;
            }
            empty_before = false;
            if start.elapsed() > limit {
                return sum;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
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
