//! A client that is no more than the frames that a test writes.

use std::io;

use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{connect_tls, tls_config};
use crate::harness::frames::{Frame, PREFACE};
use crate::harness::gate::Gate;
use crate::harness::within;

/// A connection of which both directions are in the hands of the test. The preface and SETTINGS were sent.
pub(crate) struct Scripted {
    pub(crate) from: ReadHalf<TlsStream<TcpStream>>,
    pub(crate) to: WriteHalf<TlsStream<TcpStream>>,
}

impl Scripted {
    pub(crate) async fn connect(gate: &Gate, name: &str) -> Scripted {
        let config = tls_config(gate, Some(&gate.config.authority.client(name)));
        let tls = within("a handshake", connect_tls(gate, config)).await.unwrap();
        let (from, to) = tokio::io::split(tls);
        let mut scripted = Scripted { from, to };
        scripted.to.write_all(PREFACE).await.unwrap();
        scripted.send(&[Frame::settings()]).await.unwrap();
        scripted
    }

    /// Sends all of these at once.
    pub(crate) async fn send(&mut self, frames: &[Frame]) -> io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.to.write_all(&bytes).await?;
        self.to.flush().await
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        within("a frame", Frame::read(&mut self.from)).await
    }
}
