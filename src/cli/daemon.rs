//! `hushswarm daemon`: keeps torrents over restarts, and is steered by the Transmission RPC on a loopback port.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use data_encoding::BASE64URL_NOPAD;
use rand::RngExt as _;
use serde_json::json;
use tokio::sync::watch;

use super::compose::{Plan, Surroundings, compose};
use super::connect::{Connected, OverlayArgs};
use super::dht::DhtArgs;
use super::get::When;
use super::progress::json_line;
use super::proxy::raise_file_limit;
use super::relay::Signals;
use super::reload::on_hangup_with;
use super::routes::{Loaded, RoutesArgs};
use super::source;
use super::tor::{OurTor, service_of_url};
use crate::daemon::serve::Server;
use crate::daemon::session::{Begin, begin};
use crate::daemon::{Beside, Running, Start, Starter, Ways};
use crate::dht::Dht;
use crate::error::{Error, Exit};
use crate::net::os::LocalListener;
use crate::onion::Chosen;
use crate::overlay::client::{Client, Status};
use crate::route::gate::Gate;
use crate::route::policy::Policy;
use crate::route::{BoxFuture, Outside};
use crate::rpc::access::{Access, RPC_PATH};
use crate::state::StateDir;
use crate::torrent::by_url::Found;
use crate::torrent::engine::{Encryption, Job, Limits, Options};

/// Where programs expect the RPC of Transmission.
pub(super) const DEFAULT_LISTEN: &str = "127.0.0.1:9091";
/// File of user and password in the state folder, as `user:password`.
pub(super) const CREDENTIALS: &str = "rpc-credentials";
/// File of the address that the running daemon listens at, in the state folder.
pub(super) const ADDRESS: &str = "rpc-address";
/// The user's name where it is made.
const USER: &str = "hushswarm";
/// Random bytes of a password, and of a session id.
const SECRET_LEN: usize = 24;

/// Arguments of `hushswarm daemon`.
#[derive(clap::Args)]
pub struct Args {
    /// Loopback address at which the Transmission RPC is spoken (/transmission/rpc), and metrics are given (/metrics)
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Folder to download to, where a torrent names none [default: what was set last by a program, else ~/Downloads]
    #[arg(long, value_name = "DIR")]
    download_dir: Option<PathBuf>,
    /// Let every program and every user of this computer steer the daemon. By default they have to give the user and password in the
    /// file rpc-credentials of the state folder, which are made at the first start and may be changed there
    #[arg(long)]
    rpc_no_auth: bool,
    /// Another name by which programs reach the RPC, beside localhost and loopback addresses: for a reverse proxy or a container. Under
    /// any other name nothing is answered, so that no web page can lead your browser here by a name of its own. May be given several times
    #[arg(long, value_name = "NAME")]
    rpc_host: Vec<String>,
    /// Take only. By default, what comes from hidden seeds or onion services is shared while it comes, by a hidden seed or onion
    /// service of its own whose key is kept in memory alone
    #[arg(long)]
    no_share: bool,
    /// Only from hidden peers: trackers and public peers are left out, whatever a link says
    #[arg(long)]
    hidden_only: bool,
    /// Whether streams to public peers are encrypted, as with "hushswarm get"
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    encryption: When,
    /// Say what happens as JSON lines on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    routes: RoutesArgs,
    #[command(flatten)]
    dht: DhtArgs,
}

