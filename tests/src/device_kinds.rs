//! Device kinds: how two namespaces reach each other through each of them.

use anyhow::{Result, bail};

use crate::netns::NetNs;
use crate::{tun, wireguard};

/// What the near side sends through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Straight into a veth.
    Veth,
    /// A bridge with the veth as its port.
    Bridge,
    /// A VLAN device on the veth.
    Vlan,
    /// A VLAN device whose lower device is in another namespace.
    VlanFromElsewhere,
    /// A bond with the veth as its only port.
    Bond,
    /// A VXLAN tunnel over the veth.
    Vxlan,
    /// A macvlan on the veth.
    Macvlan,
    /// An ipvlan on the veth.
    Ipvlan,
    /// A netkit pair in the mode without addresses.
    Netkit,
    /// A tap device, whose other end is a program.
    Tap,
    /// A tun device: no Ethernet header, the other end is a program.
    Tun,
    /// A WireGuard tunnel over the veth: no Ethernet header.
    Wireguard,
    /// IPv4 in IPv4 over the veth: no Ethernet header.
    Ipip,
    /// GRE over the veth: no Ethernet header.
    Gre,
}

/// Addresses below tunnels.
const UNDER_NEAR: &str = "10.78.0.1";
const UNDER_FAR: &str = "10.78.0.2";

/// MAC address of the near side's device.
pub const NEAR_MAC: &str = "02:77:00:00:00:01";
/// MAC address of the far side's device.
pub const FAR_MAC: &str = "02:77:00:00:00:02";
const OUTER_NEAR_MAC: &str = "02:77:00:00:01:01";
const OUTER_FAR_MAC: &str = "02:77:00:00:01:02";

/// Two namespaces with devices of one kind between them.
pub struct Between {
    /// Device of the near side.
    pub near_device: &'static str,
    /// Device of the far side.
    pub far_device: &'static str,
    /// What has to stay for as long as they are used.
    pub keep: Vec<Box<dyn Send + Sync>>,
}

impl Kind {
    /// Whether neighbours have a link-layer address.
    pub fn has_neighbours(self) -> bool {
        !matches!(self, Self::Netkit | Self::Tun | Self::Wireguard | Self::Ipip | Self::Gre)
    }

    /// Whether IPv6 passes.
    pub fn carries_v6(self) -> bool {
        self != Self::Ipip
    }

    fn outer_macs(self) -> (&'static str, &'static str) {
        match self {
            Self::Bridge | Self::Macvlan => (OUTER_NEAR_MAC, FAR_MAC),
            Self::Vxlan | Self::Wireguard | Self::Ipip | Self::Gre => (OUTER_NEAR_MAC, OUTER_FAR_MAC),
            _ => (NEAR_MAC, FAR_MAC),
        }
    }

