//! `[listen]` and `[[listen]]`: addresses and TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::config::Loaded;
use crate::config::file::{self, ClientCa, ClientCaTable, ClientCertificate, Key, Role, Tables};
use crate::policy::Policy;
use crate::policy::identity::Identity;
use crate::policy::pattern::{CertificatePattern, Fit, Issuer, Pattern};
use crate::tls::lists::{ReadList, Terms};
use crate::tls::verifier::{self, Accepted, ClientVerifier, Trusted};
use crate::tls::{self, identity, pem};

use super::report::Report;

/// A listener for clients.
#[derive(Clone, Debug)]
pub struct Listen {
    /// What a reload knows it by.
    pub id: ListenerId,
    /// What is asked of clients.
    pub security: Security,
    /// How long running calls may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Certificates whose end a monitor should know: what they are for, and the last second of their validity.
    pub expiries: Vec<(String, i64)>,
}

/// Which listener of a configuration: the address that it names, and how many before it name the same one, as port 0
/// may be asked for several times. Listening elsewhere takes a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId {
    /// The address.
    pub address: SocketAddr,
    before: usize,
}

/// What a listener asks of clients.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS.
    Tls {
        /// For new connections.
        config: Arc<ServerConfig>,
        /// Which client certificates are accepted: in handshakes, and again on open connections after a reload.
        verifier: Arc<ClientVerifier>,
    },
    /// Nothing: clear HTTP/2, and every caller is anonymous.
    Clear,
}

impl Listen {
    /// What clients write before the address.
    pub fn scheme(&self) -> &'static str {
        match self.security {
            Security::Tls { .. } => "https",
            Security::Clear => "http",
        }
    }
}

impl Security {
    /// Whether a caller who shows this chain, leaf first, or none at all, is accepted: in the handshake, and again after
    /// a reload.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn accept(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Accepted, String> {
        match (self, chain.split_first()) {
            (Security::Tls { verifier, .. }, Some((leaf, intermediates))) => verifier
                .verify(leaf, intermediates, now)
                .map_err(|error| verifier::reason(&error)),
            (Security::Tls { verifier, .. }, None) if verifier.is_mandatory() => {
                Err("a client certificate is required".to_owned())
            }
            (Security::Tls { .. } | Security::Clear, None) => Ok(Accepted::ANONYMOUS),
            (Security::Clear, Some(_)) => Err("without TLS no certificate is taken".to_owned()),
        }
    }
}

const KEYS: [&str; 11] = [
    "address",
    "tls",
    "certificate",
    "key",
    "client-ca",
    "client-crl",
    "client-crl-expired",
    "client-crl-missing",
    "client-ca-expired",
    "client-certificate",
    "drain-timeout",
];

/// Compiles the tables; at least one, unless the report has a problem.
pub fn compile(loaded: &Loaded, policy: &Policy, report: &mut Report) -> Vec<Listen> {
    let hint = "the table `[listen]` with `address`, `certificate`, `key`";
    let tables = report.required(&loaded.file.listen, "listen", hint);
    let tables = tables.map(|tables| tables.named("listen")).unwrap_or_default();
    if matches!(&loaded.file.listen, Key::Good(Tables::Many(tables)) if tables.is_empty()) {
        report.add_with_hint("listen", "is empty", hint);
    }
    let mut listeners: Vec<Listen> = Vec::new();
    let mut lists = ListFiles::default();
    for (at, table) in tables {
        let Some(table) = report.value(table, &at) else {
            continue;
        };
        let Some(mut listen) = compile_one(loaded, &mut lists, table, &at, policy, report) else {
            continue;
        };
        let address = listen.id.address;
        listen.id.before = listeners.iter().filter(|other| other.id.address == address).count();
        if listen.id.before > 0 && address.port() != 0 {
            report.add(
                format!("{at}.address"),
                format!("another listener has `{address}` already"),
            );
        }
        listeners.push(listen);
    }
    listeners
}

fn compile_one<'a>(
    loaded: &'a Loaded,
    lists: &mut ListFiles<'a>,
    table: &'a file::Listen,
    at: &str,
    policy: &Policy,
    report: &mut Report,
) -> Option<Listen> {
    let key = |part: &str| format!("{at}.{part}");
    report.unknown(&table.unknown, &format!("{at}."), &KEYS);
    let address = address(&table.address, &key("address"), "such as \"0.0.0.0:11002\"", report);
    let drain_timeout = report
        .value(&table.drain_timeout, &key("drain-timeout"))
        .copied()
        .unwrap_or(60);
    let mut expiries = Vec::new();
    let security = if report.value(&table.tls, &key("tls")) == Some(&false) {
        clear(table, at, report)
    } else {
        tls(loaded, lists, table, at, policy, &mut expiries, report)
    };
    Some(Listen {
        id: ListenerId {
            address: address?,
            before: 0,
        },
        security: security?,
        drain_timeout: Duration::from_secs(drain_timeout),
        expiries,
    })
}

