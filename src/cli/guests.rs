//! What `run` and `proxy` have in common about guests: the tracker's token, links for clients, and what the user is told.

use std::ffi::OsString;
use std::sync::Arc;

use hushswarm_circuits::rendezvous::Contact;

use super::dht::DhtArgs;
use super::routes::Loaded;
use crate::error::{Error, Exit};
use crate::guests::tracker::{Token, Tracker};
use crate::guests::{Guests, Hosting, Options};
use crate::route::Outside;
use crate::state::StateDir;
use crate::torrent::magnet::{Magnet, MagnetError};

/// Port of the tracker where none is named: the one that trackers have.
pub(super) const TRACKER_PORT: &str = "6969";
/// Tells a program in a jail where to announce.
pub(super) const VARIABLE: &str = "HUSHSWARM_TRACKER";
/// What a token's file begins with. It is kept, so that the torrents of a client find the tracker again after a restart.
const TOKEN_FILE: &str = "tracker-token";

/// The token of a command in this state folder; it is made at the first time. `run` puts its own among the arguments of a program, where
/// others of this computer may read it and can't use it, since they don't reach the jail; so `proxy` has another.
///
/// # Errors
/// The file was open to others, or the disk.
pub(super) fn token(state: &StateDir, command: &str) -> Result<Token, Error> {
    let file = format!("{TOKEN_FILE}-{command}");
    if let Some(kept) = state.read_secret(&file)?
        && let Ok(random) = kept.as_slice().try_into()
    {
        return Ok(Token::new(random));
    }
    let random: [u8; 16] = rand::random();
    state.write_secret(&file, &random)?;
    Ok(Token::new(random))
}

/// Why a link is refused that only some may use.
const CLOSED: &str = "the link's hidden seed lets in only visitors whose keys it knows, and BitTorrent clients can't show a key";
/// What to do instead.
const INSTEAD: &str = "get it with \"hushswarm get\"";

/// What guests need besides the ways in and out.
pub(super) struct Terms<'a> {
    /// The tracker.
    pub tracker: Tracker,
    /// How clients are reached, if they are.
    pub hosting: Option<Hosting>,
    /// Whether and how the DHT is asked.
    pub dht: &'a DhtArgs,
    /// The user's rules.
    pub loaded: &'a Loaded,
}

/// Serves guests by this way out.
pub(super) fn guests(outside: Arc<dyn Outside>, terms: Terms<'_>) -> Arc<Guests> {
    let dht = terms.dht.finder(terms.loaded, Arc::clone(&outside));
    Guests::new(Options {
        outside,
        hosting: terms.hosting,
        dht,
        tracker: terms.tracker,
    })
}

/// Reads a link that is to be turned into one for clients.
///
/// # Errors
/// It is none, or names no hidden seed.
pub(super) fn hidden_link(text: &str) -> Result<Magnet, String> {
    let magnet = Magnet::parse(text).map_err(|error| error.to_string())?;
    if magnet.seeds.is_empty() {
        return Err(
            "the link names no hidden seed (x.hush): give it to the program as it is".to_owned(),
        );
    }
    if is_closed(&magnet) {
        return Err(format!("{CLOSED}: {INSTEAD}"));
    }
    Ok(magnet)
}

fn is_closed(magnet: &Magnet) -> bool {
    magnet.seeds.iter().any(Contact::is_closed)
}

/// The arguments of a program, with links that name hidden seeds turned into such as the program can use.
///
/// # Errors
/// A link names a seed that no program is let in to, or one that can't be read: the program would make a public torrent of it.
pub(super) fn arguments(
    arguments: Vec<OsString>,
    turn: impl Fn(&Magnet) -> Magnet,
) -> Result<Vec<OsString>, Error> {
    let turned = |argument: OsString| {
        let link = match argument.to_str().map(Magnet::parse) {
            Some(Err(error @ (MagnetError::BadSeed | MagnetError::OpenAndClosed))) => {
                return Err(Error::local(error.to_string()).with_exit(Exit::BadTorrent));
            }
            Some(link) => link.ok(),
            None => None,
        };
        match link.filter(|link| !link.seeds.is_empty()) {
            Some(link) if is_closed(&link) => Err(Error::local(CLOSED)
                .with_exit(Exit::Usage)
                .with_hint(INSTEAD)),
            Some(link) => Ok(turn(&link).to_string().into()),
            None => Ok(argument),
        }
    };
    arguments.into_iter().map(turned).collect()
}

