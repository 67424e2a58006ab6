//! `casgate quickstart`: from nothing to a cache that serves, in one command.

mod settings;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::certs::{AUTHORITY_DAYS, DAYS, LOCAL_HOSTS};
use super::{Failure, serve};
use crate::certs::{Folder, distinct_name, write_new};

use settings::Settings;

/// Arguments of `casgate quickstart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder for certificates, configuration and store; what is there is kept
    #[arg(default_value = "quickstart")]
    pub dir: PathBuf,
    /// Where to listen, in a configuration that is made now; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:11002")]
    pub address: SocketAddr,
    /// Another name or IP address by which clients reach this machine, in a server certificate that is made now; may
    /// be repeated. Clients' settings are printed for the first one
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
}

/// Makes what is missing, serves, and prints settings for clients.
///
/// # Errors
/// What can't be made, or kept it from starting.
pub fn run(args: &Args) -> Result<(), Failure> {
    let folder = Folder::new(&args.dir);
    let hosts: Vec<String> = args
        .hosts
        .iter()
        .cloned()
        .chain(LOCAL_HOSTS.map(str::to_owned))
        .collect();
    let made = [
        folder.authority(&distinct_name("casgate quickstart"), AUTHORITY_DAYS),
        folder.server(&hosts, DAYS),
        folder.client("ci", DAYS),
        folder.client("dev", DAYS),
    ];
    for made in made {
        let made = made.map_err(Failure::of)?;
        tell(&made.certificate, made.is_new);
    }
    let config = args.dir.join("casgate.toml");
    let is_new = !config.exists();
    if is_new {
        // An authority that was there before may have no list.
        let text = configuration(args.address, folder.list_path().exists());
        write_new(&config, text.as_bytes(), 0o644).map_err(Failure::of)?;
    }
    tell(&config, is_new);
    let dir = std::path::absolute(&args.dir).map_err(Failure::of)?;
    serve::serve(&config, |gate| {
        let host = args.hosts.first().map_or("localhost", String::as_str);
        let settings = Settings::new(&dir, host, gate.listen_address().port());
        // In one piece: lines of the log, which other threads write, are not to come in between.
        let told = std::io::stdout().write_all(format!("{settings}\n").as_bytes());
        if let Err(error) = told {
            tracing::warn!(%error, "the settings for clients can't be printed");
        }
    })
}

fn tell(path: &Path, is_new: bool) {
    println!("{} {}", if is_new { "made" } else { "kept" }, path.display());
}

fn configuration(address: SocketAddr, has_list: bool) -> String {
    let list = if has_list {
        "client-crl = [\"ca.crl\"]                 # `casgate certs revoke DIR NAME` adds to it\n"
    } else {
        ""
    };
    format!(
        r#"# Made by `casgate quickstart`. The README tells of every key.

[listen]
address = "{address}"
certificate = "server.crt"
key = "server.key"
client-ca = ["ca.crt"]
{list}
# [admin]
# address = "127.0.0.1:9090"            # /metrics /livez /readyz

[backends.store]
store = "file:store"                    # the embedded backend; or: endpoint = "unix:/run/casd/casd.sock"

[[rules]]
name = "ci runners"
certificate = {{ common-name = "ci" }}
allow = ["pull", "push"]

[[rules]]
name = "everyone with a certificate"
certificate = "any"
allow = ["pull"]
"#
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config;
    use crate::snapshot::Snapshot;

    #[test]
    fn the_configuration_is_good_and_lets_only_ci_push() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        folder.authority("test", 10).unwrap();
        folder.server(&["localhost".to_owned()], 10).unwrap();
        let path = dir.path().join("casgate.toml");
        let address = "127.0.0.1:0".parse().unwrap();
        let without = configuration(address, false);
        std::fs::write(&path, &without).unwrap();
        assert!(Snapshot::compile(&config::load(&path).unwrap()).is_ok() && !without.contains("client-crl"));
        std::fs::write(&path, configuration(address, true)).unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("\nclient-crl = [\"ca.crl\"]")
        );
        let snapshot = Snapshot::compile(&config::load(&path).unwrap()).unwrap();
        let text = super::super::check::describe(&snapshot);
        assert!(
            text.contains(r#"rule "ci runners": certificates with common-name "ci" may pull, cas-push, action-push, asset-push on"#),
            "{text}"
        );
        assert!(
            text.contains(r#"rule "everyone with a certificate": every certificate may pull on"#),
            "{text}"
        );
    }
}
