//! proxy
pub mod capabilities;
pub mod headers;
pub mod prefix;
