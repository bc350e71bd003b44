//! One connection of a program: what it says, what it is told, and then its bytes.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{Host, HostName, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use super::http::{self, BadHead, Wish};
use super::reply::{self, Code};
use super::request::{
    self, BadRequest, Credentials, METHOD_NONE, METHOD_PASSWORD, METHOD_REFUSED, Protocol, Request,
};
use super::{Door, Server, association};
use crate::net::os::Accepted;
use crate::route::carry::carry;
use crate::route::{BoxStream, RouteError};

/// Bytes read at once while a program says what it wants.
const READ: usize = 2048;
/// Bytes that a program may send before its stream is open.
const MAX_EARLY: usize = 64 * 1024;
/// Time for a last answer to leave.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a connection ended before it was served.
#[derive(Debug)]
enum Ended {
    /// The program went, or broke off.
    Gone,
    /// It was told why.
    Told(Vec<u8>),
    /// Nothing is said to what speaks no such protocol.
    Silent,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// How answers are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Socks4,
    Socks5,
    Http,
}

impl Dialect {
    fn granted(self) -> Vec<u8> {
        match self {
            Self::Socks4 => reply::socks4_granted(std::net::Ipv4Addr::UNSPECIFIED).to_vec(),
            Self::Socks5 => reply::socks5(Code::Granted),
            Self::Http => http::CONNECTED.to_vec(),
        }
    }

    fn refused(self, error: &RouteError) -> Vec<u8> {
        match self {
            Self::Socks4 => reply::socks4_rejected().to_vec(),
            Self::Socks5 => reply::socks5(Code::from(error)),
            Self::Http => http::not_reached(error),
        }
    }

    fn busy(self) -> Vec<u8> {
        match self {
            Self::Socks4 => reply::socks4_rejected().to_vec(),
            Self::Socks5 => reply::socks5(Code::Failed),
            Self::Http => http::busy(),
        }
    }
}

/// What a program wants.
enum Wanted {
    Socks(Request),
    Forward(http::Forward),
}

struct Asked {
    dialect: Dialect,
    wanted: Wanted,
    user: Option<Credentials>,
}

/// A connection and what was read of it and not used.
struct Talk {
    stream: BoxStream,
    held: Vec<u8>,
}

impl Talk {
    /// Reads more; at most so many bytes are held.
    async fn fill(&mut self, limit: usize) -> Result<(), Ended> {
        let room = limit.saturating_sub(self.held.len()).min(READ);
        if room == 0 {
            return Err(Ended::Silent);
        }
        self.held.reserve(room);
        let mut limited = (&mut self.stream).take(room as u64);
        match limited.read_buf(&mut self.held).await? {
            0 => Err(Ended::Gone),
            _ => Ok(()),
        }
    }

