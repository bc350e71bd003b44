//! What `get`, `seed` and `demo` have in common: a torrent that runs, its progress, and its end.

use std::time::Duration;

use tokio::sync::watch;

use super::progress::{Progress as Display, View, Visits};
use super::relay::Signals;
use super::tor::OurTor;
use crate::error::{Error, Exit};
use crate::hidden::Gauge;
use crate::overlay::client::{BuildError, Client, Status};
use crate::torrent::engine::{Failure, Handle, Progress, State};
use crate::torrent::storage::StorageError;

/// How often the display is refreshed.
const REFRESH: Duration = Duration::from_millis(200);

/// How a transfer is shown.
pub(super) fn view(progress: &Progress, client: &Client, overlay: &Status, tor: &OurTor) -> View {
    let (state, reason) = match &progress.state {
        State::FetchingMetadata => ("metadata", None),
        State::Checking => ("checking", None),
        State::Downloading => ("downloading", None),
        State::Seeding => ("seeding", None),
        State::WaitingForNetwork => ("waiting", None),
        State::Paused(error) => ("paused", Some(error.to_string())),
        State::Done => ("done", None),
        State::Stopped => ("stopped", None),
        State::Failed(failure) => ("failed", Some(failure.to_string())),
    };
    // Whatever the torrent waits for, without circuits it is that.
    let (state, reason) = match (overlay, progress.connected) {
        // By Tor alone, as the user chose.
        (Status::Unreachable(BuildError::NoRelays), _) => (state, reason),
        (Status::Unreachable(error), 0) if !progress.is_over() => (
            "waiting",
            Some(format!("{error}; nothing leaves until there is a circuit")),
        ),
        (Status::Connecting | Status::Ready | Status::Unreachable(_), _) => (state, reason),
    };
    let reason = match state {
        "waiting" | "metadata" if reason.is_none() => asked(progress),
        _ => reason,
    };
    // What is to come through Tor waits for that first.
    let alone = progress.connected == 0 && progress.web_seeds == 0;
    let idle = alone && matches!(state, "waiting" | "metadata" | "downloading");
    let (state, reason) = match tor.waits_for() {
        Some(tor) if idle => match overlay {
            Status::Unreachable(BuildError::NoRelays) => ("waiting", Some(tor)),
            Status::Connecting | Status::Ready | Status::Unreachable(_) => {
                (state, reason.or(Some(tor)))
            }
        },
        _ => (state, reason),
    };
    View {
        state,
        reason,
        done: if progress.state == State::Checking {
            checked(progress)
        } else {
            progress.done
        },
        total: progress.total,
        down: progress.down_rate,
        up: progress.up_rate,
        dht: progress.dht.clone(),
        lookups: progress.lookups,
        peers: progress.connected,
        known: progress.known,
        web_seeds: progress.web_seeds,
        hops: if client.list().is_none() {
            0
        } else {
            client.hops()
        },
        circuits: client.circuits(),
        left: progress.eta.map(|eta| eta.as_secs()),
        hidden: None,
    }
}

