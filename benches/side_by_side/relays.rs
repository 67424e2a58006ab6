//! Two relays that know no HTTP/2: the floor, which ends TLS and copies bytes, and a line of 40 ms.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Result;
use crate::tls::Certificates;

/// One way.
const DELAY: Duration = Duration::from_millis(20);
/// 1 Gbit/s.
const BYTES_PER_SECOND: f64 = 125_000_000.0;
/// What may wait for the line before the sender is not read from any more, as in the buffer of a router.
const QUEUE: Duration = Duration::from_millis(10);

/// The floor: mutual TLS from clients, their bytes in the clear to the backend, a connection for each of theirs.
pub(crate) async fn end_tls(listen: SocketAddr, backend: SocketAddr, certificates: &Path) -> Result<()> {
    let acceptor = Certificates::in_dir(certificates).acceptor()?;
    let listener = listen_on(listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            client.set_nodelay(true)?;
            let mut tls = acceptor.accept(client).await?;
            let mut tcp = TcpStream::connect(backend).await?;
            tcp.set_nodelay(true)?;
            tokio::io::copy_bidirectional_with_sizes(&mut tls, &mut tcp, 64 * 1024, 64 * 1024).await?;
            Result::Ok(())
        });
    }
}

/// The line: what comes in goes out 20 ms later, at 1 Gbit/s at most, each way and each connection.
pub(crate) async fn delay(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let listener = listen_on(listen).await?;
    loop {
        let (near, _) = listener.accept().await?;
        tokio::spawn(async move {
            let far = TcpStream::connect(to).await?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            one_way(near_read, far_write);
            one_way(far_read, near_write);
            Result::Ok(())
        });
    }
}

async fn listen_on(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    Ok(listener)
}

/// What is on the line, each piece with the time when it comes out; an empty piece is the end.
#[derive(Default)]
struct Line {
    pieces: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    more: Notify,
}

fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let line = Arc::new(Line::default());
    let far_end = Arc::clone(&line);
    tokio::spawn(async move {
        let mut free_at = Instant::now();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from.read(&mut buffer).await.unwrap_or(0);
            let now = Instant::now();
            free_at = free_at.max(now) + Duration::from_secs_f64(length as f64 / BYTES_PER_SECOND);
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            line.pieces.lock().push_back((free_at + DELAY, piece));
            line.more.notify_one();
            if length == 0 {
                return;
            }
            if free_at > now + QUEUE {
                tokio::time::sleep_until(free_at - QUEUE / 2).await;
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let next = far_end.pieces.lock().pop_front();
            let Some((due, piece)) = next else {
                far_end.more.notified().await;
                continue;
            };
            tokio::time::sleep_until(due).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
}
