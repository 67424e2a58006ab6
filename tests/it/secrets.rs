//! Private keys: where they must not be found.

use std::fs::File;
use std::os::unix::fs::FileExt;

use casgate::policy::method::Method;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate, LOG};
use crate::harness::wire::grpc_request;
use crate::harness::{grpc, until};

/// All memory of a process that it can write to, region by region.
fn memory(pid: u32) -> Vec<Vec<u8>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut regions = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // Some is gone by now.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            regions.push(bytes);
        }
    }
    regions
}

fn times(regions: &[Vec<u8>], what: &[u8]) -> usize {
    let finder = memchr::memmem::Finder::new(what);
    regions.iter().map(|bytes| finder.find_iter(bytes).count()).sum()
}

#[tokio::test]
async fn what_held_a_key_is_wiped_when_it_was_read() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }\nwatch = false\n");
    // Only so that this test may look.
    config.top.push_str("core-dumps = true\n");
    // A large one: what is as large as it is seldom asked for, so that what is not wiped stays.
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
    let server = config.authority.server_with(key, &["localhost", "127.0.0.1"]);
    config
        .files
        .extend([("server.crt", server.pem()), ("server.key", server.key_pem())]);
    let gate = Gate::spawn(config).await;
    let mut client = gate.client("reader").await;
    let key = &gate.config.files["server.key"];
    let (text, der) = (key.as_bytes(), PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap());
    let certificate = CertificateDer::from_pem_slice(gate.config.files["server.crt"].as_bytes()).unwrap();
    for round in 0..3 {
        assert_eq!(client.ask(Method::BatchReadBlobs, "").await.code(), Some(0));
        let regions = memory(gate.id());
        assert!(times(&regions, &certificate) > 0, "nothing is found at all");
        // Behind the public half of it, which has every right to be there.
        for (what, bytes) in [("the file", text), ("the key", der.secret_der())] {
            let found: usize = bytes[900..].chunks_exact(30).map(|part| times(&regions, part)).sum();
            assert_eq!(found, 0, "pieces of {what}, after {round} reloads");
        }
        gate.hang_up();
        until("the reload", || gate.told("configuration reloaded") == round + 1).await;
    }
}

#[tokio::test]
async fn no_line_of_the_log_tells_a_secret_however_much_is_logged() {
    const TOKEN: &str = "c2VjcmV0IHRva2Vu";
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config
        .top
        .push_str("\nlog = { format = \"json\", filter = \"trace\" }\nwatch = false\n");
    let gate = Gate::spawn(config).await;
    let mut client = gate.client("reader").await;
    let mut request = grpc_request(Method::BatchReadBlobs.path());
    let token = format!("Bearer {TOKEN}").parse().unwrap();
    request.headers_mut().insert("authorization", token);
    let reply = client.send(request, grpc::request(Method::BatchReadBlobs, "")).await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    let key = gate.config.files["server.key"].clone();
    // As it is, cut off, and none.
    for text in [&key, &key[..key.len() / 2], ""] {
        std::fs::write(gate.dir().join("server.key"), text).unwrap();
        let before = gate.told("configuration");
        gate.hang_up();
        until("the reload", || gate.told("configuration") > before).await;
    }
    assert!(gate.told("configuration kept as it was") > 0);
    let log = std::fs::read_to_string(gate.dir().join(LOG)).unwrap();
    assert!(log.contains("TRACE"), "nothing is logged at all");
    let near = |what: &str| {
        log.lines()
            .find(|line| line.contains(what))
            .unwrap_or_default()
            .to_owned()
    };
    let lines = key.lines().filter(|line| !line.starts_with("-----"));
    for secret in lines.chain([TOKEN]) {
        assert!(!log.contains(secret), "{}", near(secret));
    }
}