fn clear(table: &file::Listen, at: &str, report: &mut Report) -> Option<Security> {
    let given = [
        ("certificate", table.certificate != Key::Absent),
        ("key", table.key != Key::Absent),
        ("client-ca", table.client_ca != Key::Absent),
        ("client-crl", table.client_crl != Key::Absent),
        ("client-crl-expired", table.client_crl_expired != Key::Absent),
        ("client-crl-missing", table.client_crl_missing != Key::Absent),
        ("client-ca-expired", table.client_ca_expired != Key::Absent),
        ("client-certificate", table.client_certificate != Key::Absent),
    ];
    let given: Vec<_> = given.into_iter().filter(|(_, is_given)| *is_given).collect();
    for (name, _) in &given {
        report.add_with_hint(
            format!("{at}.{name}"),
            "has no meaning with `tls = false`",
            "without TLS nobody shows a certificate, and every caller is anonymous",
        );
    }
    given.is_empty().then_some(Security::Clear)
}

fn tls<'a>(
    loaded: &'a Loaded,
    lists: &mut ListFiles<'a>,
    table: &'a file::Listen,
    at: &str,
    policy: &Policy,
    expiries: &mut Vec<(String, i64)>,
    report: &mut Report,
) -> Option<Security> {
    let key = |part: &str| format!("{at}.{part}");
    let chain = file(
        loaded,
        &table.certificate,
        &key("certificate"),
        pem::certificates,
        report,
    );
    let private = file(loaded, &table.key, &key("key"), pem::private_key, report);
    let mode = report
        .value(&table.client_certificate, &key("client-certificate"))
        .copied()
        .unwrap_or_default();
    if let Some(leaf) = chain.as_ref().and_then(|chain| chain.first()) {
        note_expiry("server", leaf, expiries);
    }
    let trusted = trusted(loaded, table, &key("client-ca"), mode, expiries, report);
    let lists = lists.of(loaded, table, &key("client-crl"), report);
    let terms = Terms {
        expired: or_default(&table.client_crl_expired, &key("client-crl-expired"), report),
        missing: or_default(&table.client_crl_missing, &key("client-crl-missing"), report),
    };
    let expired = or_default(&table.client_ca_expired, &key("client-ca-expired"), report);

    let is_named = |trusted: &Trusted| is_named(policy, trusted);
    let (trusted, lists) = (trusted?, lists?);
    let verifier = ClientVerifier::new(&trusted, mode == ClientCertificate::Required, &is_named);
    let verifier = report.ok(verifier, &key("client-ca"))?;
    let verifier = match verifier.with_lists(&lists, terms) {
        Ok(verifier) => Arc::new(verifier.with_expired_authorities(expired)),
        Err(errors) => {
            for error in errors {
                report.add(key("client-crl"), error);
            }
            return None;
        }
    };
    let config = tls::server_config(chain?, &*private?, Arc::clone(&verifier)).map_err(|error| {
        let name = |key: &Key<String>| match key {
            Key::Good(file) => file.clone(),
            Key::Absent | Key::Bad(_) => String::new(),
        };
        let (certificate, private) = (name(&table.certificate), name(&table.key));
        format!("`{certificate}` and `{private}` can't be used together: {error}")
    });
    Some(Security::Tls {
        config: report.ok(config, &key("certificate"))?,
        verifier,
    })
}

/// Whether a rule is about this very certificate, not about all of them or all of an authority.
fn is_named(policy: &Policy, trusted: &Trusted) -> bool {
    let Ok(certificate) = identity::read(&trusted.der) else {
        return false;
    };
    let issuers: Vec<Issuer> = trusted.name.iter().map(|name| Issuer::from(&**name)).collect();
    policy.rules().iter().any(|rule| match &rule.pattern {
        Pattern::Certificate(pattern) => {
            let of_an_authority = CertificatePattern {
                issued_by: pattern.issued_by.clone(),
                ..CertificatePattern::default()
            };
            **pattern != of_an_authority && pattern.fit(&certificate, &issuers) == Fit::Equal
        }
        Pattern::Any | Pattern::Anonymous => false,
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
    name: &str,
    mode: ClientCertificate,
    expiries: &mut Vec<(String, i64)>,
    report: &mut Report,
) -> Option<Vec<Trusted>> {
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
        let Some(Entry { file, role, name }) = report.value(entry, &at).and_then(|entry| entry_of(entry, &at, report))
        else {
            complete = false;
            continue;
        };
        let certificates = loaded
            .content(file)
            .and_then(|bytes| pem::trusted_certificates(bytes).map_err(|error| format!("`{file}` {error}")));
        match report.ok(certificates, &at) {
            Some(certificates) => {
                for der in certificates {
                    note_expiry("client-ca", &der, expiries);
                    trusted.push(Trusted {
                        der,
                        role,
                        name: name.clone(),
                    });
                }
            }
            None => complete = false,
        }
    }
    complete.then_some(trusted)
}

/// An entry of `client-ca`.
struct Entry<'a> {
    file: &'a str,
    role: Option<Role>,
    name: Option<Arc<str>>,
}

