//! `[backends.NAME]`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::config::Loaded;
use crate::config::file::{self, HealthCheck, Key};
use crate::forward::Forward;
use crate::policy::Policy;
use crate::policy::instance::InstanceName;
use crate::route::Routes;
use crate::store;
use crate::tls::{self, pem};

use super::endpoints;
use super::forward;
use super::report::{Report, spelled};
use super::routes;

/// Connections that a thread opens at most to a backend with too few streams, unless told otherwise.
const MAX_CONNECTIONS: usize = 8;
/// Seconds between two checks of an endpoint.
const HEALTH_INTERVAL: RangeInclusive<u64> = 1..=3600;

/// The store of a backend that ends with the process, each with its own.
pub const MEMORY: &str = "memory:";

/// The smallest quota of an embedded store, in bytes: what fits into one message must fit into it.
const LEAST_QUOTA: u64 = 16 << 20;

/// A backend as the configuration describes it.
#[derive(Clone, Debug)]
pub struct BackendPlan {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is: at one place, or at several that are replicas of one store. Never empty.
    pub endpoints: Vec<Target>,
    /// How it is found out whether they are up; `None` where only calls find out.
    pub health: Option<HealthPlan>,
    /// How many HTTP/2 connections a thread opens to it.
    pub connections: usize,
    /// How many when the backend allows no more streams on these.
    pub max_connections: usize,
    /// How many bytes the embedded store keeps. Not in the fingerprint: it can change under a store that is open.
    pub quota: Option<u64>,
    /// Whether the embedded store checks whole blobs while it reads them. Not in the fingerprint either.
    pub verify_reads: bool,
    /// What it is told of who calls.
    pub forward: Forward,
    /// Equal for two plans of the same backend, so that a reload can keep its connections.
    pub fingerprint: [u8; 32],
}

/// How each endpoint of a backend is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
    /// What it is asked.
    pub question: Question,
    /// From the end of one check to the begin of the next.
    pub interval: Duration,
}

/// What the gate asks a server to find out whether it is up. No caller is behind it: this is all that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `Check` of grpc.health.v1, for the server as a whole.
    Health,
    /// GetCapabilities of this instance.
    Capabilities(InstanceName),
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
    /// As the configuration names it.
    pub fn name(&self) -> String {
        match self {
            Target::Unix(path) => format!("unix:{}", path.display()),
            Target::Tcp(_) => format!("http://{}", self.authority()),
            Target::Tls(..) => format!("https://{}", self.authority()),
            Target::Store(url) => url.clone(),
        }
    }

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
            "endpoints",
            "store",
            "quota",
            "verify-reads",
            "health-check",
            "health-interval",
            "health-instance",
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
    let listed = endpoints::listed(table, at, report);
    let store = report.value(&table.store, &key("store"));
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
    let verify_reads = report.value(&table.verify_reads, &key("verify-reads"));
    if verify_reads.is_some() && table.store == Key::Absent {
        report.add(key("verify-reads"), "is only for a `store`");
    }
    let is_https = listed.iter().any(|(_, text)| text.starts_with("https://"));
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
    let health = health(table, at, report);
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
    let places: Vec<_> = listed.iter().map(|(_, text)| text).collect();
    let of = format!("{name}\n{places:?}\n{store:?}\n{connections} {max_connections}\n{health:?}\n");
    fingerprint.update(of.as_bytes());
    let endpoints = match store {
        Some(store) => vec![Target::Store(store_url(loaded, store, &key("store"), report)?)],
        None => {
            let tls = is_https.then(|| client_tls(loaded, table, at, report, &mut fingerprint));
            endpoints::compile(loaded, &listed, tls.flatten().as_ref(), report)?
        }
    };
    let mut id = [0; 32];
    id.copy_from_slice(fingerprint.finish().as_ref());
    Some(BackendPlan {
        name: name.into(),
        endpoints,
        health: health.filter(|_| store.is_none()),
        connections,
        max_connections,
        quota,
        verify_reads: verify_reads != Some(&false),
        forward: forward.unwrap_or_default(),
        fingerprint: id,
    })
}

/// Two backends may be one store, which has one quota.
fn check_shared(plan: &BackendPlan, others: &[BackendPlan], at: &str, report: &mut Report) {
    let [Target::Store(url)] = &*plan.endpoints else { return };
    let place = |url: &str| store::folder(url).map(|folder| store::found(&folder));
    let Some(mine) = place(url) else { return };
    for other in others {
        let [Target::Store(theirs)] = &*other.endpoints else {
            continue;
        };
        if place(theirs).as_ref() != Some(&mine) {
            continue;
        }
        for (key, differs) in [
            ("quota", other.quota != plan.quota),
            ("verify-reads", other.verify_reads != plan.verify_reads),
        ] {
            if differs {
                let text = format!("is not that of backend `{}`, which has the same store", other.name);
                report.add(format!("{at}.{key}"), text);
            }
        }
    }
}

/// How the endpoints are checked.
fn health(table: &file::Backend, at: &str, report: &mut Report) -> Option<HealthPlan> {
    let key = |part: &str| format!("{at}.{part}");
    let check = report.value(&table.health_check, &key("health-check")).copied();
    let seconds = report.value(&table.health_interval, &key("health-interval")).copied();
    if seconds.is_some_and(|seconds| !HEALTH_INTERVAL.contains(&seconds)) {
        report.add(key("health-interval"), "is not between 1 and 3600");
    }
    let instance = report.value(&table.health_instance, &key("health-instance"));
    let instance = instance.and_then(|name| report.ok(InstanceName::parse(name), &key("health-instance")));
    if table.store != Key::Absent {
        for (part, is_absent) in [
            ("health-check", table.health_check == Key::Absent),
            ("health-interval", table.health_interval == Key::Absent),
            ("health-instance", table.health_instance == Key::Absent),
        ] {
            if !is_absent {
                report.add(
                    key(part),
                    "is only for endpoints: the embedded store is a part of the gate",
                );
            }
        }
    }
    let check = check.unwrap_or_default();
    if instance.is_some() && check != HealthCheck::Capabilities {
        report.add(key("health-instance"), "is only for `health-check = \"capabilities\"`");
    }
    if seconds.is_some() && check == HealthCheck::Off {
        report.add(key("health-interval"), "is in vain with `health-check = \"off\"`");
    }
    let question = match check {
        HealthCheck::GrpcHealth => Question::Health,
        HealthCheck::Capabilities => Question::Capabilities(instance.unwrap_or_default()),
        HealthCheck::Off => return None,
    };
    Some(HealthPlan {
        question,
        interval: Duration::from_secs(seconds.unwrap_or(10)),
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
    let ca = ca.and_then(|name| report.ok(read(loaded, name, pem::trusted_certificates, fingerprint), &ca_key));
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
    let client = client.as_ref().map(|(chain, private)| (chain.clone(), &**private));
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
