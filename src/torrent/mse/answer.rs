//! The answering side's handshake.

use std::io;

use rand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::keys::{Cipher, Exchange};
use super::stream::{MseStream, pad};
use super::{KEY_LEN, MAX_PAD, RC4, ZEROS};
use crate::route::BoxStream;
use crate::torrent::infohash::InfoHash;

/// Length of a hash, bytes.
const HASH_LEN: usize = 20;

/// Answers one who asks for one of these torrents; `said` was read of the stream already. Nothing tells an asker for another torrent from one whom nobody
/// answers, but that keys were exchanged.
///
/// # Errors
/// The asker hung up, does not know this encryption or does not offer RC4, or asks for no torrent of these.
pub async fn answer(
    mut stream: BoxStream,
    mut said: Vec<u8>,
    torrents: impl Iterator<Item = InfoHash> + Send,
    rng: &mut (impl Rng + Send),
) -> io::Result<(InfoHash, MseStream)> {
    while said.len() < KEY_LEN {
        more(&mut stream, &mut said).await?;
    }
    let mut theirs = [0; KEY_LEN];
    theirs.copy_from_slice(&said[..KEY_LEN]);
    said.drain(..KEY_LEN);
    let exchange = Exchange::new(rng);
    let shared = exchange.agree(&theirs).ok_or(io::ErrorKind::InvalidData)?;
    let mut out = exchange.public.to_vec();
    out.extend(pad(rng));
    stream.write_all(&out).await?;
    stream.flush().await?;

    let mark = shared.mark();
    let at = loop {
        let window = &said[..said.len().min(MAX_PAD + HASH_LEN)];
        match window.windows(HASH_LEN).position(|w| w == mark) {
            Some(at) => break at,
            None if window.len() == MAX_PAD + HASH_LEN => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            None => more(&mut stream, &mut said).await?,
        }
    };
    said.drain(..at + HASH_LEN);
    while said.len() < HASH_LEN {
        more(&mut stream, &mut said).await?;
    }
    let veiled: Vec<u8> = said.drain(..HASH_LEN).collect();
    let mut torrents = torrents;
    let torrent = torrents
        .find(|&torrent| shared.veiled(torrent) == veiled[..])
        .ok_or(io::ErrorKind::NotFound)?;
    let (mut receive, mut send) = shared.ciphers(torrent);
    receive.apply(&mut said);

    let mut stream = Opened {
        stream,
        receive,
        said,
    };
    let mut head = [0; ZEROS.len() + 4];
    stream.take(&mut head).await?;
    let offers = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if head[..ZEROS.len()] != ZEROS || offers & RC4 == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let pad_len = stream.length().await?;
    if pad_len > MAX_PAD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    stream.take(&mut vec![0; pad_len]).await?;
    // What goes with the request is the beginning of what follows: that there is an end to it means nothing.
    stream.length().await?;

    let mut choice = [&ZEROS[..], &RC4.to_be_bytes()].concat();
    let own = pad(rng).len();
    choice.extend(u16::try_from(own).unwrap_or(0).to_be_bytes());
    choice.resize(choice.len() + own, 0);
    send.apply(&mut choice);
    stream.stream.write_all(&choice).await?;
    stream.stream.flush().await?;
    let Opened {
        stream,
        receive,
        said,
    } = stream;
    Ok((torrent, MseStream::answered(stream, send, receive, said)))
}

/// The asker's stream, opened as it comes.
struct Opened {
    stream: BoxStream,
    receive: Cipher,
    said: Vec<u8>,
}

impl Opened {
    async fn take(&mut self, into: &mut [u8]) -> io::Result<()> {
        while self.said.len() < into.len() {
            let before = self.said.len();
            more(&mut self.stream, &mut self.said).await?;
            self.receive.apply(&mut self.said[before..]);
        }
        into.copy_from_slice(&self.said[..into.len()]);
        self.said.drain(..into.len());
        Ok(())
    }

    async fn length(&mut self) -> io::Result<usize> {
        let mut length = [0; 2];
        self.take(&mut length).await?;
        Ok(usize::from(u16::from_be_bytes(length)))
    }
}

/// Reads what is there, a bounded piece.
async fn more(stream: &mut BoxStream, said: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 1024];
    match stream.read(&mut bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        len => {
            said.extend_from_slice(&bytes[..len]);
            Ok(())
        }
    }
}
