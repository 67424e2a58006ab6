//! The gate in one process with its clients and backends, over real sockets and real TLS.
//!
//! Which test stands for which invariant of the crate's documentation:
//!
//! 1. Deny is the default: `authorization::an_empty_policy_denies_every_method`,
//!    `authorization::callers_without_a_rule_may_nothing`, `authorization::unknown_methods_are_unimplemented_and_stay_here`,
//!    `authorization::local_cas_is_shut_to_a_caller_with_every_right`, and all of `adversarial` and `ambiguity`.
//! 2. No permit, no socket: `purity::there_is_one_door_to_a_backend_and_one_maker_of_permits`, besides the examples of
//!    `casgate::policy::Permit` that must not compile.
//! 3. One snapshot for a call, a reload is all or nothing:
//!    `reload::a_call_that_is_being_read_during_a_reload_goes_where_it_began`,
//!    `reload::a_broken_configuration_changes_nothing_and_says_why`.
//! 4. The verdict is made for each call, and again for running ones: `reload::a_lost_right_ends_running_calls_and_no_others`,
//!    `reload::a_removed_certificate_is_refused_on_its_live_connection` and its neighbours.
//! 5. Faults of a backend are UNAVAILABLE, denials PERMISSION_DENIED: all of `upstream`,
//!    `authorization::every_method_is_open_to_the_rights_of_the_table_and_to_no_other`.
//! 6. Blobs are forwarded as they came, in bounded memory: `streaming::bytes_are_forwarded_as_they_came_in_both_directions`,
//!    `streaming::an_upload_that_the_backend_does_not_take_stops_at_the_windows`,
//!    `streaming::an_answer_that_the_client_does_not_read_stops_at_the_windows_and_holds_back_no_other`.
//! 7. Pure modules: `purity::pure_modules_know_no_runtime_socket_clock_or_file`.
//! 8. One count and one access line for every call, no panic on bytes from the network:
//!    `metrics::every_call_ends_in_exactly_one_count_whatever_becomes_of_it`,
//!    `metrics::every_call_has_one_access_line`, `log::no_line_is_lost_at_the_end`, and all of `adversarial` and `fuzz`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test says by a panic what is wrong"
)]

mod admin;
mod adversarial;
mod ambiguity;
mod asset_uris;
mod audit;
mod authorization;
mod capabilities;
mod chains;
mod check;
mod clock;
mod configs;
mod connections;
mod drain;
mod endings;
mod endpoints;
mod explain;
mod faults;
mod floods;
mod forwarding;
mod full_disk;
mod fuzz;
mod harness;
mod health;
mod identity;
mod instances;
mod kind_refusals;
mod limits;
mod listeners;
mod lists;
mod log;
mod memory;
mod metrics;
mod policy;
mod purity;
mod readme;
mod reference_storage;
mod reload;
mod resend;
mod revocation;
mod routing;
mod sandbox;
mod secrets;
mod shared_connection;
mod shares;
mod signals;
mod silence;
mod small_frames;
mod soak;
mod standstill;
mod steady;
mod store_disk;
mod store_kill;
mod store_quota;
mod store_shares;
mod streaming;
mod streams;
mod supervision;
mod tenants;
mod tls;
mod upstream;
mod watch;
