//! The gate in one process with its clients and backends, over real sockets and real TLS.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what is wrong"
)]

mod authorization;
mod configs;
mod endings;
#[expect(dead_code, reason = "the themes that use the rest follow")]
mod harness;
mod instances;
mod readme;
mod resend;
mod shared_connection;
mod streaming;
mod tls;
mod upstream;
