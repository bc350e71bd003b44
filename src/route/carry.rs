//! Carries bytes between a program and the stream that was opened for it, in both directions, until both have ended.
//!
//! Buffers are large, since every write is a system call, and come from a stock: a connection that carries nothing has
//! none. An end in one direction is passed on as an end, and what broke as a reset, so that nobody takes half a file for
//! a whole one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::BoxStream;

/// A buffer for connections that carry little, bytes.
const SMALL: usize = 16 * 1024;
/// A buffer for those that fill one, bytes: larger ones save no more system calls that could be measured.
const LARGE: usize = 256 * 1024;
/// Large buffers in use at once, in all connections: 64 MiB. Whoever comes later goes on with a small one.
const LARGE_IN_USE: usize = 256;
/// Small buffers kept for use again: 4 MiB.
const SMALL_KEPT: usize = 256;
/// Large buffers kept for use again: 8 MiB.
const LARGE_KEPT: usize = 32;
/// A connection that one side has ended, and in which nothing moves for this time, is over: the other side may never
/// notice that nobody is left.
const HALF_CLOSED: Duration = Duration::from_secs(15 * 60);

type Buffer = Box<[u8]>;

#[derive(Default)]
struct Stock {
    small: Vec<Buffer>,
    large: Vec<Buffer>,
    large_in_use: usize,
}

/// Buffers for many connections. Clones are the same stock.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Stock>>);

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer; a small one too where too many large ones are in use.
    fn take(&self, large: bool) -> Buffer {
        let mut stock = self.lock();
        if large && stock.large_in_use < LARGE_IN_USE {
            stock.large_in_use += 1;
            let kept = stock.large.pop();
            drop(stock);
            return kept.unwrap_or_else(|| vec![0; LARGE].into());
        }
        let kept = stock.small.pop();
        drop(stock);
        kept.unwrap_or_else(|| vec![0; SMALL].into())
    }

    fn give_back(&self, buffer: Buffer) {
        let mut stock = self.lock();
        if buffer.len() == LARGE {
            stock.large_in_use -= 1;
            if stock.large.len() < LARGE_KEPT {
                stock.large.push(buffer);
            }
        } else if stock.small.len() < SMALL_KEPT {
            stock.small.push(buffer);
        }
    }
}

/// How many bytes went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the program.
    pub up: u64,
    /// To the program.
    pub down: u64,
}

/// Carries bytes between `near`, a program, and `far`, until both directions have ended. `early` are bytes that the
/// program sent before `far` was open. Where one of the two breaks, the other is reset.
///
/// # Errors
/// One side broke, or nothing moved for long after one side had ended.
pub async fn carry(
    near: BoxStream,
    far: BoxStream,
    early: Vec<u8>,
    buffers: &Buffers,
) -> io::Result<Carried> {
    let both = Both {
        near,
        far,
        up: Direction::new(buffers, early),
        down: Direction::new(buffers, Vec::new()),
        half_closed: None,
    };
    both.await
}

/// One connection's two directions.
struct Both {
    near: BoxStream,
    far: BoxStream,
    up: Direction,
    down: Direction,
    /// Since when one direction is over and the other stands still.
    half_closed: Option<Pin<Box<Sleep>>>,
}

impl Future for Both {
    type Output = io::Result<Carried>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let before = this.up.carried + this.down.carried;
        let up = this.up.poll(cx, &mut this.near, &mut this.far);
        let down = match &up {
            Poll::Ready(Err(_)) => Poll::Pending,
            Poll::Ready(Ok(())) | Poll::Pending => {
                this.down.poll(cx, &mut this.far, &mut this.near)
            }
        };
        let failed = match (up, down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return Poll::Ready(Ok(Carried {
                    up: this.up.carried,
                    down: this.down.carried,
                }));
            }
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => error,
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            (Poll::Ready(Ok(())), Poll::Pending) | (Poll::Pending, Poll::Ready(Ok(()))) => {
                let moved = this.up.carried + this.down.carried > before;
                ready!(this.poll_half_closed(cx, moved));
                io::ErrorKind::TimedOut.into()
            }
        };
        this.near.reset_on_drop();
        this.far.reset_on_drop();
        Poll::Ready(Err(failed))
    }
}

impl Both {
    fn poll_half_closed(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        let sleep = self
            .half_closed
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
        if moved {
            sleep.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
        sleep.as_mut().poll(cx)
    }
}

enum State {
    Open,
    /// The reader has ended; what is held still has to go.
    Ending,
    Over,
}

/// Bytes on their way from a reader to a writer.
struct Direction {
    stock: Buffers,
    /// Bytes from before the buffers' time.
    early: Vec<u8>,
    buffer: Option<Buffer>,
    /// What of the buffer is to be written.
    held: std::ops::Range<usize>,
    large: bool,
    state: State,
    carried: u64,
}

impl Direction {
    fn new(stock: &Buffers, early: Vec<u8>) -> Self {
        Self {
            stock: stock.clone(),
            held: 0..early.len(),
            early,
            buffer: None,
            large: false,
            state: State::Open,
            carried: 0,
        }
    }

