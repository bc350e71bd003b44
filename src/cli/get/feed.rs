//! `hushswarm get` of a feed's link: the newest version, and with `--follow` each that comes after it.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::rendezvous::Issue;
use rand::RngExt as _;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Args, Done, Work, is_complete, transfer};
use crate::cli::connect::{Connected, Without};
use crate::cli::feed::no_dht;
use crate::cli::progress::{Progress as Display, duration, json_line};
use crate::cli::relay::Signals;
use crate::cli::rendezvous::LOOK_AGAIN;
use crate::config::unix_now;
use crate::dht::Outcome;
use crate::error::{Error, Exit, Kind};
use crate::hidden::feed::{Feed, Follower, LookError, Unhidden};
use crate::onion::Chosen;
use crate::overlay::client::Client;
use crate::route::Outside;
use crate::state::StateDir;
use crate::torrent::engine::Source;
use crate::torrent::feed::FeedLink;
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::{Magnet, display_name};

/// After a look that failed for want of a network, it is looked again in so many seconds.
const SOON: std::ops::Range<u64> = 60..120;

/// The feed that is named, if it is one.
///
/// # Errors
/// The link is damaged, or what is about feeds was asked for and it names none: tell the user.
pub(super) fn link_of(text: &str, follow: bool, public: bool) -> Result<Option<FeedLink>, Error> {
    let bad = |message: String| Error::new(Kind::Local, message).with_exit(Exit::BadTorrent);
    let link = FeedLink::parse(text).map_err(|error| bad(error.to_string()))?;
    if (follow || public) && FeedLink::is_beside_torrent(text) {
        let what =
            "the link names a torrent and the feed that it is from, and is taken for the torrent's";
        return Err(Error::new(Kind::Local, what)
            .with_exit(Exit::Usage)
            .with_hint("leave \"xt=\" out of the link to get what the feed names"));
    }
    if follow && link.is_none() {
        let what = "--follow is about feeds, and this names one torrent, which never changes";
        return Err(Error::new(Kind::Local, what)
            .with_exit(Exit::Usage)
            .with_hint("leave --follow out; or use the feed's link, which \"hushswarm seed --feed\" prints besides the torrent's"));
    }
    if public && link.is_none() {
        let what = "--public is about feeds, and this names one torrent";
        return Err(Error::new(Kind::Local, what)
            .with_exit(Exit::Usage)
            .with_hint("leave --public out: where a torrent's link names no hidden seed, public peers are asked anyway"));
    }
    Ok(link)
}

/// What a look brought.
#[derive(Clone, Default)]
struct Looked {
    newest: Option<Issue>,
    trouble: Option<Arc<Error>>,
}

/// A version, for the program that reads the output.
#[derive(Serialize)]
struct Version<'a> {
    number: u64,
    folder: &'a Path,
}

/// Downloads the newest version, and those that follow.
///
/// # Errors
/// What went wrong and what to do.
pub(super) async fn run(args: Args, link: FeedLink) -> Result<(), Error> {
    let routes = args.routes.load()?;
    if args.dht.is_off(&routes) {
        return Err(no_dht());
    }
    let connected = args.overlay.connect_alone(Without::Fails, &routes)?;
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = connected;
    let mut display = Display::new(args.json);
    if let Some(warning) = args.overlay.warning() {
        display.say(warning);
    }
    let gate: Arc<dyn Outside> = routes.gate(&client, &routes.tor(&state), Chosen::default());
    let off = || Error::new(Kind::Bug, "the DHT is off, and was not before");
    let dht = args.dht.finder(&routes, gate).ok_or_else(off)?;
    let unhidden = match (args.hidden_only, args.public) {
        (true, _) => Unhidden::StillHidden,
        (false, true) => Unhidden::Taken,
        (false, false) => Unhidden::Refused,
    };
    let follower = Follower::keep(&state, feed_of(link), dht)?.with_unhidden(unhidden);
    let (looked, seen) = watch::channel(Looked::default());
    display.say("looking for the newest version; Ctrl-C stops");
    let looking = look(follower, args.follow, &looked);
    let getting = get(&args, routes, seen, &client, &state, &mut display);
    let ended = tokio::select! {
        ended = getting => ended,
        Err(error) = looking => Err(error),
    };
    client.close();
    ended
}

