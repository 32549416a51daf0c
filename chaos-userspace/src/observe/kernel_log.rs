//! Messages of the kernel programs, handed to the `log` crate by aya-log. Only with `-v`: a message costs the target
//! time.

use aya_log::EbpfLogger;
use std::io;
use tokio::{io::unix::AsyncFd, sync::oneshot, task::JoinHandle};

/// Messages on their way to the `log` crate.
pub struct Forwarder {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Starts to forward the messages of the engine that this program belongs to. Must be called on a tokio runtime.
    pub fn start(program: u32) -> Result<Self, Box<dyn std::error::Error>> {
        let logger = EbpfLogger::init_from_id(program)?;
        // SAFETY: the logger owns the ring buffer's descriptor and keeps it open for as long as it is registered.
        let mut logger = unsafe { AsyncFd::register(logger) }.map_err(io::Error::other)?;
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    ready = logger.readable_mut() => match ready {
                        Ok(mut ready) => {
                            ready.get_inner_mut().flush();
                            ready.clear_ready();
                        }
                        Err(_) => return,
                    },
                    _ = &mut stopped => break,
                }
            }
            logger.get_mut().flush();
        });
        Ok(Self { stop, task })
    }

    /// Forwards what is left and ends.
    pub async fn finish(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
