//! On whose behalf a call is made: the gate's word, which no client can give.
//!
//! The store is reached over a byte stream within the process, and only the gate writes to it. What it says stands in
//! headers that it sets itself, in place of whatever a client sent by that name.

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request};
use tokio::task::futures::TaskLocalFuture;
use tonic::codegen::Service;

const CALLER: &str = "casgate-on-behalf-of";
const ASSETS: &str = "casgate-asset-completeness";

/// Who calls the store, and what it is told of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behalf {
    /// The same number for all calls of one certificate, or of one address without. What a caller may keep in use or
    /// have arriving is counted by it.
    pub caller: u128,
    /// Assets are told without a look at whether the blobs that they name are here: these are in another store.
    pub trusts_assets: bool,
}

tokio::task_local! {
    static BEHALF: Behalf;
}

impl Behalf {
    /// Writes it into the headers of a call, in place of what is there by these names.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.remove(ASSETS);
        headers.remove(CALLER);
        if let Ok(caller) = HeaderValue::try_from(format!("{:032x}", self.caller)) {
            headers.insert(CALLER, caller);
        }
        if self.trusts_assets {
            headers.insert(ASSETS, HeaderValue::from_static("trust"));
        }
    }

    /// Of the call that this task serves; nobody's where it serves none.
    pub(super) fn current() -> Self {
        BEHALF.try_with(|behalf| *behalf).unwrap_or_default()
    }

    fn read(headers: &HeaderMap) -> Self {
        let caller = headers.get(CALLER).and_then(|value| value.to_str().ok());
        Self {
            caller: caller
                .and_then(|hex| u128::from_str_radix(hex, 16).ok())
                .unwrap_or_default(),
            trusts_assets: headers.get(ASSETS).is_some_and(|value| value == "trust"),
        }
    }
}

/// A service whose calls know on whose behalf they are made, by [`Behalf::current`].
#[derive(Clone, Debug)]
pub(super) struct OnBehalf<S>(pub(super) S);

impl<S, B> Service<Request<B>> for OnBehalf<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TaskLocalFuture<Behalf, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let behalf = Behalf::read(request.headers());
        BEHALF.scope(behalf, self.0.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let mut headers = HeaderMap::new();
        for value in ["00000000000000000000000000000001", "2"] {
            headers.append(CALLER, HeaderValue::from_static(value));
        }
        headers.insert(ASSETS, HeaderValue::from_static("trust"));
        let behalf = Behalf {
            caller: u128::MAX,
            trusts_assets: false,
        };
        behalf.write(&mut headers);
        assert_eq!(headers.get_all(CALLER).iter().count(), 1);
        assert_eq!(Behalf::read(&headers), behalf);
    }
}