fn feed_of(link: FeedLink) -> Feed {
    match link {
        FeedLink::Sealed(feed) => Feed::Sealed(feed),
        FeedLink::Plain { key, salt } => Feed::Plain { key, salt },
    }
}

/// Looks once, or again and again, and says what it finds, for as long as it is awaited.
async fn look(
    mut follower: Follower,
    follow: bool,
    looked: &watch::Sender<Looked>,
) -> Result<std::convert::Infallible, Error> {
    let mut at_once = signal(SignalKind::user_defined1())
        .map_err(|source| Error::local("can't listen for signals").with_source(source))?;
    let mut warned = false;
    loop {
        let last_seen = follower.last_seen();
        let mut wait = LOOK_AGAIN;
        let (newest, trouble) = match follower.look().await {
            Ok(issue) => (Some(issue), None),
            Err(LookError::Disk(error)) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "no newer version of a feed");
                if matches!(error, LookError::Network(_)) {
                    wait = SOON;
                }
                let told = explain(&error, last_seen, follow);
                // While the version before is shared, no other trouble is shown; this the user is to act on.
                if follow && !warned && matches!(error, LookError::Unhidden) {
                    tracing::warn!("{told}: {}", told.hint().unwrap_or_default());
                    warned = true;
                }
                (None, Some(Arc::new(told)))
            }
        };
        looked.send_modify(|now| {
            now.newest = newest.or(now.newest.take());
            now.trouble = trouble;
        });
        if !follow {
            std::future::pending::<()>().await;
        }
        let seconds = rand::rng().random_range(wait);
        tokio::select! {
            () = sleep(Duration::from_secs(seconds)) => {}
            _ = at_once.recv() => {}
        }
    }
}

/// Gets what is looked up, one version after the other.
async fn get(
    args: &Args,
    routes: super::Loaded,
    mut seen: watch::Receiver<Looked>,
    client: &Client,
    state: &Arc<StateDir>,
    display: &mut Display,
) -> Result<(), Error> {
    let stays = args.seed || (args.follow && !args.no_share);
    let mut current = None;
    loop {
        let issue = newer(current, &mut seen, args.follow, display).await?;
        let number = issue.number;
        let newer_came = |seen: &watch::Receiver<Looked>| {
            let looked = seen.borrow();
            looked
                .newest
                .as_ref()
                .is_some_and(|newest| newest.number > number)
        };
        let output = args.output.join(folder(&issue));
        if args.json {
            let folder = &output;
            json_line("version", &Version { number, folder });
        } else {
            display.say(&format!("the newest version goes to {}", output.display()));
        }
        let work = Work {
            source: Source::Magnet(magnet(issue)),
            output,
            seed: stays,
            share: !args.no_share,
            hidden_only: args.hidden_only,
            select: super::selection(&args.only)?,
            overwrite: args.overwrite,
            encryption: args.encryption.into(),
            preallocate: args.preallocate,
            routes: routes.clone(),
            dht: Some(args.dht.clone()),
            limits: args.limits.limits(),
            sequential: args.sequential,
            serve: None,
        };
        let complete = Cell::new(false);
        let done = transfer(work, client, state, display, |progress| {
            if is_complete(progress) && !complete.replace(true) && args.json {
                json_line("complete", &Complete { number });
            }
            (complete.get() && !stays) || newer_came(&seen)
        });
        match done.await {
            Ok(done) => tell(&done, complete.get(), args.json, display),
            Err(error) if !args.follow || ends(&error) => return Err(error),
            Err(error) => tell_failed(number, &error, args.json, display),
        }
        if !args.follow {
            return Ok(());
        }
        current = Some(number);
    }
}

/// Whether this concerns every version. What is wrong with one may be right with the next, and nobody is to stop his readers by one
/// that nobody can take.
fn ends(error: &Error) -> bool {
    match error.exit() {
        Exit::Disk | Exit::Interrupted => true,
        Exit::Failed | Exit::Usage | Exit::NoNetwork | Exit::Unreachable | Exit::BadTorrent => {
            false
        }
    }
}

#[derive(Serialize)]
struct Unusable<'a> {
    number: u64,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

fn tell_failed(number: u64, error: &Error, json: bool, display: &Display) {
    let (text, hint) = (error.to_string(), error.hint());
    if json {
        let error = &text;
        json_line(
            "failed",
            &Unusable {
                number,
                error,
                hint,
            },
        );
        return;
    }
    display.say(&format!(
        "this version can't be had: {text}; the next one is awaited"
    ));
    if let Some(hint) = hint {
        display.say(&format!("  hint: {hint}"));
    }
}