/// Runs until it is told to stop.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(args: Args) -> Result<(), Error> {
    let loaded = args.routes.load()?;
    // Listened for before anybody is told that the daemon is there.
    let mut signals = Signals::new()?;
    let (listener, at) = listen(args.listen)?;
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args.overlay.connect_alone(loaded.without(), &loaded)?;
    raise_file_limit();
    let credentials = (!args.rpc_no_auth)
        .then(|| credentials(&state))
        .transpose()?;
    let rules = Arc::new(Rules::new(loaded.clone()));
    let set = {
        let rules = Arc::clone(&rules);
        move |policy| rules.set(&policy)
    };
    let _reloading = on_hangup_with(set, args.routes.clone(), &loaded)?;
    let tor = loaded.tor(&state);
    // By Tor alone, no datagrams and no lookups leave.
    let dht = if client.list().is_none() {
        None
    } else {
        let outside: Arc<dyn Outside> = rules.gate(&client, &tor, std::iter::empty().collect());
        args.dht.finder(&loaded, outside)
    };
    let starter = Ours {
        status: client.status(),
        client: client.clone(),
        state: Arc::clone(&state),
        tor,
        rules,
        dht,
        options: Options::new(state.path().to_owned()),
        share: !args.no_share,
        hidden_only: args.hidden_only,
        encryption: args.encryption.into(),
    };
    let id = secret();
    let first = Begin {
        download_dir: download_dir(args.download_dir.as_deref(), &state)?,
        download_dir_named: args.download_dir.is_some(),
        id: id.clone(),
    };
    let (session, mut task, damaged) = begin(first, &state, Arc::new(starter))?;
    state.write(ADDRESS, at.to_string().as_bytes())?;
    let say = Say { json: args.json };
    if damaged > 0 {
        let folder = state.path().join("torrents");
        say.event(
            "damaged",
            &format!(
                "{damaged} entries in {} could not be read: they were set aside there, with \"unreadable\" in their names, and the rest goes on",
                folder.display()
            ),
            json!({ "entries": damaged }),
        );
    }
    if let Some(warning) = args.overlay.warning() {
        say.line(warning);
    }
    let url = format!("http://{at}{RPC_PATH}");
    let who = match &credentials {
        Some(_) => format!(
            "user and password are in {}",
            state.path().join(CREDENTIALS).display()
        ),
        None => "every program of this computer may steer it".to_owned(),
    };
    say.event(
        "listening",
        &format!("the Transmission RPC is at {url}; {who}"),
        json!({ "url": url, "address": at.to_string() }),
    );
    let access = Access {
        port: at.port(),
        hosts: args.rpc_host,
        credentials,
        session: id,
    };
    let server = Server::new(access, session.clone());
    let serving = tokio::spawn(server.serve(listener));
    tokio::select! {
        () = signals.stop() => {
            say.event("stopping", "stopping: writing down what is complete", json!({}));
            session.stop().await;
            tokio::select! {
                _ = &mut task => {}
                // A second signal means now.
                () = signals.stop() => {}
            }
        }
        // A program asked for it.
        _ = &mut task => say.event("stopping", "stopping", json!({})),
    }
    serving.abort();
    // Whoever listens at that address from now on is not us.
    let _ = std::fs::remove_file(state.path().join(ADDRESS));
    client.close();
    Ok(())
}

/// Listens for programs of this computer; says where, since the system may have chosen the port.
fn listen(at: SocketAddr) -> Result<(LocalListener, SocketAddr), Error> {
    if !at.ip().is_loopback() {
        let what = format!(
            "{at} could be reached by other computers, and what they say could be read on the way"
        );
        return Err(Error::local(what)
            .with_exit(Exit::Usage)
            .with_hint("listen on 127.0.0.1, and reach it from elsewhere through ssh: ssh -L 9091:127.0.0.1:9091 THIS-COMPUTER"));
    }
    LocalListener::loopback_at(at).map_err(|source| {
        Error::local(format!("can't listen on {at}"))
            .with_source(source)
            .with_hint("is transmission-daemon or another hushswarm daemon running? another port: --listen 127.0.0.1:9092")
    })
}

/// The folder that takes what names none.
fn download_dir(named: Option<&Path>, state: &StateDir) -> Result<PathBuf, Error> {
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let dir = match named {
        Some(dir) => dir.to_owned(),
        None => match home().filter(|home| home.is_absolute() && home.is_dir()) {
            Some(home) => home.join("Downloads"),
            None => state.path().join("downloads"),
        },
    };
    std::path::absolute(&dir).map_err(|source| {
        Error::local("there is no such download folder")
            .with_source(source)
            .with_exit(Exit::Usage)
    })
}

/// User and password, made where there are none.
fn credentials(state: &StateDir) -> Result<String, Error> {
    if let Some(text) = state.read_secret(CREDENTIALS)? {
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or_default().trim();
        if line
            .split_once(':')
            .is_some_and(|(user, password)| !user.is_empty() && !password.is_empty())
        {
            return Ok(line.to_owned());
        }
        let path = state.path().join(CREDENTIALS);
        return Err(
            Error::local(format!("{} holds no user and password", path.display()))
                .with_hint("its first line is user:password; without the file, new ones are made"),
        );
    }
    let line = format!("{USER}:{}", secret());
    state.write_secret(CREDENTIALS, format!("{line}\n").as_bytes())?;
    Ok(line)
}

