//! `hushswarm add`, `list` and `remove`: they speak with the daemon of this computer, by the Transmission RPC.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use indicatif::BinaryBytes;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::daemon::{ADDRESS, CREDENTIALS, DEFAULT_LISTEN};
use super::source::argument;
use super::table::{Side, table};
use crate::error::{Error, Exit, Kind};
use crate::net::os::LoopbackDialer;
use crate::rpc::access::{RPC_PATH, SESSION_HEADER};
use crate::state::StateDir;
use crate::torrent::by_url::is_web;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::MAX_TORRENT;

/// Longest answer, bytes: a list of very many torrents.
const MAX_ANSWER: u64 = 64 << 20;
/// How long the daemon may take: it may be reading a large torrent, or writing to a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest address file, bytes.
const MAX_ADDRESS: usize = 256;

/// Where the daemon is.
#[derive(clap::Args)]
struct Where {
    /// State folder of the daemon, which says where it listens and holds user and password [default: ~/.local/state/hushswarm]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Address of the daemon [default: as the state folder says, else 127.0.0.1:9091]
    #[arg(long, value_name = "ADDR")]
    rpc: Option<SocketAddr>,
}

/// Arguments of `hushswarm add`.
#[derive(clap::Args)]
pub struct Add {
    /// Magnet links, .torrent files or their https addresses, which the daemon fetches through its circuits; "-" reads a magnet link from standard input, where no other user of this computer sees it
    #[arg(value_name = "MAGNET-OR-FILE", required = true)]
    sources: Vec<String>,
    /// Folder to download to [default: the daemon's]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Label; may be given several times
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Add it, and don't start it
    #[arg(long)]
    paused: bool,
    #[command(flatten)]
    place: Where,
}

/// Arguments of `hushswarm list`.
#[derive(clap::Args)]
pub struct List {
    /// Write JSON, with the names of the RPC
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

/// Arguments of `hushswarm remove`.
#[derive(clap::Args)]
pub struct Remove {
    /// Numbers as "hushswarm list" shows them, or infohashes
    #[arg(value_name = "ID-OR-HASH", required = true)]
    torrents: Vec<String>,
    /// Delete its files too: those that are the torrent's, and no others
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    place: Where,
}

/// Adds torrents.
///
/// # Errors
/// What went wrong and what to do.
pub async fn add(args: Add) -> Result<(), Error> {
    let mut daemon = Daemon::find(&args.place)?;
    for source in &args.sources {
        let text = argument(source)?;
        let mut arguments = Map::new();
        // What stands at an address the daemon fetches, through its circuits.
        if Magnet::is_link(&text) || is_web(&text) {
            arguments.insert("filename".to_owned(), text.into());
        } else {
            let bytes =
                crate::config::read_file(Path::new(&text), MAX_TORRENT).map_err(|error| {
                    Error::local("that is no magnet link, and no torrent file that can be read")
                        .with_source(error)
                        .with_exit(Exit::BadTorrent)
                })?;
            arguments.insert("metainfo".to_owned(), BASE64.encode(&bytes).into());
        }
        if args.paused {
            arguments.insert("paused".to_owned(), true.into());
        }
        if !args.label.is_empty() {
            arguments.insert("labels".to_owned(), args.label.clone().into());
        }
        if let Some(output) = &args.output {
            let output = std::path::absolute(output)
                .map_err(|source| Error::local("there is no such folder").with_source(source))?;
            let output = output.to_string_lossy().into_owned();
            arguments.insert("download-dir".to_owned(), output.into());
        }
        let answer = daemon.call("torrent-add", arguments).await?;
        let new = answer.get("torrent-added");
        let torrent = new.or_else(|| answer.get("torrent-duplicate"));
        let name = torrent.and_then(|torrent| torrent["name"].as_str());
        let id = torrent.and_then(|torrent| torrent["id"].as_i64());
        let what = if new.is_some() {
            "added"
        } else {
            "was there already"
        };
        let (id, name) = (id.unwrap_or(0), shown(name.unwrap_or_default()));
        print(&format!("{id}  {name}: {what}"));
    }
    Ok(())
}

/// Shows the torrents.
///
/// # Errors
/// What went wrong and what to do.
pub async fn list(args: List) -> Result<(), Error> {
    let fields = [
        "id",
        "hashString",
        "name",
        "status",
        "error",
        "errorString",
        "percentDone",
        "recheckProgress",
        "sizeWhenDone",
        "leftUntilDone",
        "rateDownload",
        "rateUpload",
        "uploadRatio",
        "peersConnected",
        "eta",
        "labels",
        "downloadDir",
        "isFinished",
    ];
    let mut arguments = Map::new();
    arguments.insert("fields".to_owned(), fields.as_slice().into());
    let answer = Daemon::find(&args.place)?
        .call("torrent-get", arguments)
        .await?;
    let torrents = answer.get("torrents").cloned().unwrap_or_default();
    if args.json {
        print(&torrents.to_string());
        return Ok(());
    }
    let rows: Vec<[String; 8]> = torrents.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        print("there are no torrents: hushswarm add MAGNET-OR-FILE");
        return Ok(());
    }
    let header = [
        ("ID", Side::Right),
        ("DONE", Side::Right),
        ("SIZE", Side::Right),
        ("DOWN", Side::Right),
        ("UP", Side::Right),
        ("RATIO", Side::Right),
        ("STATUS", Side::Left),
        ("NAME", Side::Left),
    ];
    print(table(header, &rows).trim_end());
    Ok(())
}

