//! Single packets and calls, as machines read them.

use crate::spec::syscall::Call;
use chaos_common::{
    event::{CallEvent, EVENT_CALL, EVENT_PACKET, Head, PacketEvent},
    packet::{FAMILY_V4, FAMILY_V6, Packet},
    rule::{
        KIND_CORRUPT, KIND_CORRUPT_PAYLOAD, KIND_DELAY, KIND_DUPLICATE, KIND_LATENCY, KIND_LOSS,
        KIND_REORDER, KIND_RESET, KIND_RESULT, KIND_RESULTS, act,
    },
    syscall::{ROW_COMPAT, ROW_RING},
};
use nix::errno::Errno;
use serde::Serialize;
use std::net::{IpAddr, Ipv6Addr};
use syscalls::x86::Sysno as CompatCall;

/// What kinds of rules do, by name.
const ACTS: [(u32, &str); 10] = [
    (KIND_LOSS, "loss"),
    (KIND_RESET, "reset"),
    (KIND_DELAY, "delay"),
    (KIND_REORDER, "reorder"),
    (KIND_DUPLICATE, "duplicate"),
    (KIND_CORRUPT, "corrupt"),
    (KIND_CORRUPT_PAYLOAD, "corrupt-payload"),
    (KIND_LATENCY, "slow"),
    (KIND_RESULT, "fail"),
    (KIND_RESULTS, "fail"),
];

/// One packet or call of a target.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Record {
    /// A packet.
    Packet {
        /// When, and what was done.
        #[serde(flatten)]
        what: What,
        /// `egress` or `ingress`, seen from the target.
        direction: &'static str,
        /// Index of the device it was leaving, in the target's network namespace.
        device: Option<u32>,
        /// `tcp`, `udp`, `icmp`, `icmpv6` or a number; none where it cannot be read.
        protocol: Option<String>,
        /// Address of the target's end.
        local: Option<IpAddr>,
        /// Port of the target's end.
        local_port: Option<u16>,
        /// Address of the other end.
        remote: Option<IpAddr>,
        /// Port of the other end.
        remote_port: Option<u16>,
        /// Packets on the wire.
        segments: u64,
        /// Bytes as the hook sees them.
        bytes: u64,
    },
    /// A system call.
    Call {
        /// When, and what was done.
        #[serde(flatten)]
        what: What,
        /// Its name; `io_uring` for a request of a ring.
        call: String,
        /// `64`, `32` or `io_uring`.
        abi: &'static str,
        /// What it returns instead of being carried out.
        result: Option<i64>,
        /// The same as an errno, by name.
        errno: Option<String>,
        /// Thread group, seen from the host.
        tgid: u32,
        /// Thread, seen from the host.
        tid: u32,
        /// The thread's name.
        comm: String,
    },
}

/// What packets and calls have in common.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct What {
    /// The run.
    pub run: String,
    /// When, in nanoseconds since 1970.
    pub unix_ns: u64,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// What was done, by kind of fault; empty for what was let through.
    pub faults: Vec<&'static str>,
    /// The rules that did it: places in the summary's list.
    pub rules: Vec<u32>,
    /// Whether it could not be done.
    pub failed: bool,
}

/// What a reader has to know to make sense of records.
#[derive(Clone, Debug)]
pub struct Context {
    /// The run.
    pub run: String,
    /// The wall clock's lead over `CLOCK_MONOTONIC`.
    pub unix_minus_monotonic_ns: u64,
}

impl Context {
    /// Reads a record of the ring buffer. `None` for one of another size or kind, which nobody writes.
    pub fn read(&self, bytes: &[u8]) -> Option<Record> {
        let kind = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        match kind {
            EVENT_PACKET => Some(self.packet(&copy::<PacketEvent>(bytes)?)),
            EVENT_CALL => Some(self.call(&copy::<CallEvent>(bytes)?)),
            _ => None,
        }
    }

    fn what(&self, head: &Head, failed: bool) -> What {
        let mut faults: Vec<_> =
            ACTS.iter().filter(|(kind, _)| head.acts & act(*kind) != 0).map(|(_, name)| *name).collect();
        faults.dedup();
        What {
            run: self.run.clone(),
            unix_ns: head.monotonic_ns.wrapping_add(self.unix_minus_monotonic_ns),
            monotonic_ns: head.monotonic_ns,
            faults,
            rules: (0..u64::BITS).filter(|rule| head.rules & (1 << rule) != 0).collect(),
            failed,
        }
    }

    fn packet(&self, event: &PacketEvent) -> Record {
        let packet = &event.packet;
        let known = packet.family == FAMILY_V4 || packet.family == FAMILY_V6;
        Record::Packet {
            what: self.what(&event.head, event.failed != 0),
            direction: if event.device == 0 { "ingress" } else { "egress" },
            device: Some(event.device).filter(|device| *device != 0),
            protocol: u8::try_from(packet.protocol).ok().filter(|_| known).map(protocol),
            local: address(packet, &packet.local),
            local_port: u16::try_from(packet.local_port).ok().filter(|_| known),
            remote: address(packet, &packet.remote),
            remote_port: u16::try_from(packet.remote_port).ok().filter(|_| known),
            segments: event.segments,
            bytes: event.bytes,
        }
    }

