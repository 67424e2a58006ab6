//! `[backends.NAME]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::config::Loaded;
use crate::config::file::{self, Key};
use crate::forward::Forward;
use crate::policy::Policy;
use crate::route::Routes;
use crate::tls::{self, pem};

use super::forward;
use super::report::{Report, spelled};
use super::routes;

/// Connections that a thread opens at most to a backend with too few streams, unless told otherwise.
const MAX_CONNECTIONS: usize = 8;

/// The store of a backend that ends with the process, each with its own.
pub const MEMORY: &str = "memory:";

/// The smallest quota of an embedded store, in bytes: what fits into one message must fit into it.
const LEAST_QUOTA: u64 = 16 << 20;

/// A backend as the configuration describes it.
#[derive(Clone, Debug)]
pub struct BackendPlan {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is.
    pub target: Target,
    /// How many HTTP/2 connections a thread opens to it.
    pub connections: usize,
    /// How many when the backend allows no more streams on these.
    pub max_connections: usize,
    /// How many bytes the embedded store keeps. Not in the fingerprint: it can change under a store that is open.
    pub quota: Option<u64>,
    /// What it is told of who calls.
    pub forward: Forward,
    /// Equal for two plans of the same backend, so that a reload can keep its connections.
    pub fingerprint: [u8; 32],
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A unix socket, clear HTTP/2.
    Unix(PathBuf),
    /// TCP, clear HTTP/2.
    Tcp(Authority),
    /// TCP with TLS.
    Tls(Authority, ServerName<'static>, Arc<ClientConfig>),
    /// The embedded backend, by its URL.
    Store(String),
}

/// Host and port of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Target {
    /// What HTTP/2 requests carry as `:authority`.
    pub fn authority(&self) -> String {
        match self {
            Target::Unix(_) | Target::Store(_) => "localhost".to_owned(),
            Target::Tcp(Authority { host, port }) | Target::Tls(Authority { host, port }, ..) if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Target::Tcp(Authority { host, port }) | Target::Tls(Authority { host, port }, ..) => {
                format!("{host}:{port}")
            }
        }
    }
}

/// Compiles the backends and the routes to them.
pub fn compile(loaded: &Loaded, policy: &Policy, report: &mut Report) -> (Vec<BackendPlan>, Routes) {
    let hint = "at least one, such as `[backends.casd]` with `endpoint = \"unix:/run/casd/casd.sock\"`";
    let empty = BTreeMap::new();
    let tables = report
        .required(&loaded.file.backends, "backends", hint)
        .unwrap_or(&empty);
    if matches!(&loaded.file.backends, Key::Good(tables) if tables.is_empty()) {
        report.add_with_hint("backends", "is empty", hint);
    }
    let mut plans = Vec::new();
    for (name, table) in tables {
        let at = format!("backends.{}", spelled(name));
        if let Some(table) = report.value(table, &at)
            && let Some(plan) = backend(loaded, name, table, &at, policy, report)
        {
            check_shared(&plan, &plans, &at, report);
            plans.push(plan);
        }
    }
    let names: Vec<&str> = tables.keys().map(String::as_str).collect();
    let routes = routes::compile(&loaded.file.routes, &plans, &names, report);
    (plans, routes)
}

fn backend(
    loaded: &Loaded,
    name: &str,
    table: &file::Backend,
    at: &str,
    policy: &Policy,
    report: &mut Report,
) -> Option<BackendPlan> {
    let key = |part: &str| format!("{at}.{part}");
    report.unknown(
        &table.unknown,
        &format!("{at}."),
        &[
            "endpoint",
            "store",
            "quota",
            "ca",
            "certificate",
            "key",
            "connections",
            "max-connections",
            "forward-identity",
        ],
    );
    let connections = report
        .value(&table.connections, &key("connections"))
        .copied()
        .unwrap_or(2);
    if !(1..=64).contains(&connections) {
        report.add(key("connections"), format!("`{connections}` is not between 1 and 64"));
    }
    let usual = connections.max(MAX_CONNECTIONS);
    let max_connections = report.value(&table.max_connections, &key("max-connections"));
    let max_connections = max_connections.copied().unwrap_or(usual);
    if !(connections..=64).contains(&max_connections) {
        let wrong = format!("`{max_connections}` is not between `connections` ({connections}) and 64");
        report.add(key("max-connections"), wrong);
    }
    let endpoint = report.value(&table.endpoint, &key("endpoint")).cloned();
    let store = report.value(&table.store, &key("store")).cloned();
    let quota = report.value(&table.quota, &key("quota")).map(|size| size.0);
    if quota.is_some_and(|quota| quota < LEAST_QUOTA) {
        report.add(key("quota"), "is less than 16MiB");
    }
    if table.quota != Key::Absent && table.store == Key::Absent {
        report.add(
            key("quota"),
            "is only for a `store`: other servers have quotas of their own",
        );
    }
    let is_https = endpoint.as_deref().is_some_and(|text| text.starts_with("https://"));
    if !is_https {
        for (part, value) in [
            ("ca", &table.ca),
            ("certificate", &table.certificate),
            ("key", &table.key),
        ] {
            if *value != Key::Absent {
                report.add(key(part), "is only for `https://` endpoints");
            }
        }
    }
    let forward_key = key("forward-identity");
    let forward = report.value(&table.forward_identity, &forward_key);
    if forward.is_some() && store.is_some() {
        report.add(
            &*forward_key,
            "is only for an `endpoint`: the embedded store asks nobody who they are",
        );
    }
    let forward = forward.map(|table| forward::compile(table, &forward_key, policy, report));
    let mut fingerprint = Context::new(&SHA256);
    fingerprint.update(format!("{name}\n{endpoint:?}\n{store:?}\n{connections} {max_connections}\n").as_bytes());
    let target = match (endpoint, store) {
        (Some(endpoint), None) => {
            let tls = if is_https {
                client_tls(loaded, table, at, report, &mut fingerprint)
            } else {
                None
            };
            self::endpoint(loaded, &endpoint, tls, is_https, &key("endpoint"), report)
        }
        (None, Some(store)) => store_url(loaded, &store, &key("store"), report).map(Target::Store),
        (Some(_), Some(_)) => {
            report.add(at, "has both `endpoint` and `store`: take one");
            None
        }
        (None, None) => {
            if table.endpoint == Key::Absent && table.store == Key::Absent {
                report.add_with_hint(
                    at,
                    "has no `endpoint`",
                    "unix:/path, http://HOST:PORT, https://HOST:PORT; or `store`",
                );
            }
            None
        }
    };
    let mut id = [0; 32];
    id.copy_from_slice(fingerprint.finish().as_ref());
    Some(BackendPlan {
        name: name.into(),
        target: target?,
        connections,
        max_connections,
        quota,
        forward: forward.unwrap_or_default(),
        fingerprint: id,
    })
}

