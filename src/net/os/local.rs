//! Doors for programs of this computer: loopback, a Unix socket, or a listener that was made inside a jail.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};

use super::{LinkListener, tune};
use crate::net::{BoxStream, ByteStream};

/// Permissions of a Unix socket: its owner alone may connect.
const OWNER_ONLY: u32 = 0o600;
/// Permissions of the folder that it is made in.
const PRIVATE_FOLDER: u32 = 0o700;

/// A connection from a program.
pub struct Accepted {
    /// Its bytes.
    pub stream: BoxStream,
    /// Where it comes from; `None` on a Unix socket.
    pub from: Option<SocketAddr>,
    /// Where it was to go: the listener's address, or inside a jail that catches everything, the one the program meant.
    /// `None` on a Unix socket.
    pub to: Option<SocketAddr>,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[accepted connection]")
    }
}

impl ByteStream for TcpStream {
    fn reset_on_drop(&mut self) {
        // Closing then discards what is queued and sends a reset. Where that fails, the close at least is abrupt.
        let _ = SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }
}

/// A Unix socket has no reset: its reader sees an end.
impl ByteStream for UnixStream {}

/// A listener that programs of this computer can reach.
#[derive(Debug)]
pub struct LocalListener(Door);

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "dropped with the listener")] Remove,
    ),
}

/// Removes the socket's file.
#[derive(Debug)]
struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl LocalListener {
    /// Listens on a loopback address; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is not loopback (`InvalidInput`), or is in use.
    pub fn loopback(addr: SocketAddr) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a loopback address",
            ));
        }
        Self::anywhere(addr)
    }

    /// The same, and where, since the system may choose the port.
    ///
    /// # Errors
    /// As of [`LocalListener::loopback`].
    pub fn loopback_at(addr: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = Self::loopback(addr)?;
        let at = listener.local_addr()?.unwrap_or(addr);
        Ok((listener, at))
    }

    /// Listens on any address, so that other computers can connect too. Only for a user who asked for just that and set a
    /// password.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub fn anywhere(addr: SocketAddr) -> io::Result<Self> {
        LinkListener::bind(addr).map(|listener| Self(Door::Tcp(listener.0)))
    }

    /// Listens on a Unix socket that only this user can open. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// Somebody listens there (`AddrInUse`), there is another kind of file (`AlreadyExists`), or as the system says.
    pub fn unix(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                }
                _ => return Err(io::ErrorKind::AddrInUse.into()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (listener, remove) = bind_closed(path)?;
        Ok(Self(Door::Unix(listener, remove)))
    }

    /// Takes over a listening TCP socket that was made inside a jail.
    ///
    /// # Errors
    /// It is no socket, or as the system says.
    pub fn handed(socket: OwnedFd) -> io::Result<Self> {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(|listener| Self(Door::Tcp(listener)))
    }

    /// The address in use; `None` for a Unix socket.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match &self.0 {
            Door::Tcp(listener) => listener.local_addr().map(Some),
            Door::Unix(..) => Ok(None),
        }
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// Mostly passing ones (no file descriptors left): wait a little and call again.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.0 {
            Door::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                tune(&stream)?;
                let to = stream.local_addr()?;
                Ok(Accepted {
                    stream: Box::new(stream),
                    from: Some(from),
                    to: Some(to),
                })
            }
            Door::Unix(listener, _) => loop {
                let (stream, _) = listener.accept().await?;
                // The file's mode says the same; but whoever could pass it on, or change it, is not let in either.
                if !is_ours(&stream) {
                    continue;
                }
                return Ok(Accepted {
                    stream: Box::new(stream),
                    from: None,
                    to: None,
                });
            },
        }
    }
}

/// Binds a socket that is closed to others from its first moment: it is made in a folder that only this user can enter,
/// and gets its name when its mode is set.
fn bind_closed(path: &Path) -> io::Result<(UnixListener, Remove)> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let folder = parent.join(format!(".hs-{:08x}", rand::random::<u32>()));
    std::fs::DirBuilder::new()
        .mode(PRIVATE_FOLDER)
        .create(&folder)?;
    let first = folder.join("s");
    let bound = UnixListener::bind(&first).and_then(|listener| {
        std::fs::set_permissions(&first, PermissionsExt::from_mode(OWNER_ONLY))?;
        // Fails where somebody else was quicker, which a rename would not.
        match std::fs::hard_link(&first, path) {
            Ok(()) => Ok((listener, Remove(path.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(io::ErrorKind::AddrInUse.into())
            }
            Err(error) => Err(error),
        }
    });
    // Left over, they would be harmless.
    let _ = std::fs::remove_file(&first);
    let _ = std::fs::remove_dir(&folder);
    bound
}

/// Whether a program of this user, or of root, is at the other end.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// A UDP socket for programs of this computer: the near end of a UDP association (RFC 1928 §7).
#[derive(Debug)]
pub struct LocalUdp(UdpSocket);

impl LocalUdp {
    /// Binds the address that a program reached us at, so that whoever can reach this socket could reach the listener too.
    ///
    /// # Errors
    /// As the system says.
    pub fn beside(listener: IpAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(SocketAddr::new(listener, 0))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket).map(Self)
    }

    /// Takes over a bound UDP socket that was made inside a jail.
    ///
    /// # Errors
    /// It is no socket, or as the system says.
    pub fn handed(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::net::UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket).map(Self)
    }

    /// The address in use.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for a datagram, and says who sent it.
    ///
    /// # Errors
    /// As the system says; an unreachable receiver answers here and may be ignored.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buf).await
    }

    /// Waits until there may be a datagram to read.
    ///
    /// # Errors
    /// As the system says.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Reads the next datagram, where there is one.
    ///
    /// # Errors
    /// `WouldBlock` where there is none: call [`LocalUdp::readable`].
    pub fn try_recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.try_recv_from(buf)
    }

    /// Sends a datagram, where the system takes it at once.
    ///
    /// # Errors
    /// `WouldBlock` where it does not: the datagram is lost, as a network would lose it.
    pub fn try_send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.try_send_to(datagram, to).map(drop)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// As the system says; a lost datagram is no error.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send_to(datagram, to).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_listened_on_unless_asked() {
        for bad in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = LocalListener::loopback(bad.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        assert!(LocalListener::loopback("127.0.0.1:0".parse().unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_unix_socket_is_closed_to_others_replaces_a_dead_one_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socks");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = LocalListener::unix(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWNER_ONLY);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside it");
        let (client, accepted) =
            tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        assert!(client.is_ok() && accepted.unwrap().from.is_none());
        let second = LocalListener::unix(&path).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let refused = LocalListener::unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
