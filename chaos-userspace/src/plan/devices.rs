//! What a plan meets on the devices of its target: those it cannot serve, and what a line takes from others.

use super::{Mechanism, Plan};
use crate::{
    host::{
        device::{self, Device, NO_FRAMES, NO_LINE},
        namespace::NetworkNamespace,
        netlink::{attribute, request, text},
    },
    inject::{bpf, line},
    probe::Unable,
    spec::Fault,
};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcHeader, TcMessage},
};
use std::io;

/// Device kinds that the table of docs/faults/network.md covers: each is run by `tests/tests/device_table.rs`. Hardware
/// and loopback have no kind.
const TABLE: [&str; 14] = [
    "",
    "veth",
    "bridge",
    "vlan",
    "bond",
    "vxlan",
    "macvlan",
    "ipvlan",
    "netkit",
    "tun",
    "wireguard",
    "ipip",
    "gre",
    "dummy",
];

/// Queueing disciplines that choose a class, a band or a time by what a line takes from packets: their mark and priority.
const CLASSFUL: [&str; 11] =
    ["htb", "hfsc", "prio", "drr", "qfq", "ets", "cbq", "mqprio", "taprio", "multiq", "skbprio"];

/// Its packets lose `skb->tc_index` when they are encrypted, but not their socket (`wg_reset_packet`,
/// drivers/net/wireguard/queueing.h).
const WIREGUARD: &str = "wireguard";

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)` (include/uapi/linux/pkt_sched.h).
const CLSACT_EGRESS: u32 = 0xffff_fff3;
const TCMSG_BYTES: usize = 20;
const TCA_KIND: u16 = 1;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Devices that the plan cannot serve, and why.
    pub unable: Vec<(String, Unable)>,
    /// What the plan changes beside what was asked for, in sentences.
    pub warnings: Vec<String>,
}

/// What is on one device.
#[derive(Clone, Debug, Default)]
struct Tenants {
    /// Ids of the programs of its tcx egress chain.
    programs: Vec<u32>,
    /// Kinds of its egress filters.
    filters: Vec<String>,
}

/// Looks at the devices that are up in the network namespaces of `processes`, or in our own if there are none. Changes
/// nothing.
pub fn look(plan: &Plan, processes: &[i32]) -> io::Result<Findings> {
    let mechanisms = || plan.rules.iter().flat_map(|rule| &rule.mechanisms);
    let mut findings = Findings::default();
    let leaving = mechanisms().any(Mechanism::judges_leaving);
    let arriving = mechanisms().any(|mechanism| *mechanism == Mechanism::Arrival);
    if !leaving && !arriving {
        return Ok(findings);
    }
    let lines = leaving && mechanisms().any(|mechanism| *mechanism == Mechanism::Line);
    let outside = plan
        .rules
        .iter()
        .any(|rule| matches!(&rule.fault, Fault::Network(fault) if fault.matches.included().is_empty()));
    let mut namespaces = NetworkNamespace::of_processes(processes);
    if namespaces.is_empty() {
        namespaces.push(NetworkNamespace::current()?);
    }
    for namespace in &namespaces {
        let devices = namespace.within(|| -> io::Result<Vec<(Device, Tenants)>> {
            let up = device::list()?
                .into_iter()
                .filter(|device| device.is_up() && !device.name.starts_with(line::NAME_PREFIX));
            up.map(|device| Ok((device.clone(), if lines { tenants(&device) } else { Tenants::default() })))
                .collect()
        })??;
        for (device, tenants) in &devices {
            findings.add(device, tenants, lines, outside);
            if arriving {
                findings.add_arriving(device);
            }
        }
    }
    findings.warnings.sort();
    findings.warnings.dedup();
    Ok(findings)
}

impl Findings {
    /// `lines`: packets are held back. `outside`: packets are hit whatever their remote end is.
    fn add(&mut self, device: &Device, tenants: &Tenants, lines: bool, outside: bool) {
        let name = &device.name;
        if !TABLE.contains(&device.kind.as_str()) {
            self.warnings.push(format!(
                "{name} is a {} device, a kind that kchaos is not tested on: compare its counters with what you see",
                device.kind
            ));
        }
        if device.kind == WIREGUARD && outside {
            self.warnings.push(format!(
                "{name} is a WireGuard device: what it encrypts is judged a second time where it leaves, because the \
                 packet keeps its socket but not its mark; choose the inner packets with --remote"
            ));
        }
        if !lines {
            return;
        }
        if device.line_layer().is_none() {
            self.unable.push((
                format!("delay on {name}"),
                Unable::new(
                    format!(
                        "packets cannot be held back on {name} (link layer {}): it {NO_LINE}",
                        device.layer
                    ),
                    "take it down, or run the target in a network namespace without it",
                ),
            ));
        }
        if CLASSFUL.contains(&device.qdisc.as_str()) {
            self.warnings.push(format!(
                "held-back packets come to {} on {name} without skb->mark and skb->priority: it may put them into another \
                 class",
                device.qdisc
            ));
        }
        if !tenants.programs.is_empty() {
            let ids: Vec<_> = tenants.programs.iter().map(u32::to_string).collect();
            self.warnings.push(format!(
                "held-back packets come to the tcx programs on {name} (id {}) without skb->mark and skb->priority",
                ids.join(", ")
            ));
        }
        if !tenants.filters.is_empty() {
            self.warnings.push(format!(
                "held-back packets come to the egress filters on {name} ({}) without skb->mark and skb->priority",
                tenants.filters.join(", ")
            ));
        }
    }
}

impl Findings {
    /// Arriving packets are held back.
    fn add_arriving(&mut self, device: &Device) {
        if device.arrival_layer().is_none() {
            let name = &device.name;
            self.unable.push((
                format!("delay on {name}"),
                Unable::new(
                    format!("arriving packets cannot be held back on {name} (link layer {}): it {NO_FRAMES}", device.layer),
                    "hold back what leaves (--direction egress), take it down, or run the target in a network namespace \
                     without it",
                ),
            ));
        }
    }
}

/// A device may go while it is looked at, and a kernel may lack one or the other: nobody is there then.
fn tenants(device: &Device) -> Tenants {
    let header =
        TcHeader { index: device.index as i32, parent: TcHandle::from(CLSACT_EGRESS), ..TcHeader::default() };
    let message = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, vec![]));
    let filters = request(message, NLM_F_DUMP).unwrap_or_default();
    let mut filters: Vec<_> = filters
        .iter()
        .filter_map(|filter| attribute(filter.get(TCMSG_BYTES..)?, TCA_KIND))
        .map(|kind| text(&kind))
        .collect();
    filters.sort();
    filters.dedup();
    Tenants { programs: bpf::tcx_egress_programs(device.index).unwrap_or_default(), filters }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: &str, layer: u16, qdisc: &str) -> Device {
        Device {
            index: 2,
            name: "eth7".into(),
            layer,
            flags: libc::IFF_UP as u32,
            kind: kind.into(),
            qdisc: qdisc.into(),
        }
    }

    fn found(device: &Device, tenants: &Tenants, lines: bool) -> Findings {
        let mut findings = Findings::default();
        findings.add(device, tenants, lines, true);
        findings
    }

    #[test]
    fn nothing_is_said_of_a_plain_device() {
        let plain = device("veth", libc::ARPHRD_ETHER, "fq_codel");
        assert_eq!(found(&plain, &Tenants::default(), true), Findings::default());
    }

    #[test]
    fn what_loses_mark_and_priority_is_named() {
        let tenants = Tenants { programs: vec![17, 18], filters: vec!["flower".into()] };
        let warnings = found(&device("", libc::ARPHRD_ETHER, "htb"), &tenants, true).warnings;
        assert_eq!(warnings.len(), 3);
        for (warning, word) in warnings.iter().zip(["htb on eth7", "17, 18", "flower"]) {
            assert!(warning.contains(word) && warning.contains("eth7"), "{warning}");
        }
        // Without a line nothing is taken from packets.
        assert_eq!(found(&device("", libc::ARPHRD_ETHER, "htb"), &tenants, false), Findings::default());
    }

    #[test]
    fn what_wireguard_encrypts_is_named_unless_it_is_left_alone() {
        let wireguard = device(WIREGUARD, libc::ARPHRD_NONE, "");
        let warnings = found(&wireguard, &Tenants::default(), false).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("--remote"), "{warnings:?}");
        let mut findings = Findings::default();
        findings.add(&wireguard, &Tenants::default(), false, false);
        assert_eq!(findings, Findings::default());
    }

    #[test]
    fn devices_outside_the_table_are_named() {
        let strange = found(&device("macsec", libc::ARPHRD_ETHER, ""), &Tenants::default(), false);
        assert!(strange.warnings[0].contains("macsec") && strange.unable.is_empty(), "{strange:?}");
        let ppp = found(&device("tun", libc::ARPHRD_PPP, ""), &Tenants::default(), true);
        assert!(ppp.unable[0].1.why.contains("eth7") && ppp.unable[0].1.why.contains("512"), "{ppp:?}");
    }
}
