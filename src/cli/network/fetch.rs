//! `hushswarm network fetch`: replaces the relay list by the newest that a relay serves, asked over a circuit.

use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::relay_list::RelayList;
use rand::{Rng, RngExt};
use tracing::{info, warn};

use super::FetchArgs;
use super::show::header;
use crate::cli::connect::dialer;
use crate::cli::tor::OurTor;
use crate::config::{NetworkFile, Routes, TorFile, unix_now};
use crate::error::{Error, Exit, Kind};
use crate::overlay::client::{Client, ClientConfig};
use crate::overlay::directory::{FetchError, fetch_list};
use crate::overlay::guards::GuardFile;
use crate::state::{StateDir, write_public};

/// What came of fetching.
#[derive(Debug)]
pub enum Fetched {
    /// A newer list is in the file, and in use by the client.
    Newer(Arc<RelayList>),
    /// The relay has the same list, or an older one; nothing was changed.
    Current,
}

/// Fetches the relay list over a circuit of `client`. One that is newer than the client's replaces it, in the
/// network's file and in the client. For whoever runs longer than a list lives, too.
///
/// # Errors
/// Tell the user; the list in use stays, until it expires.
pub async fn refresh(network: &NetworkFile, client: &Client) -> Result<Fetched, Error> {
    let found = fetch_list(client, &network.trust(), unix_now()).await;
    let list = found.map_err(|error| {
        let failed = Error::new(Kind::Network, "the relay list could not be fetched");
        let failed = match &error {
            FetchError::Refused(refused) => match refused.hint() {
                Some(hint) => failed.with_exit(Exit::NoNetwork).with_hint(hint),
                None => failed.with_exit(Exit::NoNetwork),
            },
            FetchError::NoCircuit(_) | FetchError::Broken => failed
                .with_exit(Exit::Unreachable)
                .with_hint("try again later; the list that is there stays in use until it expires"),
        };
        failed.with_source(error)
    })?;
    let list = Arc::new(list);
    let held = client.list();
    if !list.replaces(&held) || list.valid_from() == held.valid_from() {
        return Ok(Fetched::Current);
    }
    let (path, bytes) = (network.list.clone(), Arc::clone(list.bytes()));
    tokio::task::spawn_blocking(move || write_public(&path, &bytes))
        .await
        .map_err(|error| Error::new(Kind::Bug, "can't write a file").with_source(error))??;
    client.set_list(Arc::clone(&list));
    Ok(Fetched::Newer(list))
}

/// How often a running client looks whether its list gets old, about.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// When the first look is, at the latest: long enough that the start of a program is not marked by a fetch.
const FIRST_LOOK: Duration = Duration::from_secs(5 * 60);

/// Keeps the client's relay list from expiring while it runs: takes what was put in the file's place, and fetches a newer
/// one over a circuit when less than a third of its life is left. Never ends.
pub(in crate::cli) async fn keep_fresh(network: NetworkFile, client: Client) {
    let mut wait = rand::rng().random_range(Duration::ZERO..FIRST_LOOK);
    loop {
        tokio::time::sleep(wait).await;
        wait = next_look(&mut rand::rng());
        renew_if_old(&network, &client).await;
    }
}

/// Takes a newer relay list that was put in the file's place, and fetches one over a circuit where less than a third of
/// the life of the client's is left. Where neither is to be had, the one in use stays until it expires.
pub async fn renew_if_old(network: &NetworkFile, client: &Client) {
    let of = network.clone();
    let stored = tokio::task::spawn_blocking(move || of.load_list(unix_now()));
    // One that is not to be trusted is as good as none: the list in use stays.
    if let Ok(Ok(stored)) = stored.await
        && stored.replaces(&client.list())
        && stored.valid_from() > client.list().valid_from()
    {
        client.set_list(Arc::new(stored));
        info!("took a newer relay list from its file");
    }
    if !gets_old(&client.list(), unix_now()) {
        return;
    }
    match refresh(network, client).await {
        Ok(Fetched::Newer(_)) => info!("fetched a newer relay list"),
        Ok(Fetched::Current) => info!("the relays have no newer relay list yet"),
        Err(error) => warn!(%error, "no newer relay list"),
    }
}

/// Half an hour to an hour and a half: looks of many clients, and of one after another, are not in step.
fn next_look(rng: &mut impl Rng) -> Duration {
    rng.random_range(LOOK / 2..LOOK * 3 / 2)
}

/// Whether less than a third of a list's life is left.
fn gets_old(list: &RelayList, now: u64) -> bool {
    let life = list.valid_until().saturating_sub(list.valid_from());
    list.valid_until().saturating_sub(now) < life / 3
}

pub(super) fn fetch(args: &FetchArgs) -> Result<String, Error> {
    let (network, list) = NetworkFile::load(&args.file, unix_now())?;
    let state = match &args.state {
        Some(path) => StateDir::open(path)?,
        None => StateDir::open(StateDir::default_path()?)?,
    };
    let _lock = state.lock()?;
    let tor = TorFile::load(args.tor.tor.as_deref())?;
    let (routes, _) = Routes::load(args.routes.as_deref())?;
    let way = args.first_link.unwrap_or(routes.first_link);
    crate::cli::block_on(async {
        let dialer = dialer(way, || OurTor::new(tor, &state))?;
        let (guards, store) = GuardFile::open(state, &network.name)?;
        let config = ClientConfig {
            rules: network.rules,
            prebuilt: 0,
            ..ClientConfig::default()
        };
        let client = Client::new(
            Arc::new(list),
            guards,
            Some(Box::new(store)),
            dialer,
            config,
        );
        let fetched = refresh(&network, &client).await;
        client.close();
        Ok(match fetched? {
            Fetched::Newer(list) => format!(
                "wrote {}: a newer relay list\n{}",
                network.list.display(),
                header(&network, &list, unix_now())
            ),
            Fetched::Current => format!(
                "the relay list {} is the newest that the relay has\n{}",
                network.list.display(),
                header(&network, &client.list(), unix_now())
            ),
        })
    })
}
