//! Tells when the devices of the target's network namespaces change.

use crate::host::link_events::LinkEvents;
use std::io;
use tokio::{io::unix::AsyncFd, sync::mpsc};

/// What is listened to; every message says that something has changed.
pub struct DeviceNews {
    news: mpsc::Sender<()>,
    receiver: mpsc::Receiver<()>,
}

impl Default for DeviceNews {
    fn default() -> Self {
        // One message is as good as many: the devices are listed anew.
        let (news, receiver) = mpsc::channel(1);
        Self { news, receiver }
    }
}

impl DeviceNews {
    /// Waits until something has changed. May be dropped while it waits.
    pub async fn next(&mut self) {
        // There is always a sender: our own.
        let _ = self.receiver.recv().await;
    }

    /// Listens to these as well. Must be called on a tokio runtime.
    pub fn listen(&self, subscriptions: Vec<LinkEvents>) -> io::Result<()> {
        subscriptions.into_iter().try_for_each(|subscription| listen(subscription, self.news.clone()))
    }
}

fn listen(subscription: LinkEvents, news: mpsc::Sender<()>) -> io::Result<()> {
    // SAFETY: the subscription owns its descriptor and keeps it open for as long as it is registered.
    let mut subscription = unsafe { AsyncFd::register(subscription) }.map_err(io::Error::other)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = subscription.readable_mut().await {
            if ready.get_inner_mut().drain().is_err() {
                return;
            }
            ready.clear_ready();
            // Full means that a message waits already.
            let _ = news.try_send(());
        }
    });
    Ok(())
}
