//! An onion service of ours that forwards to an address, as `arti` and `tor` do: what `hushswarm seed` has below BitTorrent.

use std::net::SocketAddr;
use std::path::Path;

use hushswarm::config::TorFile;
use hushswarm::net::os::TorSockets;
use hushswarm::onion::Visitors;
use hushswarm::tor::{OnionOptions, Tor};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::PORT;

/// `TOR_FILE FOLDER ADDRESS`: prints the service's name, and forwards until it is killed.
pub(crate) fn run(args: &[String]) {
    let [file, folder, target] = args else {
        panic!("--service TOR_FILE FOLDER ADDRESS");
    };
    let file = TorFile::load(Some(Path::new(file))).unwrap();
    let target: SocketAddr = target.parse().unwrap();
    std::fs::create_dir(folder).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let tor = Tor::new(file, folder.into(), TorSockets::for_tor());
        let options = OnionOptions {
            nickname: "bench".to_owned(),
            port: PORT,
            ephemeral: false,
            allow: Vec::new(),
            visitors: Visitors::Peers,
        };
        let mut service = tor.serve(&options).await.unwrap();
        println!("{}", service.address());
        while let Some(visitor) = service.next().await {
            tokio::spawn(async move {
                let onward = TcpStream::connect(target).await.unwrap();
                onward.set_nodelay(true).unwrap();
                let (visitor, onward) = (tokio::io::split(visitor), tokio::io::split(onward));
                // As tor and arti do, since Tor's streams have no end of one direction: when either is through, both are.
                tokio::select! {
                    () = pump(onward.0, visitor.1) => {}
                    () = pump(visitor.0, onward.1) => {}
                }
            });
        }
    });
}

/// Copies to the end, or until somebody has left, who is not missed.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buf).await {
        if n == 0 || to.write_all(&buf[..n]).await.is_err() {
            break;
        }
    }
    let _ = to.flush().await;
}
