//! What `get`, `seed` and `demo` have in common: a torrent that runs, its progress, and its end.

use std::time::Duration;

use tokio::sync::watch;

use super::progress::{Progress as Display, View};
use super::relay::Signals;
use super::tor::OurTor;
use crate::error::{Error, Exit, Kind};
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
    let reason = match (state, &progress.tracker) {
        ("waiting" | "metadata", Some(tracker)) if reason.is_none() => Some(tracker.clone()),
        _ => reason,
    };
    // What is to come through Tor waits for that first.
    let idle = progress.connected == 0 && matches!(state, "waiting" | "metadata" | "downloading");
    let (state, reason) = match tor.waits_for() {
        Some(tor) if idle && reason.is_none() => match overlay {
            Status::Unreachable(BuildError::NoRelays) => ("waiting", Some(tor)),
            Status::Connecting | Status::Ready | Status::Unreachable(_) => (state, Some(tor)),
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
        peers: progress.connected,
        known: progress.known,
        hops: if client.list().is_none() {
            0
        } else {
            client.hops()
        },
        circuits: client.circuits(),
        left: progress.eta.map(|eta| eta.as_secs()),
    }
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
    let (interrupted, unusable) = loop {
        let now = progress.borrow_and_update().clone();
        let status = overlay.borrow_and_update().clone();
        display.show(&view(&now, client, &status, tor));
        if now.is_over() || until(&now) {
            break (false, None);
        }
        if let Some(error) = unusable(&now) {
            break (false, Some(error));
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
    if let Some(error) = unusable {
        return Err(Error::local(error.to_string())
            .with_exit(Exit::Disk)
            .with_hint(error.hint()));
    }
    match &last.state {
        State::Failed(failure) => {
            let error = Error::new(Kind::Local, failure.to_string());
            Err(match failure {
                Failure::Storage(storage) => error.with_exit(Exit::Disk).with_hint(storage.hint()),
                Failure::Metainfo(_) => error.with_exit(Exit::BadTorrent),
            })
        }
        _ if interrupted => Err(Error::local("interrupted")
            .with_exit(Exit::Interrupted)
            .with_hint("the same command goes on where this one stopped")),
        State::FetchingMetadata
        | State::Checking
        | State::Downloading
        | State::Seeding
        | State::WaitingForNetwork
        | State::Paused(_)
        | State::Done
        | State::Stopped => Ok(last),
    }
}
