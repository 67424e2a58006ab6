//! Who is measured: where each program is found, which version it is, how it is started with the same rules as the others.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, getrlimit};

use crate::Result;
use crate::process::{CORE, Running};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Contestant {
    /// A relay that ends TLS and copies bytes: less can't be done.
    Floor,
    Haproxy,
    Nginx,
    Envoy,
    Casgate,
    /// Another build of casgate, where one was given.
    Before,
}

/// What a contestant is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// A folder of its own.
    pub(crate) dir: PathBuf,
    pub(crate) certificates: PathBuf,
    pub(crate) backend: SocketAddr,
    /// The cores that it may use, as `taskset` names them.
    pub(crate) cores: &'static str,
    /// Threads or workers, but for the floor, which has one.
    pub(crate) threads: usize,
    /// Rules of casgate alone that match none of the callers.
    pub(crate) more_rules: usize,
    /// Backends of casgate alone, with routes that none of the calls takes.
    pub(crate) more_backends: usize,
}

impl Setup {
    pub(crate) fn new(dir: PathBuf, certificates: &Path, backend: SocketAddr) -> Setup {
        Setup {
            dir,
            certificates: certificates.to_owned(),
            backend,
            cores: CORE,
            threads: 1,
            more_rules: 0,
            more_backends: 0,
        }
    }
}

impl Contestant {
    pub(crate) const ALL: [Contestant; 5] = [
        Contestant::Floor,
        Contestant::Haproxy,
        Contestant::Nginx,
        Contestant::Envoy,
        Contestant::Casgate,
    ];

    pub(crate) fn is_competitor(self) -> bool {
        matches!(self, Contestant::Haproxy | Contestant::Nginx | Contestant::Envoy)
    }

    /// Where its program is; `before` is another build of casgate.
    pub(crate) fn find(self, before: Option<&Path>) -> Option<PathBuf> {
        let name = match self {
            Contestant::Floor => return std::env::current_exe().ok(),
            Contestant::Casgate => return Some(PathBuf::from(env!("CARGO_BIN_EXE_casgate"))),
            Contestant::Before => return before.map(Path::to_owned),
            Contestant::Haproxy => "haproxy",
            Contestant::Nginx => "nginx",
            Contestant::Envoy => "envoy",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Services are found where users do not look for programs.
        std::env::split_paths(&path)
            .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
            .map(|folder| folder.join(name))
            .chain([tools().join(name)])
            .find(|file| file.is_file())
    }

    /// What it says of its version.
    pub(crate) fn version(self, program: &Path) -> String {
        let (argument, name) = match self {
            Contestant::Floor => return "this harness, tokio-rustls".to_owned(),
            Contestant::Casgate => return format!("casgate {}", env!("CARGO_PKG_VERSION")),
            Contestant::Before => return format!("casgate before: `{}`", program.display()),
            Contestant::Haproxy => ("-v", "HAProxy version "),
            Contestant::Nginx => ("-v", "nginx/"),
            Contestant::Envoy => ("--version", "version: "),
        };
        let said = Command::new(program).arg(argument).output().map(|output| {
            let both = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&both).into_owned()
        });
        let said = said.unwrap_or_default();
        let version = said.split(name).nth(1).and_then(|rest| rest.split_whitespace().next());
        // Envoy says its commit first: commit/version/...
        let version = version.map(|version| version.split('/').nth(1).unwrap_or(version));
        format!("{self} {}", version.unwrap_or("of unknown version"))
    }

    /// Starts it and waits until clients can connect; gives the address.
    pub(crate) fn start(self, program: &Path, setup: &Setup) -> Result<(Running, SocketAddr)> {
        std::fs::create_dir_all(&setup.dir)?;
        let dir = setup.dir.display();
        let certificates = setup.certificates.display().to_string();
        let address = free_address()?;
        let program = program.display().to_string();
        let threads = setup.threads.to_string();
        let (file, template, arguments) = match self {
            Contestant::Floor => {
                let backend = setup.backend.to_string();
                let role = ["floor", "127.0.0.1:0", &backend, &certificates].map(str::to_owned);
                return Running::role(setup.cores, &role);
            }
            Contestant::Casgate | Contestant::Before => {
                let arguments = vec!["serve", "--config"];
                ("casgate.toml", include_str!("casgate.toml"), arguments)
            }
            Contestant::Haproxy => ("haproxy.cfg", include_str!("haproxy.cfg"), vec!["-db", "-f"]),
            Contestant::Nginx => ("nginx.conf", include_str!("nginx.conf"), vec!["-c"]),
            Contestant::Envoy => (
                "envoy.yaml",
                include_str!("envoy.yaml"),
                vec![
                    "--concurrency",
                    &threads,
                    "--disable-hot-restart",
                    "--log-level",
                    "critical",
                    "--config-path",
                ],
            ),
        };
        let config = setup.dir.join(file);
        let text = template
            .replace("{{dir}}", &dir.to_string())
            .replace("{{certificates}}", &certificates)
            .replace("{{port}}", &address.port().to_string())
            .replace("{{backend}}", &setup.backend.to_string())
            .replace("{{backend-port}}", &setup.backend.port().to_string())
            .replace("{{open-files}}", &open_files().to_string())
            .replace("{{threads}}", &threads)
            .replace("{{more-rules}}", &rules(setup.more_rules))
            .replace("{{more-backends}}", &backends(setup.more_backends, setup.backend));
        std::fs::write(&config, text)?;
        let command: Vec<String> = [program]
            .into_iter()
            .chain(arguments.into_iter().map(str::to_owned))
            .chain([config.display().to_string()])
            .collect();
        let mut running = Running::start(setup.cores, &command, &setup.dir.join("log"))?;
        running.wait_for(address).map_err(|error| format!("{self}: {error}"))?;
        Ok((running, address))
    }
}

impl Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Contestant::Floor => "floor",
            Contestant::Haproxy => "HAProxy",
            Contestant::Nginx => "nginx",
            Contestant::Envoy => "Envoy",
            Contestant::Casgate => "casgate",
            Contestant::Before => "before",
        })
    }
}

/// Where `install.py` puts programs.
pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-tools")
}

/// How many files a contestant may open. Those that would want more than there are do not start.
fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(65_536)
}

fn rules(number: usize) -> String {
    (0..number)
        .map(|number| {
            format!(
                "[[rules]]\nname = \"rule {number}\"\ncertificate = {{ common-name = \"client {number}\" }}\n\
                 allow = [\"pull\"]\ninstances = [\"team-{number}/**\"]\n\n"
            )
        })
        .collect()
}

fn backends(number: usize, address: SocketAddr) -> String {
    if number == 0 {
        return String::new();
    }
    let more: String = (0..number)
        .map(|number| {
            format!(
                "[backends.more-{number}]\nendpoint = \"http://{address}\"\n\n\
                 [[routes]]\nservices = [\"cas\"]\ninstances = [\"team-{number}/**\"]\nbackend = \"more-{number}\"\n\n"
            )
        })
        .collect();
    more + "[[routes]]\nservices = [\"cas\"]\nbackend = \"cache\"\n\n"
}

/// An address that nobody uses now. Somebody else may take it before it is used, and then the start fails.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
