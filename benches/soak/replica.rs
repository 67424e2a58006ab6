//! A backend: the store of casgate, behind a unix socket, in a process that can be killed. Two of them share a folder.

use std::path::Path;
use std::sync::Arc;

use casgate::store::Store;
use casgate::store::memory::Everything;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::UnixListener;

use crate::Result;

/// Serves until it is killed, or whoever started it ends.
pub(crate) async fn run(socket: &Path, folder: &Path) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let store = Store::open(&format!("file:{}", folder.display())).await?;
    // The one before had no time to remove it.
    let _none = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    loop {
        let (unix, _) = listener.accept().await?;
        tokio::spawn(store.clone().serve(unix, Arc::new(Everything::default())));
    }
}
