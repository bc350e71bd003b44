//! Puts the jail and the ways out together, and stays until the program has ended.
//!
//! ```text
//! SOCKS, HTTP ─┐
//! caught TCP  ─┼─► (Guests: virtual addresses of hidden peers) ─► Renamed (virtual addresses back to names) ─► Gate (policy) ─► CircuitRoute
//! caught UDP  ─┤
//! questions   ─┘   published ports lead the other way, from loopback outside to loopback inside
//! ```

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use hushswarm_circuits::isolation::Isolation;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Args;
use crate::cli::connect::Connected;
use crate::cli::guests::{self, Terms};
use crate::cli::proxy::raise_file_limit;
use crate::error::Error;
use crate::guests::tracker::Tracker;
use crate::guests::{Doorstep, Guests, Hosting};
use crate::jail::caught::Catcher;
use crate::jail::dns::Resolver;
use crate::jail::names::SharedNames;
use crate::jail::netlink::{OWN4, OWN6};
use crate::jail::network::{CAUGHT_PORT, SOCKS_PORT};
use crate::jail::publish::{Publish, publish};
use crate::jail::renamed::Renamed;
use crate::jail::signals::{self, Came};
use crate::jail::{Caught, Config, Ended, Inside, Jail, Warden, environment, standard};
use crate::net::os::{CaughtUdp, LocalListener};
use crate::net::{BoxFuture, BoxStream, UdpDoors};
use crate::onion::Chosen;
use crate::overlay::client::Status;
use crate::route::gate::Gate;
use crate::route::{Nowhere, Outside};
use crate::socks;
use crate::socks::limits::Limits;

/// What the inside calls itself; no question about it leaves.
const HOST_NAME: &str = "localhost";

/// Runs the program; gives the code to end with.
pub(super) fn run(args: Args) -> Result<u8, Error> {
    // Before there is a second thread, which would get them.
    signals::block();
    crate::cli::block_on(with_circuits(args))
}

async fn with_circuits(args: Args) -> Result<u8, Error> {
    let mut signals = signals::of_outer()
        .map_err(|error| Error::local("can't watch signals").with_source(error))?;
    let loaded = args.routes.load()?;
    // Listened on before the program starts, so that a port that is taken stops it.
    let published = args
        .publish
        .iter()
        .map(|publish| listen(*publish).map(|listener| (listener, publish.inside)))
        .collect::<Result<Vec<_>, _>>()?;
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args.overlay.connect(loaded.without(), &loaded)?;
    if args.overlay.hops == 1 {
        say("with one hop, that relay sees both your address and whom the program reaches");
    }
    let (standard, copies) = standard().map_err(|error| {
        Error::local("standard input, output or error can't be given to a jailed program")
            .with_source(error)
            .with_hint("use a file, a pipe or a terminal")
    })?;
    let reaches_public = args.reaches_public();
    let gate = loaded.gate(&client, &loaded.tor(&state), Chosen::All);
    let mut environment = environment::inside(std::env::vars_os());
    let mut program = args.program;
    let tracker = match args.tracker {
        Some(port) => {
            guests::require(&client)?;
            let tracker = Tracker::new(
                (Ipv4Addr::LOCALHOST, port).into(),
                guests::token(&state, "run")?,
            );
            say(&format!("the program's tracker: {}", tracker.url()));
            for link in &args.magnet {
                say(&format!("for the program: {}", tracker.link(link)));
            }
            program = guests::arguments(program, |link| tracker.link(link))?;
            environment.push((guests::VARIABLE.into(), tracker.url().into()));
            Some(tracker)
        }
        None => None,
    };
    let config = Config {
        program,
        environment,
        standard,
        catch: !args.no_catch,
        linger: args.linger,
        listen: args.tracker,
    };
    let jail = tokio::select! {
        jail = Jail::build(config) => jail?,
        Some(signal) = signals.recv() => return Ok(Ended::Signal(signal.number).code()),
    };
    // After the program's own limit was set.
    let files = raise_file_limit();
    if jail.inside.caught.is_none() && !args.no_catch {
        say(
            "this kernel can't catch what a program sends past its proxy (no nf_tables with tproxy), so only programs that use \
             the proxy reach anything; nothing else leaves",
        );
    }
    let (inside, mut running) = jail.start().await?;
    let warden = inside.warden.clone();
    let mut serving = JoinSet::new();
    for (listener, port) in published {
        let warden = Arc::new(warden.clone());
        serving.spawn(publish(listener, warden, port));
    }
    let guests = tracker.map(|tracker| {
        let outside: Arc<dyn Outside> = Arc::<Gate>::clone(&gate);
        let terms = Terms {
            tracker,
            hosting: Some(Hosting {
                doorstep: Arc::new(Inner(inside.warden.clone())),
                closed: vec![SOCKS_PORT, CAUGHT_PORT],
                tell: Arc::new(|link| say(&format!("a hidden peer, whom others reach by {link}"))),
            }),
            dht: &args.dht,
            loaded: &loaded,
        };
        guests::guests(outside, terms)
    });
    let outside: Arc<dyn Outside> = if reaches_public {
        gate
    } else {
        Arc::new(Nowhere)
    };
    serve(inside, outside, guests, files, &mut serving)?;
    serving.spawn(complain(client.status()));
    let (how, others) = follow(&mut running, &mut signals, &warden).await?;
    if others {
        say(
            "the program has ended, and what it left running was ended with it (--linger waits for such)",
        );
    }
    for copy in copies {
        // It ends with its pipe.
        let _ = copy.join();
    }
    Ok(how.code())
}

