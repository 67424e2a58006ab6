//! `[listen]`: addresses and TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::config::Loaded;
use crate::config::file::{self, ClientCa, ClientCertificate, Key};
use crate::policy::Policy;
use crate::policy::identity::{Identity, Pattern};
use crate::tls::verifier::{ClientVerifier, Trusted};
use crate::tls::{self, identity, pem};

use super::report::Report;

/// The listener for clients.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where it listens; taking another address takes a restart.
    pub address: SocketAddr,
    /// TLS for new connections.
    pub tls: Arc<ServerConfig>,
    /// Which client certificates are accepted: in handshakes, and again on open connections after a reload.
    pub verifier: Arc<ClientVerifier>,
    /// How long running calls may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Certificates whose end a monitor should know: what they are for, and the last second of their validity.
    pub expiries: Vec<(String, i64)>,
}

const KEYS: [&str; 7] = [
    "address",
    "certificate",
    "key",
    "client-ca",
    "client-crl",
    "client-certificate",
    "drain-timeout",
];

/// Compiles the table.
pub fn compile(loaded: &Loaded, policy: &Policy, report: &mut Report) -> Option<Listen> {
    let table = report.required(
        &loaded.file.listen,
        "listen",
        "the table `[listen]` with `address`, `certificate`, `key`",
    )?;
    report.unknown(&table.unknown, "listen.", &KEYS);
    let address = address(&table.address, "listen.address", "such as \"0.0.0.0:11002\"", report);
    let chain = file(
        loaded,
        &table.certificate,
        "listen.certificate",
        pem::certificates,
        report,
    );
    let key = file(loaded, &table.key, "listen.key", pem::private_key, report);
    let mode = report
        .value(&table.client_certificate, "listen.client-certificate")
        .copied()
        .unwrap_or_default();
    let mut expiries = Vec::new();
    if let Some(leaf) = chain.as_ref().and_then(|chain| chain.first()) {
        note_expiry("server", leaf, &mut expiries);
    }
    let trusted = trusted(loaded, table, mode, &mut expiries, report);
    let crls = revocation_lists(loaded, table, report);
    let drain_timeout = report
        .value(&table.drain_timeout, "listen.drain-timeout")
        .copied()
        .unwrap_or(60);

    // A rule about one certificate, not about all of them.
    let is_named = |der: &CertificateDer<'_>| {
        identity::read(der).is_ok_and(|certificate| {
            let identity = Identity::Certificate(Box::new(certificate));
            policy
                .rules()
                .iter()
                .any(|rule| matches!(rule.pattern, Pattern::Certificate(_)) && rule.pattern.matches(&identity))
        })
    };
    let verifier = ClientVerifier::new(&trusted?, &crls?, mode == ClientCertificate::Required, &is_named);
    let verifier = Arc::new(report.ok(verifier, "listen.client-ca")?);
    let tls = tls::server_config(chain?, key?, Arc::clone(&verifier))
        .map_err(|error| format!("certificate and key can't be used together: {error}"));
    Some(Listen {
        address: address?,
        tls: report.ok(tls, "listen.certificate")?,
        verifier,
        drain_timeout: Duration::from_secs(drain_timeout),
        expiries,
    })
}

/// An IP address with a port.
pub fn address(key: &Key<String>, name: &str, hint: &str, report: &mut Report) -> Option<SocketAddr> {
    let text = report.required(key, name, hint)?;
    let address = text
        .parse()
        .map_err(|_| format!("`{text}` is no IP address with a port, {hint}"));
    report.ok(address, name)
}

fn file<T>(
    loaded: &Loaded,
    key: &Key<String>,
    name: &str,
    parse: impl Fn(&[u8]) -> Result<T, String>,
    report: &mut Report,
) -> Option<T> {
    let file = report.required(key, name, "a PEM file; `casgate certs` makes one")?;
    let parsed = loaded
        .content(file)
        .and_then(|bytes| parse(bytes).map_err(|error| format!("`{file}` {error}")));
    report.ok(parsed, name)
}

fn trusted(
    loaded: &Loaded,
    table: &file::Listen,
    mode: ClientCertificate,
    expiries: &mut Vec<(String, i64)>,
    report: &mut Report,
) -> Option<Vec<Trusted>> {
    let name = "listen.client-ca";
    let hint = "the certificates of the authorities of clients, or of clients themselves";
    let entries = match mode {
        ClientCertificate::Required => report.required(&table.client_ca, name, hint)?,
        ClientCertificate::Optional if table.client_ca == Key::Absent => return Some(Vec::new()),
        ClientCertificate::Optional => report.value(&table.client_ca, name)?,
    };
    if entries.is_empty() && mode == ClientCertificate::Required {
        report.add_with_hint(name, "is empty, so that nobody could connect", hint);
    }
    let mut trusted = Vec::new();
    let mut complete = true;
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("{name}[{index}]");
        let (file, role) = match report.value(entry, &at) {
            Some(ClientCa::File(file)) => (file, None),
            Some(ClientCa::Entry { file, role }) => (file, Some(*role)),
            None => {
                complete = false;
                continue;
            }
        };
        let certificates = loaded
            .content(file)
            .and_then(|bytes| pem::certificates(bytes).map_err(|error| format!("`{file}` {error}")));
        match report.ok(certificates, &at) {
            Some(certificates) => {
                for der in certificates {
                    note_expiry("client-ca", &der, expiries);
                    trusted.push(Trusted { der, role });
                }
            }
            None => complete = false,
        }
    }
    complete.then_some(trusted)
}

fn revocation_lists(
    loaded: &Loaded,
    table: &file::Listen,
    report: &mut Report,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let mut lists = Vec::new();
    let mut complete = true;
    for file in report
        .value(&table.client_crl, "listen.client-crl")
        .into_iter()
        .flatten()
    {
        let read = loaded
            .content(file)
            .and_then(|bytes| pem::revocation_lists(bytes).map_err(|error| format!("`{file}` {error}")));
        match report.ok(read, "listen.client-crl") {
            Some(more) => lists.extend(more),
            None => complete = false,
        }
    }
    complete.then_some(lists)
}

fn note_expiry(role: &str, der: &CertificateDer<'_>, expiries: &mut Vec<(String, i64)>) {
    if let Ok(certificate) = identity::read(der) {
        let label = Identity::Certificate(Box::new(certificate.clone())).label();
        expiries.push((format!("{role} {label}"), certificate.not_after));
    }
}
