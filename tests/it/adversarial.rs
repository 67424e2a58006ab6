//! The adversarial corpus: what somebody would try who wants the gate and a backend to read a call, or a certificate, in
//! two ways. The cases are data, in `tests/cases/adversarial`; of none of them the backend may see more than the case
//! says, which is nothing unless it says otherwise.

mod calls;
mod cases;
mod certificates;
mod notation;

use cases::{Call, load};

use crate::fuzz;

#[tokio::test]
async fn paths() {
    calls::run(load("paths")).await;
}

#[tokio::test]
async fn pseudo_headers() {
    calls::run(load("pseudo-headers")).await;
}

#[tokio::test]
async fn framing() {
    calls::run(load("framing")).await;
}

#[tokio::test]
async fn first_messages() {
    calls::run(load("first-messages")).await;
}

#[tokio::test]
async fn resource_names() {
    calls::run(load("resource-names")).await;
}

#[tokio::test]
async fn later_messages() {
    calls::run(load("later-messages")).await;
}

#[tokio::test]
async fn spoofed_headers() {
    calls::run(load("spoofed-headers")).await;
}

#[tokio::test]
async fn certificates() {
    certificates::run(load(cases::CERTIFICATES)).await;
}

/// What the cases send, for a target of `tests/fuzz`.
pub(crate) fn inputs(target: &str) -> Vec<Vec<u8>> {
    let calls = |family: &str| load::<Call>(family).into_iter();
    match target {
        "path" => {
            let fields = calls("paths").flat_map(|call| call.headers);
            fields.map(|(_, path)| notation::bytes(&path)).collect()
        }
        "first-message" => {
            let all = calls("first-messages").chain(calls("later-messages"));
            all.map(|call| {
                let later = call.later.iter().flat_map(|body| notation::parts(body));
                let body: Vec<u8> = notation::body(&call).into_iter().chain(later).collect();
                fuzz::stream(notation::method(&call.method), 5, &body)
            })
            .collect()
        }
        "resource-name" => {
            let parts = calls("resource-names").flat_map(|call| call.messages.concat());
            parts
                .filter_map(|part| Some(notation::filled(part.strip_prefix("1 ")?).into_bytes()))
                .collect()
        }
        _ => Vec::new(),
    }
}
