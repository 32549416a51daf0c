//! Calls through io_uring, by each of the tasks that may carry them out.

use std::ffi::CString;

use anyhow::{Result, ensure};

use super::arguments::v4;
use super::{Felt, HERE, close, open, pointer, repeat};
use crate::victim::ring::{Carrier, OP_CONNECT, OP_OPENAT, OP_READ, OP_WRITE, Request, Ring};
use crate::victim::syscall_table::raw;

/// Opens `hit` and `miss` below the directory, reads and writes a file there, connects.
pub fn make(scratch: &str) -> Result<Vec<(String, Felt)>> {
    let mut all = vec![];
    let path = |name: &str| CString::new(format!("{scratch}/{name}/a.txt"));
    let (hit, miss) = (path("hit")?, path("miss")?);
    let file = open(&hit, libc::O_RDWR);
    ensure!(file >= 0, "opening {hit:?}: {file}");
    let mut byte = 0u8;
    let byte = &raw mut byte as u64;
    let address = v4([127, 0, 0, 1], 9);
    for (who, carrier) in
        [("submitter", Carrier::Submitter), ("worker", Carrier::Worker), ("poller", Carrier::Poller)]
    {
        let ring = Ring::new(carrier)?;
        let mut add =
            |label: &str, make: &dyn Fn() -> i64| all.push((format!("{label} {who}"), repeat(make)));
        for (label, path) in [("openat hit", &hit), ("openat miss", &miss)] {
            add(label, &|| {
                let opened = ring.make(Request {
                    op: OP_OPENAT,
                    fd: HERE as i32,
                    address: pointer(path) as u64,
                    op_flags: libc::O_CLOEXEC as u32,
                    ..Request::default()
                });
                close(opened);
                opened
            });
        }
        for (label, op) in [("read", OP_READ), ("write", OP_WRITE)] {
            let request = Request { op, fd: file as i32, address: byte, len: 1, ..Request::default() };
            add(label, &|| ring.make(request));
        }
        add("connect", &|| {
            let socket =
                raw(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]);
            let connected = ring.make(Request {
                op: OP_CONNECT,
                fd: socket as i32,
                off: 16,
                address: address.as_ptr() as u64,
                ..Request::default()
            });
            close(socket);
            connected
        });
    }
    Ok(all)
}
