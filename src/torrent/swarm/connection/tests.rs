//! A connection whose turn has come, or has not, looks at its stream when something may happen, and not else.
#![allow(clippy::unwrap_used)]
use std::io;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::torrent::pace::{Budget, Limits, Pace};

/// Bytes per second, of each direction.
const RATE: u64 = 1 << 20;

/// Far more than a connection looks at its stream in the minutes in which nothing happens.
const MOST_LOOKS: u32 = 10_000;

/// Never takes or gives a byte, and ends when it was looked at too often.
struct Stuck(Arc<AtomicU32>);

impl crate::route::ByteStream for Stuck {}

impl AsyncRead for Stuck {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.fetch_add(1, Ordering::Relaxed) < MOST_LOOKS {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

fn limited() -> Arc<Shared> {
    let limits = Limits {
        down: Some(RATE),
        up: Some(RATE),
    };
    let torrent = Budget::new(limits);
    let all = Arc::default();
    Shared::new(InfoHash([1; 20]), Pace { torrent, all })
}

fn connection(shared: &Arc<Shared>) -> (Connection, mpsc::Receiver<News>) {
    let (news, heard) = mpsc::channel(8);
    let names = Names::default();
    let key = PeerKey(1);
    let connection = Connection::new(Arc::clone(shared), key, true, names, news);
    (connection, heard)
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_passes_unused_does_not_wake_the_connection_again_and_again() {
    // Of what is asked for, though the peer chokes us, and of what is given, though the stream takes nothing.
    for way in [Direction::Down, Direction::Up] {
        let shared = limited();
        let (mut connection, _heard) = connection(&shared);
        shared.pace.take(now(), way, RATE);
        let turn = shared.pace.take(now(), way, u64::from(BLOCK));
        assert!(turn.at > now());
        match way {
            Direction::Down => connection.asking = Some(turn),
            Direction::Up => connection.waits = Some(turn),
        }
        let looks = Arc::default();
        let ended = connection.run(Box::new(Stuck(Arc::clone(&looks)))).await;
        assert!(matches!(ended, CloseReason::TimedOut(_)), "{ended:?}");
        assert!(looks.load(Ordering::Relaxed) < MOST_LOOKS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_can_not_be_used_is_given_back_unless_limits_changed() {
    let shared = limited();
    let (mut connection, _heard) = connection(&shared);
    let free_at = |shared: &Shared| shared.pace.take(now(), Direction::Down, 0).at;
    shared.pace.take(now(), Direction::Down, RATE);
    let before = free_at(&shared);
    let turn = shared.pace.take(now(), Direction::Down, RATE);
    assert!(free_at(&shared) > before);
    connection.asking = Some(turn);
    connection.ask();
    assert_eq!(connection.asking, None);
    assert_eq!(free_at(&shared), before);
    // By other limits nothing was promised.
    connection.asking = Some(turn);
    let limits = Limits {
        down: Some(RATE * 2),
        up: None,
    };
    shared.pace.torrent.set(limits);
    shared.pace.take(now(), Direction::Down, RATE);
    let before = free_at(&shared);
    connection.ask();
    assert_eq!(connection.asking, None);
    connection.asking = Some(turn);
    drop(connection);
    assert_eq!(free_at(&shared), before);
}