#[derive(Serialize)]
struct Complete {
    number: u64,
}

fn tell(done: &Done, complete: bool, json: bool, display: &Display) {
    let path = done.path.display();
    match (complete, json) {
        (true, true) => json_line("done", done),
        (true, false) => display.say(&format!("{path}: {}", done.summary())),
        (false, _) => display.say(&format!(
            "{path} is not complete, and is left as it is: its publisher gives a newer version now"
        )),
    }
}

/// Waits for a version after the current one.
async fn newer(
    current: Option<u64>,
    seen: &mut watch::Receiver<Looked>,
    follow: bool,
    display: &Display,
) -> Result<Issue, Error> {
    let mut signals = Signals::new()?;
    let mut said = String::new();
    loop {
        let looked = seen.borrow_and_update().clone();
        if let Some(newest) = looked.newest.filter(|newest| current < Some(newest.number)) {
            return Ok(newest);
        }
        if let Some(error) = looked.trouble {
            if !follow {
                return Err(copy(&error));
            }
            // Once, until it is another.
            let text = format!("{error}; it is kept looking");
            if text != said {
                display.say(&text);
                said = text;
            }
        }
        tokio::select! {
            _ = seen.changed() => {}
            () = signals.stop() => {
                return Err(Error::local("interrupted")
                    .with_exit(Exit::Interrupted)
                    .with_hint("the same command goes on where this one stopped"));
            }
        }
    }
}

fn copy(error: &Error) -> Error {
    let out = Error::new(error.kind(), error.to_string()).with_exit(error.exit());
    match error.hint() {
        Some(hint) => out.with_hint(hint),
        None => out,
    }
}

/// What a failed look means to the user.
fn explain(error: &LookError, last_seen: Option<u64>, follow: bool) -> Error {
    let (kind, exit) = match error {
        LookError::Unopened => (Kind::Remote, Exit::BadTorrent),
        LookError::Unhidden => (Kind::Policy, Exit::Unreachable),
        LookError::Twice => (Kind::Remote, Exit::Unreachable),
        LookError::Nothing | LookError::Older | LookError::Network(_) | LookError::Disk(_) => {
            (Kind::Network, Exit::Unreachable)
        }
    };
    let mut text = error.to_string();
    if matches!(error, LookError::Nothing)
        && let Some(at) = last_seen
    {
        let ago = duration(unix_now().saturating_sub(at));
        text.push_str(&format!(": its publisher has not been seen for {ago}"));
    }
    let later = if follow {
        ""
    } else {
        "; with --follow it is kept looking"
    };
    let hint = match error {
        LookError::Nothing => format!(
            "publishers are found while they run, and for two hours after; check that the link is whole and this computer's clock is right, and try again later{later}"
        ),
        LookError::Unopened => {
            "ask the publisher for the feed's link again; a newer hushswarm may be needed"
                .to_owned()
        }
        LookError::Twice => {
            "ask the publisher, who has to publish once more: that gets a higher number".to_owned()
        }
        LookError::Unhidden => "ask the publisher whether that is meant; --public takes it from public peers, through circuits, and --hidden-only looks for it among hidden peers alone"
            .to_owned(),
        LookError::Network(Outcome::NoBootstrap) => {
            "name a node with --dht-bootstrap HOST:PORT".to_owned()
        }
        LookError::Older | LookError::Network(_) | LookError::Disk(_) => {
            format!("try again later{later}")
        }
    };
    Error::new(kind, text).with_exit(exit).with_hint(hint)
}

/// The folder of a version: never another's.
fn folder(issue: &Issue) -> String {
    let hash = InfoHash(issue.infohash).hex();
    let short = hash.get(..8).unwrap_or_default();
    format!("{}-{short}", issue.number)
}

