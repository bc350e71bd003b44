//! `hushswarm stream`: a download whose file can be played before it has come, from an address of this computer.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use serde::Serialize;
use tokio::io::AsyncRead;

use super::connect::{Connected, OverlayArgs};
use super::dht::DhtArgs;
use super::get::{self, When, Work};
use super::limits::LimitArgs;
use super::progress::{Progress as Display, json_line};
use super::routes::RoutesArgs;
use super::source::{Named, argument};
use crate::error::Error;
use crate::net::os::LocalListener;
use crate::stream::request::{Site, TOKEN_LEN};
use crate::stream::{Content, Server};
use crate::torrent::engine::{Control, Priority, Reader, ReaderError, View};

/// Arguments of `hushswarm stream`.
#[derive(clap::Args)]
pub struct Args {
    /// Magnet link, .torrent file or its https address; "-" reads a magnet link from standard input, where no other user of this computer sees it in the
    /// list of processes
    #[arg(value_name = "MAGNET-OR-FILE")]
    source: String,
    /// Folder to download to
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Only these files: numbers, the first one being 0, or a pattern, as with "get". The largest of them is served
    #[arg(long, value_name = "FILES")]
    only: Vec<String>,
    /// Port to serve at; 0 lets the system choose
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Take only, as with "get"
    #[arg(long)]
    no_share: bool,
    /// Only from hidden peers, as with "get"
    #[arg(long)]
    hidden_only: bool,
    /// Whether streams to public peers are encrypted, as with "get"
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    encryption: When,
    #[command(flatten)]
    limits: LimitArgs,
    /// Overwrite files of the same name that are not this torrent's
    #[arg(long)]
    overwrite: bool,
    /// Write progress, and the address to play from, as JSON lines to standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    routes: RoutesArgs,
    #[command(flatten)]
    dht: DhtArgs,
}

/// Runs the download until it is interrupted.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(args: Args) -> Result<(), Error> {
    let named = Named::read(&argument(&args.source)?)?;
    let select = get::selection(&args.only)?;
    let serve = Serve::listen(args.port, args.json)?;
    let routes = args.routes.load()?;
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args
        .overlay
        .connect_alone(named.without(&routes), &routes)?;
    let mut display = Display::new(args.json);
    if let Some(warning) = args.overlay.warning() {
        display.say(warning);
    }
    let say = |text: &str| display.say(text);
    let source = named.obtain(&client, &state, &routes, args.hidden_only, say);
    let source = source.await?;
    let work = Work {
        source,
        output: args.output,
        seed: true,
        share: !args.no_share,
        hidden_only: args.hidden_only,
        select,
        overwrite: args.overwrite,
        encryption: args.encryption.into(),
        preallocate: false,
        routes,
        dht: Some(args.dht),
        limits: args.limits.limits(),
        sequential: true,
        serve: Some(serve),
    };
    get::download(work, &client, &state, &mut display).await?;
    Ok(())
}

/// Where a file is to be served.
pub struct Serve {
    listener: LocalListener,
    port: u16,
    json: bool,
}

/// What `--json` says once a player may begin.
#[derive(Serialize)]
struct Playable {
    url: String,
    bytes: u64,
}

impl Serve {
    fn listen(port: u16, json: bool) -> Result<Self, Error> {
        let opened = LocalListener::loopback_at(([127, 0, 0, 1], port).into());
        let (listener, at) = opened.map_err(|source| {
            Error::local(format!("can't listen on port {port} of this computer"))
                .with_source(source)
                .with_hint("choose another one with --port")
        })?;
        Ok(Self {
            listener,
            port: at.port(),
            json,
        })
    }

    /// Serves the largest file that is wanted, as soon as it is known, until the torrent is over.
    pub(super) async fn run(self, control: Control) {
        let mut progress = control.progress();
        let (number, len, name) = loop {
            let Some(view) = control.view().await else {
                return;
            };
            match largest(&view) {
                Some(found) => break found,
                None if progress.changed().await.is_err() => return,
                None => {}
            }
        };
        control.set_priorities(vec![(number, Priority::High)]);
        let random: [u8; TOKEN_LEN] = rand::random();
        let site = Site::new(random, &name, self.port);
        self.say(site.url(), len);
        let tag = format!("{:016x}", rand::random::<u64>());
        let server = Server::new(site, len, &tag, File { control, number });
        server.serve(self.listener).await;
    }

    fn say(&self, url: String, bytes: u64) {
        if self.json {
            return json_line("stream", &Playable { url, bytes });
        }
        let mut out = std::io::stdout().lock();
        // Not in the middle of the bar.
        let before = if out.is_terminal() { "\n" } else { "" };
        let _ = writeln!(out, "{before}{url}").and_then(|()| out.flush());
    }
}

/// The number, length and name of the file that is served; `None` while that is unknown.
fn largest(view: &View) -> Option<(usize, u64, String)> {
    let files = view.files.iter().enumerate();
    let wanted = files.filter(|(_, file)| file.priority != Priority::Skip);
    let (number, file) = wanted.max_by_key(|(number, file)| (file.len, usize::MAX - number))?;
    Some((number, file.len, file.path.last()?.clone()))
}

/// A file of a torrent, read while it comes.
struct File {
    control: Control,
    number: usize,
}

impl Content for File {
    async fn open(&self, from: u64) -> std::io::Result<impl AsyncRead + Send + Unpin> {
        let mut progress = self.control.progress();
        let mut reader: Reader = loop {
            match self.control.reader(self.number).await {
                Ok(reader) => break reader,
                Err(ReaderError::NotYet) => {
                    progress.changed().await.map_err(std::io::Error::other)?;
                }
                Err(error) => return Err(std::io::Error::other(error)),
            }
        };
        reader.seek(from);
        Ok(reader)
    }
}
