//! Whose connections are counted together.

use std::net::{IpAddr, Ipv4Addr};

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::connection) enum Address {
    V4(Ipv4Addr),
    /// The first 64 bits: what one customer has at least.
    V6([u16; 4]),
}

/// The network around an address of which one party may have all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Network {
    /// An IPv4 address stands for itself.
    V4(Ipv4Addr),
    /// The first 48 bits: what one customer may have at most (RFC 6177).
    V6([u16; 3]),
}

impl Address {
    pub(in crate::connection) fn of(address: IpAddr) -> Address {
        match address.to_canonical() {
            IpAddr::V4(address) => Address::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Address::V6([a, b, c, d])
            }
        }
    }

    pub(super) fn network(self) -> Network {
        match self {
            Address::V4(address) => Network::V4(address),
            Address::V6([a, b, c, _]) => Network::V6([a, b, c]),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::V4(address) => address.fmt(f),
            Address::V6([a, b, c, d]) => {
                let first = std::net::Ipv6Addr::new(*a, *b, *c, *d, 0, 0, 0, 0);
                write!(f, "{first}/64")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn networks_of_ipv6_are_one_address_and_ipv4_is_itself() {
        let of = |text: &str| Address::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("2001:db8:0:1::1").network(), of("2001:db8:0:2::1").network());
        assert_ne!(of("2001:db8:1::1").network(), of("2001:db8:2::1").network());
        assert_eq!(of("2001:db8:0:1::1").to_string(), "2001:db8:0:1::/64");
    }
}