fn entry_of<'a>(entry: &'a ClientCa, at: &str, report: &mut Report) -> Option<Entry<'a>> {
    let table: &ClientCaTable = match entry {
        ClientCa::File(file) => {
            return Some(Entry {
                file,
                role: None,
                name: None,
            });
        }
        ClientCa::Table(table) => table,
    };
    report.unknown(&table.unknown, &format!("{at}."), &["file", "role", "name"]);
    let file = report.required(&table.file, &format!("{at}.file"), "a PEM file")?;
    let role = report.value(&table.role, &format!("{at}.role")).copied();
    let name = report.value(&table.name, &format!("{at}.name"));
    if name.is_some_and(String::is_empty) {
        report.add(format!("{at}.name"), "is empty");
    }
    if matches!(table.role, Key::Bad(_)) || matches!(table.name, Key::Bad(_)) {
        return None;
    }
    Some(Entry {
        file,
        role,
        name: name.map(|name| name.as_str().into()),
    })
}

/// The names of the authorities of all listeners.
pub fn authority_names(loaded: &Loaded) -> BTreeSet<&str> {
    let entries = loaded.listeners().filter_map(|listen| match &listen.client_ca {
        Key::Good(entries) => Some(entries),
        Key::Absent | Key::Bad(_) => None,
    });
    entries
        .flatten()
        .filter_map(|entry| match entry {
            Key::Good(ClientCa::Table(table)) => match &table.name {
                Key::Good(name) => Some(name.as_str()),
                Key::Absent | Key::Bad(_) => None,
            },
            _ => None,
        })
        .collect()
}

fn or_default<T: Copy + Default>(key: &Key<T>, name: &str, report: &mut Report) -> T {
    report.value(key, name).copied().unwrap_or_default()
}

/// The revocation lists of the files that were read so far, each once for all listeners: they may be large.
#[derive(Default)]
struct ListFiles<'a>(BTreeMap<&'a str, Result<Vec<ReadList>, Vec<String>>>);

impl<'a> ListFiles<'a> {
    /// The lists of a listener.
    fn of(
        &mut self,
        loaded: &'a Loaded,
        table: &'a file::Listen,
        name: &str,
        report: &mut Report,
    ) -> Option<Vec<ReadList>> {
        let mut all = Vec::new();
        let mut complete = true;
        for file in report.value(&table.client_crl, name).into_iter().flatten() {
            match self.0.entry(file).or_insert_with_key(|file| read_lists(loaded, file)) {
                Ok(lists) => all.extend(lists.iter().cloned()),
                Err(errors) => {
                    complete = false;
                    for error in errors {
                        report.add(name, error.clone());
                    }
                }
            }
        }
        complete.then_some(all)
    }
}

/// The lists of a file.
///
/// # Errors
/// What is wrong with each of them.
fn read_lists(loaded: &Loaded, file: &str) -> Result<Vec<ReadList>, Vec<String>> {
    let lists = loaded.content(file).map_err(|error| vec![error])?;
    let lists = pem::revocation_lists(lists).map_err(|error| vec![format!("`{file}` {error}")])?;
    let (mut read, mut errors) = (Vec::new(), Vec::new());
    for list in lists {
        match ReadList::new(list, file) {
            Ok(list) => read.push(list),
            Err(error) => errors.push(format!("`{file}` {error}")),
        }
    }
    if errors.is_empty() { Ok(read) } else { Err(errors) }
}

fn note_expiry(role: &str, der: &CertificateDer<'_>, expiries: &mut Vec<(String, i64)>) {
    if let Ok(certificate) = identity::read(der) {
        let label = Identity::Certificate(Box::new(certificate.clone())).label();
        expiries.push((format!("{role} {label}"), certificate.not_after));
    }
}