fn magnet(issue: Issue) -> Magnet {
    Magnet {
        hash: InfoHash(issue.infohash),
        v2: None,
        name: Some(display_name(&issue.name)).filter(|name| !name.is_empty()),
        trackers: Vec::new(),
        peers: Vec::new(),
        seeds: issue.contact.into_iter().collect(),
        select: None,
        web_seeds: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn issue(number: u64) -> Issue {
        Issue {
            number,
            infohash: [0xab; 20],
            name: "a\u{202e}name".to_owned(),
            contact: None,
        }
    }

    #[test]
    fn each_version_has_a_folder_and_no_name_of_a_publishers_leads_out_of_it() {
        assert_eq!(folder(&issue(7)), "7-abababab");
        assert_ne!(folder(&issue(7)), folder(&issue(8)));
        let magnet = magnet(issue(7));
        assert_eq!(magnet.name.as_deref(), Some("aname"));
        assert_eq!(magnet.hash, InfoHash([0xab; 20]));
    }

    #[test]
    fn a_publisher_who_is_away_is_told_with_what_to_do() {
        let at = unix_now() - 7200;
        let gone = explain(&LookError::Nothing, Some(at), false);
        assert!(
            gone.to_string().contains("not been seen for 2:00 h"),
            "{gone}"
        );
        assert!(gone.hint().unwrap().contains("--follow"));
        assert_eq!(gone.exit(), Exit::Unreachable);
        let never = explain(&LookError::Nothing, None, true);
        assert!(!never.to_string().contains("seen for"), "{never}");
        assert!(!never.hint().unwrap().contains("--follow"));
        let unopened = explain(&LookError::Unopened, Some(at), false);
        assert_eq!(unopened.exit(), Exit::BadTorrent);
        assert!(unopened.hint().unwrap().contains("link again"));
        let public = explain(&LookError::Unhidden, Some(at), true);
        assert_eq!(public.kind(), Kind::Policy);
        assert!(public.hint().unwrap().contains("--public"));
        let network = explain(&LookError::Network(Outcome::NoBootstrap), None, false);
        assert!(network.hint().unwrap().contains("--dht-bootstrap"));
    }

    #[test]
    fn what_is_about_feeds_is_refused_where_there_is_none() {
        let torrent = format!("magnet:?xt=urn:btih:{}", "ab".repeat(20));
        assert!(link_of(&torrent, false, false).unwrap().is_none());
        for (follow, public) in [(true, false), (false, true)] {
            let error = link_of(&torrent, follow, public).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage);
        }
        let both = format!("{torrent}&xs=urn:btpk:{}", "85".repeat(32));
        assert!(link_of(&both, false, false).unwrap().is_none());
        let error = link_of(&both, true, false).unwrap_err();
        assert!(error.hint().unwrap().contains("xt="), "{error}");
    }

    #[test]
    fn one_bad_version_does_not_end_it_but_the_disk_and_the_user_do() {
        let failed = |exit| Error::new(Kind::Remote, "x").with_exit(exit);
        for exit in [Exit::Disk, Exit::Interrupted] {
            assert!(ends(&failed(exit)), "{exit:?}");
        }
        for exit in [
            Exit::BadTorrent,
            Exit::Unreachable,
            Exit::Usage,
            Exit::NoNetwork,
            Exit::Failed,
        ] {
            assert!(!ends(&failed(exit)), "{exit:?}");
        }
    }

    #[tokio::test]
    async fn only_a_later_version_follows_and_who_does_not_stay_is_told_why_there_is_none() {
        let display = Display::Quiet;
        let (looked, mut seen) = watch::channel(Looked::default());
        let set = |number: Option<u64>, trouble: Option<LookError>| {
            looked.send_replace(Looked {
                newest: number.map(issue),
                trouble: trouble.map(|error| Arc::new(explain(&error, None, false))),
            });
        };
        set(Some(5), None);
        let first = newer(None, &mut seen, true, &display).await.unwrap();
        assert_eq!(first.number, 5);
        for (number, trouble) in [
            (Some(5), None),
            (Some(4), None),
            (Some(5), Some(LookError::Nothing)),
        ] {
            set(number, trouble);
            let waits = newer(Some(5), &mut seen, true, &display);
            let waits = tokio::time::timeout(Duration::from_millis(50), waits).await;
            assert!(waits.is_err(), "it is not waited for");
        }
        set(Some(6), None);
        let next = newer(Some(5), &mut seen, true, &display).await.unwrap();
        assert_eq!(next.number, 6);
        set(None, Some(LookError::Unopened));
        let error = newer(None, &mut seen, false, &display).await.unwrap_err();
        assert_eq!(error.exit(), Exit::BadTorrent);
        assert!(error.hint().is_some());
    }
}
