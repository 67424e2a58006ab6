//! `endpoint` and `endpoints` of a backend.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::config::Loaded;
use crate::config::file::{self, Key};

use super::backends::{Authority, Target};
use super::report::Report;

/// A backend has no more of them.
pub(super) const MOST: usize = 64;

/// The endpoints as they are written, each with the key under which problems of it are reported. Checks that the backend is
/// in one place: that of `endpoint`, `endpoints` or `store`.
pub(super) fn listed(table: &file::Backend, at: &str, report: &mut Report) -> Vec<(String, String)> {
    let key = |part: &str| format!("{at}.{part}");
    let there: Vec<_> = [
        ("endpoint", table.endpoint == Key::Absent),
        ("endpoints", table.endpoints == Key::Absent),
        ("store", table.store == Key::Absent),
    ]
    .into_iter()
    .filter(|(_, is_absent)| !is_absent)
    .map(|(part, _)| format!("`{part}`"))
    .collect();
    match there.len() {
        0 => report.add_with_hint(
            at,
            "has no `endpoint`",
            "unix:/path, http://HOST:PORT, https://HOST:PORT; or `endpoints`; or `store`",
        ),
        1 => {}
        _ => report.add(at, format!("has {}: take one", there.join(" and "))),
    }
    if let Some(endpoint) = report.value(&table.endpoint, &key("endpoint")) {
        return vec![(key("endpoint"), endpoint.clone())];
    }
    let Some(endpoints) = report.value(&table.endpoints, &key("endpoints")) else {
        return Vec::new();
    };
    if !(1..=MOST).contains(&endpoints.len()) {
        let hint = "[\"unix:/path\", \"https://HOST:PORT\"], replicas of one store";
        let wrong = format!("has {} endpoints: 1 to {MOST} can be taken", endpoints.len());
        report.add_with_hint(key("endpoints"), wrong, hint);
    }
    let named = endpoints.iter().enumerate();
    named
        .map(|(index, text)| (format!("{at}.endpoints[{index}]"), text.clone()))
        .collect()
}

/// Compiles them; `tls` is there where one of them is `https://` and the files for it are good.
pub(super) fn compile(
    loaded: &Loaded,
    listed: &[(String, String)],
    tls: Option<&Arc<ClientConfig>>,
    report: &mut Report,
) -> Option<Vec<Target>> {
    let mut places = BTreeSet::new();
    let mut targets = Vec::new();
    for (key, text) in listed {
        let Some(target) = endpoint(loaded, text, tls, key, report) else {
            continue;
        };
        if places.insert(place(&target)) {
            targets.push(target);
        } else {
            report.add(key, format!("`{text}` is there twice"));
        }
    }
    (!targets.is_empty()).then_some(targets)
}

/// Equal for endpoints that can't be two servers.
fn place(target: &Target) -> String {
    match target {
        Target::Tcp(_) | Target::Tls(..) => target.authority().to_ascii_lowercase(),
        Target::Unix(_) | Target::Store(_) => target.name(),
    }
}

fn endpoint(
    loaded: &Loaded,
    text: &str,
    tls: Option<&Arc<ClientConfig>>,
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
    let (rest, is_https) = match text.strip_prefix("https://") {
        Some(rest) => (Some(rest), true),
        None => (text.strip_prefix("http://"), false),
    };
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
        Ok(name) => Some(Target::Tls(authority, name, Arc::clone(tls?))),
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
