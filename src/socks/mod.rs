//! The front end for programs: SOCKS5, SOCKS4a and HTTP on one port, told apart by the first byte.
//!
//! [`request`], [`reply`], [`udp`] and [`http`] turn bytes into values and back. A [`Server`] takes connections of
//! programs, opens what they ask for through an [`Outside`], which is the only way it has, and carries the bytes.
//!
//! BIND is refused: an exit has no address that it could lend to one circuit, and FTP's active mode is what used it.
//! Who wants to be reached becomes a hidden seed.

mod association;
pub mod http;
pub mod limits;
mod once;
pub mod reply;
pub mod request;
mod session;
pub mod udp;

use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use tokio::task::JoinSet;
use tracing::warn;

use self::limits::{Doorkeeper, Limits};
use self::request::Credentials;
use crate::net::UdpDoors;
use crate::net::os::LocalListener;
use crate::route::Outside;
use crate::route::carry::Buffers;

/// A listener rests so long when nothing can be accepted: mostly no files are left.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// What stands between the user name that is asked for and what only isolates.
const ISOLATES: u8 = b'+';

/// How a server behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// User name and password that every client must give; without them any user name is taken, and only isolates. A
    /// client may put `+` and anything behind the name, to be kept apart from others with the same password.
    pub password: Option<(String, String)>,
    /// How many are served at once.
    pub limits: Limits,
}

/// Serves programs: what they ask for is opened through the given way out, and no other.
pub struct Server {
    outside: Arc<dyn Outside>,
    options: Options,
    doorkeeper: Doorkeeper,
    buffers: Buffers,
}

/// A listener, for its connections.
struct Door {
    name: String,
    doors: Arc<dyn UdpDoors>,
}

impl Server {
    /// A server that opens streams by `outside`.
    pub fn new(outside: Arc<dyn Outside>, options: Options) -> Arc<Self> {
        Arc::new(Self {
            outside,
            doorkeeper: Doorkeeper::new(options.limits.clone()),
            options,
            buffers: Buffers::default(),
        })
    }

    /// Serves a listener until the future is dropped. `name` tells listeners apart: they never share a circuit.
    pub async fn serve(
        self: Arc<Self>,
        listener: LocalListener,
        name: String,
        doors: Arc<dyn UdpDoors>,
    ) {
        let door = Arc::new(Door { name, doors });
        // Dropped with this future, and its connections with it.
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => {
                        let (server, door) = (Arc::clone(&self), Arc::clone(&door));
                        sessions.spawn(session::run(server, door, accepted));
                    }
                    Err(error) => {
                        warn!(kind = %error.kind(), "a connection of a program could not be taken");
                        self.doorkeeper.make_room();
                        tokio::time::sleep(ACCEPT_REST).await;
                    }
                },
                Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            }
        }
    }

    /// Connections that have not said what they want, connections that are served, and UDP associations.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.doorkeeper.counts()
    }

    /// Whether a client may come in with what it says of itself.
    fn admits(&self, user: Option<&Credentials>) -> bool {
        let Some((name, password)) = &self.options.password else {
            return true;
        };
        let Some(user) = user else {
            return false;
        };
        let said = user.user.expose();
        let plain = match said.strip_prefix(name.as_bytes()) {
            Some([]) => true,
            Some([first, ..]) => *first == ISOLATES,
            None => false,
        };
        // Hashes are compared in constant time, so the time tells nothing of a password that is nearly right.
        plain & (blake3::hash(user.password.expose()) == blake3::hash(password.as_bytes()))
    }

    /// Whom a stream belongs to: the listener, and the user name and password where there are any. The protocol does not
    /// matter.
    fn isolation(&self, listener: &str, user: Option<&Credentials>) -> Isolation {
        let mut owner = Vec::new();
        let mut put = |part: &[u8]| {
            owner.extend_from_slice(&(part.len() as u64).to_be_bytes());
            owner.extend_from_slice(part);
        };
        put(listener.as_bytes());
        if let Some(user) = user {
            put(user.user.expose());
            put(user.password.expose());
        }
        Isolation::new("socks", &owner, 0)
    }
}
