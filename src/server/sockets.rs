//! The sockets that clients and monitors connect to: made here, or inherited from whoever started the program
//! (sd_listen_fds(3)), so that a restart refuses nobody.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::StartError;
use crate::http2;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Sockets that the program was started with.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Inherited {
    /// Takes those that the environment tells of. To be called before there are threads: it changes the environment, so
    /// that no child takes them for its own.
    ///
    /// # Errors
    /// Where one is no socket that listens on TCP.
    pub fn from_env() -> io::Result<Inherited> {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..given.len() {
            if let Some(socket) = given.take_tcp_listener(index)? {
                sockets.push((socket.local_addr()?, socket));
            }
        }
        Ok(Inherited(sockets))
    }

    /// The socket for an address, or a new one.
    pub(super) fn take_or_bind(
        &mut self,
        key: &'static str,
        address: SocketAddr,
    ) -> Result<tokio::net::TcpListener, StartError> {
        let place = self.0.iter().position(|(own, _)| is_for(*own, address));
        let socket = match place {
            Some(place) => Ok(self.0.swap_remove(place).1),
            None => bind(address),
        };
        let listen = socket.and_then(|socket| {
            socket.set_nonblocking(true)?;
            // Once for all connections that come from it: Linux hands it down (tcp(7)).
            http2::prepare(&socket2::SockRef::from(&socket))?;
            tokio::net::TcpListener::from_std(socket)
        });
        listen.map_err(|error| StartError::Listen { key, address, error })
    }

    /// Says that all were taken.
    ///
    /// # Errors
    /// Where one was not: clients that connect to it would wait for ever.
    pub(super) fn finish(self) -> Result<(), StartError> {
        match self.0.first() {
            Some((address, _)) => Err(StartError::Unused(*address)),
            None => Ok(()),
        }
    }
}

/// Whether a socket is for an address of the configuration. systemd makes one for `[::]` of a port without an address,
/// which takes IPv4 as well.
fn is_for(own: SocketAddr, address: SocketAddr) -> bool {
    own == address || own.port() == address.port() && own.ip().is_unspecified() && address.ip().is_unspecified()
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    // A restart must not wait for the connections of its predecessor to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sees to it that a connection has what its listener was to hand down. One that came to an inherited socket before this
/// program did has not.
pub(super) fn prepare_accepted(tcp: &tokio::net::TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(tcp);
    if socket.keepalive()? {
        return Ok(());
    }
    http2::prepare(&socket)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_connection_has_what_its_listener_was_given() {
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        // One that is there before the program.
        let _early = std::net::TcpStream::connect(own.local_addr().unwrap()).unwrap();
        let address = own.local_addr().unwrap();
        for mut inherited in [Inherited::default(), Inherited(vec![(address, own)])] {
            let wanted = inherited
                .0
                .first()
                .map_or("127.0.0.1:0".parse().unwrap(), |(address, _)| *address);
            let listener = inherited.take_or_bind("listen.address", wanted).unwrap();
            let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let accepted = listener.accept().await.unwrap().0;
            prepare_accepted(&accepted).unwrap();
            let socket = socket2::SockRef::from(&accepted);
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        }
    }

    #[test]
    fn a_socket_is_for_its_own_address_and_one_for_all_addresses_for_all() {
        let is_for = |own: &str, address: &str| is_for(own.parse().unwrap(), address.parse().unwrap());
        assert!(is_for("127.0.0.1:80", "127.0.0.1:80"));
        assert!(is_for("[::]:80", "0.0.0.0:80"));
        assert!(!is_for("[::]:80", "0.0.0.0:81"));
        assert!(!is_for("[::]:80", "127.0.0.1:80"));
        assert!(!is_for("127.0.0.1:80", "0.0.0.0:80"));
    }
}
