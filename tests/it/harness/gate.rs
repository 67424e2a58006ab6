//! The gate on port 0, with its configuration in a folder of its own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use casgate::live::ReloadError;
use casgate::server::Gate as Server;
use tempfile::TempDir;

use super::backend::Backend;
use super::pki::{Authority, Credentials};
use super::wire::Client;
use super::{DEADLINE, until};

/// A configuration, as parts that a test may change.
pub(crate) struct Config {
    /// Issues the certificates of the server and of clients.
    pub(crate) authority: Authority,
    /// Keys before the first table.
    pub(crate) top: String,
    /// Where it listens: port 0 of the loopback, unless a socket is passed in.
    pub(crate) address: String,
    /// More keys of `[listen]`.
    pub(crate) listen: String,
    /// The tables of more listeners.
    pub(crate) more_listeners: String,
    /// The entries of `client-ca`.
    pub(crate) client_ca: String,
    /// The tables of backends and routes.
    pub(crate) backends: String,
    /// The rules.
    pub(crate) rules: String,
    /// Files beside the TOML file.
    pub(crate) files: BTreeMap<&'static str, String>,
}

/// A gate that runs.
pub(crate) struct Gate {
    pub(crate) config: Config,
    address: SocketAddr,
    server: Option<Server>,
    process: Option<Child>,
    dir: TempDir,
}

/// Where the log of a program goes, beside its configuration.
pub(crate) const LOG: &str = "log";

/// `reader` may pull; `writer` may pull and push; `root` may everything; nobody else may anything.
const CAST: &str = r#"
[[rules]]
name = "readers"
certificate = { common-name = "reader" }
allow = ["pull"]

[[rules]]
name = "writers"
certificate = { common-name = "writer" }
allow = ["pull", "push"]

[[rules]]
name = "roots"
certificate = { common-name = "root" }
allow = ["pull", "push", "execute", "worker", "events", "fetch-remote", "admin"]
"#;

/// A backend that sees nothing but calls of clients.
pub(crate) fn backend_table(name: &str, endpoint: &str) -> String {
    format!("[backends.{name}]\nendpoint = \"{endpoint}\"\nhealth-check = \"off\"\n")
}

impl Config {
    /// One backend for everything, one thread, and the cast of `reader`, `writer` and `root`.
    pub(crate) fn to(backend: &Backend) -> Config {
        Config::to_endpoint(&backend.endpoint())
    }

    pub(crate) fn to_endpoint(endpoint: &str) -> Config {
        let authority = Authority::new("test authority");
        let server = authority.server();
        let files = BTreeMap::from([
            ("ca.crt", authority.pem()),
            ("server.crt", server.pem()),
            ("server.key", server.key_pem()),
        ]);
        Config {
            authority,
            top: "threads = 1".to_owned(),
            address: "127.0.0.1:0".to_owned(),
            listen: String::new(),
            more_listeners: String::new(),
            client_ca: r#""ca.crt""#.to_owned(),
            backends: backend_table("cache", endpoint) + "connections = 1\n",
            rules: CAST.to_owned(),
            files,
        }
    }

    /// Takes callers without a certificate as well.
    pub(crate) fn with_anonymous(mut self) -> Config {
        self.listen.push_str("client-certificate = \"optional\"\n");
        self
    }

    /// One rule more; without `instances` for all of them.
    pub(crate) fn rule(&mut self, name: &str, certificate: &str, allow: &[&str], instances: Option<&[&str]>) {
        let rules = &mut self.rules;
        write!(
            rules,
            "\n[[rules]]\nname = \"{name}\"\ncertificate = {certificate}\nallow = {allow:?}\n"
        )
        .unwrap();
        if let Some(instances) = instances {
            writeln!(rules, "instances = {instances:?}").unwrap();
        }
    }

