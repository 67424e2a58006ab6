//! The limits for clients, as metrics and logs name them.

use crate::status::Excess;

/// A limit for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.connections`
    Connections,
    /// `limits.connections-per-address`
    ConnectionsPerAddress,
    /// Half of `limits.connections`: those that have not sent a whole ClientHello.
    Strangers,
    /// `limits.handshakes`
    Handshakes,
    /// `limits.first-request-timeout`
    FirstRequestTimeout,
    /// `limits.idle-timeout` and `limits.anonymous-idle-timeout`
    IdleTimeout,
    /// `limits.resets-at-once` and `limits.resets-per-second`
    Resets,
    /// `limits.control-frames-at-once` and `limits.control-frames-per-second`
    ControlFrames,
    /// What h2 limits by itself: headers, small frames, streams that must be reset.
    Http2,
    /// Metadata of calls.
    HeaderList,
    /// Clients that stand still in the middle of a frame.
    Standstill,
    /// `limits.stall-timeout`
    StallTimeout,
    /// `rate` of a rule
    Rate,
    /// `bandwidth` of a rule
    Bandwidth,
    /// `max-calls` of a rule
    MaxCalls,
    /// `limits.calls-per-certificate`
    CallsPerCertificate,
    /// Watches of the health on a connection.
    HealthWatches,
    /// `limits.memory`
    Memory,
}

/// What a limit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A connection was not taken, or a call.
    Refused,
    /// A connection was closed, or a stream.
    Closed,
    /// A call was slowed down.
    Delayed,
    /// A connection got a smaller window than it would have had.
    Reduced,
}

impl Limit {
    /// All of them, in order.
    pub const ALL: [Limit; 18] = [
        Limit::Connections,
        Limit::ConnectionsPerAddress,
        Limit::Strangers,
        Limit::Handshakes,
        Limit::FirstRequestTimeout,
        Limit::IdleTimeout,
        Limit::Resets,
        Limit::ControlFrames,
        Limit::Http2,
        Limit::HeaderList,
        Limit::Standstill,
        Limit::StallTimeout,
        Limit::Rate,
        Limit::Bandwidth,
        Limit::MaxCalls,
        Limit::CallsPerCertificate,
        Limit::HealthWatches,
        Limit::Memory,
    ];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::ConnectionsPerAddress => "connections-per-address",
            Limit::Strangers => "strangers",
            Limit::Handshakes => "handshakes",
            Limit::FirstRequestTimeout => "first-request-timeout",
            Limit::IdleTimeout => "idle-timeout",
            Limit::Resets => "resets",
            Limit::ControlFrames => "control-frames",
            Limit::Http2 => "http2",
            Limit::HeaderList => "header-list",
            Limit::Standstill => "standstill",
            Limit::StallTimeout => "stall-timeout",
            Limit::Rate => "rate",
            Limit::Bandwidth => "bandwidth",
            Limit::MaxCalls => "max-calls",
            Limit::CallsPerCertificate => "calls-per-certificate",
            Limit::HealthWatches => "health-watches",
            Limit::Memory => "memory",
        }
    }
}

impl From<Excess> for Limit {
    fn from(excess: Excess) -> Limit {
        match excess {
            Excess::Rate => Limit::Rate,
            Excess::Calls => Limit::MaxCalls,
            Excess::CallsOfCertificate => Limit::CallsPerCertificate,
            Excess::Watches => Limit::HealthWatches,
        }
    }
}

impl Action {
    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Action::Refused => "refused",
            Action::Closed => "closed",
            Action::Delayed => "delayed",
            Action::Reduced => "reduced",
        }
    }
}
