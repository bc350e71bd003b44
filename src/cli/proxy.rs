//! `hushswarm proxy`: a SOCKS and HTTP proxy for programs of this computer.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connect::{Connected, OverlayArgs};
use super::dht::DhtArgs;
use super::guests::{self, Terms, hidden_link};
use super::progress::json_line;
use super::relay::Signals;
use super::reload::on_hangup;
use super::routes::RoutesArgs;
use crate::error::{Error, Exit};
use crate::guests::tracker::Tracker;
use crate::net::UdpHere;
use crate::net::os::LocalListener;
use crate::onion::Chosen;
use crate::overlay::client::{BuildError, Status};
use crate::route::Outside;
use crate::route::gate::Gate;
use crate::socks::limits::Limits;
use crate::socks::{Options, Server};
use crate::torrent::magnet::Magnet;

/// Where programs expect a SOCKS proxy (IANA's port for SOCKS).
const DEFAULT_LISTEN: &str = "127.0.0.1:1080";
/// What an argument of `--listen` begins with when a path follows.
const UNIX: &str = "unix:";
/// Largest password file, bytes.
const MAX_PASSWORD_FILE: usize = 1024;
/// Longest user name and password, bytes (RFC 1929 §2).
const MAX_TEXT: usize = 255;

/// What who uses the tracker must know.
const ONLY_GETS: &str = "WARNING: turn off DHT, PEX, local discovery and all other trackers in the client that uses this tracker, or it tells the public of \
hidden torrents: this proxy serves whatever else it does, too. It only gets: to seed, use \"hushswarm run --tracker\"";

/// Arguments of `hushswarm proxy`.
#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on, or unix:PATH for a socket that only you can open; may be repeated, and what comes by
    /// different ones shares no circuit
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    listen: Vec<Place>,
    /// Let other computers use the proxy: needed for an address that is not loopback, and wants a password
    #[arg(long, requires = "password_file")]
    public: bool,
    /// User name that programs must give, with the password
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File whose first line is the password that programs must give; nobody else may be able to read it
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Let BitTorrent clients that use this proxy get what hidden seeds have: a tracker at this loopback address names hidden peers to
    /// them, by addresses that this proxy knows. Nobody reaches the clients: to seed, use "hushswarm run --tracker". A client's own DHT,
    /// PEX, local discovery and other trackers must be off, or they tell of the torrent
    #[arg(long, value_name = "ADDR", value_parser = tracker_at)]
    tracker: Option<SocketAddr>,
    /// Magnet link that names hidden seeds: one that any client knows is printed for it. May be repeated
    #[arg(long, value_name = "LINK", requires = "tracker", value_parser = hidden_link)]
    magnet: Vec<Magnet>,
    #[command(flatten)]
    dht: DhtArgs,
    /// Say what happens as JSON lines on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    routes: RoutesArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return if path.is_empty() {
                Err("a path is missing, as in unix:/run/user/1000/hushswarm.sock".to_owned())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let bad =
            || "an address and a port are needed, as in 127.0.0.1:1080, or unix:PATH".to_owned();
        text.parse().map(Self::Tcp).map_err(|_| bad())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(args: Args) -> Result<(), Error> {
    let password = match (&args.user, &args.password_file) {
        (Some(user), Some(file)) => Some((checked_user(user)?, read_password(file)?)),
        _ => None,
    };
    let loaded = args.routes.load()?;
    let listeners = args
        .listen
        .iter()
        .map(|place| listen(place, args.public))
        .collect::<Result<Vec<_>, _>>()?;
    let tracker = args.tracker.map(listen_for_clients).transpose()?;
    // Listened for before anybody is told that the proxy is there.
    let mut signals = Signals::new()?;
    let Connected {
        client,
        state,
        fresh: _fresh,
        ..
    } = args.overlay.connect(loaded.without(), &loaded)?;
    let say = Say { json: args.json };
    if args.overlay.hops == 1 {
        say.warn("with one hop, that relay sees both your address and whom you reach");
    }
    let options = Options {
        password,
        limits: Limits::default().for_files(raise_file_limit()),
    };
    let protected = options.password.is_some();
    let gate = loaded.gate(&client, &loaded.tor(&state), Chosen::All);
    let _reloading = on_hangup(Arc::clone(&gate), args.routes.clone(), &loaded)?;
    let mut serving = JoinSet::new();
    let mut places = Vec::new();
    let mut outside: Arc<dyn Outside> = Arc::<Gate>::clone(&gate);
    let tracker = match tracker {
        Some((listener, at)) => {
            guests::require(&client)?;
            let tracker = Tracker::new(at, guests::token(&state, "proxy")?);
            let terms = Terms {
                tracker: tracker.clone(),
                // A client here may speak to others past the proxy, who could tell that it is the same.
                hosting: None,
                dht: &args.dht,
                loaded: &loaded,
            };
            let guests = guests::guests(gate, terms);
            outside = guests.route(outside);
            serving.spawn(guests.serve(listener));
            Some(tracker)
        }
        None => None,
    };
    let server = Server::new(outside, options);
    for (listener, place) in listeners.into_iter().zip(&args.listen) {
        // The system may have chosen the port.
        let place = match listener.local_addr() {
            Ok(Some(addr)) => Place::Tcp(addr),
            _ => place.clone(),
        };
        let name = place.to_string();
        serving.spawn(Arc::clone(&server).serve(listener, name, Arc::new(UdpHere)));
        places.push(place);
    }
    say.listening(&places, protected);
    if let Some(tracker) = tracker {
        say.warn(ONLY_GETS);
        say.tracker(&tracker, &args.magnet);
    }
    tokio::select! {
        () = follow(client.status(), &say) => {}
        () = signals.stop() => {}
    }
    say.event("stopping", "stopping", json!({}));
    tokio::select! {
        () = async {
            serving.shutdown().await;
            client.close();
        } => {}
        // A second signal means now.
        () = signals.stop() => {}
    }
    Ok(())
}

