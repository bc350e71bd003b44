//! Serves programs of this computer on a loopback listener: one request a connection, each within a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::session::Session;
use crate::net::os::LocalListener;
use crate::net::{BoxStream, ByteStream as _};
use crate::rpc::Message;
use crate::rpc::access::{Access, Asked};
use crate::rpc::call::answer;
use crate::rpc::http::{BadRequest, CONTINUE, Head, MAX_HEAD, Response, parse_head};

/// Connections at once; the programs that we know open one or two each.
const MAX_CONNECTIONS: usize = 64;
/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long its body may take: 66 MiB on loopback take less than a second.
const BODY_TIME: Duration = Duration::from_secs(60);
/// How long the answer may take to be read.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How long what a refused client still sends is read, so that it reads why: who is reset while it writes may not look.
const LINGER: Duration = Duration::from_secs(5);
/// Bodies above this, bytes, are read one at a time: the memory for them is bounded by the largest.
const LARGE: usize = 1 << 20;
/// Wait after a connection could not be accepted (no file descriptors left, as a rule).
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the RPC and the metrics.
#[derive(Debug)]
pub struct Server {
    access: Access,
    session: Session,
    large: Semaphore,
}

impl Server {
    /// Serves whom `access` lets in.
    pub fn new(access: Access, session: Session) -> Arc<Self> {
        Arc::new(Self {
            access,
            session,
            large: Semaphore::new(1),
        })
    }

    /// Serves until it is dropped.
    pub async fn serve(self: Arc<Self>, listener: LocalListener) {
        let mut open = JoinSet::new();
        loop {
            while open.try_join_next().is_some() {}
            match listener.accept().await {
                Ok(mut accepted) if open.len() >= MAX_CONNECTIONS => {
                    accepted.stream.reset_on_drop();
                }
                Ok(accepted) => {
                    open.spawn(Arc::clone(&self).handle(accepted.stream));
                }
                Err(error) => {
                    tracing::debug!(kind = %error.kind(), "no connection accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers one request.
    pub async fn handle(self: Arc<Self>, mut stream: BoxStream) {
        let Ok(Some(read)) = timeout(HEAD_TIME, read_head(&mut stream)).await else {
            return;
        };
        let (response, rest) = match read {
            Ok((head, body)) => {
                let missing = head.length.saturating_sub(body.len());
                match self.access.check(&head) {
                    Err(response) => (response, missing),
                    Ok(Asked::Metrics) => (self.metrics().await, missing),
                    Ok(Asked::Call) => match self.call(&mut stream, &head, body).await {
                        Some(response) => (response, 0),
                        None => return,
                    },
                }
            }
            Err(bad) => (bad.response(), usize::MAX),
        };
        let bytes = response.encode();
        let sent = timeout(ANSWER_TIME, async {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        });
        if !matches!(sent.await, Ok(Ok(()))) {
            return;
        }
        // What is missing of a refused body is read and thrown away, for a while.
        let _ = timeout(LINGER, drain(&mut stream, rest)).await;
    }

    async fn metrics(&self) -> Response {
        match self.session.metrics().await {
            Some(text) => Response::metrics(text),
            None => Response::text("503 Service Unavailable", "the daemon is stopping"),
        }
    }

    /// Reads the body of a call, and makes it.
    async fn call(
        &self,
        stream: &mut BoxStream,
        head: &Head,
        mut body: Vec<u8>,
    ) -> Option<Response> {
        let _turn = if head.length > LARGE {
            Some(self.large.acquire().await.ok()?)
        } else {
            None
        };
        body.truncate(head.length);
        let read = timeout(BODY_TIME, async {
            if head.waits && body.len() < head.length {
                stream.write_all(CONTINUE).await.ok()?;
            }
            let begun = body.len();
            body.resize(head.length, 0);
            let rest = body.get_mut(begun..)?;
            stream.read_exact(rest).await.ok()
        });
        read.await.ok()??;
        let message = if body.len() > LARGE {
            let parsed = tokio::task::spawn_blocking(move || Message::parse(&body));
            parsed.await.ok()?
        } else {
            Message::parse(&body)
        };
        let result = match message.call {
            Ok(call) => self.session.call(call).await,
            Err(why) => Err(why),
        };
        Some(Response::json(answer(result, message.tag)))
    }
}

/// Reads the head of a request and what came with it; `None` where the client is gone.
async fn read_head(stream: &mut BoxStream) -> Option<Result<(Head, Vec<u8>), BadRequest>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&chunk[..n]);
        debug_assert!(bytes.len() <= MAX_HEAD + chunk.len());
        match parse_head(&bytes) {
            Ok(None) => {}
            Ok(Some((head, used))) => return Some(Ok((head, bytes.split_off(used)))),
            Err(bad) => return Some(Err(bad)),
        }
    }
}

/// Reads at most so many bytes, and forgets them.
async fn drain(stream: &mut BoxStream, mut left: usize) {
    let mut chunk = [0; 16 << 10];
    while left > 0 {
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => left = left.saturating_sub(n),
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
