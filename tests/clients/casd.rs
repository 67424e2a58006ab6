//! The real buildbox-casd.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::install;
use crate::process::{Running, SOON};

/// A casd that runs, and where.
pub(crate) struct Casd {
    /// The `endpoint` of a backend.
    pub(crate) endpoint: String,
    _running: Running,
}

impl Casd {
    /// On a unix socket in `folder`; `None` where there is no casd.
    pub(crate) fn on_unix(folder: &Path) -> Option<Casd> {
        let socket = folder.join("casd.sock");
        let running = start(folder, &format!("unix:{}", socket.display()))?;
        wait(&running, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Some(Casd {
            endpoint: format!("unix:{}", socket.display()),
            _running: running,
        })
    }

    /// On TCP; `None` where there is no casd.
    pub(crate) fn on_tcp(folder: &Path) -> Option<Casd> {
        // casd takes no port 0. The port was free a moment ago, and the kernel gives others out first.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let running = start(folder, &port.to_string())?;
        wait(&running, || std::net::TcpStream::connect(port).is_ok());
        Some(Casd {
            endpoint: format!("http://{port}"),
            _running: running,
        })
    }
}

fn start(folder: &Path, bind: &str) -> Option<Running> {
    let mut command = Command::new(install::casd()?);
    command
        .args(["--quota-high=8G", "--reserved=0"])
        .arg(format!("--bind={bind}"))
        .arg(folder.join("casd"));
    Some(Running::start(&mut command, &folder.join("casd.log")))
}

fn wait(running: &Running, is_up: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_up() {
        assert!(Instant::now() < end, "casd is not up:\n{}", running.text());
        std::thread::sleep(Duration::from_millis(20));
    }
}
