//! Flags that say what is inflicted. They are kept as text here, so that all problems can be told at once.

use super::delay::DelayFlags;
use crate::spec::{Fault, Problems, Spec, Target, network, syscall, units, when::When};
use clap::Args;

/// Flags shared by `exec`, `inject` and `plan`.
#[derive(Args, Clone, Debug, Default)]
pub struct Faults {
    /// Lose these packets, silently for the sender
    #[arg(
        long,
        value_name = "PERCENT|every=N[,after=N][,limit=N]",
        help_heading = "Faults",
        allow_hyphen_values = true
    )]
    loss: Option<String>,

    #[command(flatten)]
    delay: DelayFlags,

    /// Which way the packets go, seen from the target
    #[arg(long, value_enum, default_value_t, help_heading = "Packet match")]
    direction: network::Direction,

    /// Only packets of this protocol (icmp: both versions)
    #[arg(long, value_enum, help_heading = "Packet match")]
    protocol: Option<network::Protocol>,

    /// Only packets from or to this address or prefix; repeat for more
    #[arg(long, value_name = "CIDR", help_heading = "Packet match")]
    remote: Vec<String>,

    /// Only packets from or to these ports of the remote end; repeat for more
    #[arg(long, value_name = "PORT[-PORT]", help_heading = "Packet match")]
    remote_port: Vec<String>,

    /// Make a system call fail, all or a share of its calls; repeat for more
    #[arg(
        long,
        value_name = "SYSCALL=ERRNO[@PERCENT][,every=N][,after=N][,limit=N]",
        help_heading = "Faults"
    )]
    fail: Vec<String>,

    /// Make every random draw the same again (for one flow or one thread)
    #[arg(long, value_name = "NUMBER", help_heading = "Faults")]
    seed: Option<u64>,

    /// Insist on one mechanism for system call faults
    #[arg(long, value_enum, help_heading = "Faults")]
    mechanism: Option<syscall::Mechanism>,

    /// Count what would be hit, but act on nothing
    #[arg(long, help_heading = "Faults")]
    observe: bool,
}

impl Faults {
    /// The spec these flags describe. `duration` is the text of `--duration`.
    pub fn spec(&self, target: Target, duration: Option<&str>) -> Result<Spec, Problems> {
        let mut problems = Problems::default();
        let mut faults = vec![];
        let matches = network::Match {
            protocol: self.protocol,
            remote: self.remote.iter().filter_map(|text| problems.take(network::prefix(text))).collect(),
            remote_ports: self
                .remote_port
                .iter()
                .filter_map(|text| problems.take(network::ports(text)))
                .collect(),
        };
        // In the order in which they are judged: what is lost is not delayed.
        let mut effects = vec![];
        if let Some(text) = &self.loss {
            match When::from_parts(text.split(',')) {
                Ok(when) => effects.push((network::Effect::Loss, when)),
                Err(more) => {
                    problems.0.extend(more.0.into_iter().map(|problem| format!("--loss: {problem}")))
                }
            }
        }
        if let Some((delay, when)) = self.delay.read(&mut problems) {
            effects.push((network::Effect::Delay(delay), when));
        }
        let no_packet_fault = self.loss.is_none() && !self.delay.is_given();
        faults.extend(effects.into_iter().map(|(effect, when)| {
            Fault::Network(network::Fault {
                direction: self.direction,
                matches: matches.clone(),
                effect,
                when,
            })
        }));
        if no_packet_fault
            && (!self.remote.is_empty()
                || !self.remote_port.is_empty()
                || self.protocol.is_some()
                || self.direction != network::Direction::default())
        {
            problems.0.push(
                "--direction, --protocol, --remote and --remote-port choose packets: add a packet fault such as --loss 5%"
                    .to_owned(),
            );
        }
        for text in &self.fail {
            match text.parse::<syscall::Fault>() {
                Ok(fault) => faults.push(Fault::Syscall(fault)),
                Err(more) => {
                    problems.0.extend(more.0.into_iter().map(|problem| format!("--fail: {problem}")))
                }
            }
        }
        if self.mechanism.is_some() && self.fail.is_empty() {
            problems.0.push("--mechanism chooses how calls fail: add --fail SYSCALL=ERRNO".to_owned());
        }
        let duration = duration
            .and_then(|text| problems.take(units::duration(text).map_err(|e| format!("--duration: {e}"))));
        if faults.is_empty() && problems.0.is_empty() {
            problems
                .0
                .push("no fault is asked for: add --loss 5% or --fail openat=EIO, for example".to_owned());
        }
        problems.or(|| Spec {
            target,
            faults,
            duration,
            observe: self.observe,
            seed: self.seed,
            mechanism: self.mechanism,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        let flags = Faults {
            loss: Some("5".into()),
            remote: vec!["10.0.0.0/40".into()],
            remote_port: vec!["70000".into()],
            fail: vec!["opnat=EIO".into(), "openat=EIOO@101%".into()],
            ..Faults::default()
        };
        let problems = flags.spec(Target::Fresh, Some("5")).unwrap_err();
        assert_eq!(problems.0.len(), 7, "{problems}");
    }

    #[test]
    fn a_match_without_a_fault_is_refused() {
        let flags = Faults { remote: vec!["10.0.0.0/8".into()], ..Faults::default() };
        assert!(flags.spec(Target::Fresh, None).unwrap_err().to_string().contains("add a packet fault"));
        assert!(Faults::default().spec(Target::Fresh, None).unwrap_err().to_string().contains("no fault"));
    }
}
