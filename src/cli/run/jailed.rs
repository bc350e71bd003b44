//! Puts the jail and the ways out together, and stays until the program has ended.

use std::io::Write;
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::Args;
use crate::cli::connect::Connected;
use crate::error::Error;
use crate::jail::signals::{self, Came};
use crate::jail::{Config, Ended, Jail, Warden, environment, standard};
use crate::net::UdpDoors;
use crate::net::os::LocalListener;
use crate::route::Outside;
use crate::route::circuits::CircuitRoute;
use crate::socks;

/// Runs the program; gives the code to end with.
pub(super) fn run(args: Args) -> Result<u8, Error> {
    // Before there is a second thread, which would get them.
    signals::block();
    crate::cli::block_on(with_circuits(args))
}

async fn with_circuits(args: Args) -> Result<u8, Error> {
    let connected = args.overlay.connect()?;
    let outside: Arc<dyn Outside> = Arc::new(CircuitRoute::new(connected.client.clone()));
    let ended = jailed(args, outside).await;
    let Connected { lock, fresh, .. } = connected;
    drop((lock, fresh));
    ended
}

async fn jailed(args: Args, outside: Arc<dyn Outside>) -> Result<u8, Error> {
    let mut signals = signals::of_outer()
        .map_err(|error| Error::local("can't watch signals").with_source(error))?;
    let (standard, copies) = standard().map_err(|error| {
        Error::local("standard input, output or error can't be given to a jailed program")
            .with_source(error)
            .with_hint("use a file, a pipe or a terminal")
    })?;
    let config = Config {
        program: args.program,
        environment: environment::inside(std::env::vars_os()),
        standard,
        catch: !args.no_catch,
        linger: args.linger,
    };
    let jail = tokio::select! {
        jail = Jail::build(config) => jail?,
        Some(signal) = signals.recv() => return Ok(Ended::Signal(signal.number).code()),
    };
    let (inside, mut running) = jail.start().await?;
    let mut serving = JoinSet::new();
    let warden = inside.warden.clone();
    serving.spawn(socks(inside.socks, outside, warden.clone()));
    let (how, others) = loop {
        tokio::select! {
            ended = running.ended() => break ended?,
            Some(signal) = signals.recv() => pass(&warden, signal).await,
        }
    };
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

async fn socks(listener: LocalListener, outside: Arc<dyn Outside>, warden: Warden) {
    let server = socks::Server::new(outside, socks::Options::default());
    let doors: Arc<dyn UdpDoors> = Arc::new(warden);
    server.serve(listener, "run".to_owned(), doors).await;
}

/// Passes a signal on that was sent to us. What the terminal sends, it sends to the program too.
async fn pass(warden: &Warden, signal: Came) {
    if signal.by_process && signal.number != Signal::SIGWINCH as i32 {
        // It may have ended just now.
        let _ = warden.signal(signal.number).await;
    }
}

fn say(sentence: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr(), "hushswarm: {sentence}");
}
