//! clsact filters: the egress hook of kernels before 6.6, which have no tcx links. A filter persists by nature, so it
//! is journalled before it is made.

use crate::host::netlink::request;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption},
};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Upper half of the handles of our filters ("kc"); the lower half tells apart those of several engines.
const FILTER_HANDLES: u32 = 0x6b63_0000;
/// First in the chain.
const FILTER_PRIORITY: u32 = 1;
const ETH_P_ALL: u16 = 0x0003;
/// `TC_H_CLSACT` with `TC_H_MIN_EGRESS` (include/uapi/linux/pkt_sched.h).
const CLSACT_EGRESS: u32 = 0xffff_fff3;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Attributes of `cls_bpf` (include/uapi/linux/pkt_cls.h).
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// Adds the clsact qdisc to a device of the calling thread's namespace. `false` if it was there already.
pub fn add_qdisc(device: u32) -> io::Result<bool> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(device));
    match request(message, NLM_F_CREATE | NLM_F_EXCL) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a device of the calling thread's namespace has the clsact qdisc.
pub fn has_qdisc(device: u32) -> io::Result<bool> {
    // The kernel tells those of all devices (net/sched/sch_api.c, tc_dump_qdisc).
    let message =
        RouteNetlinkMessage::GetQueueDiscipline(TcMessage::from_parts(header(device, 0, 0, 0), vec![]));
    // struct tcmsg {family and padding, ifindex, handle, parent, info}.
    let place = [device.to_ne_bytes(), CLSACT_HANDLE.to_ne_bytes(), CLSACT_PARENT.to_ne_bytes()].concat();
    Ok(request(message, NLM_F_DUMP)?.iter().any(|qdisc| qdisc.get(4..16) == Some(&place[..])))
}

/// The handle that this process's filters have.
pub fn own_handle() -> u32 {
    FILTER_HANDLES | (std::process::id() & 0xffff)
}

/// Adds a filter with this handle to a device of the calling thread's namespace.
pub fn add_filter(device: u32, handle: u32, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    put_filter(device, handle, program, name, NLM_F_CREATE | NLM_F_EXCL)
}

fn put_filter(device: u32, handle: u32, program: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<()> {
    let mut message = filter(device, handle);
    let mut c_name = name.as_bytes().to_vec();
    c_name.push(0);
    message.attributes = vec![
        TcAttribute::Kind("bpf".to_owned()),
        TcAttribute::Options(vec![
            TcOption::Other(DefaultNla::new(TCA_BPF_FD, (program.as_raw_fd() as u32).to_ne_bytes().to_vec())),
            TcOption::Other(DefaultNla::new(TCA_BPF_NAME, c_name)),
            TcOption::Other(DefaultNla::new(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec())),
        ]),
    ];
    request(RouteNetlinkMessage::NewTrafficFilter(message), flags).map(drop)
}

/// Puts another program in the place of that of a filter: every packet meets one of both (`cls_bpf_change`,
/// net/sched/cls_bpf.c).
pub fn replace_filter(device: u32, handle: u32, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    put_filter(device, handle, program, name, NLM_F_CREATE)
}

/// Removes the filter with this handle, and the qdisc if `with_qdisc` and nobody else uses it. What is gone already is no error.
pub fn remove(device: u32, handle: u32, with_qdisc: bool) -> io::Result<()> {
    ignore_gone(request(RouteNetlinkMessage::DelTrafficFilter(filter(device, handle)), 0).map(drop))?;
    if with_qdisc && filters(device, CLSACT_EGRESS)? == 0 && filters(device, CLSACT_INGRESS)? == 0 {
        ignore_gone(request(RouteNetlinkMessage::DelQueueDiscipline(qdisc(device)), 0).map(drop))?;
    }
    Ok(())
}

fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Ok(())
        }
        other => other,
    }
}

fn header(device: u32, parent: u32, handle: u32, info: u32) -> TcHeader {
    TcHeader {
        index: device as i32,
        parent: TcHandle::from(parent),
        handle: TcHandle::from(handle),
        info,
        ..TcHeader::default()
    }
}

fn qdisc(device: u32) -> TcMessage {
    let header = header(device, CLSACT_PARENT, CLSACT_HANDLE, 0);
    TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".to_owned())])
}

fn filter(device: u32, handle: u32) -> TcMessage {
    let info = FILTER_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    let header = header(device, CLSACT_EGRESS, handle, info);
    TcMessage::from_parts(header, vec![TcAttribute::Kind("bpf".to_owned())])
}

/// How many filters a device has at `parent`.
fn filters(device: u32, parent: u32) -> io::Result<usize> {
    let message = TcMessage::from_parts(header(device, parent, 0, 0), vec![]);
    let message = RouteNetlinkMessage::GetTrafficFilter(message);
    Ok(request(message, NLM_F_DUMP)?.len())
}