    fn write(&self, dir: &Path) {
        for (name, content) in &self.files {
            std::fs::write(dir.join(name), content).unwrap();
        }
        let text = format!(
            "{}\n[[listen]]\naddress = \"{}\"\ncertificate = \"server.crt\"\nkey = \"server.key\"\n\
             client-ca = [{}]\n{}\n{}\n[admin]\naddress = \"127.0.0.1:0\"\n{}\n{}",
            self.top, self.address, self.client_ca, self.listen, self.more_listeners, self.backends, self.rules
        );
        std::fs::write(dir.join("casgate.toml"), text).unwrap();
    }
}

impl Gate {
    pub(crate) async fn start(config: Config) -> Gate {
        Gate::try_start(config).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same; the error is what the user reads.
    pub(crate) async fn try_start(config: Config) -> Result<Gate, String> {
        let dir = tempfile::tempdir().unwrap();
        config.write(dir.path());
        let path = dir.path().join("casgate.toml");
        // It blocks on its own runtime, which may not happen within another.
        let server = tokio::task::spawn_blocking(move || Server::start(&path)).await.unwrap();
        let server = server.map_err(|error| error.to_string())?;
        Ok(Gate {
            config,
            address: server.listen_address(),
            server: Some(server),
            process: None,
            dir,
        })
    }

    /// The real program, whose log can be read. It is no [`Server`].
    pub(crate) async fn spawn(config: Config) -> Gate {
        Gate::spawn_after("", config).await
    }

    /// The same, after commands of a shell, which may set limits of the process.
    pub(crate) async fn spawn_after(commands: &str, config: Config) -> Gate {
        Gate::spawn_with(commands, Stdio::null(), config).await
    }

    /// The same, as a supervisor starts it that listens for it.
    pub(crate) async fn spawn_on(socket: &std::net::TcpListener, mut config: Config) -> Gate {
        config.address = socket.local_addr().unwrap().to_string();
        // sd_listen_fds(3): from descriptor 3 on, and the process that they are for.
        let commands = "exec 3<&0 </dev/null\nexport LISTEN_PID=$$ LISTEN_FDS=1";
        let socket = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
        Gate::spawn_with(commands, socket.into(), config).await
    }

    async fn spawn_with(commands: &str, stdin: Stdio, config: Config) -> Gate {
        let dir = tempfile::tempdir().unwrap();
        config.write(dir.path());
        let log = std::fs::File::create(dir.path().join(LOG)).unwrap();
        let process = Command::new("sh")
            .args(["-euc", &format!("{commands}\nexec \"$0\" \"$@\"")])
            .args([env!("CARGO_BIN_EXE_casgate"), "serve", "--config"])
            .arg(dir.path().join("casgate.toml"))
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut gate = Gate {
            config,
            address: ([127, 0, 0, 1], 0).into(),
            server: None,
            process: Some(process),
            dir,
        };
        let listening = |gate: &Gate| gate.told_at_start("listening on https://");
        until("the program listens", || listening(&gate).is_some()).await;
        gate.address = listening(&gate).unwrap();
        gate
    }

    /// The real program, whose log goes through a pipe that the test may leave unread; with the lines up to the first
    /// that says that clients can connect.
    pub(crate) async fn spawn_piped(config: Config) -> (Gate, BufReader<ChildStderr>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        config.write(dir.path());
        let mut process = Command::new(env!("CARGO_BIN_EXE_casgate"))
            .arg("serve")
            .arg("--config")
            .arg(dir.path().join("casgate.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = BufReader::new(process.stderr.take().unwrap());
        let mut lines = Vec::new();
        let address = loop {
            let mut line = String::new();
            assert!(pipe.read_line(&mut line).unwrap() > 0, "it ended: {lines:?}");
            lines.push(line.trim_end().to_owned());
            if let Some((_, address)) = line.trim_end().rsplit_once("listening on https://") {
                break address.parse().unwrap();
            }
        };
        let gate = Gate {
            config,
            address,
            server: None,
            process: Some(process),
            dir,
        };
        (gate, pipe, lines)
    }

    /// Tells the program to stop, and waits for its end.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.end_by("TERM").await
    }

    /// Sends a signal that ends the program, and waits for its end.
    pub(crate) async fn end_by(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.ended().await
    }

    /// Sends a signal to a program that was spawned.
    pub(crate) fn signal(&self, signal: &str) {
        let kill = Command::new("kill")
            .args(["-s", signal, &self.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    /// Waits for the end of a program that was spawned.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        let mut status = None;
        until("the program ends", || {
            status = process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Whether a program that was spawned has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// The whole lines of the log, which must be JSON.
    pub(crate) fn log(&self) -> Vec<toml::Table> {
        let text = std::fs::read_to_string(self.dir.path().join(LOG)).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// What the program says of reloads: level and text.
    pub(crate) fn reload_log(&self) -> Vec<(String, String)> {
        let text = |line: &toml::Table, key: &str| line.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        self.log()
            .iter()
            .filter(|line| text(line, "target").as_deref() == Some("casgate::reload"))
            .map(|line| (text(line, "level").unwrap(), text(line, "message").unwrap()))
            .collect()
    }

    /// How many lines about reloads contain a text.
    pub(crate) fn told(&self, what: &str) -> usize {
        self.reload_log().iter().filter(|(_, text)| text.contains(what)).count()
    }

    /// The process id of a program that was spawned.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Sends SIGHUP to a program that was spawned.
    pub(crate) fn hang_up(&self) {
        self.signal("HUP");
    }

    /// The memory of a program that was spawned, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS")
    }

    /// The most that it ever was.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM")
    }

    fn status(&self, key: &str) -> u64 {
        let id = self.process.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes * 1024
    }

    /// The gate itself.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a program that was spawned listens in the clear.
    pub(crate) async fn clear_address(&self) -> SocketAddr {
        let mut address = None;
        until("the program listens in the clear", || {
            address = self.told_at_start("listening on http://");
            address.is_some()
        })
        .await;
        address.unwrap()
    }

    /// The folder of the configuration.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes the configuration as it is now.
    pub(crate) fn write(&self) {
        self.config.write(self.dir.path());
    }

    /// Writes the configuration as it is now, and loads it.
    pub(crate) async fn reload(&self) -> Result<(), ReloadError> {
        self.write();
        self.server().shared().reload().await
    }

    /// A client with a new certificate of this commonName.
    pub(crate) async fn client(&self, name: &str) -> Client {
        self.client_with(&self.config.authority.client(name)).await
    }

    pub(crate) async fn client_with(&self, credentials: &Credentials) -> Client {
        Client::connect(self, Some(credentials)).await
    }

    pub(crate) async fn anonymous(&self) -> Client {
        Client::connect(self, None).await
    }

    /// The sum of all series of a metric whose labels contain these texts.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics(), name, labels)
    }

    /// The same of a program that was spawned.
    pub(crate) fn scrape(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.get("/metrics"), name, labels)
    }

    /// What the admin listener of a program that was spawned answers, with its head.
    pub(crate) fn get(&self, path: &str) -> String {
        let address = self.told_at_start("admin on http://").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        std::io::read_to_string(stream).unwrap()
    }

    /// An address that the program logged behind these words.
    fn told_at_start(&self, words: &str) -> Option<SocketAddr> {
        let lines = self.log();
        let mut messages = lines.iter().filter_map(|line| line.get("message")?.as_str());
        messages.find_map(|message| message.strip_prefix(words)?.parse().ok())
    }

    /// All metrics as text.
    pub(crate) fn metrics(&self) -> String {
        self.server().shared().metrics.text().unwrap()
    }
}

fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

impl Drop for Gate {
    /// It ends its runtime, which blocks, and must not take forever.
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().and_then(|()| process.wait()).unwrap();
        }
        let server = self.server.take();
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            drop(server);
            let _gone = done.send(());
        });
        let ended = ended.recv_timeout(DEADLINE);
        if !std::thread::panicking() {
            ended.expect("a gate that is dropped ends");
        }
    }
}
