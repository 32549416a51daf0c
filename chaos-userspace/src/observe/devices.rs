//! Tells when the devices of the target's network namespaces change.

use crate::host::link_events::LinkEvents;
use std::io;
use tokio::{io::unix::AsyncFd, sync::mpsc};

/// Listens to these subscriptions; every message says that something has changed. Must be called on a tokio runtime.
pub fn listen(subscriptions: Vec<LinkEvents>) -> io::Result<mpsc::Receiver<()>> {
    // One message is as good as many: the devices are listed anew.
    let (news, receiver) = mpsc::channel(1);
    for subscription in subscriptions {
        // SAFETY: the subscription owns its descriptor and keeps it open for as long as it is registered.
        let mut subscription = unsafe { AsyncFd::register(subscription) }.map_err(io::Error::other)?;
        let news = news.clone();
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
    }
    Ok(receiver)
}
