//! Messages of the kernel programs, handed to the `log` crate by aya-log. Only with `-v`: a message costs the target
//! time.

use aya_log::EbpfLogger;
use std::io;
use tokio::io::unix::AsyncFd;

/// Starts to forward the messages of the engine that this program belongs to. Must be called on a tokio runtime.
pub fn forward(program: u32) -> Result<(), Box<dyn std::error::Error>> {
    let logger = EbpfLogger::init_from_id(program)?;
    // SAFETY: the logger owns the ring buffer's descriptor and keeps it open for as long as it is registered.
    let mut logger = unsafe { AsyncFd::register(logger) }.map_err(io::Error::other)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
