//! Torrent files at web addresses, fetched through circuits as trackers are asked.
//!
//! Whoever can answer in the server's place can put another torrent there, so HTTPS is asked for; an onion service proves by its name
//! who it is.

use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;

use super::magnet::Magnet;
use super::metainfo::MAX_TORRENT;
use super::tracker::{AnnounceError, Fetched, MAX_REDIRECTS, TrackerClient};
use crate::route::special::Place;
use crate::route::{Outside, RouteError};

/// Time for everything, redirects included: programs that ask for it wait a minute for an answer, as a rule.
const DEADLINE: Duration = Duration::from_secs(55);

/// What stood at an address.
#[derive(Clone, PartialEq, Eq)]
pub enum Found {
    /// What should be a torrent file, bytes.
    File(Vec<u8>),
    /// The address led to a magnet link, as those of search pages do.
    Magnet(String),
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File(..)",
            Self::Magnet(_) => "Magnet(..)",
        })
    }
}

/// Why no torrent came. No variant holds an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No web address: give another.
    #[error("that is no web address that can be asked for a torrent")]
    BadUrl,
    /// Plain HTTP: the relay at the end of the circuit could put another torrent there.
    #[error(
        "torrents are not fetched by plain http, where the last relay could put another one in its place: use the https address, or fetch the file yourself"
    )]
    Plain,
    /// Only hidden peers are to be used, and it is at a public place.
    #[error(
        "with --hidden-only nothing is fetched from public places: fetch the file yourself, through \"hushswarm run\""
    )]
    Public,
    /// It is at a private address, or redirects to one (L49).
    #[error("the torrent's address is a private one: fetch the file yourself")]
    Private,
    /// More redirects than are followed, or one to nowhere or to plain HTTP.
    #[error("the torrent's address redirects in a way that is not followed")]
    Redirect,
    /// The server could not prove who it is.
    #[error("the server of the torrent's address has no valid certificate")]
    Tls,
    /// An HTTP status other than success: as a rule one must log in there.
    #[error("the server of the torrent's address answered with HTTP status {0}")]
    Status(u16),
    /// More than [`MAX_TORRENT`] bytes, or what is no HTTP.
    #[error("what is at that address is no torrent file")]
    Malformed,
    /// Try again later.
    #[error("the server of the torrent's address does not answer")]
    TimedOut,
    /// Try again.
    #[error("the connection to the server of the torrent's address was lost")]
    Lost,
    /// There is no way to it.
    #[error("the server of the torrent's address can't be reached")]
    Route(#[from] RouteError),
}

impl From<AnnounceError> for FetchError {
    /// Of what the shared reader of URLs and answers says.
    fn from(error: AnnounceError) -> Self {
        match error {
            AnnounceError::BadUrl | AnnounceError::UnsupportedScheme => Self::BadUrl,
            AnnounceError::Private => Self::Private,
            AnnounceError::Redirect => Self::Redirect,
            AnnounceError::Tls => Self::Tls,
            AnnounceError::Status(status) => Self::Status(status),
            AnnounceError::TimedOut => Self::TimedOut,
            AnnounceError::Lost => Self::Lost,
            AnnounceError::Route(error) => Self::Route(error),
            AnnounceError::Failure(_)
            | AnnounceError::Malformed
            | AnnounceError::NoScrape
            | AnnounceError::TooLarge => Self::Malformed,
        }
    }
}

/// Whether this is a web address, whatever stands at it.
pub fn is_web(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        let begin = text.get(..scheme.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    })
}

/// Where torrents may be fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everywhere.
    Anywhere,
    /// Onion services alone.
    Onions,
}

/// Fetches what stands at a web address. It has a circuit of its own: the server learns an exit's address, and nobody who is asked for
/// anything else does. `client` says whom to trust.
///
/// # Errors
/// Tell the user.
pub async fn fetch(
    outside: &dyn Outside,
    client: &TrackerClient,
    url: &str,
    reach: Reach,
) -> Result<Found, FetchError> {
    let work = follow(outside, client, url, reach);
    let result = tokio::time::timeout(DEADLINE, work).await;
    result.unwrap_or(Err(FetchError::TimedOut))
}

