//! Flags of faults on packets, kept as text, so that all problems can be told at once.

use super::delay::DelayFlags;
use crate::spec::{
    Problems,
    corrupt::corrupt,
    loss_model::Model,
    network::{self, Direction, Effect, Fault, Match, Name, Ports, Protocol, Remote},
    packets::{Clash, Packets},
    when::When,
};
use clap::Args;

/// What happens to which packets.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct PacketFlags {
    /// Lose these packets, silently for the sender
    #[arg(
        long,
        value_name = "PERCENT|every=N[,after=N][,limit=N]",
        help_heading = "Faults",
        allow_hyphen_values = true
    )]
    pub loss: Option<String>,

    /// Lose packets depending on those before, as netem's gemodel:p=1%,r=10%,1-h=70%,1-k=0.1% or
    /// state:p13=1%,p31=20%,p32=10%,p23=50%,p14=0.5%
    #[arg(long, value_name = "MODEL", help_heading = "Faults")]
    pub loss_model: Option<String>,

    /// Lose all these packets, both ways
    #[arg(long, help_heading = "Faults", conflicts_with_all = ["loss", "loss_model", "direction"])]
    pub partition: bool,

    /// Reset the TCP connections that these packets belong to, at both ends, and refuse new ones (default: 100%)
    #[arg(
        long,
        value_name = "PERCENT[,every=N][,after=N][,limit=N]",
        num_args = 0..=1,
        default_missing_value = "100%",
        help_heading = "Faults"
    )]
    pub reset: Option<String>,

    /// Flip a bit of these packets, so that the receiver's checksum shows it; with :payload, a bit of the payload that no
    /// checksum shows
    #[arg(long, value_name = "PERCENT[:payload][,every=N][,after=N][,limit=N]", help_heading = "Faults")]
    pub corrupt: Option<String>,

    /// Send these packets twice
    #[arg(long, value_name = "PERCENT[,every=N][,after=N][,limit=N]", help_heading = "Faults")]
    pub duplicate: Option<String>,

    /// Do not hold these packets back, so that they overtake those that --delay holds back
    #[arg(long, value_name = "PERCENT[,every=N][,after=N][,limit=N]", help_heading = "Faults")]
    pub reorder: Option<String>,

    #[command(flatten)]
    pub delay: DelayFlags,

    /// Draw once per flow: all packets of a connection are hit or none
    #[arg(long, help_heading = "Faults")]
    pub per_flow: bool,

    /// Which way the packets go, seen from the target (default: egress)
    #[arg(long, value_enum, help_heading = "Packet match")]
    pub direction: Option<Direction>,

    /// Only packets of this protocol (icmp: both versions)
    #[arg(long, value_enum, help_heading = "Packet match")]
    pub protocol: Option<Protocol>,

    /// Only packets from or to this address, prefix or host (all its addresses), with ! only others; repeat for more, the
    /// longest prefix counts
    #[arg(long, value_name = "[!]CIDR|NAME", help_heading = "Packet match")]
    pub remote: Vec<String>,

    /// Only packets from or to these ports of the remote end, with ! only others; repeat for more
    #[arg(long, value_name = "[!]PORT[-PORT]", help_heading = "Packet match")]
    pub remote_port: Vec<String>,

    /// Only packets from or to these ports of the target, with ! only others; repeat for more
    #[arg(long, value_name = "[!]PORT[-PORT]", help_heading = "Packet match")]
    pub local_port: Vec<String>,
}

impl PacketFlags {
    /// The faults these flags describe, in the order in which they are judged.
    pub fn read(&self, problems: &mut Problems) -> Vec<Fault> {
        let before = problems.0.len();
        let matches = self.matches(problems);
        let mut effects = vec![];
        let read = |flag: &str, text: &Option<String>, effect, problems: &mut Problems| {
            let read = When::from_parts(text.as_ref()?.split(','));
            read.map(|when| (effect, when)).map_err(|more| name(problems, flag, more)).ok()
        };
        effects.extend(read("loss", &self.loss, Effect::Loss, problems));
        effects.extend(read("reset", &self.reset, Effect::Reset, problems));
        effects.extend(read("duplicate", &self.duplicate, Effect::Duplicate, problems));
        if let Some(text) = &self.corrupt {
            match corrupt(text) {
                Ok((what, when)) => effects.push((Effect::Corrupt(what), when)),
                Err(more) => name(problems, "corrupt", more),
            }
        }
        effects.extend(read("reorder", &self.reorder, Effect::Reorder, problems));
        if let Some(text) = &self.loss_model {
            match text.parse::<Model>() {
                Ok(model) => effects.push((Effect::LossModel(model), When::default())),
                Err(more) => name(problems, "loss-model", more),
            }
        }
        let delays = self.delay.read(problems);
        // A delay that cannot be read is told already.
        let overtaken = !delays.is_empty() || self.delay.is_given();
        effects.extend(delays.into_iter().map(|(delay, when)| (Effect::Delay(delay), when)));
        let none = effects.is_empty() && !self.partition && problems.0.len() == before;
        if none && (matches != Match::default() || self.direction.is_some() || self.per_flow) {
            problems.0.push(
                "--direction, --protocol, --remote, --remote-port, --local-port and --per-flow choose packets: add a \
                 packet fault such as --loss 5%"
                    .to_owned(),
            );
        }
        let packets = Packets {
            matches,
            direction: self.direction,
            per_flow: self.per_flow,
            partition: self.partition,
            effects,
        };
        let told =
            packets.clashes().into_iter().filter(|clash| *clash != Clash::NothingOvertaken || !overtaken);
        problems.0.extend(told.map(in_flags));
        packets.faults()
    }

