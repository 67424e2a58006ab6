//! Who is connected, and what is kept for them.
//!
//! Whatever keeps bytes for somebody holds a [`Reservation`] for them, which gives them back when it is dropped. All
//! reservations are of one [`Ledger`], so that `limits.memory` bounds what the whole process keeps.

pub mod ledger;

pub use ledger::{Account, Full, Ledger, Purse, Reservation, WindowShare};
