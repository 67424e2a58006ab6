#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::future::poll_fn;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::Gather;
use super::*;
use crate::http2::heads;

/// What TLS 1.3 adds to a full record: the kind of what is in it, and the tag (RFC 8446, 5.2).
const OVERHEAD: usize = 17;

/// The two ends of a TLS connection over a pipe of so many bytes.
async fn connection(pipe: usize) -> (server::TlsStream<DuplexStream>, client::TlsStream<DuplexStream>) {
    let pair = rcgen::generate_simple_self_signed(["gate".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(pipe);
    let (server, client) = tokio::join!(
        TlsAcceptor::from(Arc::new(server)).accept(near),
        TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("gate").unwrap(), far)
    );
    let mut client = client.unwrap();
    let mut server = server.unwrap();
    // What TLS has to say after the handshake is not counted below.
    server.write_all(b"!").await.unwrap();
    client.read_u8().await.unwrap();
    (server, client)
}

/// The lengths of the records in these bytes (RFC 8446, 5.1).
fn records(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [23, 3, 3, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        lengths.push(length);
        bytes = rest.get(length..).unwrap();
    }
    assert!(bytes.is_empty(), "{bytes:?}");
    lengths
}

#[tokio::test]
async fn all_records_but_the_last_are_full_however_it_is_written() {
    let (server, client) = connection(1024 * 1024).await;
    let mut pipe = client.into_inner().0;
    let mut gather = Gather::new(Records::new(Box::new(server)));
    let flush = gather.share();
    let payload = vec![7; RECORD];
    for _ in 0..3 {
        let slices = [IoSlice::new(&[heads::DATA; 9]), IoSlice::new(&payload)];
        let mut left = 9 + RECORD;
        while left > 0 {
            let mut slices = slices;
            let mut slices = &mut slices[..];
            IoSlice::advance_slices(&mut slices, 9 + RECORD - left);
            left -= poll_fn(|cx| Pin::new(&mut gather).poll_write_vectored(cx, slices))
                .await
                .unwrap();
        }
        // As h2 does after each frame.
        gather.flush().await.unwrap();
    }
    poll_fn(|cx| flush.poll_flush_all(cx)).await.unwrap();
    assert!(gather.0.lock().rest.capacity() == 0, "nothing is kept");
    let mut bytes = vec![0; 1024 * 1024];
    let length = pipe.read(&mut bytes).await.unwrap();
    let full = RECORD + OVERHEAD;
    assert_eq!(records(&bytes[..length]), [full, full, full, 27 + OVERHEAD]);
}

/// Also when what waited has become full records with what came after it.
#[tokio::test]
async fn nothing_is_kept_when_all_is_written() {
    let (server, mut client) = connection(1024 * 1024).await;
    let mut gather = Gather::new(Records::new(Box::new(server)));
    for length in [300, 2 * RECORD - 300] {
        gather.write_all(&vec![0; length]).await.unwrap();
        assert!(gather.has_waiting());
    }
    let flush = gather.share();
    poll_fn(|cx| flush.poll_flush_all(cx)).await.unwrap();
    assert!(!gather.has_waiting());
    assert_eq!(gather.0.lock().rest.capacity(), 0);
    client.read_exact(&mut vec![0; 2 * RECORD]).await.unwrap();
}

/// Pieces of all sizes, over a pipe that takes few bytes at a time, arrive in their order.
#[tokio::test]
async fn a_narrow_pipe_loses_nothing() {
    let (server, mut client) = connection(4099).await;
    let mut gather = Gather::new(Records::new(Box::new(server)));
    let flush = gather.share();
    let sent: Vec<u8> = (0..20 * RECORD).map(|number| (number % 251) as u8).collect();
    let write = async {
        let mut rest = &sent[..];
        for length in [1, 9, RECORD - 11, 1, 1, RECORD, 300, 5 * RECORD + 1, 0, 70, 2 * RECORD] {
            let (piece, after) = rest.split_at(length);
            gather.write_all(piece).await.unwrap();
            rest = after;
        }
        poll_fn(|cx| flush.poll_flush_all(cx)).await.unwrap();
        gather.write_all(rest).await.unwrap();
        gather.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(client.read_to_end(&mut got), write);
    read.unwrap();
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
}

#[tokio::test]
async fn who_reads_nothing_does_not_make_it_grow() {
    let (server, _client) = connection(1024).await;
    let mut gather = Gather::new(Records::new(Box::new(server)));
    let piece = vec![0; 9 + RECORD];
    let mut taken = 0;
    let write = async {
        loop {
            taken += gather.write(&piece).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        never = write => never,
        () = tokio::task::yield_now() => {}
    }
    assert!((ENOUGH..ENOUGH + 2 * RECORD).contains(&taken), "{taken}");
}
