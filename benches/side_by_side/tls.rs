//! Certificates of the run, and both ends of TLS for the load generator and the floor.
//!
//! Every contestant does the same cryptography: clients offer TLS 1.3 with one cipher suite and one group, those that gRPC
//! with BoringSSL agrees on with most servers. Sessions are not resumed, as by a client that was started now.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use casgate::certs::Folder;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Result;

/// A folder with `ca.crt`, `server.crt`, `ci.crt`, `dev.crt` and their keys.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(crate) dir: PathBuf,
}

impl Certificates {
    pub(crate) fn make(dir: &Path) -> Result<Certificates> {
        let folder = Folder::new(dir);
        folder.authority("bench", 2)?;
        folder.server(&["localhost".to_owned(), "127.0.0.1".to_owned()], 2)?;
        folder.client("ci", 2)?;
        folder.client("dev", 2)?;
        // What HAProxy wants.
        let both = ["server.crt", "server.key"].map(|name| std::fs::read(dir.join(name)));
        let [certificate, key] = both;
        std::fs::write(dir.join("server.both"), [certificate?, key?].concat())?;
        Ok(Certificates { dir: dir.to_owned() })
    }

    pub(crate) fn in_dir(dir: &Path) -> Certificates {
        Certificates { dir: dir.to_owned() }
    }

    /// For clients with this certificate, or with none.
    pub(crate) fn connector(&self, client: Option<&str>) -> Result<TlsConnector> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.authorities()?);
        let mut config = match client {
            Some(client) => builder.with_client_auth_cert(self.chain(client)?, self.key(client)?)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// For the floor.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.authorities()?), provider()).build()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain("server")?, self.key("server")?)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn authorities(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        for certificate in self.chain("ca")? {
            store.add(certificate)?;
        }
        Ok(store)
    }

    fn chain(&self, name: &str) -> Result<Vec<CertificateDer<'static>>> {
        let file = self.dir.join(format!("{name}.crt"));
        Ok(CertificateDer::pem_file_iter(file)?.collect::<std::result::Result<_, _>>()?)
    }

    fn key(&self, name: &str) -> Result<PrivateKeyDer<'static>> {
        Ok(PrivateKeyDer::from_pem_file(self.dir.join(format!("{name}.key")))?)
    }
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}
