//! `hushswarm network fetch`: replaces the relay list by the newest that a relay serves, asked over a circuit.

use std::sync::Arc;

use hushswarm_circuits::relay_list::RelayList;

use super::FetchArgs;
use super::show::header;
use crate::config::{NetworkFile, unix_now};
use crate::error::{Error, Exit, Kind};
use crate::net::os::OsDialer;
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
    if !list.replaces(&client.list()) {
        return Ok(Fetched::Current);
    }
    let (path, bytes) = (network.list.clone(), Arc::clone(list.bytes()));
    tokio::task::spawn_blocking(move || write_public(&path, &bytes))
        .await
        .map_err(|error| Error::new(Kind::Bug, "can't write a file").with_source(error))??;
    client.set_list(Arc::clone(&list));
    Ok(Fetched::Newer(list))
}

pub(super) fn fetch(args: &FetchArgs) -> Result<String, Error> {
    let (network, list) = NetworkFile::load(&args.file, unix_now())?;
    let state = match &args.state {
        Some(path) => StateDir::open(path)?,
        None => StateDir::open(StateDir::default_path()?)?,
    };
    let _lock = state.lock()?;
    crate::cli::block_on(async {
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
            Arc::new(OsDialer::new(None)),
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
