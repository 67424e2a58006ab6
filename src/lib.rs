//! casgate
#![forbid(unsafe_code)]
pub mod policy;
pub mod proxy;
pub mod status;
