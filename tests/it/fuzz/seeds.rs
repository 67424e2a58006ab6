//! Where mutations begin: the files of `tests/fuzz/corpus`, and the cases of the adversarial corpus.

use std::path::{Path, PathBuf};

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use casgate::policy::method::Method;
use prost::Message;
use rcgen::{DnType, SanType};
use time::OffsetDateTime;

use crate::adversarial;
use crate::configs::examples;
use crate::harness::grpc;
use crate::harness::pki::{Authority, add_extension};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target)
}

/// The seeds of a target.
pub(super) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    if target == "configuration" {
        files.extend(examples("toml"));
    }
    files.sort();
    let files = files.iter().map(|file| std::fs::read(file).unwrap());
    files.chain(adversarial::inputs(target)).collect()
}

/// A request stream as the target reads it: which method, and how it arrives.
pub(crate) fn stream(method: Method, pieces: u8, stream: &[u8]) -> Vec<u8> {
    let number = Method::ALL.iter().position(|other| *other == method).unwrap();
    [&[number as u8, pieces], stream].concat()
}

/// Writes the files of the corpus anew: real messages and names, and certificates whose keys are thrown away.
#[test]
#[ignore = "changes files of the source: run it by hand where the seeds must change"]
fn make() {
    let write = |target: &str, name: &str, content: &[u8]| {
        std::fs::create_dir_all(folder(target)).unwrap();
        std::fs::write(folder(target).join(name), content).unwrap();
    };
    for (name, method) in [
        ("read", Method::Read),
        ("batch", Method::BatchUpdateBlobs),
        ("push", Method::PushBlob),
    ] {
        write("path", name, method.path().as_bytes());
    }
    let digest = || reapi::Digest {
        hash: grpc::HASH.to_owned(),
        size_bytes: 7,
    };
    let file = reapi::FileNode {
        name: "a".into(),
        digest: Some(digest()),
        ..Default::default()
    };
    let below = reapi::DirectoryNode {
        name: "b".into(),
        digest: Some(digest()),
    };
    let directory = reapi::Directory {
        files: vec![file],
        directories: vec![below],
        symlinks: vec![reapi::SymlinkNode::default()],
        ..Default::default()
    };
    let tree = reapi::Tree {
        root: Some(directory.clone()),
        children: vec![directory.clone(); 2],
    };
    let find = reapi::FindMissingBlobsRequest {
        blob_digests: vec![digest(); 3],
        ..Default::default()
    };
    let result = reapi::ActionResult {
        output_files: vec![reapi::OutputFile {
            path: "out".into(),
            digest: Some(digest()),
            ..Default::default()
        }],
        stdout_raw: b"out".to_vec(),
        ..Default::default()
    };
    for (name, kind, content) in [
        ("find", 0, find.encode_to_vec()),
        ("result", 3, result.encode_to_vec()),
        ("directory", 6, directory.encode_to_vec()),
        ("tree", 7, tree.encode_to_vec()),
    ] {
        write("message", name, &[&[kind], &content[..]].concat());
    }
    for (name, text) in [
        ("blob", grpc::blob("team/a")),
        ("compressed", format!("compressed-blobs/zstd/{}/0", grpc::HASH)),
        ("upload", grpc::upload("team")),
        ("metadata", format!("{}/some/file", grpc::upload(""))),
    ] {
        write("resource-name", name, text.as_bytes());
    }
    for (name, method, message) in messages() {
        write("first-message", name, &stream(method, 3, &grpc::frame(&message)));
    }
    let own = grpc::frame(&grpc::string(1, &grpc::upload("team")));
    let again = [own.clone(), grpc::write(10)[..].to_vec().into(), own].concat();
    write("first-message", "write", &stream(Method::Write, 7, &again));
    for (name, der) in certificates() {
        write("certificate", name, &der);
    }
    for (name, der) in lists() {
        write("revocation-list", name, &der);
    }
    let minimal = "[listen]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.crt\"\nkey = \"server.key\"\n\
                   client-ca = [\"ca.crt\"]\n[backends.cache]\nstore = \"memory:\"\n[[rules]]\nname = \"ci\"\n\
                   certificate = { common-name = \"ci\" }\nallow = [\"pull\", \"push\"]\n";
    write("configuration", "minimal.toml", minimal.as_bytes());
}