/// Two backends may be one store, which has one quota.
fn check_shared(plan: &BackendPlan, others: &[BackendPlan], at: &str, report: &mut Report) {
    let Target::Store(url) = &plan.target else { return };
    for other in others {
        if matches!(&other.target, Target::Store(same) if same == url && url != MEMORY) && other.quota != plan.quota {
            let text = format!("is not that of backend `{}`, which has the same store", other.name);
            report.add(format!("{at}.quota"), text);
        }
    }
}

fn endpoint(
    loaded: &Loaded,
    text: &str,
    tls: Option<Arc<ClientConfig>>,
    is_https: bool,
    key: &str,
    report: &mut Report,
) -> Option<Target> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            report.add(key, "`unix:` needs the path of a socket");
            return None;
        }
        return Some(Target::Unix(loaded.resolve(path)));
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.and_then(|rest| parse_authority(rest.strip_suffix('/').unwrap_or(rest)));
    let Some(authority) = authority else {
        report.add_with_hint(
            key,
            format!("`{text}` is no endpoint"),
            "unix:/path, http://HOST:PORT or https://HOST:PORT, with the port and without a path",
        );
        return None;
    };
    if !is_https {
        return Some(Target::Tcp(authority));
    }
    match ServerName::try_from(authority.host.clone()) {
        Ok(name) => Some(Target::Tls(authority, name, tls?)),
        Err(_) => {
            report.add(
                key,
                format!("`{}` is neither a DNS name nor an address", authority.host),
            );
            None
        }
    }
}

fn parse_authority(text: &str) -> Option<Authority> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:%".contains(&b));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_host.then(|| Authority {
        host: host.to_owned(),
        port,
    })
}

fn store_url(loaded: &Loaded, url: &str, key: &str, report: &mut Report) -> Option<String> {
    if url == MEMORY {
        return Some(url.to_owned());
    }
    match url.strip_prefix("file:") {
        Some(path) if !path.is_empty() => {
            let path = loaded.resolve(path.strip_prefix("//").unwrap_or(path));
            let path = std::path::absolute(&path).unwrap_or(path);
            Some(format!("file:{}", path.display()))
        }
        _ => {
            report.add_with_hint(key, format!("`{url}` is no store"), "file:/path or memory:");
            None
        }
    }
}

fn client_tls(
    loaded: &Loaded,
    table: &file::Backend,
    at: &str,
    report: &mut Report,
    fingerprint: &mut Context,
) -> Option<Arc<ClientConfig>> {
    let key = |part: &str| format!("{at}.{part}");
    let ca_key = key("ca");
    let hint = "the CA certificates that the server is checked against; the system's are not used";
    let ca = report.required(&table.ca, &ca_key, hint);
    let ca = ca.and_then(|name| report.ok(read(loaded, name, pem::certificates, fingerprint), &ca_key));
    let certificate = report.value(&table.certificate, &key("certificate"));
    let private = report.value(&table.key, &key("key"));
    let client = match (certificate, private) {
        (Some(certificate), Some(private)) => {
            let chain = report.ok(
                read(loaded, certificate, pem::certificates, fingerprint),
                &key("certificate"),
            );
            let private = report.ok(read(loaded, private, pem::private_key, fingerprint), &key("key"));
            Some((chain?, private?))
        }
        (None, None) => None,
        (Some(_), None) => {
            report.add(key("key"), "is missing beside `certificate`");
            None
        }
        (None, Some(_)) => {
            report.add(key("certificate"), "is missing beside `key`");
            None
        }
    };
    report.ok(tls::client_config(&ca?, client), at)
}

fn read<T>(
    loaded: &Loaded,
    name: &str,
    parse: impl Fn(&[u8]) -> Result<T, String>,
    fingerprint: &mut Context,
) -> Result<T, String> {
    let bytes = loaded.content(name)?;
    fingerprint.update(bytes);
    parse(bytes).map_err(|error| format!("`{name}` {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_need_a_host_and_a_port() {
        let read = |text| parse_authority(text).map(|authority| (authority.host, authority.port));
        assert_eq!(read("localhost:80"), Some(("localhost".into(), 80)));
        assert_eq!(read("[::1]:80"), Some(("::1".into(), 80)));
        for bad in [
            "localhost",
            ":80",
            "a:0",
            "a:99999",
            "a/b:1",
            "::1:80",
            "a b:1",
            "a:80/x",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