    fn call(&self, event: &CallEvent) -> Record {
        let (call, abi) = match event.row {
            row if row < ROW_COMPAT => (Call::numbered(row).map(Call::name), "64"),
            row if row < ROW_RING => {
                (CompatCall::new((row - ROW_COMPAT) as usize).map(|call| call.name()), "32")
            }
            _ => (Some("io_uring"), "io_uring"),
        };
        let hit = event.head.acts != 0;
        let errno = Errno::from_raw(i32::try_from(event.result.wrapping_neg()).unwrap_or(0));
        let name = event.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        Record::Call {
            what: self.what(&event.head, false),
            call: call.map_or_else(|| event.row.to_string(), str::to_owned),
            abi,
            result: hit.then_some(event.result),
            errno: (hit && event.result < 0 && errno != Errno::UnknownErrno).then(|| format!("{errno:?}")),
            tgid: event.tgid,
            tid: event.tid,
            comm: String::from_utf8_lossy(name).into_owned(),
        }
    }
}

/// Only for the records of [`chaos_common::event`]: any bytes are a value of them.
fn copy<T: Copy>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the bytes are there, and the types consist of integers only.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn protocol(number: u8) -> String {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp".to_owned(),
        libc::IPPROTO_UDP => "udp".to_owned(),
        libc::IPPROTO_ICMP => "icmp".to_owned(),
        libc::IPPROTO_ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

fn address(packet: &Packet, bytes: &[u8; 16]) -> Option<IpAddr> {
    match (packet.family, bytes) {
        (FAMILY_V4, [a, b, c, d, ..]) => Some(IpAddr::from([*a, *b, *c, *d])),
        (FAMILY_V6, _) => Some(IpAddr::V6(Ipv6Addr::from(*bytes))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaos_common::packet::PORT_NONE;

    fn context() -> Context {
        Context { run: "abc".to_owned(), unix_minus_monotonic_ns: 1000 }
    }

    fn bytes<T>(value: &T) -> &[u8] {
        // SAFETY: the records consist of integers without padding between them.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_record_or_none(
            kind in 0u32..4,
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
        ) {
            let all = [&kind.to_ne_bytes()[..], &bytes].concat();
            if let Some(record) = context().read(&all) {
                let text = serde_json::to_string(&record).unwrap();
                assert!(text.chars().all(|letter| letter >= ' '), "{text}");
            }
        }
    }

    #[test]
    fn a_packet_is_told_with_both_its_ends() {
        let mut packet =
            Packet { family: FAMILY_V4, protocol: 17, local_port: 9, remote_port: 53, ..Packet::UNKNOWN };
        packet.local[..4].copy_from_slice(&[10, 0, 0, 1]);
        packet.remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        let head = Head {
            kind: EVENT_PACKET,
            acts: act(KIND_DUPLICATE) | act(KIND_LOSS),
            rules: 1 << 63 | 1 << 2,
            monotonic_ns: 5,
        };
        let mut event =
            PacketEvent { head, segments: 1, bytes: 60, packet, device: 3, failed: 0, reserved: 0 };
        let told = serde_json::to_value(context().read(bytes(&event))).unwrap();
        assert_eq!(
            told,
            serde_json::json!({"event": "packet", "run": "abc", "unix_ns": 1005, "monotonic_ns": 5,
                "faults": ["loss", "duplicate"], "rules": [2, 63], "failed": false, "direction": "egress", "device": 3,
                "protocol": "udp", "local": "10.0.0.1", "local_port": 9, "remote": "10.0.0.2", "remote_port": 53,
                "segments": 1, "bytes": 60})
        );
        event.packet = Packet { family: FAMILY_V6, protocol: 58, remote_port: PORT_NONE, ..Packet::UNKNOWN };
        event.device = 0;
        let told = serde_json::to_value(context().read(bytes(&event))).unwrap();
        assert_eq!((&told["direction"], &told["device"]), (&"ingress".into(), &serde_json::Value::Null));
        assert_eq!((&told["protocol"], &told["remote"]), (&"icmpv6".into(), &"::".into()));
        assert_eq!(told["remote_port"], serde_json::Value::Null);
        event.packet = Packet::UNKNOWN;
        let told = serde_json::to_value(context().read(bytes(&event))).unwrap();
        assert_eq!((&told["protocol"], &told["local"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    }

    #[test]
    fn a_call_is_told_by_name() {
        let head = Head { kind: EVENT_CALL, acts: act(KIND_RESULT), rules: 1, monotonic_ns: 5 };
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"a\nb\xff");
        let mut event = CallEvent { head, result: -5, row: 257, tgid: 7, tid: 8, reserved: 0, comm };
        let told = serde_json::to_value(context().read(bytes(&event))).unwrap();
        assert_eq!(
            told,
            serde_json::json!({"event": "call", "run": "abc", "unix_ns": 1005, "monotonic_ns": 5, "faults": ["fail"],
                "rules": [0], "failed": false, "call": "openat", "abi": "64", "result": -5, "errno": "EIO", "tgid": 7,
                "tid": 8, "comm": "a\nb\u{fffd}"})
        );
        event.row = ROW_COMPAT + 5;
        event.head.acts = 0;
        let told = serde_json::to_value(context().read(bytes(&event))).unwrap();
        assert_eq!((&told["call"], &told["abi"]), (&"open".into(), &"32".into()));
        assert_eq!((&told["result"], &told["errno"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        event.row = ROW_RING + 1;
        event.head.acts = act(KIND_RESULT);
        event.result = 7;
        let told = serde_json::to_value(context().read(bytes(&event))).unwrap();
        assert_eq!((&told["call"], &told["result"]), (&"io_uring".into(), &7.into()));
        assert_eq!(told["errno"], serde_json::Value::Null);
        assert_eq!(context().read(&bytes(&event)[..40]), None);
    }
}
