//! What the gate itself costs a call, without a socket: `cargo bench --bench decide`.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::WriteRequest;
use casgate::metrics::{End, Metrics};
use casgate::policy::identity::{Certificate, Identity};
use casgate::policy::instance::{InstanceName, InstancePattern};
use casgate::policy::kindness::Kindness;
use casgate::policy::method::{Method, ResourceKind};
use casgate::policy::pattern::{CertificatePattern, Pattern};
use casgate::policy::rights::{Right, Rights};
use casgate::policy::spiffe::UriPattern;
use casgate::policy::uris::UriPrefix;
use casgate::policy::{Policy, Rule, Scope, Uris, resource};
use casgate::proxy::headers;
use casgate::proxy::prefix::Reader;
use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use prost::Message;

const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Rules for as many certificates and instances; the last one is that of the caller.
fn policy(rules: usize) -> Policy {
    let rule = |number: usize| Rule {
        name: format!("rule {number}").into(),
        pattern: Pattern::Certificate(Box::new(CertificatePattern {
            common_name: Some(format!("client {number}")),
            ..CertificatePattern::default()
        })),
        allow: Rights::of(Right::Pull),
        deny: Rights::NONE,
        instances: InstancePattern::parse(&format!("team-{number}/**"))
            .ok()
            .map(|one| vec![one]),
        uris: None,
        rewrite: None,
        kindness: Kindness::default(),
        quota: casgate::policy::quota::Quota::default(),
    };
    Policy::new((0..rules).map(rule).collect())
}

fn caller(number: usize) -> Identity {
    Identity::Certificate(Box::new(Certificate {
        common_names: vec![format!("client {number}")],
        ..Certificate::default()
    }))
}

fn decision(c: &mut Criterion) {
    for rules in [10, 10_000, 100_000] {
        let policy = policy(rules);
        let identity = caller(rules - 1);
        let standing = policy.standing(&identity, &[]);
        let name = format!("team-{}/main", rules - 1);
        let path = Method::FindMissingBlobs.path();
        c.bench_function(&format!("decide a call, {rules} rules"), |b| {
            b.iter(|| {
                let method = Method::from_path(black_box(path))?;
                standing.may_ever(method.rights()).ok()?;
                let scope = Scope::Instance(InstanceName::parse(black_box(&name)).ok()?);
                policy.decide(&standing, method, scope, Uris::default()).ok()
            });
        });
        c.bench_function(&format!("match an identity (once a connection), {rules} rules"), |b| {
            b.iter(|| policy.standing(black_box(&identity), &[]));
        });
    }
}

/// Ten rules that all match: a deny on an instance, limits of URIs, and every part of a certificate that can be named.
fn detailed(c: &mut Criterion) {
    let pattern = CertificatePattern {
        common_name: Some("ci".to_owned()),
        organization: Some("Example".to_owned()),
        uri: UriPattern::parse("spiffe://example.org/ns/*/ci/**").ok(),
        spki_sha256: Some([7; 32]),
        issued_by: Some("ci".into()),
        ..CertificatePattern::default()
    };
    let rule = |number: usize| Rule {
        name: format!("rule {number}").into(),
        pattern: Pattern::Certificate(Box::new(pattern.clone())),
        allow: Rights::of(Right::Pull).with(Right::AssetPush),
        deny: if number == 0 {
            Rights::of(Right::AssetPush)
        } else {
            Rights::NONE
        },
        instances: InstancePattern::parse(&format!("team-{number}/**"))
            .ok()
            .map(|one| vec![one]),
        rewrite: None,
        uris: UriPrefix::parse("urn:fdc:buildstream.build:2020:")
            .ok()
            .map(|one| vec![one]),
        kindness: Kindness::default(),
        quota: casgate::policy::quota::Quota::default(),
    };
    let policy = Policy::new((0..10).map(rule).collect());
    let identity = Identity::Certificate(Box::new(Certificate {
        common_names: vec!["ci".to_owned()],
        organizations: vec!["Example".to_owned()],
        uris: vec!["spiffe://example.org/ns/a/ci/b/c".to_owned()],
        spki_sha256: [7; 32],
        ..Certificate::default()
    }));
    let issuers = ["ci".into()];
    let standing = policy.standing(&identity, &issuers);
    for (name, method, uris) in [
        ("a call", Method::Read, &[][..]),
        (
            "a push of two URIs",
            Method::PushBlob,
            &["urn:fdc:buildstream.build:2020:artifact:x"; 2],
        ),
    ] {
        c.bench_function(&format!("decide {name}, 10 rules that all match"), |b| {
            b.iter(|| {
                standing.may_ever(method.rights()).ok()?;
                let scope = Scope::Instance(InstanceName::parse(black_box("team-9/main")).ok()?);
                policy
                    .decide(&standing, method, scope, Uris::of(uris.iter().copied()))
                    .ok()
            });
        });
    }
    c.bench_function("match an identity (once a connection), 10 rules that all match", |b| {
        b.iter(|| policy.standing(black_box(&identity), &issuers));
    });
}

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], length.as_slice(), &bytes].concat()
}

