//! What must hold for any bytes, by what they are read as. Each function panics where it does not hold, and gives the
//! kind of outcome, so that whoever feeds it can tell inputs that lead somewhere new.
//!
//! The tests run them on mutations of the seeds in `corpus`, and the targets of libFuzzer beside this file run the same.

// Of no use to another crate, in the tests as in the targets.
#![allow(unreachable_pub, reason = "it is a module of two crates")]

mod certificate;
mod configuration;
mod first_message;
mod message;
mod resource_name;
mod revocation_list;

use casgate::policy::method::Method;
use casgate::status::Rejection;
use http::HeaderValue;
use http::uri::PathAndQuery;

pub use certificate::certificate;
pub use configuration::configuration;
pub use first_message::first_message;
pub use message::message;
pub use resource_name::resource_name;
pub use revocation_list::revocation_list;

/// The `:path` of a request: a method is known by one spelling, byte for byte.
pub fn path(bytes: &[u8]) -> String {
    // As it arrives: the client's HTTP/2 refuses what is no path at all.
    let arrived = PathAndQuery::try_from(bytes);
    if let Ok(arrived) = &arrived {
        let without_fragment = bytes.split(|byte| *byte == b'#').next().unwrap_or_default();
        if let Some(method) = Method::from_path(arrived.as_str()) {
            assert_eq!(
                without_fragment,
                method.path().as_bytes(),
                "it is called by another spelling"
            );
        }
    }
    let Ok(text) = str::from_utf8(bytes) else {
        return format!("not UTF-8, {}", arrived.is_ok());
    };
    let known = Method::from_path(text);
    let same: Vec<_> = Method::ALL.iter().filter(|method| method.path() == text).collect();
    match known {
        Some(method) => assert_eq!(same, [&method]),
        None => {
            assert!(same.is_empty(), "{same:?}");
            assert_can_be_sent(&Rejection::unknown_method(text));
        }
    }
    format!("{known:?}, {}", arrived.is_ok())
}

/// Whatever is wrong, the client can be told.
fn assert_can_be_sent(rejection: &Rejection) {
    let message = rejection.grpc_message("7e0e2c0c-0000-4000-8000-000000000000");
    assert!(
        message.len() <= 2048 && HeaderValue::from_str(&message).is_ok(),
        "{message}"
    );
    assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{message}");
}
