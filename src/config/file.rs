//! The configuration file as it is written: TOML tables, read without judging them.
//!
//! Each value is a [`Key`], which keeps a value of the wrong type as an error instead of ending the reading, and each
//! table keeps the keys that it does not know, so that one run can report everything that is wrong with a file.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer};

use super::size::Size;
use crate::policy::kindness::{DeniedPush, PushProbe};
use crate::route::Completeness;

/// The keys of a table that are not known, which is an error for each of them.
pub type Unknown = BTreeMap<String, toml::Value>;

/// One value of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Key<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// The value.
    Good(T),
    /// The value has another type than the key wants: what serde says of it.
    Bad(String),
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Key<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<T>, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        Ok(match T::deserialize(value) {
            Ok(value) => Key::Good(value),
            Err(error) => Key::Bad(error.to_string().trim().to_owned()),
        })
    }
}

/// A table that may be there several times: `[name]`, or `[[name]]` for each of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Tables<T> {
    /// `[name]`
    One(Box<Key<T>>),
    /// `[[name]]`
    Many(Vec<Key<T>>),
}

impl<T> Tables<T> {
    /// Each table with the key under which problems of it are reported: `name`, or `name[0]` and so on.
    pub fn named(&self, name: &str) -> Vec<(String, &Key<T>)> {
        match self {
            Tables::One(table) => vec![(name.to_owned(), table)],
            Tables::Many(tables) => (0..)
                .zip(tables)
                .map(|(index, table): (usize, _)| (format!("{name}[{index}]"), table))
                .collect(),
        }
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Tables<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tables<T>, D::Error> {
        use serde::de::Error;
        let value = toml::Value::deserialize(deserializer)?;
        if value.is_array() {
            Vec::deserialize(value).map(Tables::Many)
        } else {
            Key::deserialize(value).map(|table| Tables::One(Box::new(table)))
        }
        .map_err(D::Error::custom)
    }
}

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct File {
    /// `[listen]`, or `[[listen]]` several times: where clients connect, and which of them.
    pub listen: Key<Tables<Listen>>,
    /// `[admin]`: the listener for `/metrics`, `/livez` and `/readyz`; none by default.
    pub admin: Key<Admin>,
    /// `[backends.NAME]`: the REAPI servers behind the gate.
    pub backends: Key<BTreeMap<String, Key<Backend>>>,
    /// `[[routes]]`: which services go to which backend; not needed with one backend.
    pub routes: Key<Vec<Key<Route>>>,
    /// `[[rules]]`: who may do what. No rule, no right.
    pub rules: Key<Vec<Key<Rule>>>,
    /// `capabilities = "truthful" | "unchanged"`: whether GetCapabilities is cut down to what the caller may do
    /// (default `truthful`; Bazel before 6 is always told of the right to write, since it fails otherwise).
    pub capabilities: Key<Capabilities>,
    /// `reference-storage = true`: whether BuildStream 1.2 to 1.5 is served by `buildstream.v2.ReferenceStorage`, spoken
    /// on top of Remote Asset (default `true`).
    pub reference_storage: Key<bool>,
    /// `watch = true`: whether the configuration is read again when this file, or one that it names, has changed; else
    /// only at SIGHUP (default `true`).
    pub watch: Key<bool>,
    /// `threads = N`: how many threads serve calls (default: one a core).
    pub threads: Key<usize>,
    /// `sandbox = "if-supported" | "required" | "off"`: whether the program gives up to write elsewhere than it must, and to
    /// start programs (default `if-supported`).
    pub sandbox: Key<SandboxMode>,
    /// `core-dumps = true`: whether the kernel may write the memory of the program to a file, with the keys in it, and a
    /// debugger may read it (default `false`).
    pub core_dumps: Key<bool>,
    /// `umask = "0077"`: what others may not do with the files and folders that the program makes (default `0077`).
    pub umask: Key<String>,
    /// `[limits]`: what clients may take of the gate.
    pub limits: Key<Limits>,
    /// `[log]`: what is logged, and how.
    pub log: Key<Log>,
    /// `[audit]`: who pushed what; not written by default.
    pub audit: Key<Audit>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `[listen]` or `[[listen]]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Listen {
    /// `address = "0.0.0.0:11002"`: IP address and TCP port; port 0 takes a free one.
    pub address: Key<String>,
    /// `tls = false`: clear HTTP/2, where every caller is anonymous and no key about certificates is allowed
    /// (default `true`).
    pub tls: Key<bool>,
    /// `certificate = "server.crt"`: PEM file with the server's certificate and its intermediates.
    pub certificate: Key<String>,
    /// `key = "server.key"`: PEM file with its key (PKCS#8, SEC1 or PKCS#1).
    pub key: Key<String>,
    /// `client-ca = ["client-ca.crt"]`: PEM files with CA certificates, and with self-signed client certificates that
    /// are trusted themselves. An entry may be a table that says which, and how rules call it:
    /// `{ name = "ci", file = "ci-ca.crt", role = "authority" }`.
    pub client_ca: Key<Vec<Key<ClientCa>>>,
    /// `client-crl = []`: PEM files with revocation lists.
    pub client_crl: Key<Vec<String>>,
    /// `client-crl-expired = "tolerate" | "refuse"`: what becomes of the certificates of an authority whose revocation
    /// list has ended (its nextUpdate is over): with `refuse`, all of them are refused (default `tolerate`: the list goes
    /// on being applied).
    pub client_crl_expired: Key<ExpiredLists>,
    /// `client-crl-missing = "accept" | "refuse"`: what becomes of a certificate that no revocation list of its authority
    /// covers, also of those between a client's and `client-ca` (default `accept`).
    pub client_crl_missing: Key<MissingLists>,
    /// `client-ca-expired = "refuse" | "tolerate"`: what becomes of the certificates of an authority of `client-ca` whose own
    /// certificate is not valid now (default `refuse`).
    pub client_ca_expired: Key<ExpiredAuthorities>,
    /// `client-certificate = "required" | "optional"`: with `optional`, a caller without one is anonymous
    /// (default `required`).
    pub client_certificate: Key<ClientCertificate>,
    /// `drain-timeout = 60`: seconds that running calls get to end after SIGTERM (default 60); of several listeners the
    /// longest counts.
    pub drain_timeout: Key<u64>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// An entry of `listen.client-ca`.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientCa {
    /// Only the file: what its certificates are for is seen from them.
    File(String),
    /// The file, and more.
    Table(Box<ClientCaTable>),
}

/// A table in `listen.client-ca`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ClientCaTable {
    /// `file = "ci-ca.crt"`: the PEM file.
    pub file: Key<String>,
    /// `role = "authority" | "client"`: what its certificates are for; seen from them where it is not said.
    pub role: Key<Role>,
    /// `name = "ci"`: what `issued-by` of rules calls its certificates; several entries may share a name.
    pub name: Key<String>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

impl ClientCa {
    /// The PEM file.
    pub fn file(&self) -> Option<&str> {
        match self {
            ClientCa::File(file) => Some(file),
            ClientCa::Table(table) => match &table.file {
                Key::Good(file) => Some(file),
                Key::Absent | Key::Bad(_) => None,
            },
        }
    }
}

impl<'de> Deserialize<'de> for ClientCa {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ClientCa, D::Error> {
        use serde::de::Error;
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(file) => Ok(ClientCa::File(file)),
            table @ toml::Value::Table(_) => ClientCaTable::deserialize(table)
                .map(|table| ClientCa::Table(Box::new(table)))
                .map_err(D::Error::custom),
            other => Err(D::Error::custom(format!(
                "`{other}` is neither a file nor a table such as {{ name = \"ci\", file = \"ci-ca.crt\" }}"
            ))),
        }
    }
}

/// What a certificate of `client-ca` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It issues client certificates.
    Authority,
    /// It is a client certificate itself, and what its key signs is not trusted.
    Client,
}

/// What becomes of the certificates of an authority whose revocation list has ended.
///
/// The default is not the stricter one: who can't replace the list in time would lock all clients out at once, while an
/// old list still refuses all that it names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiredLists {
    /// The list is applied as it is.
    #[default]
    Tolerate,
    /// They are refused.
    Refuse,
}

/// What becomes of a certificate that no revocation list of its authority covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingLists {
    /// It is good.
    #[default]
    Accept,
    /// It is refused.
    Refuse,
}

/// What becomes of the certificates of an authority whose own certificate has expired, or is not valid yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiredAuthorities {
    /// They are refused.
    #[default]
    Refuse,
    /// They are accepted as before.
    Tolerate,
}

/// Whether callers must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificate {
    /// The handshake fails without one.
    #[default]
    Required,
    /// Callers without one are anonymous.
    Optional,
}

/// `[admin]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Admin {
    /// `address = "127.0.0.1:9090"`: clear HTTP/1.1, without authentication: keep it to the machine or the monitoring
    /// network.
    pub address: Key<String>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `[backends.NAME]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Backend {
    /// `endpoint = "unix:/path"`, `"http://HOST:PORT"` (clear HTTP/2) or `"https://HOST:PORT"`.
    pub endpoint: Key<String>,
    /// `endpoints = ["unix:/path", "http://HOST:PORT"]`: several of them, instead of `endpoint`. They must be replicas of one
    /// store: each call goes to one of those that are up.
    pub endpoints: Key<Vec<String>>,
    /// `store = "file:/path"` or `"memory:"`: the embedded backend, instead of `endpoint`.
    pub store: Key<String>,
    /// `quota = "100GiB"`: how much the embedded store keeps, at least 16 MiB: what was not used for the longest time is
    /// removed (default: all that the disk takes).
    pub quota: Key<Size>,
    /// `verify-reads = true`: whether the embedded store compares whole blobs with their digest while it reads them (default
    /// `true`).
    pub verify_reads: Key<bool>,
    /// `health-check = "grpc.health.v1" | "capabilities" | "off"`: what each endpoint is asked to find out whether it is up
    /// (default `grpc.health.v1`, which servers that do not know it pass).
    pub health_check: Key<HealthCheck>,
    /// `health-interval = 10`: seconds from one check of an endpoint to the next (default 10).
    pub health_interval: Key<u64>,
    /// `health-instance = "main"`: the instance that is asked for with `health-check = "capabilities"` (default `""`).
    pub health_instance: Key<String>,
    /// `ca = "ca.crt"`: PEM file with the CA certificates that an `https://` endpoint is checked against.
    pub ca: Key<String>,
    /// `certificate = "client.crt"`: PEM file with the client certificate shown to an `https://` endpoint.
    pub certificate: Key<String>,
    /// `key = "client.key"`: PEM file with its key.
    pub key: Key<String>,
    /// `connections = N`: HTTP/2 connections that each thread opens usually (default 2).
    pub connections: Key<usize>,
    /// `max-connections = N`: HTTP/2 connections that each thread opens at most, when the backend allows no more calls on
    /// the others (default 8, or `connections` where that is more).
    pub max_connections: Key<usize>,
    /// `forward-identity = { .. }`: what it is told of who calls, and in which headers (default: nothing).
    pub forward_identity: Key<ForwardIdentity>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// What an endpoint is asked to find out whether it is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthCheck {
    /// `Check` of grpc.health.v1, for the server as a whole.
    #[default]
    #[serde(rename = "grpc.health.v1")]
    GrpcHealth,
    /// GetCapabilities.
    Capabilities,
    /// Nothing: calls find out.
    Off,
}

/// `forward-identity = { .. }` of a backend: names of headers, for what the certificate of a caller says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ForwardIdentity {
    /// `x-forwarded-client-cert = true`: the header of this name, in Envoy's form (default `false`).
    pub x_forwarded_client_cert: Key<bool>,
    /// The whole subject, by RFC 2253.
    pub subject: Key<String>,
    /// Its common names.
    pub common_name: Key<String>,
    /// Its organizations.
    pub organization: Key<String>,
    /// Its organizational units.
    pub organizational_unit: Key<String>,
    /// URIs among the subject alternative names.
    pub uri: Key<String>,
    /// DNS names among them.
    pub dns: Key<String>,
    /// Mail addresses among them.
    pub email: Key<String>,
    /// The serial number, in hexadecimal digits.
    pub serial: Key<String>,
    /// SHA-256 of the certificate.
    pub sha256: Key<String>,
    /// SHA-256 of its public key.
    pub spki_sha256: Key<String>,
    /// The names of the entries of `client-ca` that vouch for it.
    pub issued_by: Key<String>,
    /// The name of the rule that allowed the call.
    pub rule: Key<String>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `[[routes]]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Route {
    /// `services = [..]`: of `cas` (CAS and ByteStream), `action-cache`, `asset`, `execution`, `capabilities`
    /// (goes where `cas` goes unless named), `workers`, `events`.
    pub services: Key<Vec<String>>,
    /// `backend = "NAME"`
    pub backend: Key<String>,
    /// `instances = [..]`: patterns of the instances that it is for, by the names that the rules leave them; default: all
    /// that no other route of the service is for, and calls that do not tell theirs.
    pub instances: Key<Vec<String>>,
    /// `instance-rewrite = ".."`: what they are called at the backend, as in a rule.
    pub instance_rewrite: Key<String>,
    /// `asset-completeness = "check" | "trust"`, for a route with `asset`: whether BuildStream 1 hears of an artifact only
    /// when every blob of it is there (default `check`).
    pub asset_completeness: Key<Completeness>,
    /// `max-batch-total-size = 3145728`, for a route with `capabilities` or `cas`: what clients are told where the
    /// backend announces a `max_batch_total_size_bytes` of 0 (default 3 MiB, for messages of 4 MiB at most).
    pub max_batch_total_size: Key<u64>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `[[rules]]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Rule {
    /// `name = ".."`: for logs and metrics.
    pub name: Key<String>,
    /// `certificate = "any"`, `"anonymous"` or a table; see [`CertificatePattern`].
    pub certificate: Key<toml::Value>,
    /// `allow = [..]`: rights, or `push` for `cas-push`, `action-push` and `asset-push`.
    pub allow: Key<Vec<String>>,
    /// `deny = [..]`: rights that no rule gives to these callers; on `instances`, where the rule has them. A rule needs
    /// this, `allow`, `on-denied-push` or `push-probe`.
    pub deny: Key<Vec<String>>,
    /// `instances = [..]`: patterns by component, `*` for one and `**` at the end for the rest; default: every
    /// instance.
    pub instances: Key<Vec<String>>,
    /// `uris = ["urn:fdc:buildstream.build:2020:"]`: what the URIs of Remote Asset that it allows begin with, byte by
    /// byte; default: every URI. Not in a rule with `deny`.
    pub uris: Key<Vec<String>>,
    /// `instance-rewrite = "prod/team-a"`: what its instances are called behind the gate, in all calls of its callers on
    /// them; `**` at the end for what `**` of the pattern stood for.
    pub instance_rewrite: Key<String>,
    /// `on-denied-push = "refuse" | "discard"`: what becomes of writes to CAS and action cache that are denied to these
    /// callers; with `discard` they are answered with OK, and nothing is stored (default `refuse`). Of several rules the
    /// first one with this key decides.
    pub on_denied_push: Key<DeniedPush>,
    /// `push-probe = "refuse" | "accept"`: what BuildStream is answered that asks for these callers whether it may push
    /// (default `refuse`). Of several rules the first one with this key decides.
    pub push_probe: Key<PushProbe>,
    /// `rate = "100/s"`, or a number with `/min` or `/h`: calls that it allows to each of its callers; what is beyond it is
    /// answered UNAVAILABLE (default: no limit).
    pub rate: Key<String>,
    /// `rate-burst = 200`: calls that may come at once after a pause (default: as many as `rate` names).
    pub rate_burst: Key<NonZeroU32>,
    /// `bandwidth = "50MiB/s"`: bytes of messages that it lets through for each of its callers, in each direction; what is
    /// beyond it waits (default: no limit).
    pub bandwidth: Key<String>,
    /// `bandwidth-burst = "100MiB"`: bytes that may go at once after a pause (default: those of a second, and 64 KiB at
    /// least).
    pub bandwidth_burst: Key<String>,
    /// `max-calls = 20`: calls that each of its callers may have open by it; further ones wait for 10 s at most (default:
    /// no limit).
    pub max_calls: Key<NonZeroU32>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `certificate = { .. }` of a rule: all keys that are there must match.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct CertificatePattern {
    /// The one commonName of the subject.
    pub common_name: Key<String>,
    /// The one organizationName of the subject.
    pub organization: Key<String>,
    /// The one organizationalUnitName of the subject.
    pub organizational_unit: Key<String>,
    /// A URI among the subject alternative names; in the path of a SPIFFE ID, `*` is one component and `**` at the end
    /// all the rest.
    pub uri: Key<String>,
    /// A DNS name among the subject alternative names.
    pub dns: Key<String>,
    /// A mail address among the subject alternative names.
    pub email: Key<String>,
    /// The serial number in hexadecimal digits, with or without colons (`openssl x509 -serial`).
    pub serial: Key<String>,
    /// SHA-256 of the certificate, 64 hexadecimal digits, with or without colons (`openssl x509 -fingerprint -sha256`).
    pub sha256: Key<String>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), which a renewal for the same key keeps.
    pub spki_sha256: Key<String>,
    /// The name of an entry of `client-ca` that must vouch for it.
    pub issued_by: Key<String>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `capabilities`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capabilities {
    /// Cut down to what the caller may do.
    #[default]
    Truthful,
    /// As the backend announces them.
    Unchanged,
}

/// `[limits]`: times in seconds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Limits {
    /// `connections = N`: connections of clients in all, 16 to 1000000 (default: what the limit for open files leaves, at
    /// most 10000). Beyond it the connection that has been idle for the longest time makes room; if none is idle, the new
    /// one is refused.
    pub connections: Key<usize>,
    /// `connections-per-address = 1000`: the same for one IPv4 address or one IPv6 network of 64 bits, 1 to 1000000.
    pub connections_per_address: Key<usize>,
    /// `handshakes = 512`: TLS handshakes at once, 4 to 100000; one address gets a quarter of them. Others wait for their
    /// turn, 10 s at most. Takes a restart to change.
    pub handshakes: Key<usize>,
    /// `first-request-timeout = 300`: how long a connection may be open before its first request.
    pub first_request_timeout: Key<u64>,
    /// `idle-timeout = 1800`: how long a connection may be without an open stream.
    pub idle_timeout: Key<u64>,
    /// `anonymous-idle-timeout = 60`: the same for a caller without a certificate.
    pub anonymous_idle_timeout: Key<u64>,
    /// `resets-at-once = 5000`: calls that a connection may reset before their answer at once, 1 to 1000000; one that
    /// resets more is closed.
    pub resets_at_once: Key<u32>,
    /// `resets-per-second = 500`: how many of them are forgotten each second, 1 to 1000000.
    pub resets_per_second: Key<u32>,
    /// `control-frames-at-once = 10000`: frames that a connection may send at once besides those that its calls account for,
    /// such as PING, SETTINGS and WINDOW_UPDATE, 100 to 1000000; one that sends more is closed.
    pub control_frames_at_once: Key<u32>,
    /// `control-frames-per-second = 1000`: how many of them are forgotten each second, 1 to 1000000.
    pub control_frames_per_second: Key<u32>,
    /// `stall-timeout = 300`: seconds after which a call is given up whose client takes nothing at all of its answer, or sends
    /// nothing at all of its request. One that is slow is waited for.
    pub stall_timeout: Key<u64>,
    /// `calls-per-connection = 1000`: calls that a connection may have open, 10 to 100000; clients keep further ones to
    /// themselves (SETTINGS_MAX_CONCURRENT_STREAMS). For new connections.
    pub calls_per_connection: Key<u32>,
    /// `calls-per-certificate = 10000`: calls that one certificate may have open on all of its connections, or one address
    /// without certificate, 1 to 1000000; further ones are answered UNAVAILABLE.
    pub calls_per_certificate: Key<usize>,
    /// `memory = "2GiB"`: bytes that are kept for clients in all, 64MiB to 1024TiB (default: half of the memory of the
    /// machine or the cgroup). A connection gets its window from it.
    pub memory: Key<String>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `[log]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Log {
    /// `format = "text" | "json"` (default `text`), on standard error. Takes a restart to change.
    pub format: Key<LogFormat>,
    /// `filter = "info"`: which targets and levels, in the syntax of tracing's `EnvFilter`; calls are logged under the
    /// target `casgate::access`. Takes a restart to change.
    pub filter: Key<String>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `[audit]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Audit {
    /// `file = "audit.jsonl"`: a JSON line is added for every push, execution and denial. Opened again at each reload.
    pub file: Key<String>,
    /// `on-failure = "refuse" | "count"`: what becomes of pushes and executions while the file can't be written: refused
    /// with UNAVAILABLE, or let through without a line and counted (default `refuse`).
    pub on_failure: Key<OnFailure>,
    /// `sync = true`: a line counts as written when it is on the disk (fsync), not only with the kernel (default `false`).
    pub sync: Key<bool>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "see the type")]
    pub unknown: Unknown,
}

/// `audit.on-failure`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nothing is changed without a line.
    #[default]
    Refuse,
    /// Lost lines are counted.
    Count,
}

/// `sandbox`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// Entered where the kernel has Landlock.
    #[default]
    IfSupported,
    /// No start without it.
    Required,
    /// Not entered.
    Off,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}
