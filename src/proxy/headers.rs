//! The headers that cross the gate, in both directions.
//!
//! Hop-by-hop fields end here (RFC 9110, 7.6.1), and so does whatever a backend could take for an identity: only the
//! gate may say who calls. Everything else goes on as it came, `-bin` values and names with dots included.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method as HttpMethod, Request};

use crate::status::Rejection;

/// The most metadata of a request, in bytes as RFC 9113, 6.5.2 counts header fields.
const LARGEST: usize = 16 * 1024;
/// What `:method`, `:scheme`, `:path` and `:authority` have of that besides the values of the last two.
const PSEUDO: usize = 4 * 32 + ":method:scheme:path:authority".len() + "POSThttps".len();
/// The field by which a call is known that is to be refused for its header block: the connection puts it in the place of one
/// that it did not read. A client that sends it is refused as well.
pub const MARK: &str = "casgate-header-block";
/// Its value for a block that is too large.
pub const TOO_LARGE: &str = "too-large";
/// Its value for one behind that, whose fields can't be known.
pub const UNREADABLE: &str = "unreadable";

/// Why a request is no gRPC request, with the HTTP status that the gRPC protocol wants for it
/// (grpc PROTOCOL-HTTP2, "Requests": a server that is no gRPC server for the content type answers 415).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGrpc {
    /// The method is not POST: HTTP 405.
    Method,
    /// The content type is not `application/grpc` or a form of it: HTTP 415.
    ContentType,
}

/// Checks that a request is one of gRPC over HTTP/2.
///
/// # Errors
/// What it is not.
pub fn check_grpc<T>(request: &Request<T>) -> Result<(), NotGrpc> {
    if request.method() != HttpMethod::POST {
        return Err(NotGrpc::Method);
    }
    let mut types = request.headers().get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(value), None) if is_grpc(value) => Ok(()),
        _ => Err(NotGrpc::ContentType),
    }
}

/// Checks that a request has no more metadata than is taken.
///
/// # Errors
/// What the client is told.
pub fn check_size<T>(request: &Request<T>) -> Result<(), Rejection> {
    if let Some(mark) = request.headers().get(MARK) {
        return Err(match mark.as_bytes() == UNREADABLE.as_bytes() {
            true => Rejection::UnreadableHeaders,
            false => Rejection::LargeHeaders,
        });
    }
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields = request.headers().iter();
    let size: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    if PSEUDO + path + authority + size > LARGEST {
        return Err(Rejection::LargeHeaders);
    }
    Ok(())
}

/// Whether a content type is `application/grpc`, alone, with `+proto` or with parameters. With another format a backend
/// would read other bytes than the gate.
pub fn is_grpc(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    match bytes.split_at_checked(b"application/grpc".len()) {
        Some((head, rest)) => {
            let is_protobuf = rest.is_empty() || rest.first() == Some(&b';') || rest.eq_ignore_ascii_case(b"+proto");
            head.eq_ignore_ascii_case(b"application/grpc") && is_protobuf
        }
        None => false,
    }
}

/// Makes a client's request headers fit for a backend. `own` are names that only the gate may use, besides those that everybody
/// knows.
pub fn for_upstream(headers: &mut HeaderMap, own: &[HeaderName]) {
    let is_own = |name: &HeaderName| own.iter().any(|own| is_same_name(own.as_str(), name.as_str()));
    remove_all(headers, |name| {
        // It is replaced below.
        if *name == TE {
            return false;
        }
        let only_for_the_gate = match name.as_str() {
            // The gate may cut a request off; HTTP/2 frames say where it ends.
            "host" | "expect" | "content-length" => true,
            // Only a hint for routers (remote_execution.proto, "resource_name"), which could name another resource to them
            // than the message that was decided about.
            "build.bazel.remote.execution.v2.resource-name" => true,
            _ => ends_here(name),
        };
        only_for_the_gate || is_identity(name) || is_own(name)
    });
    // gRPC wants it on every request, and proxies that drop it break servers that check (grpc PROTOCOL-HTTP2).
    headers.insert(TE, HeaderValue::from_static("trailers"));
}

/// Makes a backend's response headers fit for a client.
pub fn for_client(headers: &mut HeaderMap) {
    remove_all(headers, ends_here);
}

