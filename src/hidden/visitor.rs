//! Who visits a hidden seed: waits at a relay of its own choice, and has the seed told where.

use std::time::Duration;

use hushswarm_circuits::keys::{DhSecret, RelayId};
use hushswarm_circuits::rendezvous::message::{ANSWER_LEN, HandshakeError, MESSAGE_LEN};
use hushswarm_circuits::rendezvous::{Cookie, IntroductionId, Meeting, Status, SwarmKey, Visitor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::{Sealed, Side};
use super::work::{NoWork, Worker};
use super::{MEET_LIMIT, isolation};
use crate::route::{At, Meet, Met, Outside, RouteError};

/// What is asked for is done within this time, or it is given up: the cookie waits for 60 s, and the seed has to come within that.
const WORK_LIMIT: Duration = Duration::from_secs(40);

/// A seed, and one of its introduction points. All of it is public to who knows the swarm.
#[derive(Clone, Copy)]
pub struct Seed {
    /// Its key in this swarm (X25519).
    pub key: [u8; 32],
    /// The introduction point's key.
    pub introduction: IntroductionId,
    /// The relay that it is at.
    pub at: RelayId,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[seed]")
    }
}

/// Why a seed was not met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VisitError {
    /// No relay lets us wait: try again later.
    #[error("no place to meet: {0}")]
    NoPlace(RouteError),
    /// The introduction point is gone or too busy: take another of the seed's.
    #[error("not introduced: {0}")]
    NotIntroduced(RouteError),
    /// The introduction point asks for more work than any seed needs, or we did not do it in time: take another.
    #[error("more work is asked for than is done")]
    TooMuchWork,
    /// The seed did not come in time: take another introduction point, for this one may have dropped the introduction.
    #[error("the seed did not come")]
    NotMet,
    /// Who came is not the seed, or somebody on the way meddles: take another.
    #[error("who came is not the seed")]
    Impostor,
    /// The seed's key is none: there is no such seed.
    #[error("not a seed's key")]
    BadKey,
}

/// Meets a seed; gives the stream to it. Each half of it goes through a circuit of its own, which nothing else uses.
///
/// # Errors
/// As the error says: another introduction point, or later. Nothing is sent any other way.
pub async fn visit(
    outside: &dyn Outside,
    seed: &Seed,
    swarm: &SwarmKey,
) -> Result<Sealed, VisitError> {
    visit_with(outside, seed, swarm, None, &Worker::default()).await
}

/// The same with a seed that lets in only those whose keys it knows. `own` is our key, for this seed alone; nobody but the seed sees it.
///
/// # Errors
/// The same. A seed that does not know the key does not come.
pub async fn visit_known(
    outside: &dyn Outside,
    seed: &Seed,
    swarm: &SwarmKey,
    own: &DhSecret,
) -> Result<Sealed, VisitError> {
    visit_with(outside, seed, swarm, Some(own), &Worker::default()).await
}

/// One or the other; what work is asked for, this worker does.
pub(super) async fn visit_with(
    outside: &dyn Outside,
    seed: &Seed,
    swarm: &SwarmKey,
    own: Option<&DhSecret>,
    worker: &Worker,
) -> Result<Sealed, VisitError> {
    let met = timeout(MEET_LIMIT, meet(outside, seed, swarm, own, worker)).await;
    met.unwrap_or(Err(VisitError::NotMet))
}

async fn meet(
    outside: &dyn Outside,
    seed: &Seed,
    swarm: &SwarmKey,
    own: Option<&DhSecret>,
    worker: &Worker,
) -> Result<Sealed, VisitError> {
    let cookie = Cookie::generate(&mut rand::rng());
    // Who runs the relay that introduces us does not also see us meet.
    let at = At::Any { but: vec![seed.at] };
    let waiting = isolation("hidden rendezvous", &cookie);
    let waits = outside.meet(at, Meet::Wait(&cookie), waiting).await;
    let Met {
        mut stream,
        relay,
        digest,
        ..
    } = waits.map_err(VisitError::NoPlace)?;
    let meeting = Meeting {
        relay,
        digest,
        cookie,
    };
    let started = start(seed, swarm, &meeting, own);
    let (visitor, message) = started.map_err(|_| VisitError::BadKey)?;
    let at = At::Relay {
        id: seed.at,
        digest: None,
    };
    let meet = Meet::Introduce(&seed.introduction, &message);
    let introducing = isolation("hidden introduction", &cookie);
    let introduced = outside.meet(at, meet, introducing).await;
    let introduced = introduced.map_err(VisitError::NotIntroduced)?;
    if introduced.work.is_some() {
        work(introduced, seed, &message, worker).await?;
    }
    let came = async {
        let joined = stream.read_u8().await.ok()?;
        let mut answer = [0; ANSWER_LEN];
        if Status::from_wire(joined) != Ok(Status::Done) {
            return None;
        }
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    let answer = came.await.ok_or(VisitError::NotMet)?;
    let keys = visitor.finish(&answer).map_err(|_| VisitError::Impostor)?;
    Ok(Sealed::new(stream, keys, Side::Visitor))
}

/// Does what the introduction point asks for before it hands the message on.
async fn work(
    introduced: Met,
    seed: &Seed,
    message: &[u8],
    worker: &Worker,
) -> Result<(), VisitError> {
    let Met {
        mut stream, work, ..
    } = introduced;
    let Some(challenge) = work else {
        return Ok(());
    };
    let found = worker.find(&challenge, &seed.introduction, message);
    let found = match timeout(WORK_LIMIT, found).await {
        Ok(Ok(found)) => found,
        Ok(Err(NoWork::TooMuch | NoWork::Failed)) | Err(_) => {
            stream.reset_on_drop();
            return Err(VisitError::TooMuchWork);
        }
    };
    let told = async {
        stream.write_all(&found).await.ok()?;
        stream.flush().await.ok()?;
        Status::from_wire(stream.read_u8().await.ok()?).ok()
    };
    let error = match told.await {
        Some(Status::Done) => return Ok(()),
        Some(Status::Unknown) => RouteError::ConnectionRefused,
        Some(Status::Limit) => RouteError::Busy,
        Some(Status::Refused | Status::Expired | Status::Work) => RouteError::Refused,
        None => RouteError::CircuitLost,
    };
    Err(VisitError::NotIntroduced(error))
}

/// Begins the handshake with a seed, showing it `own` where it wants to know who comes.
fn start(
    seed: &Seed,
    swarm: &SwarmKey,
    meeting: &Meeting,
    own: Option<&DhSecret>,
) -> Result<(Visitor, [u8; MESSAGE_LEN]), HandshakeError> {
    let (key, introduction) = (&seed.key, &seed.introduction);
    let rng = &mut rand::rng();
    match own {
        None => Visitor::start(key, introduction, swarm, meeting, rng),
        Some(own) => Visitor::start_known(own, key, introduction, swarm, meeting, rng),
    }
}