fn first_message(c: &mut Criterion) {
    let digest = reapi::Digest {
        hash: HASH.to_owned(),
        size_bytes: 1000,
    };
    let find = |digests| {
        framed(&reapi::FindMissingBlobsRequest {
            instance_name: "team-1/main".to_owned(),
            blob_digests: vec![digest.clone(); digests],
            ..Default::default()
        })
    };
    let write = framed(&WriteRequest {
        resource_name: format!("main/uploads/6ba7b810-9dad-11d1-80b4-00c04fd430c8/blobs/{HASH}/1000000"),
        data: vec![0; 64 * 1024],
        ..Default::default()
    });
    for (name, method, bytes) in [
        ("FindMissingBlobs of 10", Method::FindMissingBlobs, find(10)),
        ("FindMissingBlobs of 1000", Method::FindMissingBlobs, find(1000)),
        ("Write of 64 KiB", Method::Write, write),
    ] {
        c.bench_function(&format!("read the first message, {name}"), |b| {
            b.iter(|| {
                let mut reader = Reader::new(method);
                reader.push(black_box(&bytes)).ok()?;
                reader.name().map(str::len).ok()
            });
        });
    }
    let name = format!("main/blobs/{HASH}/1000");
    c.bench_function("split a resource name", |b| {
        b.iter(|| resource::instance_of(black_box(&name), ResourceKind::Read));
    });
}

fn request_headers(c: &mut Criterion) {
    let given: HeaderMap = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "grpc-c++/1.81.1 grpc-c/55.0.0 (linux; chttp2)"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("build.bazel.remote.execution.v2.requestmetadata-bin", "CgA="),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.parse::<http::HeaderName>().ok()?, value.parse().ok()?)))
    .collect();
    c.bench_function("make request headers fit for a backend (with a copy of them)", |b| {
        b.iter(|| {
            let mut copy = given.clone();
            headers::for_upstream(&mut copy, &[]);
            copy
        });
    });
}

/// Alone, and while another thread counts calls, too: in the counters of this one, or in its own.
fn counting(c: &mut Criterion) {
    let Ok(metrics) = Metrics::new(2) else { return };
    let count = |thread: usize| {
        let calls = metrics.calls(thread);
        calls.started(Some(Method::FindMissingBlobs));
        let end = End {
            code: 0,
            seconds: black_box(0.001),
            received: 700,
            sent: 5,
        };
        calls.handled(Some(Method::FindMissingBlobs), end);
    };
    c.bench_function("count a call", |b| b.iter(|| count(0)));
    for (name, other) in [("the same counters", 0), ("its own counters", 1)] {
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    count(other);
                }
            });
            c.bench_function(&format!("count a call, another thread in {name}"), |b| {
                b.iter(|| count(0));
            });
            is_done.store(true, Ordering::Relaxed);
        });
    }
}

criterion_group!(benches, decision, detailed, first_message, request_headers, counting);
criterion_main!(benches);
