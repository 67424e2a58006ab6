//! casgate
#![forbid(unsafe_code)]
