//! A network in memory, for tests: listeners by address, connections as pipes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use hushswarm_circuits::relay_list::Descriptor;

use super::{BoxFuture, Place, RelayDialer, Transport};

/// Bytes that a pipe holds before its writer waits.
const PIPE: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

type Listeners = Arc<Mutex<HashMap<SocketAddr, mpsc::Sender<(Transport, SocketAddr)>>>>;

/// Hosts that can reach one another and nobody else. Clones are the same network, seen from another address.
#[derive(Clone)]
pub struct MemNet {
    listeners: Listeners,
    own: SocketAddr,
}

impl MemNet {
    /// Makes an empty network, seen from `own`.
    pub fn new(own: SocketAddr) -> Self {
        Self {
            listeners: Listeners::default(),
            own,
        }
    }

    /// The same network, seen from another address.
    pub fn at(&self, own: SocketAddr) -> Self {
        Self {
            listeners: Arc::clone(&self.listeners),
            own,
        }
    }

    /// Listens on an address; what connects there comes out of the receiver with the address it came from.
    pub fn listen(&self, addr: SocketAddr) -> mpsc::Receiver<(Transport, SocketAddr)> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(addr, sender);
        receiver
    }

    /// Two ends of one connection.
    pub fn pair() -> (Transport, Transport) {
        let (a, b) = tokio::io::duplex(PIPE);
        (split(a), split(b))
    }
}

fn split(stream: tokio::io::DuplexStream) -> Transport {
    let (reader, writer) = tokio::io::split(stream);
    Transport {
        reader: Box::new(reader),
        writer: Box::new(writer),
    }
}

impl RelayDialer for MemNet {
    fn dial<'a>(&'a self, _: &'a Descriptor, place: Place) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            let Place::Address(addr) = place else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            let listener = self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&addr)
                .cloned();
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let (ours, theirs) = Self::pair();
            listener
                .ok_or_else(refused)?
                .send((theirs, self.own))
                .await
                .map_err(|_| refused())?;
            Ok(ours)
        })
    }
}
