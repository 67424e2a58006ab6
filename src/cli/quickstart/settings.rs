//! What to paste into the configurations of clients.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::Path;

/// The settings of every client for one gate.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    dir: &'a Path,
    authority: String,
}

impl<'a> Settings<'a> {
    /// For the certificates in `dir`, which is absolute, and a gate at `host`.
    pub(super) fn new(dir: &'a Path, host: &str, port: u16) -> Settings<'a> {
        // RFC 3986, section 3.2.2: an IPv6 address stands in brackets.
        let authority = if host.parse::<Ipv6Addr>().is_ok() {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        Settings { dir, authority }
    }

    /// A file of the folder as a YAML or TOML string: JSON strings are both (YAML 1.2, section 1.3).
    fn quoted(&self, name: &str) -> String {
        let path = self.dir.join(name);
        let escaped: String = path
            .to_string_lossy()
            .chars()
            .flat_map(|letter| {
                let backslash = matches!(letter, '"' | '\\').then_some('\\');
                backslash.into_iter().chain([letter])
            })
            .collect();
        format!("\"{escaped}\"")
    }

    fn build_stream_2(&self, f: &mut fmt::Formatter<'_>, client: &str, may_push: bool) -> fmt::Result {
        for section in ["artifacts", "source-caches"] {
            write!(
                f,
                "\
{section}:
  override-project-caches: true
  servers:
  - url: https://{}
    push: {may_push}
    auth:
      server-cert: {}
      client-key: {}
      client-cert: {}
",
                self.authority,
                self.quoted("ca.crt"),
                self.quoted(&format!("{client}.key")),
                self.quoted(&format!("{client}.crt")),
            )?;
        }
        Ok(())
    }

    fn build_stream_1(&self, f: &mut fmt::Formatter<'_>, client: &str, may_push: bool) -> fmt::Result {
        write!(
            f,
            "\
artifacts:
  url: https://{}
  push: {may_push}
  server-cert: {}
  client-key: {}
  client-cert: {}
",
            self.authority,
            self.quoted("ca.crt"),
            self.quoted(&format!("{client}.key")),
            self.quoted(&format!("{client}.crt")),
        )
    }

    fn bazel(&self, f: &mut fmt::Formatter<'_>, client: &str, may_push: bool) -> fmt::Result {
        write!(
            f,
            "\
build --remote_cache=grpcs://{}
build --tls_certificate={}
build --tls_client_certificate={}
build --tls_client_key={}
build --remote_upload_local_results={may_push}
",
            self.authority,
            self.quoted("ca.crt"),
            self.quoted(&format!("{client}.crt")),
            self.quoted(&format!("{client}.key")),
        )
    }
}

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (client, may_push, who) in [("ci", true, "may push and pull"), ("dev", false, "may pull")] {
            writeln!(f, "\n# ==== `{client}` {who} ====")?;
            writeln!(f, "\n# ---- BuildStream 2, in ~/.config/buildstream.conf as {client}:")?;
            self.build_stream_2(f, client, may_push)?;
            writeln!(f, "\n# ---- BuildStream 1, in ~/.config/buildstream.conf as {client}:")?;
            self.build_stream_1(f, client, may_push)?;
            writeln!(f, "\n# ---- Bazel, in .bazelrc as {client}:")?;
            self.bazel(f, client, may_push)?;
        }
        writeln!(f, "\n# ==== serving https://{}; Ctrl-C stops it ====", self.authority)
    }
}