/// Removes torrents.
///
/// # Errors
/// What went wrong and what to do.
pub async fn remove(args: Remove) -> Result<(), Error> {
    let mut daemon = Daemon::find(&args.place)?;
    let mut arguments = Map::new();
    arguments.insert("fields".to_owned(), json!(["id", "hashString"]));
    let answer = daemon.call("torrent-get", arguments).await?;
    let there = answer.get("torrents").and_then(Value::as_array);
    let mut ids = Vec::new();
    for text in &args.torrents {
        let is = |torrent: &&Value| {
            let number = text.parse().is_ok_and(|id: i64| torrent["id"] == id);
            let hash = torrent["hashString"].as_str();
            number || hash.is_some_and(|hash| hash.eq_ignore_ascii_case(text))
        };
        let found = there.into_iter().flatten().find(is);
        // All or none, and never all because none was found.
        let id = found.and_then(|torrent| torrent["id"].as_i64());
        ids.push(id.ok_or_else(|| {
            Error::local("there is no such torrent")
                .with_exit(Exit::Usage)
                .with_hint("hushswarm list shows those that there are")
        })?);
    }
    let count = ids.len();
    let mut arguments = Map::new();
    arguments.insert("ids".to_owned(), ids.into());
    arguments.insert("delete-local-data".to_owned(), args.delete.into());
    daemon.call("torrent-remove", arguments).await?;
    let files = if args.delete { ", and its files" } else { "" };
    print(&match count {
        1 => format!("removed{files}"),
        _ => format!("{count} removed{}", files.replace("its", "their")),
    });
    Ok(())
}

/// A torrent for the table.
fn row(torrent: &Value) -> [String; 8] {
    let number = |name: &str| torrent[name].as_u64().unwrap_or(0);
    let fraction = |name: &str| torrent[name].as_f64().unwrap_or(0.0);
    let size = |bytes: u64| BinaryBytes(bytes).to_string();
    let rate = |bytes: u64| match bytes {
        0 => "-".to_owned(),
        _ => format!("{}/s", BinaryBytes(bytes)),
    };
    let checking = number("status") == 2;
    let done = if checking {
        fraction("recheckProgress")
    } else {
        fraction("percentDone")
    };
    let status = match (number("error"), number("status")) {
        (1.., _) => torrent["errorString"].as_str().unwrap_or("error"),
        (0, 0) if torrent["isFinished"] == true => "finished",
        (0, 0) => "stopped",
        (0, 1 | 2) => "checking",
        (0, 3 | 5) => "queued",
        (0, 4) => "downloading",
        (0, _) => "seeding",
    };
    let ratio = fraction("uploadRatio");
    [
        torrent["id"].to_string(),
        format!("{:.0}%", (done * 100.0).floor()),
        size(number("sizeWhenDone")),
        rate(number("rateDownload")),
        rate(number("rateUpload")),
        if ratio < 0.0 {
            "-".to_owned()
        } else {
            format!("{ratio:.2}")
        },
        shown(status),
        shown(torrent["name"].as_str().unwrap_or_default()),
    ]
}

/// A text for the terminal: whoever made a torrent named it, and may not steer the terminal.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(plain).collect()
}

