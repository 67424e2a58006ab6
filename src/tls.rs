//! TLS on both sides: PEM to rustls configurations. TLS 1.2 and 1.3, HTTP/2 by ALPN, no resumption.

mod chains;
mod der;
mod dn;
mod head;
pub mod identity;
pub mod lists;
pub mod pem;
mod refusal;
mod signature;
pub mod verifier;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};

use verifier::ClientVerifier;

/// The ALPN name of HTTP/2 (RFC 9113, 3.2).
pub const ALPN_H2: &[u8] = b"h2";

/// A time as certificates and lists have it, in seconds since 1970.
fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The cryptography of both sides.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The configuration of a listener.
///
/// Sessions are not resumed: a resumed session restores an identity without verifying it again, so that a certificate
/// that was revoked since would come back with it.
///
/// # Errors
/// What rustls says of the certificate and key, such as that they do not belong together.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
    verifier: Arc<ClientVerifier>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(pair(chain, key)?));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// A chain with its key, which is borrowed: rustls drops a key that it is given, and whoever owns this one wipes it.
fn pair(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<SingleCertAndKey, rustls::Error> {
    let pair = CertifiedKey::new(chain, any_supported_type(key)?);
    match pair.keys_match() {
        // Where it can't be known, as rustls does.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair.into()),
        Err(error) => Err(error),
    }
}

/// The configuration of a way to an `https://` backend.
///
/// # Errors
/// What rustls says of the certificates.
pub fn client_config(
    ca: &[CertificateDer<'static>],
    client: Option<(Vec<CertificateDer<'static>>, &PrivateKeyDer<'_>)>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone())?;
    }
    let server_verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(server_verifier);
    let mut config = match client {
        Some((chain, key)) => builder.with_client_cert_resolver(Arc::new(pair(chain, key)?)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}