    /// Reads until `parse` has what it wants.
    async fn next<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> request::Parsed<T>,
        refuse: impl Fn(BadRequest) -> Ended,
    ) -> Result<T, Ended> {
        loop {
            match parse(&self.held) {
                Ok(Some((found, used))) => {
                    self.held.drain(..used);
                    return Ok(found);
                }
                Ok(None) => self.fill(request::MAX_REQUEST).await?,
                Err(bad) => return Err(refuse(bad)),
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        Ok(self.stream.write_all(bytes).await?)
    }
}

/// Serves one connection to its end.
pub(super) async fn run(server: Arc<Server>, door: Arc<Door>, accepted: Accepted) {
    let from = accepted.from.map(|addr| addr.ip());
    let newcomer = server.doorkeeper.enter(from);
    let mut talk = Talk {
        stream: accepted.stream,
        held: Vec::new(),
    };
    let asked = tokio::select! {
        biased;
        () = newcomer.must_leave() => Err(Ended::Silent),
        asked = timeout(server.doorkeeper.limits().handshake, ask(&server, &mut talk)) => {
            asked.unwrap_or(Err(Ended::Silent))
        }
    };
    let (talk, ended) = match asked {
        Err(ended) => (talk, ended),
        Ok(asked) => match server.doorkeeper.seat(from) {
            None => (talk, Ended::Told(asked.dialect.busy())),
            Some(_seat) => {
                drop(newcomer);
                let ends = Ends {
                    from,
                    to: accepted.to,
                };
                if let Err((talk, ended)) = serve(&server, &door, talk, asked, ends).await {
                    farewell(talk, ended).await;
                }
                return;
            }
        },
    };
    tokio::select! {
        () = newcomer.must_leave() => {}
        () = farewell(talk, ended) => {}
    }
}

/// Says a last thing, where there is one.
async fn farewell(mut talk: Talk, ended: Ended) {
    let Ended::Told(said) = ended else { return };
    let _ = timeout(FAREWELL, async {
        talk.stream.write_all(&said).await?;
        talk.stream.shutdown().await?;
        // Closing with bytes unread would send a reset, which can overtake the answer.
        let mut rest = (&mut talk.stream).take(MAX_EARLY as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    })
    .await;
}

async fn ask(server: &Server, talk: &mut Talk) -> Result<Asked, Ended> {
    talk.fill(request::MAX_REQUEST).await?;
    let first = talk.held.first().copied().unwrap_or_default();
    match Protocol::of(first).ok_or(Ended::Silent)? {
        Protocol::Socks4 => ask_socks4(server, talk).await,
        Protocol::Socks5 => ask_socks5(server, talk).await,
        Protocol::Http => ask_http(server, talk).await,
    }
}

async fn ask_socks4(server: &Server, talk: &mut Talk) -> Result<Asked, Ended> {
    let rejected = |_| Ended::Told(reply::socks4_rejected().to_vec());
    let (request, user) = talk.next(request::socks4, rejected).await?;
    // Without a way to give a password, nobody can show who they are.
    if server.options.password.is_some() {
        return Err(Ended::Told(reply::socks4_wrong_user().to_vec()));
    }
    let named = !user.user.expose().is_empty();
    Ok(Asked {
        dialect: Dialect::Socks4,
        wanted: Wanted::Socks(request),
        user: named.then_some(user),
    })
}

async fn ask_socks5(server: &Server, talk: &mut Talk) -> Result<Asked, Ended> {
    let offered = talk.next(request::methods, |_| Ended::Silent).await?;
    let method = [METHOD_PASSWORD, METHOD_NONE]
        .into_iter()
        .filter(|method| *method == METHOD_PASSWORD || server.options.password.is_none())
        .find(|method| offered.contains(method));
    let Some(method) = method else {
        return Err(Ended::Told(reply::method(METHOD_REFUSED).to_vec()));
    };
    talk.say(&reply::method(method)).await?;
    let mut user = None;
    if method == METHOD_PASSWORD {
        let wrong = |_: BadRequest| Ended::Told(reply::password(false).to_vec());
        let said = talk.next(request::password, wrong).await?;
        if !server.admits(Some(&said)) {
            return Err(wrong(BadRequest::Version));
        }
        talk.say(&reply::password(true)).await?;
        user = Some(said);
    }
    let refused = |bad: BadRequest| Ended::Told(reply::socks5(Code::from(bad)));
    let request = talk.next(request::socks5, refused).await?;
    Ok(Asked {
        dialect: Dialect::Socks5,
        wanted: Wanted::Socks(request),
        user,
    })
}

async fn ask_http(server: &Server, talk: &mut Talk) -> Result<Asked, Ended> {
    let refused = |bad| Ended::Told(http::bad_head(bad));
    let mut seen = 0;
    let (head, used) = loop {
        // Looked at once, when its end is there: not for every byte that a slow client sends.
        if http::is_complete(&talk.held, seen)
            && let Some(found) = http::parse(&talk.held).map_err(refused)?
        {
            break found;
        }
        if talk.held.len() >= http::MAX_HEAD {
            return Err(refused(BadHead::TooLarge));
        }
        seen = talk.held.len();
        talk.fill(http::MAX_HEAD).await?;
    };
    talk.held.drain(..used);
    if !server.admits(head.user.as_ref()) {
        return Err(Ended::Told(http::password_wanted()));
    }
    let wanted = match head.wish {
        Wish::Connect(target) => Wanted::Socks(Request::Connect(target)),
        Wish::Forward(forward) => Wanted::Forward(forward),
    };
    Ok(Asked {
        dialect: Dialect::Http,
        wanted,
        user: head.user,
    })
}

/// Where a connection comes from and where it came to; `None` on a Unix socket.
struct Ends {
    from: Option<IpAddr>,
    to: Option<SocketAddr>,
}

async fn serve(
    server: &Server,
    door: &Door,
    mut talk: Talk,
    asked: Asked,
    ends: Ends,
) -> Result<(), (Talk, Ended)> {
    let isolation = server.isolation(&door.name, asked.user.as_ref());
    let dialect = asked.dialect;
    let done = match asked.wanted {
        Wanted::Socks(Request::Connect(target)) => {
            connect(server, &mut talk, &target, dialect, isolation).await
        }
        Wanted::Forward(forward) => {
            let opened = open(server, &mut talk, &forward.target, dialect, isolation).await;
            match opened {
                Ok(far) => return forward_request(server, talk, far, forward).await,
                Err(ended) => Err(ended),
            }
        }
        Wanted::Socks(Request::Associate(port)) => {
            let begun = associate(server, door, &mut talk, port, ends).await;
            match begun {
                Ok(begun) => {
                    let Talk { stream, .. } = talk;
                    association::run(stream, begun, &server.outside, isolation).await;
                    return Ok(());
                }
                Err(ended) => Err(ended),
            }
        }
        Wanted::Socks(Request::Resolve(host)) => {
            Err(resolve(server, &mut talk, &host, dialect, isolation).await)
        }
        Wanted::Socks(Request::ResolvePtr(ip)) => {
            Err(resolve_ptr(server, &mut talk, ip, isolation).await)
        }
    };
    match done {
        Ok(far) => {
            let Talk { stream, held } = talk;
            let carried = carry(stream, far, held, &server.buffers).await;
            debug!(ok = carried.is_ok(), "stream ended");
            Ok(())
        }
        Err(ended) => Err((talk, ended)),
    }
}

/// Waits for `work` while the program is there. What it sends meanwhile is kept, up to [`MAX_EARLY`] bytes.
async fn while_there<T>(talk: &mut Talk, work: impl Future<Output = T>) -> Result<T, Ended> {
    let mut work = std::pin::pin!(work);
    loop {
        let listening = talk.held.len() < MAX_EARLY;
        let heard = async {
            if listening {
                talk.fill(MAX_EARLY).await
            } else {
                pending().await
            }
        };
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            heard = heard => match heard {
                Ok(()) => {}
                // It has said everything, and now only waits.
                Err(Ended::Gone) if !talk.held.is_empty() => return Ok(work.await),
                Err(ended) => return Err(ended),
            },
        }
    }
}

async fn open(
    server: &Server,
    talk: &mut Talk,
    target: &Target,
    dialect: Dialect,
    isolation: Isolation,
) -> Result<BoxStream, Ended> {
    let opened = if target.port == 0 {
        // No connection can be made to this port.
        Err(RouteError::Refused)
    } else {
        while_there(talk, server.outside.connect(target, isolation)).await?
    };
    opened.map_err(|error| {
        debug!(%error, "stream not opened");
        Ended::Told(dialect.refused(&error))
    })
}

async fn connect(
    server: &Server,
    talk: &mut Talk,
    target: &Target,
    dialect: Dialect,
    isolation: Isolation,
) -> Result<BoxStream, Ended> {
    let far = open(server, talk, target, dialect, isolation).await?;
    talk.say(&dialect.granted()).await?;
    Ok(far)
}

/// Sends one request on, with no more than its content, and carries the answer back.
async fn forward_request(
    server: &Server,
    talk: Talk,
    far: BoxStream,
    forward: http::Forward,
) -> Result<(), (Talk, Ended)> {
    let Talk { stream, held } = talk;
    let content = usize::try_from(forward.content).unwrap_or(usize::MAX);
    if held.len() > content {
        // A second request, which may be for another server: it would go to the wrong one.
        let talk = Talk {
            stream,
            held: Vec::new(),
        };
        return Err((talk, Ended::Told(http::bad_head(BadHead::Malformed))));
    }
    let left = forward.content - held.len() as u64;
    let mut early = forward.head;
    early.extend_from_slice(&held);
    let near = Box::new(super::once::Once::new(stream, left));
    let carried = carry(near, far, early, &server.buffers).await;
    debug!(ok = carried.is_ok(), "request ended");
    Ok(())
}

async fn associate(
    server: &Server,
    door: &Door,
    talk: &mut Talk,
    port: Option<u16>,
    ends: Ends,
) -> Result<association::Begun, Ended> {
    let refused = |code| Ended::Told(reply::socks5(code));
    if !server.outside.carries_datagrams() {
        return Err(refused(Code::Command));
    }
    // A Unix socket does not say whose datagrams would be the client's.
    let (Some(client), Some(to)) = (ends.from, ends.to) else {
        return Err(refused(Code::Command));
    };
    let place = server.doorkeeper.association();
    let place = place.ok_or_else(|| refused(Code::Failed))?;
    let opened = door.doors.open(to.ip()).await;
    let bound = opened.and_then(|socket| Ok((socket.local_addr()?, socket)));
    let Ok((addr, socket)) = bound else {
        return Err(refused(Code::Failed));
    };
    talk.say(&reply::socks5_bound(Code::Granted, addr)).await?;
    Ok(association::Begun {
        socket,
        client: client.to_canonical(),
        port,
        place,
    })
}

async fn resolve(
    server: &Server,
    talk: &mut Talk,
    host: &Host,
    dialect: Dialect,
    isolation: Isolation,
) -> Ended {
    let found = match host {
        // An address is its own answer; nobody has to be asked.
        Host::Ip(ip) => Ok(vec![*ip]),
        Host::Name(name) => {
            let asking = server.outside.resolve(name, isolation);
            match while_there(talk, asking).await {
                Ok(found) => found,
                Err(ended) => return ended,
            }
        }
    };
    let ips = match found {
        Ok(ips) => ips,
        Err(error) => return Ended::Told(dialect.refused(&error)),
    };
    // Programs that ask like this mostly know IPv4 alone.
    let v4 = ips.iter().find_map(|ip| match ip.to_canonical() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let nothing = || dialect.refused(&RouteError::NameNotFound);
    Ended::Told(match (dialect, v4, ips.first()) {
        (Dialect::Socks4, Some(ip), _) => reply::socks4_granted(ip).to_vec(),
        (Dialect::Socks5, Some(ip), _) => {
            reply::socks5_bound(Code::Granted, SocketAddr::new(ip.into(), 0))
        }
        (Dialect::Socks5, None, Some(ip)) => {
            reply::socks5_bound(Code::Granted, SocketAddr::new(*ip, 0))
        }
        (Dialect::Socks4 | Dialect::Socks5 | Dialect::Http, _, _) => nothing(),
    })
}

async fn resolve_ptr(server: &Server, talk: &mut Talk, ip: IpAddr, isolation: Isolation) -> Ended {
    let asking = server.outside.resolve_ptr(ip, isolation);
    let found: Result<HostName, RouteError> = match while_there(talk, asking).await {
        Ok(found) => found,
        Err(ended) => return ended,
    };
    Ended::Told(match found {
        Ok(name) => reply::socks5_named(name),
        Err(error) => Dialect::Socks5.refused(&error),
    })
}
