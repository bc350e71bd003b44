//! A way out whose answers are written in a script, served by a real [`Server`] on a real listener; it writes down what
//! it was asked, and by whom.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_types
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hushswarm::net::os::LocalListener;
use hushswarm::net::{BoxFuture, BoxStream, Datagrams, UdpHere};
use hushswarm::route::{Outside, RouteError};
use hushswarm::socks::{Options, Server};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{Host, HostName, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

/// What a stream was opened for: host, port, isolation.
pub type Asked = (String, u16, Isolation);
/// What goes back to a program; `None` ends the flow.
pub type Back = Option<(Target, Vec<u8>)>;
/// Serves one stream.
pub type Serve = dyn Fn(DuplexStream) + Send + Sync;

/// Says whether a stream is opened.
pub type Connect = dyn Fn(&Target) -> Result<(), RouteError> + Send + Sync;

/// The way out.
pub struct Script {
    /// Opens a stream, or says why not.
    pub connect: Box<Connect>,
    pub serve: Box<Serve>,
    pub asked: Mutex<Vec<Asked>>,
    /// Flows opened, each with its isolation.
    pub flows: Mutex<Vec<(Isolation, mpsc::UnboundedSender<Back>)>>,
    /// Datagrams sent by programs.
    pub sent: Mutex<Vec<(Target, Vec<u8>)>>,
    /// Flows that can't be opened yet.
    pub flow_failures: Mutex<usize>,
}

impl Script {
    /// Every stream is opened and served like this.
    pub fn new(serve: impl Fn(DuplexStream) + Send + Sync + 'static) -> Self {
        Self {
            connect: Box::new(|_| Ok(())),
            serve: Box::new(serve),
            asked: Mutex::default(),
            flows: Mutex::default(),
            sent: Mutex::default(),
            flow_failures: Mutex::default(),
        }
    }

    /// Sends back what comes; ends when its peer has ended.
    pub fn echo() -> Self {
        Self::new(|stream| {
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(stream);
                if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                    let _ = to.shutdown().await;
                }
            });
        })
    }

    /// A web server whose answer is the request's head.
    pub fn web() -> Self {
        Self::new(|mut stream| {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let length = head.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.write_all(&head).await;
                let _ = stream.shutdown().await;
                // Until its peer has ended too.
                let _ = stream.read_to_end(&mut head).await;
            });
        })
    }

    /// The port says what comes of it: 1 to 7 as listed here, every other opens.
    pub fn with_failures(mut self) -> Self {
        self.connect = Box::new(|target| match target.port {
            1 => Err(RouteError::CircuitLost),
            2 => Err(RouteError::Refused),
            3 => Err(RouteError::NoCircuit("none".into())),
            4 => Err(RouteError::Unreachable),
            5 => Err(RouteError::ConnectionRefused),
            6 => Err(RouteError::TimedOut),
            7 => Err(RouteError::NameNotFound),
            _ => Ok(()),
        });
        self
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn host(target: &Target) -> String {
    match &target.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.as_str().to_owned(),
    }
}

/// What every name is, to this way out.
pub const ADDRESS: [u8; 4] = [203, 0, 113, 7];

impl Outside for Script {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let asked = (host(target), target.port, isolation);
        self.asked.lock().unwrap().push(asked);
        Box::pin(async move {
            (self.connect)(target)?;
            let (near, far) = tokio::io::duplex(64 << 10);
            (self.serve)(far);
            Ok(Box::new(near) as BoxStream)
        })
    }

    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async move {
            {
                let mut failures = self.flow_failures.lock().unwrap();
                if *failures > 0 {
                    *failures -= 1;
                    return Err(RouteError::CircuitLost);
                }
            }
            let (sender, receiver) = mpsc::unbounded_channel();
            self.flows.lock().unwrap().push((isolation, sender.clone()));
            let flow = Flow {
                back: sender,
                receiver: tokio::sync::Mutex::new(receiver),
                ended: Mutex::new(false),
            };
            Ok(Box::new(flow) as Box<dyn Datagrams>)
        })
    }

    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        let asked = (format!("?{}", name.as_str()), 0, isolation);
        self.asked.lock().unwrap().push(asked);
        let missing = name.as_str().starts_with("missing");
        Box::pin(async move {
            if missing {
                return Err(RouteError::NameNotFound);
            }
            Ok(vec!["2001:db8::7".parse().unwrap(), ADDRESS.into()])
        })
    }

    fn resolve_ptr(&self, _: IpAddr, _: Isolation) -> BoxFuture<'_, Result<HostName, RouteError>> {
        Box::pin(async { Ok(HostName::new("seven.example").unwrap()) })
    }
}

/// A flow that sends back whatever is sent; `None` in its queue ends it.
struct Flow {
    back: mpsc::UnboundedSender<Back>,
    receiver: tokio::sync::Mutex<mpsc::UnboundedReceiver<Back>>,
    ended: Mutex<bool>,
}

impl Datagrams for Flow {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        if *self.ended.lock().unwrap() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let _ = self.back.send(Some((to.clone(), payload.to_vec())));
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(async move {
            match self.receiver.lock().await.recv().await {
                Some(Some(datagram)) => Ok(datagram),
                _ => {
                    *self.ended.lock().unwrap() = true;
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
            }
        })
    }
}

/// Serves a way out on loopback; gives where.
pub fn serve(outside: &Arc<Script>, options: Options) -> (SocketAddr, Arc<Server>) {
    let server = Server::new(Arc::clone(outside) as Arc<dyn Outside>, options);
    let at = listen(&server);
    (at, server)
}

/// One more listener of a server.
pub fn listen(server: &Arc<Server>) -> SocketAddr {
    let listener = LocalListener::loopback("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = listener.local_addr().unwrap().unwrap();
    tokio::spawn(Arc::clone(server).serve(listener, at.to_string(), Arc::new(UdpHere)));
    at
}
