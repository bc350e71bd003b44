//! `--publish`: a port of loopback outside leads to a port of loopback inside, so that a client's web page can be used.
//! Nothing else of the jail becomes reachable, and nobody but programs of this computer can reach it. That a web page
//! elsewhere can't make a browser ask there (DNS rebinding) is for the program inside to see to, by looking at `Host`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::debug;

use crate::net::os::LocalListener;
use crate::net::{BoxFuture, BoxStream, ByteStream};
use crate::route::carry::{Buffers, carry};

/// Connections into the jail at once, by one published port. More wait in the kernel.
const MAX_CONNECTIONS: usize = 256;
/// How long to wait when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(200);

/// What is published: `[ADDRESS:]PORT[:INSIDE]`. The address is a loopback one (127.0.0.1 where none is given), the port
/// inside the same where none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where to listen, outside.
    pub outside: SocketAddr,
    /// The port of loopback inside.
    pub inside: u16,
}

/// Not something that can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The text is something else.
    #[error("not [ADDRESS:]PORT[:PORT-INSIDE]")]
    Malformed,
    /// Other computers could connect.
    #[error("only a loopback address can be published on")]
    NotLoopback,
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let malformed = PublishError::Malformed;
        let port = |text: &str| {
            // A sign would be taken, too.
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let port = text.parse().ok().filter(|port: &u16| digits && *port > 0);
            port.ok_or(malformed)
        };
        // An IPv6 address stands in brackets.
        let (ip, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (ip, ports) = rest.split_once("]:").ok_or(malformed)?;
                (Some(IpAddr::V6(ip.parse().map_err(|_| malformed)?)), ports)
            }
            None => match text.split_once(':') {
                Some((ip, ports)) if ip.contains('.') => {
                    (Some(IpAddr::V4(ip.parse().map_err(|_| malformed)?)), ports)
                }
                _ => (None, text),
            },
        };
        let ip = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
        if !ip.is_loopback() {
            return Err(PublishError::NotLoopback);
        }
        let (outside, inside) = ports.split_once(':').unwrap_or((ports, ports));
        Ok(Self {
            outside: SocketAddr::new(ip, port(outside)?),
            inside: port(inside)?,
        })
    }
}

/// Connects to ports of loopback inside a jail.
pub trait Inward: Send + Sync + 'static {
    /// Connects to a port.
    ///
    /// # Errors
    /// Nobody listens there, or the jail is gone.
    fn connect(&self, port: u16) -> BoxFuture<'_, io::Result<BoxStream>>;
}

#[cfg(target_os = "linux")]
impl Inward for super::Warden {
    fn connect(&self, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(Self::connect(self, port))
    }
}

/// Leads what connects to the listener to a port inside, until the future is dropped.
pub async fn publish(listener: LocalListener, jail: Arc<dyn Inward>, port: u16) {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let buffers = Buffers::default();
    loop {
        while connections.try_join_next().is_some() {}
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let mut near = match listener.accept().await {
            Ok(accepted) => accepted.stream,
            Err(error) => {
                debug!(kind = %error.kind(), "no connection accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (jail, buffers) = (Arc::clone(&jail), buffers.clone());
        connections.spawn(async move {
            let _place = place;
            match jail.connect(port).await {
                Ok(far) => {
                    let carried = carry(near, far, Vec::new(), &buffers).await;
                    debug!(ok = carried.is_ok(), "published stream ended");
                }
                Err(error) => {
                    debug!(kind = %error.kind(), "nobody listens at a published port");
                    near.reset_on_drop();
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_published_on() {
        let good = |text: &str| {
            let publish: Publish = text.parse().unwrap();
            (publish.outside.to_string(), publish.inside)
        };
        assert_eq!(good("8080"), ("127.0.0.1:8080".to_owned(), 8080));
        assert_eq!(good("8081:8080"), ("127.0.0.1:8081".to_owned(), 8080));
        assert_eq!(good("127.0.0.2:1:2"), ("127.0.0.2:1".to_owned(), 2));
        assert_eq!(good("[::1]:8080"), ("[::1]:8080".to_owned(), 8080));
        for (bad, why) in [
            ("0.0.0.0:8080:8080", PublishError::NotLoopback),
            ("192.168.1.2:8080", PublishError::NotLoopback),
            ("[::]:8080", PublishError::NotLoopback),
            ("[::ffff:127.0.0.1]:80", PublishError::NotLoopback),
            ("", PublishError::Malformed),
            ("0", PublishError::Malformed),
            ("+80", PublishError::Malformed),
            ("80:0", PublishError::Malformed),
            ("80:80:80", PublishError::Malformed),
            ("70000", PublishError::Malformed),
            ("localhost:80", PublishError::Malformed),
            ("127.0.0.1", PublishError::Malformed),
            ("[::1:80", PublishError::Malformed),
        ] {
            assert_eq!(bad.parse::<Publish>(), Err(why), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_taken_is_loopback_whatever_the_text(text in "[0-9a-f.:\\[\\]]{0,24}") {
            if let Ok(publish) = text.parse::<Publish>() {
                proptest::prop_assert!(publish.outside.ip().is_loopback() && publish.inside > 0);
            }
        }
    }
}