/// There is mostly nothing to remove, and to look at each name that is there is less than to look for each that may be.
fn remove_all(headers: &mut HeaderMap, ends_here: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| ends_here(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The letters with which some names begin. Most names of a call begin with another, and need not be compared with each.
const fn letters(names: &[&str]) -> [bool; 256] {
    let (mut letters, mut at) = ([false; 256], 0);
    while at < names.len() {
        letters[names[at].as_bytes()[0] as usize] = true;
        at += 1;
    }
    letters
}

fn begins_with_one(name: &str, letters: &[bool; 256]) -> bool {
    name.bytes().next().is_some_and(|letter| letters[usize::from(letter)])
}

fn ends_here(name: &HeaderName) -> bool {
    static LETTERS: [bool; 256] = letters(&HOP_BY_HOP);
    let name = name.as_str();
    begins_with_one(name, &LETTERS) && HOP_BY_HOP.contains(&name)
}

const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Whether a header ends at the gate in both directions.
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.into_iter().any(|known| is_same_name(known, name))
}

/// Whether servers may take two names for the same: `_` is a letter to HTTP, and `-` to servers that turn names into variables
/// (CGI, RFC 3875, 4.1.18). Both are in lower case.
pub fn is_same_name(one: &str, other: &str) -> bool {
    one.len() == other.len() && begins_like(one, other)
}

fn begins_like(name: &str, prefix: &str) -> bool {
    let same = |c: u8| if c == b'_' { b'-' } else { c };
    name.len() >= prefix.len()
        && name
            .bytes()
            .map(same)
            .zip(prefix.bytes().map(same))
            .all(|(a, b)| a == b)
}

/// Names under which proxies tell servers who calls: Envoy, nginx, HAProxy, Traefik, linkerd, RFC 7239, RFC 9440, and
/// all that begins like them.
fn is_identity(name: &HeaderName) -> bool {
    let name = name.as_str();
    const EXACTLY: [&str; 9] = [
        "forwarded",
        "client-cert",
        "client-cert-chain",
        "l5d-client-id",
        "x-real-ip",
        "x-remote-user",
        "remote-user",
        "true-client-ip",
        "via",
    ];
    const BEGIN: [&str; 8] = [
        "x-forwarded-",
        "x-casgate-",
        "x-client-cert",
        "x-client-",
        "x-ssl-",
        "x-tls-",
        "ssl-client-",
        "x-envoy-",
    ];
    static LETTERS: [[bool; 256]; 2] = [letters(&EXACTLY), letters(&BEGIN)];
    LETTERS.iter().any(|letters| begins_with_one(name, letters))
        && (EXACTLY.into_iter().any(|exact| is_same_name(exact, name))
            || BEGIN.into_iter().any(|prefix| begins_like(name, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &[&'static str]) -> HeaderMap {
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")))
            .collect()
    }

    #[test]
    fn what_could_be_taken_for_an_identity_is_removed() {
        let mut headers = map(&[
            "x-forwarded-client-cert",
            "x-forwarded-for",
            "x_forwarded_for",
            "forwarded",
            "ssl-client-s-dn",
            "x-ssl-client-cn",
            "x-casgate-identity",
            "client-cert",
            "build.bazel.remote.execution.v2.resource-name",
            "x-remote-user",
            "l5d-client-id",
            "connection",
            "keep-alive",
            "content-length",
            "x-team",
            "x_team",
            "host",
            "expect",
            "te",
            "http2-settings",
        ]);
        for_upstream(&mut headers, &[HeaderName::from_static("x-team")]);
        assert_eq!(headers.len(), 1, "{headers:?}");
        assert_eq!(headers.get("te").map(HeaderValue::as_bytes), Some(&b"trailers"[..]));
    }

    #[test]
    fn what_grpc_needs_is_kept() {
        let names = [
            "build.bazel.remote.execution.v2.requestmetadata-bin",
            "grpc-timeout",
            "grpc-encoding",
            "grpc-accept-encoding",
            "user-agent",
            "authorization",
            "content-type",
            "custom_name",
            "x-teams",
        ];
        let mut headers = map(&names);
        for_upstream(&mut headers, &[HeaderName::from_static("x-team")]);
        for name in names {
            assert!(headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn metadata_is_counted_with_the_path_and_a_mark_is_refused() {
        let request = |bytes: usize| {
            let request =
                Request::post("https://localhost/build.bazel.remote.execution.v2.Capabilities/GetCapabilities");
            request.header("x", "y".repeat(bytes)).body(()).unwrap_or_default()
        };
        let beside = PSEUDO + "localhost/build.bazel.remote.execution.v2.Capabilities/GetCapabilities".len() + 33;
        assert_eq!(check_size(&request(LARGEST - beside)), Ok(()));
        assert_eq!(check_size(&request(LARGEST - beside + 1)), Err(Rejection::LargeHeaders));
        for (mark, rejection) in [
            (TOO_LARGE, Rejection::LargeHeaders),
            ("anything", Rejection::LargeHeaders),
            (UNREADABLE, Rejection::UnreadableHeaders),
        ] {
            let marked = Request::post("/").header(MARK, mark).body(()).unwrap_or_default();
            assert_eq!(check_size(&marked), Err(rejection));
        }
    }

    #[test]
    fn only_post_with_a_grpc_content_type_is_grpc() {
        let request = |method: HttpMethod, content_type: Option<&'static str>| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            if let Some(value) = content_type {
                request
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            check_grpc(&request)
        };
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
            "Application/gRPC",
        ] {
            assert_eq!(request(HttpMethod::POST, Some(good)), Ok(()), "{good}");
        }
        for bad in [
            None,
            Some("application/json"),
            Some("application/grpc-web"),
            Some("application/grpcx"),
            Some("application/grpc+json"),
            Some("application/grpc x"),
        ] {
            assert_eq!(request(HttpMethod::POST, bad), Err(NotGrpc::ContentType), "{bad:?}");
        }
        assert_eq!(request(HttpMethod::GET, Some("application/grpc")), Err(NotGrpc::Method));
    }
}