/// Ports inside, for who visits a guest.
struct Inner(Warden);

impl Doorstep for Inner {
    fn connect(&self, from: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.0.connect_from(from, port))
    }
}

fn listen(publish: Publish) -> Result<LocalListener, Error> {
    LocalListener::loopback(publish.outside).map_err(|error| {
        Error::local(format!("can't publish on port {}", publish.outside.port()))
            .with_source(error)
            .with_hint("choose another one with --publish OUTSIDE:INSIDE")
    })
}

/// Serves the jail's doors by what leads out.
fn serve(
    inside: Inside,
    outside: Arc<dyn Outside>,
    guests: Option<Arc<Guests>>,
    files: u64,
    serving: &mut JoinSet<()>,
) -> Result<(), Error> {
    let Inside {
        socks: listener,
        dns,
        asked,
        caught,
        warden,
    } = inside;
    let names = SharedNames::default();
    let mut outside: Arc<dyn Outside> = Arc::new(Renamed::new(outside, names.clone()));
    if let (Some(guests), Some(listener)) = (guests, asked) {
        outside = guests.route(outside);
        serving.spawn(guests.serve(listener));
    }
    let isolation = Isolation::new("run", b"caught", 0);
    let resolver = Resolver::new(names, HOST_NAME.to_owned(), Arc::clone(&outside), isolation);
    serving.spawn(Arc::clone(&resolver).serve(dns));
    let options = socks::Options {
        password: None,
        limits: Limits::default().for_files(files),
    };
    let server = socks::Server::new(Arc::clone(&outside), options);
    let doors: Arc<dyn UdpDoors> = Arc::new(warden);
    serving.spawn(server.serve(listener, "run".to_owned(), doors));
    let Some(caught) = caught else { return Ok(()) };
    let Caught {
        tcp4,
        tcp6,
        udp4,
        udp6,
        replies,
    } = caught;
    let own = vec![OWN4.into(), OWN6.into()];
    let catcher = Catcher::new(outside, resolver, isolation, own, Arc::new(replies));
    for listener in [Some(tcp4), tcp6].into_iter().flatten() {
        serving.spawn(Arc::clone(&catcher).serve_tcp(listener));
    }
    for socket in [Some(udp4), udp6].into_iter().flatten() {
        let socket = CaughtUdp::handed(socket)
            .map_err(|error| Error::local("can't serve the jail").with_source(error))?;
        serving.spawn(Arc::clone(&catcher).serve_udp(socket));
    }
    Ok(())
}

/// Waits for the program's end, and passes on what is meant for it.
async fn follow(
    running: &mut crate::jail::Running,
    signals: &mut mpsc::Receiver<Came>,
    warden: &Warden,
) -> Result<(Ended, bool), Error> {
    loop {
        tokio::select! {
            ended = running.ended() => return Ok(ended?),
            Some(signal) = signals.recv() => {
                // What the terminal sends, it sends to the program too; the size of its window is no message to us.
                if signal.by_process && signal.number != Signal::SIGWINCH as i32 {
                    // It may have ended just now.
                    let _ = warden.signal(signal.number).await;
                }
            }
        }
    }
}

/// Says once when no circuit can be built: the program's connections wait meanwhile, or are refused.
async fn complain(mut status: watch::Receiver<Status>) {
    loop {
        let now = status.borrow_and_update().clone();
        if let Status::Unreachable(error) = now {
            say(&format!(
                "no circuit: {error}; nothing leaves until there is one"
            ));
            return;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn say(sentence: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr(), "hushswarm: {sentence}");
}