fn messages() -> Vec<(&'static str, Method, Vec<u8>)> {
    let digest = || reapi::Digest {
        hash: grpc::HASH.to_owned(),
        size_bytes: 0,
    };
    let uris = vec![
        "urn:fdc:buildstream.build:2020:artifact:x".to_owned(),
        "https://example.org/x".to_owned(),
    ];
    vec![
        (
            "find-missing",
            Method::FindMissingBlobs,
            reapi::FindMissingBlobsRequest {
                instance_name: "team".to_owned(),
                blob_digests: vec![digest(); 3],
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "batch-update",
            Method::BatchUpdateBlobs,
            reapi::BatchUpdateBlobsRequest {
                instance_name: "team".to_owned(),
                requests: vec![reapi::batch_update_blobs_request::Request {
                    digest: Some(digest()),
                    data: vec![b'x'; 40],
                    ..Default::default()
                }],
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "batch-update-long",
            Method::BatchUpdateBlobs,
            reapi::BatchUpdateBlobsRequest {
                requests: vec![reapi::batch_update_blobs_request::Request {
                    digest: Some(digest()),
                    data: vec![b'x'; 20_000],
                    ..Default::default()
                }],
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "update-action",
            Method::UpdateActionResult,
            reapi::UpdateActionResultRequest {
                instance_name: "team".to_owned(),
                action_digest: Some(digest()),
                action_result: Some(reapi::ActionResult {
                    exit_code: -1,
                    ..Default::default()
                }),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "fetch-blob",
            Method::FetchBlob,
            asset::FetchBlobRequest {
                instance_name: "team".to_owned(),
                uris: uris.clone(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "push-directory",
            Method::PushDirectory,
            asset::PushDirectoryRequest {
                instance_name: "team".to_owned(),
                uris,
                root_directory_digest: Some(digest()),
                references_blobs: vec![digest(); 250],
                ..Default::default()
            }
            .encode_to_vec(),
        ),
    ]
}

fn certificates() -> Vec<(&'static str, Vec<u8>)> {
    // Both beyond what a test may live to see, since the property has a clock of its own.
    let dates = |params: &mut rcgen::CertificateParams| {
        params.not_before = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        params.not_after = OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
    };
    let authority = Authority::with("seeds", dates);
    let client = authority.client_with("client", dates);
    let names = authority.client_with("names", |params| {
        dates(params);
        params.distinguished_name.push(DnType::OrganizationName, "Team");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Unit");
        params.subject_alt_names = vec![
            SanType::URI("spiffe://example.org/ci".try_into().unwrap()),
            SanType::DnsName("ci.example.org".try_into().unwrap()),
            SanType::Rfc822Name("ci@example.org".try_into().unwrap()),
        ];
    });
    let intermediate = authority.client_with("intermediate", |params| {
        dates(params);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    });
    [
        ("authority.der", authority.der()),
        ("client.der", client.der),
        ("names.der", names.der),
        ("intermediate.der", intermediate.der),
    ]
    .map(|(name, der)| (name, der.to_vec()))
    .into()
}

fn lists() -> Vec<(&'static str, Vec<u8>)> {
    let authority = Authority::new("seeds");
    let revoked = [(); 3].map(|()| authority.client("client"));
    let revoked: Vec<_> = revoked.iter().collect();
    let extended = |oid: &[u8], value: &[u8]| {
        authority.revoke_odd(&revoked, |fields| {
            add_extension(fields.last_mut().unwrap(), oid, true, value)
        })
    };
    [
        ("three.der", authority.revoke_odd(&revoked, |_| {})),
        ("empty.der", authority.revoke_odd(&[], |_| {})),
        // issuingDistributionPoint with a name and onlyContainsUserCerts, and deltaCRLIndicator.
        (
            "place.der",
            extended(
                &[0x55, 0x1d, 0x1c],
                &[0x30, 10, 0xa0, 5, 0xa0, 3, 0x86, 1, b'a', 0x81, 1, 0xff],
            ),
        ),
        ("delta.der", extended(&[0x55, 0x1d, 0x1b], &[2, 1, 1])),
        (
            "first-version.der",
            authority.revoke_odd(&revoked, |fields| {
                fields.retain(|field| field[0] != 2 && field[0] != 0xa0)
            }),
        ),
    ]
    .map(|(name, der)| (name, der.to_vec()))
    .into()
}
