//! Our engine as one end of a transfer, with a way out that leads to loopback and nowhere else.

use std::io::BufRead as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hushswarm::net::{BoxFuture, BoxStream, Datagrams};
use hushswarm::route::{Outside, RouteError};
use hushswarm::torrent::engine::{Encryption, Engine, Handle, Job, Options, Source, State};
use hushswarm::torrent::metainfo::Metainfo;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use tokio::net::{TcpListener, TcpStream};

struct OnLoopback;

impl Outside for OnLoopback {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            let addr = target.socket_addr().filter(|addr| addr.ip().is_loopback());
            let stream = TcpStream::connect(addr.ok_or(RouteError::Unreachable)?).await;
            let stream = stream.map_err(|_| RouteError::ConnectionRefused)?;
            stream.set_nodelay(true).unwrap();
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}

/// `give|take TORRENT FOLDER one|many`.
pub(crate) fn run(args: &[String]) {
    let [role, torrent, folder, threads] = args else {
        panic!("give or take, torrent, folder, runtime")
    };
    let mut builder = match threads.as_str() {
        "one" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(serve(role == "give", torrent.into(), folder.into()));
    runtime.shutdown_background();
}

async fn serve(gives: bool, torrent: PathBuf, folder: PathBuf) {
    let state = tempfile::tempdir().unwrap();
    let metainfo = Metainfo::parse(&std::fs::read(torrent).unwrap()).unwrap();
    let mut options = Options::new(state.path().to_owned());
    // As libtorrent here: RC4 would cost both ends more than all else together.
    options.encryption = Encryption::Off;
    let engine = Engine::new(Arc::new(OnLoopback), options);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = if gives {
        engine.seed(metainfo, folder)
    } else {
        engine.download(Job {
            source: Source::Metainfo(metainfo),
            output: folder,
            seed_after: false,
            overwrite: false,
            info: None,
        })
    };
    let ready = if gives {
        State::Seeding
    } else {
        State::Downloading
    };
    let mut progress = handle.progress();
    progress.wait_for(|now| now.state == ready).await.unwrap();
    println!("port {port}");
    if gives {
        accept(&listener, &handle).await;
    } else {
        let port = tokio::task::spawn_blocking(|| {
            let line = std::io::stdin().lock().lines().next();
            line.unwrap().unwrap().parse::<u16>().unwrap()
        });
        let seed = SocketAddr::from((Ipv4Addr::LOCALHOST, port.await.unwrap()));
        handle.onion_door().tell(Target::ip(seed));
        let end = handle.finished().await;
        assert_eq!(end.state, State::Done);
        println!("done");
        // Until its time was read.
        std::future::pending().await
    }
}

async fn accept(listener: &TcpListener, handle: &Handle) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        handle.accept(Box::new(stream));
    }
}