fn print(text: &str) {
    // Who closed the output wants no more of it.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// The daemon.
struct Daemon {
    at: SocketAddr,
    credentials: Option<String>,
    session: String,
}

impl Daemon {
    /// Reads where it is. Nothing is sent yet.
    ///
    /// Where no daemon uses the state folder, whoever listens at the address is somebody else, who must be told neither password nor link.
    /// Who names the address himself knows who is there: it may lead to another computer.
    ///
    /// # Errors
    /// There is no daemon, or the state folder can't be used: tell the user.
    fn find(place: &Where) -> Result<Self, Error> {
        let path = match &place.state {
            Some(path) => path.clone(),
            None => StateDir::default_path()?,
        };
        // Not made where it is not there: nothing of a daemon would be in it.
        let state = match path.exists() {
            true => Some(StateDir::open(&path)?),
            false => None,
        };
        if place.rpc.is_none() {
            let in_use = state.as_ref().map(StateDir::is_locked).transpose()?;
            if in_use != Some(true) {
                return Err(not_there());
            }
        }
        let (mut said, mut credentials) = (None, None);
        if let Some(state) = state {
            said = state.read(ADDRESS, MAX_ADDRESS)?;
            credentials = state.read_secret(CREDENTIALS)?.map(|text| {
                let text = String::from_utf8_lossy(&text);
                text.lines().next().unwrap_or_default().trim().to_owned()
            });
        }
        let said = said.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        let at = place.rpc.or(said).or_else(|| DEFAULT_LISTEN.parse().ok());
        let at = at.ok_or_else(not_there)?;
        Ok(Self {
            at,
            credentials,
            session: String::new(),
        })
    }

    /// Makes a call; gives its arguments.
    async fn call(
        &mut self,
        method: &str,
        arguments: Map<String, Value>,
    ) -> Result<Map<String, Value>, Error> {
        let body = json!({ "method": method, "arguments": arguments }).to_string();
        if self.session.is_empty() {
            // Only who answers as a daemon does is told what is asked, and so of a link.
            let first = self.post("{}").await?;
            self.begin(&first)?;
        }
        let mut answer = self.post(&body).await?;
        if answer.status == 409 {
            // It was started anew.
            self.begin(&answer)?;
            answer = self.post(&body).await?;
        }
        if answer.status != 200 {
            return Err(refused(answer.status));
        }
        let mut message: Value = serde_json::from_slice(&answer.body).map_err(|_| no_daemon())?;
        let result = message["result"].as_str().unwrap_or_default();
        if result != "success" {
            return Err(Error::local(shown(result)));
        }
        match message["arguments"].take() {
            Value::Object(arguments) => Ok(arguments),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Ok(Map::new()),
        }
    }

    /// Takes over the session's id.
    fn begin(&mut self, answer: &Answer) -> Result<(), Error> {
        if answer.status != 409 {
            return Err(refused(answer.status));
        }
        self.session = answer.header(SESSION_HEADER).ok_or_else(no_daemon)?;
        Ok(())
    }

    async fn post(&self, body: &str) -> Result<Answer, Error> {
        let sent = timeout(PATIENCE, self.exchange(body)).await;
        let bytes = match sent {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(source)) => return Err(not_there().with_source(source)),
            Err(_) => return Err(not_there()),
        };
        Answer::parse(&bytes).ok_or_else(no_daemon)
    }

    async fn exchange(&self, body: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = LoopbackDialer.connect(self.at).await?;
        let mut head = format!(
            "POST {RPC_PATH} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n",
            self.at,
            body.len()
        );
        if let Some(credentials) = &self.credentials {
            let basic = BASE64.encode(credentials.as_bytes());
            head.extend(["Authorization: Basic ", &basic, "\r\n"]);
        }
        if !self.session.is_empty() {
            head.extend([SESSION_HEADER, ": ", &self.session, "\r\n"]);
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
        Ok(bytes)
    }
}

/// A response.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(used) = response.parse(bytes).ok()? else {
            return None;
        };
        let header = |header: &httparse::Header<'_>| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_owned(), value)
        };
        Some(Self {
            status: response.code?,
            headers: response.headers.iter().map(header).collect(),
            body: bytes.get(used..)?.to_vec(),
        })
    }

    fn header(&self, name: &str) -> Option<String> {
        let all = self.headers.iter();
        let mut named = all.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.clone())
    }
}

