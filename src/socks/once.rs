//! The program's end of one forwarded HTTP request: its content and not a byte more goes up, whatever comes down.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::ByteStream;
use crate::route::BoxStream;

/// Behind the content, reading waits for the end of the answer, so that the server is not told of an end before it has
/// answered. A program that goes, or sends another request, breaks the connection: the request might be for another
/// server.
pub(super) struct Once {
    stream: BoxStream,
    /// Bytes of content that are still to come.
    left: u64,
    answered: bool,
    reader: Option<Waker>,
}

impl Once {
    pub(super) fn new(stream: BoxStream, left: u64) -> Self {
        Self {
            stream,
            left,
            answered: false,
            reader: None,
        }
    }
}

impl ByteStream for Once {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}

impl AsyncRead for Once {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.answered {
            return Poll::Ready(Ok(()));
        }
        if self.left == 0 {
            self.reader = Some(cx.waker().clone());
            let mut more = [0];
            let mut more = ReadBuf::new(&mut more);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut more))?;
            let gone = more.filled().is_empty();
            return Poll::Ready(Err(if gone {
                io::ErrorKind::UnexpectedEof.into()
            } else {
                io::ErrorKind::InvalidData.into()
            }));
        }
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        let room = room.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let n = part.filled().len();
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buf.advance(n);
        self.left -= n as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Once {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.answered = true;
        self.reader.take().into_iter().for_each(Waker::wake);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::route::carry::{Buffers, carry};

    #[tokio::test]
    async fn the_content_goes_up_and_the_answer_ends_the_request() {
        let (mut program, near) = duplex(1000);
        let (far, mut server) = duplex(1000);
        let once = Box::new(Once::new(Box::new(near), 4));
        let task = tokio::spawn(async move {
            let early = b"HEAD ".to_vec();
            carry(once, Box::new(far), early, &Buffers::default()).await
        });
        program.write_all(b"body").await.unwrap();
        let mut request = [0; 9];
        server.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"HEAD body");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        program.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        // The program has not closed its end, and it is over all the same.
        let carried = task.await.unwrap().unwrap();
        assert_eq!((carried.up, carried.down), (9, 6));
    }

    #[tokio::test]
    async fn a_second_request_breaks_the_connection_and_does_not_go_up() {
        let (mut program, near) = duplex(1000);
        let (far, mut server) = duplex(1000);
        let once = Box::new(Once::new(Box::new(near), 4));
        let task = tokio::spawn(async move {
            carry(once, Box::new(far), Vec::new(), &Buffers::default()).await
        });
        program.write_all(b"bodyGET secret").await.unwrap();
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut request = Vec::new();
        server.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"body");
    }

    #[tokio::test]
    async fn a_program_that_goes_before_its_content_is_whole_breaks_the_request() {
        let (mut program, near) = duplex(1000);
        let (far, _server) = duplex(1000);
        let once = Box::new(Once::new(Box::new(near), 4));
        program.write_all(b"bo").await.unwrap();
        drop(program);
        let error = carry(once, Box::new(far), Vec::new(), &Buffers::default()).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