    fn matches(&self, problems: &mut Problems) -> Match {
        let mut matches = Match::default();
        for text in &self.remote {
            let (except, text) = match text.strip_prefix('!') {
                Some(text) => (true, text),
                None => (false, text.as_str()),
            };
            match problems.take(network::remote(text)) {
                Some(Remote::Prefix(net)) if except => matches.remote_except.push(net),
                Some(Remote::Prefix(net)) => matches.remote.push(net),
                Some(Remote::Name(name)) => matches.names.push(Name { name, except, addresses: vec![] }),
                None => {}
            }
        }
        Match {
            protocol: self.protocol,
            remote_ports: ports(&self.remote_port, problems),
            local_ports: ports(&self.local_port, problems),
            ..matches
        }
    }
}

/// What does not go together, in the words of the command line.
fn in_flags(clash: Clash) -> String {
    match clash {
        Clash::NoConnections(protocol) => {
            format!("--reset: {protocol} has no connections: leave --protocol {protocol} out")
        }
        Clash::NothingOvertaken => {
            "--reorder: nothing is overtaken: add --delay 10ms, for example".to_owned()
        }
        Clash::NoShareOfFlows => {
            "--per-flow draws a share: it cannot be combined with --loss-model, every= and after=".to_owned()
        }
        Clash::BurstOfNoRate => "--burst: it is the rate's: add --rate 10mbit, for example".to_owned(),
        Clash::BurstOfSome => {
            "--burst: a run has one, of all packets that match: leave its delay's share, every=, after= and limit= and \
             other bursts out"
                .to_owned()
        }
        Clash::MoreThanPartition => {
            "--partition loses everything both ways: leave --loss, --loss-model and --direction out"
                .to_owned()
        }
    }
}

fn ports(texts: &[String], problems: &mut Problems) -> Ports {
    let mut ports = Ports::default();
    for text in texts {
        let (list, text) = match text.strip_prefix('!') {
            Some(text) => (&mut ports.except, text),
            None => (&mut ports.only, text.as_str()),
        };
        list.extend(problems.take(network::ports(text)));
    }
    ports
}

fn name(problems: &mut Problems, flag: &str, more: Problems) {
    problems.0.extend(more.0.into_iter().map(|problem| format!("--{flag}: {problem}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &PacketFlags) -> Result<Vec<Fault>, String> {
        let mut problems = Problems::default();
        let faults = flags.read(&mut problems);
        if problems.0.is_empty() { Ok(faults) } else { Err(problems.to_string()) }
    }

    #[test]
    fn effects_come_in_the_order_of_judgement() {
        let flags = PacketFlags {
            loss: Some("5%".into()),
            loss_model: Some("gemodel:p=1%".into()),
            duplicate: Some("1%".into()),
            reset: Some("2%".into()),
            corrupt: Some("3%:payload".into()),
            local_port: vec!["80-90".into(), "!85".into()],
            remote: vec!["!10.0.0.0/8".into()],
            ..PacketFlags::default()
        };
        let faults = read(&flags).unwrap();
        let names: Vec<_> = faults.iter().map(|fault| fault.effect.name()).collect();
        assert_eq!(names, ["loss", "loss", "reset", "duplicate", "corrupt"]);
        assert_eq!(faults[2].matches.protocol, Some(Protocol::Tcp));
        assert_eq!(faults[4].matches.protocol, None);
        assert_eq!(faults[0].matches.local_ports.all().count(), 10);
        assert_eq!(faults[0].matches.remote_except.len(), 1);
    }

    #[test]
    fn a_partition_is_total_and_both_ways() {
        let faults = read(&PacketFlags { partition: true, ..PacketFlags::default() }).unwrap();
        assert_eq!((faults.len(), faults[0].direction), (1, Direction::Both));
        assert_eq!(faults[0].when, When::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let flags = PacketFlags { reorder: Some("5%".into()), ..PacketFlags::default() };
        assert!(read(&flags).unwrap_err().contains("--delay"));
        let flags = PacketFlags { loss: Some("5%,every=2".into()), per_flow: true, ..PacketFlags::default() };
        assert!(read(&flags).unwrap_err().contains("every="));
        let flags = PacketFlags {
            reset: Some("5%".into()),
            protocol: Some(Protocol::Udp),
            corrupt: Some("1%:head".into()),
            ..PacketFlags::default()
        };
        let problems = read(&flags).unwrap_err();
        assert!(problems.contains("udp has no connections") && problems.contains(":head"), "{problems}");
        let flags = PacketFlags { local_port: vec!["!0".into()], ..PacketFlags::default() };
        assert!(read(&flags).is_err());
    }
}