fn not_there() -> Error {
    Error::new(Kind::Local, "the daemon does not answer")
        .with_exit(Exit::Unreachable)
        .with_hint("start it with \"hushswarm daemon\", or name its state folder with --state DIR, or its address with --rpc ADDR")
}

fn refused(status: u16) -> Error {
    if status == 401 {
        return Error::new(Kind::Policy, "the daemon does not take this password")
            .with_hint("name the daemon's state folder with --state DIR");
    }
    no_daemon()
}

fn no_daemon() -> Error {
    Error::new(
        Kind::Local,
        "what answers there is no daemon of hushswarm's",
    )
    .with_exit(Exit::Unreachable)
    .with_hint("name the daemon's state folder with --state DIR, or its address with --rpc ADDR")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::os::LocalListener;

    #[test]
    fn what_a_torrent_is_called_does_not_steer_the_terminal() {
        let torrent = json!({
            "id": 3, "name": "a\u{1b}[2Jb\n", "status": 4, "error": 0, "percentDone": 0.999,
            "sizeWhenDone": 2048, "rateDownload": 0, "rateUpload": 1024, "uploadRatio": -1.0,
        });
        let row = row(&torrent);
        assert_eq!(row[7], "a?[2Jb?");
        assert_eq!(
            [&row[0], &row[1], &row[3], &row[5], &row[6]],
            ["3", "99%", "-", "-", "downloading"]
        );
    }

    #[test]
    fn where_no_daemon_runs_nobody_is_spoken_to_unless_the_user_names_him() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let find = |rpc: Option<&str>| {
            Daemon::find(&Where {
                state: Some(path.clone()),
                rpc: rpc.map(|rpc| rpc.parse().unwrap()),
            })
        };
        assert!(find(None).is_err() && !path.exists());
        let state = StateDir::open(&path).unwrap();
        state.write(ADDRESS, b"127.0.0.1:5").unwrap();
        assert!(find(None).is_err());
        assert_eq!(find(Some("127.0.0.1:6")).unwrap().at.port(), 6);
        let lock = state.lock().unwrap();
        assert_eq!(find(None).unwrap().at.port(), 5);
        drop(lock);
        assert!(find(None).is_err());
    }

    #[tokio::test]
    async fn a_link_is_told_to_nobody_who_does_not_answer_as_a_daemon_does() {
        for (answer, tells) in [
            ("HTTP/1.1 200 OK\r\n\r\n{\"result\":\"success\"}", false),
            ("HTTP/1.1 409 Conflict\r\n\r\n", false),
            (
                "HTTP/1.1 409 Conflict\r\nX-Transmission-Session-Id: abc\r\n\r\n",
                true,
            ),
        ] {
            let listener = LocalListener::loopback("127.0.0.1:0".parse().unwrap()).unwrap();
            let mut daemon = Daemon {
                at: listener.local_addr().unwrap().unwrap(),
                credentials: None,
                session: String::new(),
            };
            let serving = tokio::spawn(async move {
                let mut said = String::new();
                loop {
                    let mut stream = listener.accept().await.unwrap().stream;
                    let mut bytes = Vec::new();
                    while !bytes.ends_with(b"}") {
                        stream.read_buf(&mut bytes).await.unwrap();
                    }
                    said.push_str(std::str::from_utf8(&bytes).unwrap());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                    if !tells || said.contains("abc") {
                        return said;
                    }
                }
            });
            let mut arguments = Map::new();
            arguments.insert("filename".to_owned(), "magnet:?private".into());
            // The second answer is no success either.
            assert!(daemon.call("torrent-add", arguments).await.is_err());
            if tells {
                // A third request is not answered.
                assert!(serving.await.unwrap().contains("private"));
            } else {
                assert!(!serving.await.unwrap().contains("private"), "{answer}");
            }
        }
    }

    #[test]
    fn an_answer_is_read_whatever_its_headers_case() {
        let answer = Answer::parse(
            b"HTTP/1.1 409 Conflict\r\nx-transmission-session-id: abc\r\nContent-Length: 2\r\n\r\nhi",
        )
        .unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (409, &b"hi"[..]));
        assert_eq!(answer.header(SESSION_HEADER).as_deref(), Some("abc"));
        assert!(Answer::parse(b"SSH-2.0-x\r\n").is_none());
    }
}
