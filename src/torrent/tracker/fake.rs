//! A world for tests: trackers behind in-memory streams and datagrams, and a record of who was asked.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::{Arc, Mutex};

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use crate::torrent::infohash::InfoHash;
use crate::torrent::tracker::announce::{AnnounceRequest, NO_PORT};

/// What a tracker does after the head of a request.
pub(in crate::torrent) enum Answer {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends these bytes, then zeros as long as anybody reads.
    Endless(Vec<u8>),
    /// Says nothing.
    Silence,
}

pub(in crate::torrent) fn ok(body: impl AsRef<[u8]>) -> Answer {
    Answer::Bytes([b"HTTP/1.1 200 OK\r\n\r\n", body.as_ref()].concat())
}

pub(in crate::torrent) fn redirect(location: &str) -> Answer {
    Answer::Bytes(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n").into_bytes())
}

type OnRequest = dyn Fn(&Target, &str) -> Answer + Send + Sync;
type OnDatagram = dyn Fn(&Target, &[u8]) -> Vec<(Target, Vec<u8>)> + Send + Sync;

/// What was asked: `GET` heads or datagrams, each with its target.
type Asked = Arc<Mutex<Vec<(Target, Vec<u8>)>>>;

pub(in crate::torrent) struct World {
    on_request: Arc<OnRequest>,
    on_datagram: Arc<OnDatagram>,
    tls: Option<TlsAcceptor>,
    pub(in crate::torrent) asked: Asked,
    /// How each TLS connection began.
    pub(in crate::torrent) handshakes: Arc<Mutex<Vec<HandshakeKind>>>,
}

impl World {
    pub(in crate::torrent) fn http(
        on_request: impl Fn(&Target, &str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self {
            on_request: Arc::new(on_request),
            on_datagram: Arc::new(|_, _| Vec::new()),
            tls: None,
            asked: Asked::default(),
            handshakes: Arc::default(),
        }
    }

    pub(in crate::torrent) fn udp(
        on_datagram: impl Fn(&Target, &[u8]) -> Vec<(Target, Vec<u8>)> + Send + Sync + 'static,
    ) -> Self {
        let mut world = Self::http(|_, _| Answer::Silence);
        world.on_datagram = Arc::new(on_datagram);
        world
    }

    /// All connections speak TLS.
    pub(in crate::torrent) fn with_tls(mut self, acceptor: TlsAcceptor) -> Self {
        self.tls = Some(acceptor);
        self
    }

    pub(in crate::torrent) fn targets(&self) -> Vec<Target> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|(target, _)| target.clone())
            .collect()
    }
}

/// Who says that [`secure`] is `tracker.example`.
pub(in crate::torrent) fn root() -> CertificateDer<'static> {
    CertificateDer::from_slice(include_bytes!("testdata/root.der"))
}

/// Servers that all speak TLS, with the certificate of `tracker.example`.
pub(in crate::torrent) fn secure(answer: fn(&Target, &str) -> Answer) -> World {
    let chain = vec![CertificateDer::from_slice(include_bytes!(
        "testdata/server.der"
    ))];
    let key = PrivateKeyDer::try_from(&include_bytes!("testdata/server-key.der")[..]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    World::http(answer).with_tls(TlsAcceptor::from(Arc::new(config)))
}

pub(in crate::torrent) fn target(host: &str, port: u16) -> Target {
    Target::parse(host, port).unwrap()
}

pub(in crate::torrent) fn isolation() -> Isolation {
    Isolation::new("tracker", b"test", 0)
}

pub(in crate::torrent) fn request() -> AnnounceRequest {
    AnnounceRequest {
        hash: InfoHash(*b"\x00\x01\x20%&=+/azAZ09-._~\xfe\xff"),
        peer_id: [0x2e; 20],
        event: None,
        uploaded: 0,
        downloaded: 70 << 20,
        left: 1,
        key: 0xab,
        numwant: 80,
        port: NO_PORT,
        onion: None,
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    target: Target,
    on_request: Arc<OnRequest>,
    asked: Asked,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let answer = on_request(&target, std::str::from_utf8(&head).unwrap());
    asked.lock().unwrap().push((target, head));
    match answer {
        Answer::Bytes(bytes) => stream.write_all(&bytes).await?,
        Answer::Endless(bytes) => {
            stream.write_all(&bytes).await?;
            loop {
                stream.write_all(&[b'0'; 4096]).await?;
            }
        }
        Answer::Silence => std::future::pending().await,
    }
    stream.shutdown().await
}

impl Outside for World {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let (near, far) = tokio::io::duplex(16 << 10);
        let (target, on_request) = (target.clone(), self.on_request.clone());
        let (asked, tls) = (self.asked.clone(), self.tls.clone());
        let handshakes = self.handshakes.clone();
        tokio::spawn(async move {
            match tls {
                None => serve(far, target, on_request, asked).await,
                Some(tls) => {
                    let stream = tls.accept(far).await?;
                    let kind = stream.get_ref().1.handshake_kind().unwrap();
                    handshakes.lock().unwrap().push(kind);
                    serve(stream, target, on_request, asked).await
                }
            }
        });
        Box::pin(async { Ok(Box::new(near) as BoxStream) })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        let (replies, inbox) = mpsc::channel(64);
        let flow = Flow {
            on_datagram: self.on_datagram.clone(),
            asked: self.asked.clone(),
            replies,
            inbox: tokio::sync::Mutex::new(inbox),
        };
        Box::pin(async { Ok(Box::new(flow) as Box<dyn Datagrams>) })
    }
}

struct Flow {
    on_datagram: Arc<OnDatagram>,
    asked: Asked,
    replies: mpsc::Sender<(Target, Vec<u8>)>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<(Target, Vec<u8>)>>,
}

impl Datagrams for Flow {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        self.asked
            .lock()
            .unwrap()
            .push((to.clone(), payload.to_vec()));
        for reply in (self.on_datagram)(to, payload) {
            self.replies.try_send(reply).unwrap();
        }
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(async {
            let received = self.inbox.lock().await.recv().await;
            received.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        })
    }
}
