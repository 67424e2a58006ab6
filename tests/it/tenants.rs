//! Tenants: instances that have another name behind the gate, and routes by instance.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::WriteRequest;
use casgate::policy::method::{InstanceIn, Method};
use casgate::policy::resource;
use casgate::policy::rights::Right;
use prost::Message;

use crate::harness::backend::{Backend, silent, unary};
use crate::harness::gate::{Config, Gate, backend_table};
use crate::harness::{grpc, until};

/// `forks` write into an instance of their own; each team has its part of the server, under the same name.
const RULES: &str = r#"
[[rules]]
name = "untrusted writers"
certificate = { common-name = "fork" }
allow = ["pull", "push", "execute"]
instance-rewrite = "untrusted/**"

[[rules]]
name = "team a"
certificate = { common-name = "a" }
allow = ["pull", "push"]
instances = ["team/**"]
instance-rewrite = "prod/a/**"

[[rules]]
name = "team b"
certificate = { common-name = "b" }
allow = ["pull", "push"]
instances = ["team"]
instance-rewrite = ""

[[rules]]
name = "everybody"
certificate = "any"
allow = ["pull"]
"#;

fn with_tenants(config: &mut Config) {
    config.rules.push_str(RULES);
}

/// The messages that a backend got.
fn messages(mut body: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        messages.push(&rest[..length]);
        body = &rest[length..];
    }
    messages
}

/// The instance in a request that a backend got.
fn instance(method: Method, body: &[u8]) -> String {
    // Field 1 is a string in every request of the table.
    let name = reapi::GetCapabilitiesRequest::decode(messages(body)[0])
        .unwrap()
        .instance_name;
    match method.instance_in() {
        InstanceIn::ResourceName(kind) => resource::instance_of(&name, kind).unwrap().to_string(),
        InstanceIn::Field(_) | InstanceIn::Unknown => name,
    }
}

#[tokio::test]
async fn every_method_of_a_tenant_names_its_own_instance_behind_the_gate() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    with_tenants(&mut config);
    let gate = Gate::start(config).await;
    let methods: Vec<Method> = Method::ALL
        .iter()
        .copied()
        .filter(|method| method.instance_in() != InstanceIn::Unknown)
        .filter(|method| !method.rights().contains(Right::Worker) || method.rights().contains(Right::Pull))
        .filter(|method| !method.path().contains("ReferenceStorage"))
        .collect();
    assert!(methods.len() > 15);
    for (who, asked, expected) in [
        ("fork", "", "untrusted"),
        ("fork", "main", "untrusted/main"),
        ("fork", "untrusted", "untrusted/untrusted"),
        ("a", "team", "prod/a"),
        ("a", "team/x", "prod/a/x"),
        ("b", "team", ""),
        ("writer", "team", "team"),
    ] {
        let mut client = gate.client(who).await;
        for method in &methods {
            let before = backend.streams();
            let reply = client.ask(*method, asked).await;
            if reply.code() == Some(7) {
                let is_execution = *method == Method::Execute;
                assert!(is_execution && who != "fork", "{who} {method:?}: {reply:?}");
                continue;
            }
            assert_eq!(reply.code(), Some(0), "{who} {method:?} {asked}: {reply:?}");
            let seen = backend.seen().remove(before);
            assert_eq!(instance(*method, &seen.body), expected, "{who} {method:?} {asked}");
        }
    }
    // Only the server knows whose operation that is.
    let before = backend.streams();
    let reply = gate.client("fork").await.ask(Method::WaitExecution, "").await;
    assert_eq!((reply.code(), backend.streams()), (Some(7), before), "{reply:?}");
    assert_eq!(gate.metric("casgate_decisions_total", &["instance-unknown"]), 1.0);
}

#[tokio::test]
async fn uploads_of_any_size_are_renamed_and_keep_their_bytes() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    with_tenants(&mut config);
    let gate = Gate::start(config).await;
    let mut fork = gate.client("fork").await;
    for size in [0, 1, 5_000, 16_384, 100_000, 1_000_000] {
        let upload = |name: String, at: usize, finish_write: bool| WriteRequest {
            resource_name: name,
            write_offset: i64::try_from(at).unwrap(),
            data: vec![b'x'; size],
            finish_write,
        };
        // The second message leaves the name out, as Bazel does; the third repeats it, as BuildStream does.
        let requests = [
            upload(grpc::upload("main"), 0, false),
            upload(String::new(), size, false),
            upload(grpc::upload("main"), 2 * size, true),
        ];
        let body: Vec<u8> = requests
            .iter()
            .flat_map(|request| grpc::frame(&request.encode_to_vec()))
            .collect();
        let before = backend.streams();
        let reply = fork.call(Method::Write, body.into()).await;
        assert_eq!(reply.code(), Some(0), "{size}: {reply:?}");
        let seen = backend.seen().remove(before);
        assert!(seen.ended, "{size}");
        let renamed = grpc::upload("untrusted/main");
        let expected: usize = requests
            .iter()
            .map(|request| {
                let is_named = !request.resource_name.is_empty();
                let name = if is_named { renamed.clone() } else { String::new() };
                let request = WriteRequest {
                    resource_name: name,
                    ..request.clone()
                };
                5 + request.encoded_len()
            })
            .sum();
        assert_eq!(seen.received, expected as u64, "{size}");
        let first = reapi::GetCapabilitiesRequest::decode(&grpc::string(1, &renamed)[..]).unwrap();
        let head = grpc::string(1, &first.instance_name);
        assert_eq!(seen.body.get(5..5 + head.len()), Some(&head[..]), "{size}");
    }
}