fn secret() -> String {
    let random: [u8; SECRET_LEN] = rand::rng().random();
    BASE64URL_NOPAD.encode(&random)
}

/// The rules in force, and the gates of torrents that hold them.
struct Rules {
    held: Mutex<(Loaded, Vec<Weak<Gate>>)>,
}

impl Rules {
    fn new(loaded: Loaded) -> Self {
        Self {
            held: Mutex::new((loaded, Vec::new())),
        }
    }

    /// The rules as they are now.
    fn loaded(&self) -> Loaded {
        self.lock().0.clone()
    }

    /// Lets a gate hear of new rules.
    fn keep(&self, gate: &Arc<Gate>) {
        let mut held = self.lock();
        held.1.retain(|gate| gate.strong_count() > 0);
        // They may have changed since it was made.
        gate.set_policy(held.0.policy.clone());
        held.1.push(Arc::downgrade(gate));
    }

    /// A gate that leads to the chosen onion services, and to no other that a key is needed for.
    fn gate(&self, client: &Client, tor: &OurTor, chosen: Chosen) -> Arc<Gate> {
        let gate = self.loaded().gate(client, tor, chosen);
        self.keep(&gate);
        gate
    }

    fn set(&self, policy: &Policy) {
        let mut held = self.lock();
        held.0.policy = policy.clone();
        for gate in held.1.iter().filter_map(Weak::upgrade) {
            gate.set_policy(policy.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Loaded, Vec<Weak<Gate>>)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts torrents as `get` does, each with hidden peers of its own, and all with one client, one Tor and one search in the DHT.
struct Ours {
    client: Client,
    status: watch::Receiver<Status>,
    state: Arc<StateDir>,
    tor: OurTor,
    rules: Arc<Rules>,
    dht: Option<Arc<Dht>>,
    options: Options,
    share: bool,
    hidden_only: bool,
    encryption: Encryption,
}

impl Starter for Ours {
    fn start(&self, start: Start) -> Result<Running, String> {
        let plan = Plan {
            source: start.source,
            info: start.info.clone(),
            share: self.share,
            hidden_only: self.hidden_only,
            encryption: self.encryption,
        };
        let routes = self.rules.loaded();
        let place = Surroundings {
            client: &self.client,
            state: &self.state,
            tor: &self.tor,
            routes: &routes,
        };
        let find = |_| self.dht.clone();
        let composed = compose(plan, place, self.options.clone(), find, &|_| {}).map_err(
            |error| match error.hint() {
                Some(hint) => format!("{error}: {hint}"),
                None => error.to_string(),
            },
        )?;
        self.rules.keep(&composed.gate);
        let job = Job {
            source: composed.source,
            output: start.output,
            seed_after: true,
            overwrite: false,
            info: start.info,
        };
        let handle = composed.engine.download_only(job, start.select);
        let beside = tokio::spawn(composed.beside.run(&handle));
        Ok(Running {
            handle,
            beside: Beside(beside.abort_handle()),
        })
    }

    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Found, String>> {
        Box::pin(async move {
            let chosen = service_of_url(url).into_iter().collect();
            let gate = self.rules.gate(&self.client, &self.tor, chosen);
            let found = source::fetch(&gate, url, self.hidden_only).await;
            found.map_err(|error| error.to_string())
        })
    }

    fn limit(&self, down: Option<u64>, up: Option<u64>) {
        self.options.limits.set(Limits { down, up });
    }

    fn ways(&self) -> Ways {
        Ways {
            circuits: self.client.circuits(),
            ready: matches!(*self.status.borrow(), Status::Ready),
            dht: self.dht.is_some(),
        }
    }
}

/// Tells the user what happens: on standard error, or as JSON lines on standard output.
#[derive(Clone, Copy)]
struct Say {
    json: bool,
}

impl Say {
    fn line(self, text: &str) {
        // When nobody can read it, the daemon still works.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    fn event(self, event: &str, text: &str, data: serde_json::Value) {
        if self.json {
            json_line(event, &data);
        } else {
            self.line(text);
        }
    }
}
