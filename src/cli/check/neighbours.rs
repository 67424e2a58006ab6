//! Backends that others than the gate can reach: most REAPI servers trust whoever does, so that what the gate refuses would be
//! had from the server itself.

use std::net::IpAddr;

use crate::snapshot::Snapshot;
use crate::snapshot::backends::{BackendPlan, Target};

/// Warnings of backends that others on their network can reach.
pub(super) fn warnings(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let open = snapshot
        .backends
        .iter()
        .filter(|plan| hosts(plan).any(|host| !is_loopback(host)));
    open.map(|plan| {
        format!(
            "backend {} is reached in the clear: whoever is on its network can reach it around the gate, and read and change what passes; take `https://` with a certificate that the server asks for, or keep the network to the two",
            plan.name
        )
    })
}

/// Notes on backends that others on this machine can reach.
pub(super) fn notes(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let open = snapshot.backends.iter().filter(|plan| hosts(plan).any(is_loopback));
    open.map(|plan| {
        format!(
            "backend {} listens on TCP of this machine: every user of it can reach it around the gate; a unix socket that only casgate may use is better",
            plan.name
        )
    })
}

/// Where a backend is without TLS.
fn hosts(plan: &BackendPlan) -> impl Iterator<Item = &str> {
    plan.endpoints.iter().filter_map(|target| match target {
        Target::Tcp(authority) => Some(&*authority.host),
        Target::Unix(_) | Target::Tls(..) | Target::Store(_) => None,
    })
}

fn is_loopback(host: &str) -> bool {
    // RFC 6761, 6.3: names below `localhost` as well.
    let is_name = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    is_name
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_networks() {
        for host in [
            "localhost",
            "LocalHost",
            "x.localhost",
            "127.0.0.1",
            "127.8.0.1",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.org", "10.0.0.1", "::2", "0.0.0.0", "notlocalhost"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
