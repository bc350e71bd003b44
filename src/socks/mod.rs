//! The front end for programs: SOCKS5, SOCKS4a and HTTP CONNECT on one port.

use std::sync::Arc;

use crate::net::UdpDoors;
use crate::net::os::LocalListener;
use crate::route::Outside;

/// How a server behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// User name and password that every client must give; without them any user name is taken, and only isolates.
    pub password: Option<(String, String)>,
}

/// Serves programs: what they ask for is opened through the given way out, and no other.
pub struct Server {
    _outside: Arc<dyn Outside>,
    _options: Options,
}

impl Server {
    /// A server that opens streams by `outside`.
    pub fn new(outside: Arc<dyn Outside>, options: Options) -> Arc<Self> {
        Arc::new(Self {
            _outside: outside,
            _options: options,
        })
    }

    /// Serves a listener until the future is dropped. `name` tells listeners apart: they never share a circuit.
    pub async fn serve(
        self: Arc<Self>,
        listener: LocalListener,
        name: String,
        doors: Arc<dyn UdpDoors>,
    ) {
        let _ = (listener, name, doors);
    }
}
