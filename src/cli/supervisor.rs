//! What a supervisor is told that starts the program and waits for it: systemd, by sd_notify(3).
//!
//! Without one, nothing is told to nobody.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::server::Gate;

/// Clients can connect, and the configuration is in use.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it.
pub(super) fn reloading() {
    // Both at once, as `Type=notify-reload` wants.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// No new connections are taken.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that the program is alive, as often as it is asked for, as long as every thread answers. A supervisor that hears
/// nothing restarts it.
pub(super) async fn watchdog(gate: &Gate) {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        if gate.is_alive(patience / 2).await {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(target: "casgate::serve", "a thread does not answer");
        }
        tokio::time::sleep((patience / 3).max(Duration::from_millis(1))).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(target: "casgate::serve", %error, "the supervisor can't be told");
    }
}
