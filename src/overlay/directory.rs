//! The signed relay list, fetched over a circuit from a relay that serves it (PROTOCOL.md §5, OPEN kind 3; §7.2).

use std::io;
use std::time::Duration;

use hushswarm_circuits::relay_list::{ListError, MAX_LIST_LEN, RelayList, Trust};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use tracing::debug;

use super::circuit::StreamFailure;
use super::client::{BuildError, Client};

/// Relays asked before fetching fails.
const ATTEMPTS: usize = 3;
/// A relay must begin to answer within this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(25);
/// A list must have come within this time: 8 MiB at 140 KiB/s.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// No relay list that can be trusted was fetched. The list in use stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No circuit to a relay that serves the list: wait, and try again.
    #[error("no circuit to a relay that serves it: {0}")]
    NoCircuit(#[from] BuildError),
    /// The relay broke off: try again.
    #[error("the relay broke off")]
    Broken,
    /// What the relay sent is not to be trusted: ask another.
    #[error("what the relay sent is refused")]
    Refused(#[from] ListError),
}

/// Fetches the relay list that a relay serves, over a circuit of its own, and verifies it at `now` (seconds since 1970). It
/// may be older than the one in use: see [`RelayList::replaces`].
///
/// # Errors
/// None of a few relays sent one that is good; the error is the last one's.
pub async fn fetch_list(client: &Client, trust: &Trust, now: u64) -> Result<RelayList, FetchError> {
    let mut failure = FetchError::Broken;
    for _ in 0..ATTEMPTS {
        let circuit = client.directory_circuit().await?;
        let opened = circuit.relay_list(OPEN_TIMEOUT).await;
        let read = match opened {
            Ok(stream) => read_list(stream).await.map_err(|_| FetchError::Broken),
            Err(
                StreamFailure::Status(_) | StreamFailure::TimedOut | StreamFailure::CircuitLost,
            ) => Err(FetchError::Broken),
        };
        let number = circuit.number();
        circuit.close();
        // Verifying takes a while for a large list: a signature for each relay.
        let verified = match read {
            Ok(bytes) => {
                let trust = trust.clone();
                let verify = move || RelayList::decode_verified(&bytes, &trust, now);
                match tokio::task::spawn_blocking(verify).await {
                    Ok(verified) => verified.map_err(FetchError::from),
                    Err(_) => Err(FetchError::Broken),
                }
            }
            Err(error) => Err(error),
        };
        match verified {
            Ok(list) => return Ok(list),
            Err(error) => {
                debug!(circuit = number, %error, "no relay list from this relay");
                failure = error;
            }
        }
    }
    Err(failure)
}

/// Reads to the end, but never more than a list may have.
async fn read_list(stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than allowed, so that one that is too long is refused as such.
    let mut bounded = stream.take(MAX_LIST_LEN as u64 + 1);
    timeout(READ_TIMEOUT, bounded.read_to_end(&mut bytes))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(bytes)
}
