//! casgate: a gate for Remote Execution API (REAPI) caches.
//!
//! An HTTP/2 reverse proxy that terminates mutual TLS, knows every gRPC method of the REAPI family, and decides call by
//! call what the certificate in front of it may do. This page is the architecture.
//!
//! # Life of a call
//!
//! Each arrow is one call down and one `?` back: no tower of layers, no callbacks.
//!
//! ```text
//! server::accept -> connection::wait(tcp)                                            until a whole ClientHello, and a slot
//!   connection::serve(newcomer) -> Peer { identity, address }                        once a connection
//! proxy::handle(caller, request)                                                     once a call
//!   1 method   = Method::from_path(path)?                 unknown -> UNIMPLEMENTED
//!   2 view     = caller.view()                            the snapshot, and the rules that match the caller
//!     right::check(caller, view)?                         expired or withdrawn certificates end here
//!     view.standing.may_ever(method)?                     denied before a byte of the body is read
//!   3 name     = upload.settle()?                         only where the instance is in the message; bounded
//!   4 permit   = policy.decide(standing, method, name)?
//!     Kind::answer(denial)                                a denial that a rule has answered kindly: no permit, no backend
//!     Own::answer(permit)                                 BuildStream 1: answered by calls of the gate's own, each by 4
//!   5 way      = verdict::way(&permit)?                  by service and instance
//!     upload.rename(name)?                                where the instance has another name behind the gate
//!   6 headers::for_upstream(headers)                      out with identities that the client claims,
//!     view.forward(headers)                               in with the one that was verified, where a backend is told
//!   7 backend.send(permit, headers)                       the only door out
//!   8 exchange: body up, answer down, resets both ways
//! ```
//!
//! `handle` counts, logs and renders the [`status::Rejection`]; everything inside returns `Result<_, Rejection>`.
//!
//! # Map
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the commands |
//! | [`config`] | the TOML file and every file that it names, read |
//! | [`snapshot`] | a configuration compiled: all errors at once, no disk |
//! | [`live`] | the running snapshot with its backends, behind one pointer that a reload swaps |
//! | [`reload`] | the watch on the files of the configuration |
//! | [`policy`] | who may do what: pure |
//! | [`route`] | which backend serves what: pure |
//! | [`tls`] | PEM and DER to rustls; which client certificates are accepted |
//! | [`sandbox`] | what the program gives up before it serves |
//! | [`server`] | listeners, threads, drain |
//! | [`clients`] | what is kept for those who are connected: the one ledger of memory |
//! | [`wire`] | protobuf, counted before it is decoded: pure, and used by the store as well |
//! | [`connection`] | one client connection: handshake, HTTP/2, who calls |
//! | [`proxy`] | one call |
//! | [`forward`] | what a backend is told of who calls: pure |
//! | [`reference_storage`] | BuildStream 1's index on top of Remote Asset: pure |
//! | [`upstream`] | backends and the connections to them |
//! | [`store`] | the embedded backend |
//! | [`certs`] | makes certificates |
//! | [`status`] | what the gate answers itself: pure |
//! | [`audit`] | who pushed what |
//! | [`metrics`], [`admin`], [`log`] | what can be seen from outside |
//!
//! # Invariants
//!
//! 1. Deny is the default: no rule, no right; unknown paths have no [`policy::method::Method`].
//! 2. No permit, no socket: [`upstream::Backend::send`] takes a [`policy::Permit`], which only
//!    [`policy::Policy::decide`] makes. Health checks have no caller: they can ask what a
//!    [`snapshot::backends::Question`] says, and nothing else.
//! 3. One snapshot for a call; a reload is all or nothing.
//! 4. The verdict is made for each call, and again for running calls when something changed.
//! 5. Faults of a backend are UNAVAILABLE; denials are PERMISSION_DENIED with a sentence that helps.
//! 6. Blobs are forwarded as they came; the memory of a stream is bounded by its flow-control window, and every byte that is
//!    kept for a client is reserved in [`clients::Ledger`].
//! 7. `policy`, `route`, `forward`, `status`, `wire`, `proxy::prefix` and `proxy::headers` know no socket, file, clock or runtime.
//! 8. Every call ends in one count and one access line. No panic on bytes from the network.
#![forbid(unsafe_code)]

pub mod admin;
pub mod audit;
pub mod certs;
pub mod cli;
pub mod clients;
pub mod config;
pub mod connection;
pub mod forward;
mod http2;
pub mod live;
pub mod log;
pub mod metrics;
pub mod policy;
pub mod proxy;
pub mod reference_storage;
pub mod reload;
pub mod route;
pub mod sandbox;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod tls;
pub mod upstream;
pub mod wire;
