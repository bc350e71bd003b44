//! Capabilities to reach the network. Sockets and name resolution live in [`os`] alone; who holds none of the values
//! made here can't send a packet.

pub mod dns;
pub mod mem;
pub mod os;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use hushswarm_circuits::relay_list::{Descriptor, LinkService};
use hushswarm_circuits::target::Target;
use tokio::io::{AsyncRead, AsyncWrite};

use self::os::LocalUdp;

/// A boxed future, so that capabilities can be trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A byte stream to somebody.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the drop that follows tell the other side that something is missing, where dropping alone would look like
    /// an end.
    fn reset_on_drop(&mut self) {}
}

/// A boxed [`ByteStream`].
pub type BoxStream = Box<dyn ByteStream>;

impl<T: ByteStream + ?Sized> ByteStream for Box<T> {
    fn reset_on_drop(&mut self) {
        (**self).reset_on_drop();
    }
}

/// A pipe in memory, as tests use it.
impl ByteStream for tokio::io::DuplexStream {}

/// Datagrams to and from anybody, as if sent by one UDP socket far away.
pub trait Datagrams: Send + Sync {
    /// Queues one datagram; a full queue drops the oldest, as a network would.
    ///
    /// # Errors
    /// The flow has ended: open a new one.
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()>;

    /// Queues several, which then leave together.
    ///
    /// # Errors
    /// As [`Datagrams::send`]; one that can't be sent is lost and the others go on.
    fn send_many<'a>(
        &self,
        datagrams: &mut dyn Iterator<Item = (&'a Target, &'a [u8])>,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for (to, payload) in datagrams {
            if let Err(error) = self.send(to, payload) {
                result = Err(error);
            }
        }
        result
    }

    /// Waits for the next datagram and who sent it.
    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>>;

    /// Waits for the next datagram, and puts it and those that came with it behind what is in `into`: at most
    /// [`MANY_DATAGRAMS`].
    fn recv_many<'a>(
        &'a self,
        into: &'a mut Vec<(Target, Vec<u8>)>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            into.push(self.recv().await?);
            Ok(())
        })
    }
}

/// Datagrams that are worked in one go: as many small ones as two cells carry, and not so many that others wait long.
pub const MANY_DATAGRAMS: usize = 64;

/// Makes the near ends of UDP associations: sockets that programs of this computer send datagrams to.
pub trait UdpDoors: Send + Sync {
    /// Opens a socket at the address that a program reached us at.
    ///
    /// # Errors
    /// As the system says: refuse the association.
    fn open(&self, beside: IpAddr) -> BoxFuture<'_, io::Result<LocalUdp>>;
}

/// Doors on this computer itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpHere;

impl UdpDoors for UdpHere {
    fn open(&self, beside: IpAddr) -> BoxFuture<'_, io::Result<LocalUdp>> {
        Box::pin(async move { LocalUdp::beside(beside) })
    }
}

/// The reading and the writing half of a connection that a link runs over.
pub struct Transport {
    /// Bytes from the neighbour.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes to the neighbour; vectored writes pay here.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Where a relay takes links, as the signed relay list says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An address.
    Address(SocketAddr),
    /// An onion service of Tor.
    Onion(LinkService),
}

/// The addresses at which a relay takes links.
pub fn addresses(relay: &Descriptor) -> Vec<Place> {
    let addresses = relay.addresses.iter();
    addresses.copied().map(Place::Address).collect()
}

/// Opens connections to relays, and to nothing else.
pub trait RelayDialer: Send + Sync {
    /// The places at which it tries to reach a relay, best first.
    fn places(&self, relay: &Descriptor) -> Vec<Place> {
        addresses(relay)
    }

    /// Connects to one of a relay's places from the signed relay list.
    ///
    /// # Errors
    /// Nobody answered there: another place or relay may do. With [`io::ErrorKind::NetworkDown`], the way to all relays is
    /// missing, which says nothing of this one: tell the user the error, which names no address.
    fn dial<'a>(
        &'a self,
        relay: &'a Descriptor,
        place: Place,
    ) -> BoxFuture<'a, io::Result<Transport>>;

    /// How the way to relays is.
    fn way(&self) -> Way {
        Way::Straight
    }
}

/// The way to relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Connections of this computer's own: a relay that does not answer is to blame itself.
    Straight,
    /// Through others, who are slower, and may themselves be why a relay does not answer.
    Through {
        /// What they wait for before anything can be reached, for people; it names no address.
        waits_for: Option<String>,
    },
}