    /// Builds the devices; the reason if this kernel lacks the kind.
    pub fn build(self, near: &NetNs, far: &NetNs) -> Result<std::result::Result<Between, String>> {
        let between = |near_device, far_device| Ok(Ok(Between { near_device, far_device, keep: vec![] }));
        match self {
            Self::Netkit => {
                // Without words about the peer, which this version of ip does not know, it is next to the device.
                if let Err(said) = near.try_run("ip", "link add nk-near type netkit")? {
                    return Ok(Err(format!("no netkit: {said}")));
                }
                let links = near.ip("-o link show type netkit")?;
                let Some(peer) = links.lines().find_map(|line| {
                    let name = line.split_whitespace().nth(1)?.split('@').next()?.trim_end_matches(':');
                    (name != "nk-near").then(|| name.to_owned())
                }) else {
                    bail!("a netkit without its peer: {links}")
                };
                near.ip(&format!("link set {peer} netns {} name nk-far", far.path().display()))?;
                return between("nk-near", "nk-far");
            }
            Self::Tap | Self::Tun => {
                let tap = self == Self::Tap;
                let wire = match tun::connect(near, far, tap)? {
                    Ok(wire) => wire,
                    Err(said) => return Ok(Err(said)),
                };
                if tap {
                    near.ip(&format!("link set {} address {NEAR_MAC}", tun::NEAR))?;
                    far.ip(&format!("link set {} address {FAR_MAC}", tun::FAR))?;
                }
                let keep: Vec<Box<dyn Send + Sync>> = vec![Box::new(wire)];
                return Ok(Ok(Between { near_device: tun::NEAR, far_device: tun::FAR, keep }));
            }
            _ => {}
        }
        let (outer_near, outer_far) = self.outer_macs();
        // The end of the veth that is the near side's, or what the near side's device is made from.
        let elsewhere = if self == Self::VlanFromElsewhere { Some(NetNs::new()?) } else { None };
        let below = elsewhere.as_ref().unwrap_or(near);
        below.ip(&format!(
            "link add veth-near address {outer_near} type veth peer name veth-far address {outer_far} netns {}",
            far.path().display()
        ))?;
        if self != Self::Bond {
            below.ip("link set veth-near up")?;
        }
        far.ip("link set veth-far up")?;
        let make = |words: &str| near.try_run("ip", words);
        match self {
            Self::Bridge => {
                let words =
                    format!("link add br0 address {NEAR_MAC} type bridge forward_delay 0 stp_state 0");
                if let Err(said) = make(&words)? {
                    return Ok(Err(format!("no bridge: {said}")));
                }
                near.ip("link set veth-near master br0")?;
                between("br0", "veth-far")
            }
            Self::Bond => {
                if let Err(said) = make("link add bond0 type bond mode active-backup")? {
                    return Ok(Err(format!("no bond: {said}")));
                }
                near.ip("link set veth-near master bond0")?;
                near.ip("link set veth-near up")?;
                between("bond0", "veth-far")
            }
            Self::Vlan | Self::VlanFromElsewhere => {
                if let Err(said) = far.try_run("ip", "link add link veth-far name vlan5 type vlan id 5")? {
                    return Ok(Err(format!("no vlan: {said}")));
                }
                below.ip("link add link veth-near name vlan5 type vlan id 5")?;
                let Some(elsewhere) = elsewhere else { return between("vlan5", "vlan5") };
                elsewhere.ip(&format!("link set vlan5 netns {}", near.path().display()))?;
                let keep: Vec<Box<dyn Send + Sync>> = vec![Box::new(elsewhere)];
                Ok(Ok(Between { near_device: "vlan5", far_device: "vlan5", keep }))
            }
            Self::Macvlan => {
                let words =
                    format!("link add link veth-near name mv0 address {NEAR_MAC} type macvlan mode bridge");
                match make(&words)? {
                    Ok(_) => between("mv0", "veth-far"),
                    Err(said) => Ok(Err(format!("no macvlan: {said}"))),
                }
            }
            Self::Ipvlan => match make("link add link veth-near name ipv0 type ipvlan mode l2")? {
                Ok(_) => between("ipv0", "veth-far"),
                Err(said) => Ok(Err(format!("no ipvlan: {said}"))),
            },
            Self::Vxlan | Self::Wireguard | Self::Ipip | Self::Gre => self.tunnel(near, far),
            Self::Veth | Self::Netkit | Self::Tap | Self::Tun => between("veth-near", "veth-far"),
        }
    }

    fn tunnel(self, near: &NetNs, far: &NetNs) -> Result<std::result::Result<Between, String>> {
        let sides = [
            (near, "veth-near", UNDER_NEAR, UNDER_FAR, NEAR_MAC, OUTER_FAR_MAC),
            (far, "veth-far", UNDER_FAR, UNDER_NEAR, FAR_MAC, OUTER_NEAR_MAC),
        ];
        let mut device = "";
        for (netns, lower, local, remote, mac, other) in sides {
            netns.ip(&format!("addr add {local}/24 dev {lower}"))?;
            netns.ip(&format!("neigh replace {remote} lladdr {other} dev {lower} nud permanent"))?;
            let words;
            (device, words) = match self {
                Self::Vxlan => (
                    "vxlan7",
                    format!(
                        "address {mac} type vxlan id 7 local {local} remote {remote} dstport 4789 dev {lower}"
                    ),
                ),
                Self::Wireguard => ("wg7", "type wireguard".to_owned()),
                Self::Ipip => ("ipip7", format!("type ipip local {local} remote {remote}")),
                _ => ("gre7", format!("type gre local {local} remote {remote}")),
            };
            if let Err(said) = netns.try_run("ip", &format!("link add {device} {words}"))? {
                return Ok(Err(format!("no {self:?}: {said}")));
            }
        }
        if self == Self::Wireguard {
            wireguard::introduce((near, UNDER_NEAR), (far, UNDER_FAR), device)?;
        }
        Ok(Ok(Between { near_device: device, far_device: device, keep: vec![] }))
    }
}