/// What came of asking for peers.
fn asked(progress: &Progress) -> Option<String> {
    let dht = progress.dht.as_ref().map(|dht| format!("DHT: {dht}"));
    let said: Vec<String> = progress.tracker.iter().cloned().chain(dht).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// What is wrong with the output folder, where a download could not begin and only the user can change that. One that
/// runs waits instead: a drive may come back.
fn unusable(progress: &Progress) -> Option<StorageError> {
    let State::Paused(error) = progress.state else {
        return None;
    };
    let begun = progress.pieces_done > 0;
    match error {
        StorageError::Denied
        | StorageError::ReadOnly
        | StorageError::TooLarge
        | StorageError::Symlink
        | StorageError::NotAFile
        | StorageError::Foreign
        | StorageError::Missing
        | StorageError::UnsafePath => (!begun).then_some(error),
        StorageError::Full | StorageError::Busy | StorageError::Io(_) => None,
    }
}

/// Why it will not go on without the user, if it will not.
fn failure(progress: &Progress) -> Option<Error> {
    let disk = |error: &StorageError| {
        // Where its files would lie is the torrent's doing.
        let exit = if *error == StorageError::UnsafePath {
            Exit::BadTorrent
        } else {
            Exit::Disk
        };
        let told = Error::local(error.to_string());
        told.with_exit(exit).with_hint(error.hint())
    };
    let State::Failed(failure) = &progress.state else {
        return unusable(progress).as_ref().map(disk);
    };
    Some(match failure {
        Failure::Storage(error) => disk(error),
        Failure::Metainfo(_) => Error::local(failure.to_string()).with_exit(Exit::BadTorrent),
        Failure::Selection => Error::local(failure.to_string())
            .with_exit(Exit::Usage)
            .with_hint("--only takes numbers, the first file being 0, or a pattern for the whole path below the torrent's name, such as \"*.txt\""),
    })
}

/// Bytes looked at so far, while checking.
fn checked(progress: &Progress) -> u64 {
    let share = u64::from(progress.checked) * progress.total;
    share.checked_div(u64::from(progress.pieces)).unwrap_or(0)
}

/// Shows progress until `until` is true of it, the torrent ends, or the user interrupts; then the torrent is stopped.
/// Gives the last progress.
///
/// # Errors
/// It failed, or was interrupted: what is verified is kept, and the same command goes on from there.
pub(super) async fn follow(
    handle: Handle,
    client: &Client,
    tor: &OurTor,
    display: &mut Display,
    until: impl Fn(&Progress) -> bool,
) -> Result<Progress, Error> {
    let mut progress: watch::Receiver<Progress> = handle.progress();
    let mut overlay = client.status();
    let mut signals = Signals::new()?;
    let (interrupted, failure) = loop {
        let now = progress.borrow_and_update().clone();
        let status = overlay.borrow_and_update().clone();
        display.show(&view(&now, client, &status, tor));
        let failure = failure(&now);
        if now.is_over() || until(&now) || failure.is_some() {
            break (false, failure);
        }
        tokio::select! {
            () = signals.stop() => break (true, None),
            () = tokio::time::sleep(REFRESH) => {}
        }
    };
    if interrupted {
        display.say("stopping: writing down what is complete");
    }
    let last = handle.stop().await;
    let status = overlay.borrow().clone();
    display.finish(&view(&last, client, &status, tor));
    if let Some(error) = failure.or_else(|| self::failure(&last)) {
        return Err(error);
    }
    if interrupted {
        return Err(Error::local("interrupted")
            .with_exit(Exit::Interrupted)
            .with_hint("the same command goes on where this one stopped"));
    }
    Ok(last)
}

/// Shows the progress of seeds as one until the user interrupts or none can go on; then they are stopped. `hear` is called again and
/// again, to say what else there is to say.
///
/// # Errors
/// None of them could go on: what was wrong with the first.
pub(super) async fn follow_all(
    seeds: Vec<Seed>,
    client: &Client,
    tor: &OurTor,
    display: &mut Display,
    mut hear: impl FnMut(&mut Display),
) -> Result<(), Error> {
    let mut overlay = client.status();
    let mut signals = Signals::new()?;
    let mut failures: Vec<Option<Error>> = seeds.iter().map(|_| None).collect();
    let interrupted = loop {
        let status = overlay.borrow_and_update().clone();
        let mut all = Vec::with_capacity(seeds.len());
        for (seed, failed) in seeds.iter().zip(&mut failures) {
            let now = seed.handle.progress().borrow().clone();
            if let Some(error) = failure(&now).filter(|_| failed.is_none()) {
                if seeds.len() > 1 {
                    display.say(&format!("{}: {error}", seed.name));
                }
                *failed = Some(error);
            }
            all.push(now);
        }
        hear(display);
        let mut shown = together(&all, client, &status, tor);
        shown.hidden = visits(&seeds);
        display.show(&shown);
        if failures.iter().all(Option::is_some) {
            break false;
        }
        tokio::select! {
            () = signals.stop() => break true,
            () = tokio::time::sleep(REFRESH) => {}
        }
    };
    if interrupted {
        display.say("stopping");
    }
    let hidden = visits(&seeds);
    let mut last = Vec::with_capacity(seeds.len());
    for seed in seeds {
        last.push(seed.handle.stop().await);
    }
    let status = overlay.borrow().clone();
    let mut shown = together(&last, client, &status, tor);
    shown.hidden = hidden;
    display.finish(&shown);
    match failures.into_iter().flatten().next() {
        Some(error) if !interrupted => Err(error),
        Some(_) | None => Ok(()),
    }
}

/// How all hidden seeds stand together; `None` where there is none.
fn visits(seeds: &[Seed]) -> Option<Visits> {
    let gauges = seeds.iter().filter_map(|seed| seed.hidden.as_ref());
    let status = gauges.filter_map(Gauge::read);
    status.map(Visits::of).reduce(Visits::plus)
}

/// A torrent that is shared.
pub(super) struct Seed {
    /// For the user.
    pub(super) name: String,
    pub(super) handle: Handle,
    /// Where it is a hidden seed.
    pub(super) hidden: Option<Gauge>,
}

/// Several transfers as one: the state is that of whichever the user has to wait for.
fn together(all: &[Progress], client: &Client, overlay: &Status, tor: &OurTor) -> View {
    const STATES: [&str; 5] = ["seeding", "metadata", "paused", "waiting", "checking"];
    let rank = |view: &View| STATES.iter().position(|state| *state == view.state);
    let views = all
        .iter()
        .map(|progress| view(progress, client, overlay, tor));
    let sum = views.reduce(|sum, one| {
        let first = if rank(&one) > rank(&sum) { &one } else { &sum };
        View {
            state: first.state,
            reason: first.reason.clone(),
            done: sum.done.saturating_add(one.done),
            total: sum.total.saturating_add(one.total),
            down: sum.down.saturating_add(one.down),
            up: sum.up.saturating_add(one.up),
            peers: sum.peers + one.peers,
            known: sum.known + one.known,
            web_seeds: sum.web_seeds + one.web_seeds,
            ..sum
        }
    });
    sum.unwrap_or_default()
}