/// Tells when circuits come and go, for good.
async fn follow(mut status: watch::Receiver<Status>, say: &Say) {
    loop {
        let now = status.borrow_and_update().clone();
        match now {
            Status::Connecting => {}
            // By Tor alone, as the user chose.
            Status::Unreachable(BuildError::NoRelays) => {}
            Status::Ready => say.event("ready", "circuits are ready", json!({})),
            Status::Unreachable(error) => {
                let error = error.to_string();
                let text = format!("no circuit: {error}; nothing leaves until there is one");
                say.event("unreachable", &text, json!({ "reason": error }));
            }
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn listen(place: &Place, public: bool) -> Result<LocalListener, Error> {
    let opened = match place {
        Place::Unix(path) => LocalListener::unix(path),
        Place::Tcp(addr) if addr.ip().to_canonical().is_loopback() => {
            LocalListener::loopback(*addr)
        }
        Place::Tcp(addr) if public => LocalListener::anywhere(*addr),
        Place::Tcp(addr) => {
            return Err(Error::local(format!("{addr} could be reached by other computers"))
                .with_exit(Exit::Usage)
                .with_hint("listen on 127.0.0.1, or, if others shall use the proxy: --public --user NAME --password-file FILE"));
        }
    };
    opened.map_err(|source| {
        Error::local(format!("can't listen on {place}"))
            .with_source(source)
            .with_hint("is another proxy running there? another one: --listen 127.0.0.1:9052")
    })
}

/// Listens for clients that announce; says where, since the system may have chosen the port.
fn listen_for_clients(at: SocketAddr) -> Result<(LocalListener, SocketAddr), Error> {
    LocalListener::loopback_at(at).map_err(|source| {
        Error::local(format!("can't listen on {at}"))
            .with_source(source)
            .with_hint("choose another port with --tracker 127.0.0.1:PORT")
    })
}

fn tracker_at(text: &str) -> Result<SocketAddr, String> {
    let at: Option<SocketAddr> = text.parse().ok();
    let at = at.filter(|at| at.ip().is_loopback() && (at.port() == 0 || at.port() >= 1024));
    at.ok_or_else(|| {
        "a loopback address and a port from 1024 on are needed, as in 127.0.0.1:6969".to_owned()
    })
}

fn checked_user(user: &str) -> Result<String, Error> {
    if user.is_empty() || user.len() > MAX_TEXT || user.contains([':', '+']) {
        return Err(
            Error::local("a user name has 1 to 255 bytes, and neither \":\" nor \"+\"")
                .with_exit(Exit::Usage),
        );
    }
    Ok(user.to_owned())
}

fn read_password(file: &Path) -> Result<String, Error> {
    use std::os::unix::fs::MetadataExt;
    let fail = |why: String| Error::local(why).with_exit(Exit::Usage);
    let shown = file.display();
    let unreadable = |source: std::io::Error| {
        Error::local(format!("can't read the password file {shown}")).with_source(source)
    };
    let mode = std::fs::metadata(file).map_err(unreadable)?.mode();
    if mode & 0o077 != 0 {
        return Err(fail(format!("others may read the password file {shown}"))
            .with_hint(format!("run: chmod 600 {shown}")));
    }
    let text = crate::config::read_file(file, MAX_PASSWORD_FILE)?;
    let line = String::from_utf8(text).unwrap_or_default();
    let line = line.lines().next().unwrap_or_default();
    if line.is_empty() || line.len() > MAX_TEXT {
        return Err(fail(format!(
            "the first line of {shown} must be a password of 1 to 255 bytes"
        )));
    }
    Ok(line.to_owned())
}

/// Lets this process have as many files open as the system allows; gives how many that are.
pub(super) fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.unwrap_or(u64::MAX)
}

/// Tells the user what happens: where it listens on standard output and the rest on standard error, or all of it as JSON
/// lines on standard output.
#[derive(Clone, Copy)]
struct Say {
    json: bool,
}

impl Say {
    fn line(&self, text: &str) {
        // When nobody can read it, the proxy still works.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    fn event(&self, event: &str, text: &str, data: serde_json::Value) {
        if self.json {
            json_line(event, &data);
        } else {
            self.line(text);
        }
    }

    fn warn(&self, text: &str) {
        self.event("warning", text, json!({ "text": text }));
    }

    /// Where clients announce, and links for them. All of it is for this user alone.
    fn tracker(&self, tracker: &Tracker, links: &[Magnet]) {
        let url = tracker.url();
        let links = links.iter().map(|link| tracker.link(link).to_string());
        if self.json {
            let links: Vec<String> = links.collect();
            json_line("tracker", &json!({ "url": url, "magnets": links }));
            return;
        }
        self.line(&format!("tracker for clients of this proxy: {url}"));
        links.for_each(|link| self.line(&format!("for a client of this proxy: {link}")));
    }

    fn listening(&self, places: &[Place], protected: bool) {
        let shown: Vec<String> = places.iter().map(Place::to_string).collect();
        if self.json {
            json_line("listening", &json!({ "listen": shown }));
            return;
        }
        let hint = places.first().map(|place| how_to(place, protected));
        let mut out = std::io::stdout().lock();
        let _ = writeln!(
            out,
            "SOCKS5, SOCKS4a and HTTP proxy listens on {}\n{}",
            shown.join(", "),
            hint.unwrap_or_default()
        )
        .and_then(|()| out.flush());
    }
}

/// What to type first.
fn how_to(place: &Place, protected: bool) -> String {
    let user = if protected {
        "--proxy-user NAME:PASSWORD "
    } else {
        ""
    };
    let proxy = match place {
        Place::Tcp(addr) => {
            // What listens on every address is reached by loopback too.
            let ip = match addr.ip() {
                ip if ip.is_unspecified() && ip.is_ipv4() => IpAddr::from([127, 0, 0, 1]),
                ip => ip,
            };
            format!("socks5h://{}", SocketAddr::new(ip, addr.port()))
        }
        Place::Unix(path) => format!("socks5h://localhost{}", path.display()),
    };
    format!(
        "  try it:   curl --proxy {proxy} {user}https://example.org/\n  programs: SOCKS5 with names resolved by the proxy; a user name of its own gives each program circuits of its own"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_or_paths() {
        let tcp: Place = "127.0.0.1:1080".parse().unwrap();
        assert_eq!(tcp, Place::Tcp(([127, 0, 0, 1], 1080).into()));
        let unix: Place = "unix:/tmp/s".parse().unwrap();
        assert_eq!(unix, Place::Unix("/tmp/s".into()));
        assert_eq!(unix.to_string(), "unix:/tmp/s");
        for bad in ["", "1080", "localhost:1080", "unix:", "127.0.0.1"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_needs_to_be_asked_for() {
        for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let place = addr.parse().unwrap();
            let error = listen(&place, false).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage);
            assert!(error.hint().unwrap().contains("--public"));
        }
        assert!(listen(&"127.0.0.1:0".parse().unwrap(), false).is_ok());
        assert!(listen(&"0.0.0.0:0".parse().unwrap(), true).is_ok());
    }

    #[test]
    fn a_password_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "se cret\nmore\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o640);
        assert!(
            read_password(&file)
                .unwrap_err()
                .hint()
                .unwrap()
                .contains("chmod 600")
        );
        mode(0o600);
        assert_eq!(read_password(&file).unwrap(), "se cret");
        std::fs::write(&file, "\n").unwrap();
        assert!(read_password(&file).is_err());
    }

    #[test]
    fn the_first_command_to_type_fits_the_listener() {
        let shown = how_to(&"0.0.0.0:1080".parse().unwrap(), true);
        assert!(shown.contains("socks5h://127.0.0.1:1080 --proxy-user"));
        let shown = how_to(&"unix:/run/s".parse().unwrap(), false);
        assert!(shown.contains("socks5h://localhost/run/s https"));
    }
}