    fn release(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.stock.give_back(buffer);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut BoxStream,
        writer: &mut BoxStream,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.held.is_empty() {
                let bytes = if self.early.is_empty() {
                    self.buffer.as_deref().unwrap_or_default()
                } else {
                    &self.early
                };
                let bytes = bytes.get(self.held.clone()).unwrap_or_default();
                match ready!(Pin::new(&mut *writer).poll_write(cx, bytes))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => {
                        self.held.start += n;
                        self.carried += n as u64;
                    }
                }
            }
            self.early = Vec::new();
            match self.state {
                State::Over => return Poll::Ready(Ok(())),
                State::Ending => {
                    self.release();
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = State::Over;
                    return Poll::Ready(Ok(()));
                }
                State::Open => {}
            }
            let Poll::Ready(n) = self.poll_read(cx, reader)? else {
                // Nothing to hold a buffer for while it waits.
                self.release();
                return Poll::Pending;
            };
            if n == 0 {
                self.state = State::Ending;
            }
            self.held = 0..n;
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut BoxStream,
    ) -> Poll<io::Result<usize>> {
        let small = self.buffer.as_ref().is_some_and(|held| held.len() < LARGE);
        if small && self.large {
            self.release();
        }
        let (stock, large) = (&self.stock, self.large);
        let buffer = self.buffer.get_or_insert_with(|| stock.take(large));
        let mut read = ReadBuf::new(buffer);
        match Pin::new(reader).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {
                let n = read.filled().len();
                // What comes in large pieces gets a large buffer next.
                self.large = n >= SMALL;
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A carried connection: the program's end, the far end, and the task.
    fn carried(
        early: &[u8],
        buffers: &Buffers,
    ) -> (
        DuplexStream,
        DuplexStream,
        tokio::task::JoinHandle<io::Result<Carried>>,
    ) {
        let (program, near) = duplex(1000);
        let (far, world) = duplex(1000);
        let (early, buffers) = (early.to_vec(), buffers.clone());
        let task =
            tokio::spawn(
                async move { carry(Box::new(near), Box::new(far), early, &buffers).await },
            );
        (program, world, task)
    }

    #[tokio::test]
    async fn bytes_and_ends_pass_in_both_directions_independently() {
        let buffers = Buffers::default();
        let (mut program, mut world, task) = carried(b"early ", &buffers);
        program.write_all(b"request").await.unwrap();
        program.shutdown().await.unwrap();
        let mut request = Vec::new();
        world.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"early request");
        world.write_all(&[7; 500]).await.unwrap();
        drop(world);
        let mut answer = Vec::new();
        program.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [7; 500]);
        let carried = task.await.unwrap().unwrap();
        assert_eq!((carried.up, carried.down), (13, 500));
    }

    #[tokio::test]
    async fn a_megabyte_each_way_arrives_and_leaves_no_buffer_in_use() {
        let buffers = Buffers::default();
        let (program, world, task) = carried(b"", &buffers);
        let (mut program_from, mut program_to) = tokio::io::split(program);
        let (mut world_from, mut world_to) = tokio::io::split(world);
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let up = async {
            program_to.write_all(&bytes).await.unwrap();
            program_to.shutdown().await.unwrap();
        };
        let down = async {
            world_to.write_all(&bytes).await.unwrap();
            world_to.shutdown().await.unwrap();
        };
        let (mut there, mut here) = (Vec::new(), Vec::new());
        let _ = tokio::join!(
            up,
            down,
            world_from.read_to_end(&mut there),
            program_from.read_to_end(&mut here)
        );
        assert!(there == bytes && here == bytes);
        let carried = task.await.unwrap().unwrap();
        assert_eq!((carried.up, carried.down), (1_000_000, 1_000_000));
        assert_eq!(buffers.lock().large_in_use, 0);
    }

    #[tokio::test]
    async fn connections_that_carry_nothing_hold_no_buffer() {
        let buffers = Buffers::default();
        let (mut program, mut world, task) = carried(b"", &buffers);
        program.write_all(b"x").await.unwrap();
        world.read_exact(&mut [0]).await.unwrap();
        tokio::task::yield_now().await;
        // The one that both directions used in turn is back.
        assert_eq!(buffers.lock().small.len(), 1);
        task.abort();
    }

    #[test]
    fn large_buffers_are_bounded() {
        let buffers = Buffers::default();
        let held: Vec<Buffer> = (0..LARGE_IN_USE).map(|_| buffers.take(true)).collect();
        assert!(held.iter().all(|buffer| buffer.len() == LARGE));
        assert_eq!(buffers.take(true).len(), SMALL);
        held.into_iter()
            .for_each(|buffer| buffers.give_back(buffer));
        assert_eq!(buffers.take(true).len(), LARGE);
        assert_eq!(buffers.lock().large.len(), LARGE_KEPT - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_connection_in_which_nothing_moves_is_ended() {
        let buffers = Buffers::default();
        let (mut program, _world, task) = carried(b"", &buffers);
        program.shutdown().await.unwrap();
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
