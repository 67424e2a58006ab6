//! From a name to an open TCP connection.
//!
//! The name is resolved again for each connection, and each of its addresses is tried: one that does not answer for a while
//! has the next one tried beside it, as browsers do (RFC 8305, "Happy Eyeballs").

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

/// How long an attempt is alone (RFC 8305, section 8: "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to one of the addresses that the name has now. The search begins at the one with this number, so that a server
/// which takes connections and is of no use does not hide the others.
///
/// # Errors
/// When the name has no address, or none takes the connection: what the last one said.
pub(super) async fn connect(host: &str, port: u16, begin: usize) -> io::Result<TcpStream> {
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    if !addresses.is_empty() {
        let begin = begin % addresses.len();
        addresses.rotate_left(begin);
    }
    first_of(addresses).await
}

async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut attempts = FuturesUnordered::new();
    let mut left = addresses.into_iter();
    loop {
        match left.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let is_last = left.len() == 0;
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if !is_last => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use socket2::{Domain, Socket, Type};

    /// A socket that is bound, and takes so many connections that nobody accepts; `None` when it refuses all.
    fn place(queue: Option<i32>) -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        if let Some(queue) = queue {
            socket.listen(queue).unwrap();
        }
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let (_refuses, refused) = place(None);
        let (_takes, taken) = place(Some(16));
        let (silent, hanging) = place(Some(0));
        // With its queue full the system answers nothing, as for a machine that is gone.
        let mut held = Vec::new();
        while let Ok(connected) = tokio::time::timeout(STAGGER, TcpStream::connect(hanging)).await {
            held.push(connected.unwrap());
            assert!(held.len() < 64, "the queue of {silent:?} is never full");
        }
        for addresses in [
            vec![taken],
            vec![refused, taken],
            vec![hanging, refused, hanging, taken],
        ] {
            let tcp = first_of(addresses.clone()).await.unwrap();
            assert_eq!(tcp.peer_addr().unwrap(), taken, "{addresses:?}");
        }
        for addresses in [vec![], vec![refused], vec![refused, refused]] {
            assert!(first_of(addresses).await.is_err());
        }
    }

    #[tokio::test]
    async fn the_search_may_begin_at_each_address() {
        let (_takes, taken) = place(Some(16));
        for begin in [0, 1, usize::MAX] {
            assert!(connect("127.0.0.1", taken.port(), begin).await.is_ok());
        }
    }
}
