//! casgate
#![forbid(unsafe_code)]
pub mod admin;
pub mod cli;
pub mod config;
pub mod connection;
mod http2;
pub mod live;
pub mod metrics;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod tls;
pub mod upstream;