/// A port that the tracker may have.
///
/// # Errors
/// It is none, or one that is taken by the system's services or by hushswarm.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port >= 1024);
    port.ok_or_else(|| "a port is needed, from 1024 on".to_owned())
}

/// The same for a port in a jail.
#[cfg(target_os = "linux")]
pub(super) fn port_in_jail(text: &str) -> Result<u16, String> {
    use crate::jail::network::{CAUGHT_PORT, SOCKS_PORT};
    match port(text)? {
        SOCKS_PORT | CAUGHT_PORT => Err("this port is taken inside: choose another one".to_owned()),
        port => Ok(port),
    }
}
#[cfg(not(target_os = "linux"))]
pub(super) use port as port_in_jail;

/// There must be relays that introduce.
///
/// # Errors
/// None does.
pub(super) fn require(client: &crate::overlay::client::Client) -> Result<(), Error> {
    if super::rendezvous::is_possible(client) {
        return Ok(());
    }
    let what = "no relay of this network introduces hidden peers, so the tracker would name nobody";
    Err(Error::new(crate::error::Kind::Policy, what)
        .with_exit(Exit::NoNetwork)
        .with_hint(
            "ask its operators to set \"introduce = true\" in relay.toml, or go without --tracker",
        ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::{IntroductionId, Point};

    use super::*;

    #[test]
    fn the_token_is_kept_and_each_state_folder_and_command_has_its_own() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = folders
            .each_ref()
            .map(|dir| StateDir::open(dir.path().join("state")).unwrap());
        let first = token(&one, "run").unwrap();
        assert_eq!(token(&one, "run").unwrap(), first);
        assert_ne!(token(&other, "run").unwrap(), first);
        assert_ne!(token(&one, "proxy").unwrap(), first);
        assert_eq!(format!("{first:?}"), "[token]");
    }

    #[test]
    fn links_to_hidden_seeds_are_turned_and_other_arguments_stay() {
        let point = Point {
            relay: RelayId([1; 32]),
            introduction: IntroductionId([2; 32]),
        };
        let hidden = Magnet {
            hash: crate::torrent::infohash::InfoHash([7; 20]),
            v2: None,
            name: Some("a name".to_owned()),
            trackers: vec!["http://t.example/announce".to_owned()],
            peers: Vec::new(),
            seeds: vec![Contact::new([3; 32], vec![point]).unwrap()],
            select: None,
            web_seeds: Vec::new(),
        };
        let public = Magnet {
            seeds: Vec::new(),
            ..hidden.clone()
        };
        let given = [
            "aria2c".to_owned(),
            "--dir=/x".to_owned(),
            public.to_string(),
            hidden.to_string(),
        ];
        let turned = arguments(given.clone().map(OsString::from).to_vec(), |magnet| {
            Magnet {
                seeds: Vec::new(),
                trackers: vec!["http://127.0.0.1:1/announce".to_owned()],
                ..magnet.clone()
            }
        });
        let turned = turned.unwrap();
        assert_eq!(
            turned[..3],
            given[..3].iter().map(OsString::from).collect::<Vec<_>>()
        );
        let text = turned[3].to_str().unwrap();
        assert!(
            !text.contains("x.hush") && !text.contains("t.example"),
            "{text}"
        );
        assert!(
            text.contains("&dn=a%20name&tr=http%3A%2F%2F127.0.0.1"),
            "{text}"
        );
        assert!(hidden_link(&public.to_string()).is_err());
        assert!(hidden_link(&hidden.to_string()).is_ok());

        // One of several that can't be visited is enough: what it has is for some alone.
        let mut closed = hidden.clone();
        let seed = Contact::new([4; 32], vec![point]).unwrap();
        closed.seeds.push(seed.closed(true));
        let refused = hidden_link(&closed.to_string()).unwrap_err();
        assert!(refused.contains("hushswarm get"), "{refused}");
        let refused = arguments(vec![closed.to_string().into()], Magnet::clone);
        assert_eq!(refused.unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn ports_of_services_are_not_taken() {
        for wrong in ["", "0", "80", "1023", "65536", "x"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
        assert_eq!(port("6969"), Ok(6969));
        #[cfg(target_os = "linux")]
        for taken in ["1080", "1081"] {
            assert!(port_in_jail(taken).is_err() && port(taken).is_ok());
        }
    }
}