#[tokio::test]
async fn a_name_that_comes_behind_the_new_one_is_never_forwarded_whole() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    with_tenants(&mut config);
    let gate = Gate::start(config).await;
    let mut fork = gate.client("fork").await;
    let data = grpc::string(10, &"x".repeat(200_000));
    for late in ["", "blobs", &grpc::upload("")] {
        let body = grpc::frame(&[data.clone(), grpc::string(1, late)].concat());
        let before = backend.streams();
        let reply = fork.call(Method::Write, body).await;
        assert_eq!(reply.code(), Some(3), "{late:?}: {reply:?}");
        // Nothing was decided, or the message was cut off: no server acts on it.
        until("the backend has seen its end", || {
            backend.seen()[before..]
                .iter()
                .all(|seen| seen.reset.is_some() && !seen.ended)
        })
        .await;
    }
}

#[tokio::test]
async fn who_is_perhaps_an_untrusted_writer_gets_into_neither_place() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    with_tenants(&mut config);
    let gate = Gate::start(config).await;
    let second_name = rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]);
    let authority = &gate.config.authority;
    let twice = authority.client_with("fork", |params| params.distinguished_name.push(second_name, "writer"));
    let reply = gate.client_with(&twice).await.ask(Method::Write, "main").await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn a_running_call_ends_when_its_instance_moves() {
    let backend = Backend::start(silent);
    let mut config = Config::to(&backend);
    with_tenants(&mut config);
    let mut gate = Gate::start(config).await;
    let mut client = gate.client("b").await;
    let mut call = client.open(Method::Read);
    assert!(call.send(grpc::request(Method::Read, "team")).await);
    call.end();
    until("the backend has the call", || backend.streams() == 1).await;
    gate.config.rules = gate
        .config
        .rules
        .replace("instance-rewrite = \"\"", "instance-rewrite = \"b\"");
    gate.reload().await.unwrap();
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("another name"), "{reply:?}");
}

#[tokio::test]
async fn an_instance_has_a_backend_of_its_own_and_a_name_there() {
    let (shared, own) = (Backend::start(unary), Backend::start(unary));
    let mut config = Config::to(&shared);
    with_tenants(&mut config);
    config.backends = format!(
        "{}{}\
         [[routes]]\nservices = [\"cas\", \"action-cache\", \"asset\"]\nbackend = \"shared\"\n\
         [[routes]]\nservices = [\"cas\", \"action-cache\"]\nbackend = \"own\"\n\
         instances = [\"untrusted/**\"]\ninstance-rewrite = \"**\"\n",
        backend_table("shared", &shared.endpoint()),
        backend_table("own", &own.endpoint())
    );
    let gate = Gate::start(config).await;
    let mut fork = gate.client("fork").await;
    for method in [Method::GetCapabilities, Method::Write, Method::UpdateActionResult] {
        let before = own.streams();
        assert_eq!(fork.ask(method, "main").await.code(), Some(0), "{method:?}");
        let seen = own.seen().remove(before);
        assert_eq!(instance(method, &seen.body), "main", "{method:?}");
    }
    assert_eq!(shared.streams(), 0);
    assert_eq!(fork.ask(Method::PushBlob, "main").await.code(), Some(0));
    assert_eq!(instance(Method::PushBlob, &shared.seen()[0].body), "untrusted/main");
    assert_eq!(
        gate.client("writer").await.ask(Method::Write, "main").await.code(),
        Some(0)
    );
    assert_eq!((shared.streams(), own.streams()), (2, 3));
}

#[tokio::test]
async fn an_instance_without_a_route_is_invalid_and_stays_here() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config
        .backends
        .push_str("[[routes]]\nservices = [\"cas\"]\nbackend = \"cache\"\ninstances = [\"main\"]\n");
    let gate = Gate::start(config).await;
    let mut root = gate.client("root").await;
    assert_eq!(root.ask(Method::Read, "main").await.code(), Some(0));
    let reply = root.ask(Method::Read, "other").await;
    assert_eq!((reply.code(), backend.streams()), (Some(3), 1), "{reply:?}");
    assert!(reply.message().contains("instance"), "{reply:?}");
}

#[tokio::test]
async fn a_name_that_could_not_be_made_is_an_error_of_the_configuration() {
    let route = "[[routes]]\nservices = [\"cas\"]\nbackend = \"cache\"\n";
    let rule = |keys: &str| format!("[[rules]]\ncertificate = \"any\"\nallow = [\"pull\"]\n{keys}\n");
    for (more, text) in [
        (
            rule("instance-rewrite = \"a/*\""),
            "rules[3].instance-rewrite: `a/*`: only a last component",
        ),
        (rule("instance-rewrite = \"a/blobs\""), "reserved component `blobs`"),
        (
            rule("instances = [\"b/**\", \"c\"]\ninstance-rewrite = \"a/**\""),
            "`a/**` ends in `**`, and the pattern `c` of `instances` does not",
        ),
        (
            format!("{route}instance-rewrite = \"/a\""),
            "routes[0].instance-rewrite: `/a`",
        ),
        (
            format!("{route}{route}"),
            "routes[1].services: `cas` has a route for these instances already",
        ),
        (
            format!("{route}instances = [\"a\"]\n{route}instances = [\"a\"]"),
            "routes[1].services: `cas` has a route for these instances already",
        ),
    ] {
        let mut config = Config::to_endpoint("http://127.0.0.1:1");
        config.rules.push_str(&more);
        let error = Gate::try_start(config).await.err().unwrap_or_default();
        assert!(error.contains(text), "{more}{error}");
    }
}