async fn follow(
    outside: &dyn Outside,
    client: &TrackerClient,
    url: &str,
    reach: Reach,
) -> Result<Found, FetchError> {
    let isolation = Isolation::new("torrent file", url.as_bytes(), 0);
    let mut endpoint = client.endpoint(url)?;
    for _ in 0..=MAX_REDIRECTS {
        let onion = Place::is_onion(&endpoint.target);
        if reach == Reach::Onions && !onion {
            return Err(FetchError::Public);
        }
        if !onion && !endpoint.is_https() && !client.allows_private() {
            return Err(FetchError::Plain);
        }
        let fetched = client.fetch(outside, isolation, &endpoint, MAX_TORRENT);
        match fetched.await? {
            Fetched::Body(file) => return Ok(Found::File(file)),
            Fetched::Redirect(location) if Magnet::is_link(&location) => {
                return Ok(Found::Magnet(location));
            }
            Fetched::Redirect(location) => {
                endpoint = client.redirected(&endpoint, &location)?;
            }
        }
    }
    Err(FetchError::Redirect)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::tracker::fake::{Answer, World, ok, redirect, root, secure, target};

    const ONION: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

    /// From a test network, where plain HTTP will do.
    async fn tried(world: &World, url: &str) -> Result<Found, FetchError> {
        fetch(world, &TrackerClient::new(true), url, Reach::Anywhere).await
    }

    #[tokio::test]
    async fn what_stands_there_comes_over_redirects_and_the_server_learns_nothing() {
        let world = World::http(|to, _| {
            if *to == target("files.example", 80) {
                ok(b"d4:infode")
            } else {
                redirect("http://files.example/t?id=7")
            }
        });
        let found = tried(&world, "http://site.example/get#part").await;
        assert_eq!(found, Ok(Found::File(b"d4:infode".to_vec())));
        let asked = world.asked.lock().unwrap();
        let heads: Vec<_> = asked.iter().map(|(_, head)| head.as_slice()).collect();
        let of = |line: &str, host: &str| {
            format!(
                "GET {line} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: curl/7.81.0\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
            )
        };
        let wanted = [of("/get", "site.example"), of("/t?id=7", "files.example")];
        assert_eq!(heads, [wanted[0].as_bytes(), wanted[1].as_bytes()]);
    }

    #[tokio::test]
    async fn a_redirect_to_a_magnet_link_is_that_link() {
        let link = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567";
        let world = World::http(move |_, _| redirect(link));
        let found = tried(&world, "http://site.example/get").await;
        assert_eq!(found, Ok(Found::Magnet(link.to_owned())));
    }

    #[tokio::test]
    async fn no_exit_can_put_another_torrent_there() {
        let world = World::http(|_, _| ok(b"d4:infode"));
        let client = TrackerClient::new(false);
        for url in ["http://site.example/a.torrent", "HTTP://site.example/"] {
            let result = fetch(&world, &client, url, Reach::Anywhere).await;
            assert_eq!(result, Err(FetchError::Plain));
        }
        assert!(world.asked.lock().unwrap().is_empty());
        // Its name says who it is.
        let onion = format!("http://{ONION}/a.torrent");
        assert!(
            fetch(&world, &client, &onion, Reach::Anywhere)
                .await
                .is_ok()
        );
        // It may not lead out to where nobody proves anything.
        let away = World::http(|_, _| redirect("http://site.example/a.torrent"));
        let result = fetch(&away, &client, &onion, Reach::Anywhere).await;
        assert_eq!(result, Err(FetchError::Plain));
    }

    #[tokio::test]
    async fn who_wants_hidden_peers_only_asks_nobody_in_public() {
        let world = World::http(|_, _| redirect("https://site.example/a.torrent"));
        let client = TrackerClient::new(false);
        let public = "https://site.example/a.torrent";
        let result = fetch(&world, &client, public, Reach::Onions).await;
        assert_eq!(result, Err(FetchError::Public));
        assert!(world.targets().is_empty());
        // Nor where an onion service leads out.
        let onion = format!("http://{ONION}/a.torrent");
        let result = fetch(&world, &client, &onion, Reach::Onions).await;
        assert_eq!(result, Err(FetchError::Public));
        assert_eq!(world.targets(), [target(ONION, 80)]);
    }

    #[tokio::test]
    async fn a_server_that_can_not_prove_who_it_is_gives_nothing() {
        let world = secure(|_, _| ok(b"d4:infode"));
        let trusting = TrackerClient::with_roots(&[root()], false);
        let url = "https://tracker.example/a.torrent";
        assert!(fetch(&world, &trusting, url, Reach::Anywhere).await.is_ok());
        let another = fetch(
            &world,
            &trusting,
            "https://other.example/a.torrent",
            Reach::Anywhere,
        )
        .await;
        assert_eq!(another, Err(FetchError::Tls));
        let stranger = fetch(&world, &TrackerClient::new(false), url, Reach::Anywhere).await;
        assert_eq!(stranger, Err(FetchError::Tls));
        assert_eq!(
            world.targets().len(),
            1,
            "nobody else was asked for anything"
        );
        let down = secure(|_, _| redirect("http://tracker.example/a.torrent"));
        let result = fetch(&down, &trusting, url, Reach::Anywhere).await;
        assert_eq!(result, Err(FetchError::Redirect));
    }

    #[tokio::test]
    async fn private_places_are_not_asked() {
        let client = TrackerClient::new(false);
        let world = World::http(|_, _| redirect("https://192.168.1.1/a.torrent"));
        let result = fetch(
            &world,
            &client,
            "https://127.0.0.1/a.torrent",
            Reach::Anywhere,
        )
        .await;
        assert_eq!(result, Err(FetchError::Private));
        let result = fetch(
            &world,
            &client,
            &format!("http://{ONION}/"),
            Reach::Anywhere,
        )
        .await;
        assert_eq!(result, Err(FetchError::Private));
        assert_eq!(world.asked.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_torrent_ends_and_is_told() {
        let circle = World::http(|_, _| redirect("/again"));
        let result = tried(&circle, "http://site.example/").await;
        assert_eq!(result, Err(FetchError::Redirect));
        let asked = circle.asked.lock().unwrap().len();
        assert_eq!(asked, MAX_REDIRECTS + 1);

        let nothing = "HTTP/1.1 403 Forbidden\r\n\r\nlog in";
        let refusing = World::http(move |_, _| Answer::Bytes(nothing.into()));
        let result = tried(&refusing, "http://site.example/").await;
        assert_eq!(result, Err(FetchError::Status(403)));

        let silent = World::http(|_, _| Answer::Silence);
        let result = tried(&silent, "http://site.example/").await;
        assert_eq!(result, Err(FetchError::TimedOut));

        for url in ["https:///a", "http://user@site.example/", "http://a b/"] {
            assert_eq!(tried(&silent, url).await, Err(FetchError::BadUrl), "{url}");
        }
    }

    #[tokio::test]
    async fn no_more_is_taken_than_a_torrent_can_have() {
        let world = World::http(|_, _| Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()));
        let result = tried(&world, "http://site.example/").await;
        assert_eq!(result, Err(FetchError::Malformed));
    }
}
