//! Real programs that download: each starts at a [`Place`], with settings that a test read elsewhere (`docs/clients.md`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::super::process::Process;
use super::super::world::Host;
use super::super::{PATIENCE, fixture};
use super::{Libtorrent, Transmission, addr_of, try_rpc};

/// Where a program starts: on a host as it is, or inside something else there.
#[derive(Clone, Debug)]
pub struct Place {
    /// The host.
    pub host: Host,
    /// What stands before the program on its command line, such as `hushswarm run --`.
    pub before: Vec<String>,
}

impl Place {
    /// A host as it is.
    pub fn on(host: &Host) -> Self {
        Self {
            host: host.clone(),
            before: Vec::new(),
        }
    }

    /// Inside something else on the host.
    pub fn inside<S: AsRef<OsStr>>(host: &Host, before: impl IntoIterator<Item = S>) -> Self {
        let before = before.into_iter();
        Self {
            host: host.clone(),
            before: before
                .map(|word| word.as_ref().to_str().unwrap().to_owned())
                .collect(),
        }
    }

    /// The command line of a program here. Its home is an empty folder.
    pub fn command(&self, program: impl AsRef<OsStr>, home: &Path) -> Command {
        let mut command = match self.before.split_first() {
            Some((first, rest)) => {
                let mut command = self.host.command(first);
                command.args(rest).arg(program.as_ref());
                command
            }
            None => self.host.command(program.as_ref()),
        };
        command.env("HOME", home).env_remove("XDG_CONFIG_HOME");
        command
    }

    /// Runs a program to its end.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        let home = TempDir::new().unwrap();
        let mut command = self.command(program, home.path());
        command.args(arguments).output().unwrap()
    }
}

/// Puts lines into sections of an INI file, as the program itself would.
fn with_lines(settings: &str, section: &str, lines: &[String]) -> String {
    let head = format!("[{section}]");
    let lines = lines.join("\n");
    if settings.lines().any(|line| line.trim() == head) {
        settings.replacen(&head, &format!("{head}\n{lines}"), 1)
    } else {
        format!("{settings}\n{head}\n{lines}\n")
    }
}

/// A qbittorrent-nox, driven over its web interface.
pub struct QBittorrent {
    /// The program.
    pub process: Process,
    host: Host,
    url: String,
    profile: TempDir,
}

impl QBittorrent {
    /// Starts it with these settings (the text of a `qBittorrent.conf`), saving to `folder`. Its web interface is to be
    /// had at this port of the host's loopback. Call [`installed`](super::installed) first.
    pub fn start(place: &Place, settings: &str, folder: &Path, port: u16) -> Self {
        let profile = TempDir::new().unwrap();
        let config = profile.path().join("qBittorrent/config");
        std::fs::create_dir_all(&config).unwrap();
        // Nothing that concerns the swarm: where files go, and that this test needs no password.
        let save = format!("Session\\DefaultSavePath={}", folder.display());
        let text = with_lines(settings, "BitTorrent", &[save]);
        let web = ["WebUI\\LocalHostAuth=false".to_owned()];
        let text = with_lines(&text, "Preferences", &web);
        let text = with_lines(&text, "LegalNotice", &["Accepted=true".to_owned()]);
        std::fs::write(config.join("qBittorrent.conf"), text).unwrap();
        let mut command = place.command("qbittorrent-nox", profile.path());
        command
            .arg(format!("--profile={}", profile.path().display()))
            .arg(format!("--webui-port={port}"));
        let process = Process::spawn("qbittorrent-nox", command);
        let mut this = Self {
            process,
            host: place.host.clone(),
            url: format!("http://127.0.0.1:{port}/api/v2"),
            profile,
        };
        let (host, url) = (this.host.clone(), this.url.clone());
        this.process.wait_until(PATIENCE, |_| {
            curl(&host, &[&format!("{url}/app/version")]).filter(|said| said.starts_with('v'))
        });
        this
    }

    /// Its configuration file, as it has written it.
    pub fn config(&self) -> PathBuf {
        let profile = self.profile.path();
        profile.join("qBittorrent/config/qBittorrent.conf")
    }

    /// Calls its web interface.
    pub fn call(&self, path: &str, form: &[&str]) -> Option<String> {
        let mut arguments: Vec<&str> = form.iter().flat_map(|field| ["-F", field]).collect();
        let url = format!("{}/{path}", self.url);
        arguments.push(&url);
        curl(&self.host, &arguments)
    }

    /// Adds a magnet link or `.torrent` file.
    pub fn add(&self, source: &str) {
        let field = if source.starts_with("magnet:") {
            format!("urls={source}")
        } else {
            format!("torrents=@{source}")
        };
        let said = self.call("torrents/add", &[&field]);
        assert_eq!(said.as_deref(), Some("Ok."), "{}", self.process.tails());
    }

    /// What it says of its torrents.
    pub fn torrents(&self) -> Vec<Value> {
        let said = self.call("torrents/info", &[]).unwrap_or_default();
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// Bytes of the first torrent that are there and checked.
    pub fn completed(&self) -> u64 {
        let torrents = self.torrents();
        let first = torrents.first();
        first.map_or(0, |torrent| torrent["completed"].as_u64().unwrap_or(0))
    }

    /// Waits until all its torrents are complete.
    pub fn wait_done(&mut self) {
        let deadline = std::time::Instant::now() + 2 * PATIENCE;
        loop {
            let torrents = self.torrents();
            let done = |torrent: &Value| torrent["progress"] == 1 || torrent["progress"] == 1.0;
            if !torrents.is_empty() && torrents.iter().all(done) {
                return;
            }
            let late = std::time::Instant::now() > deadline;
            let log = std::fs::read_to_string(
                self.profile
                    .path()
                    .join("qBittorrent/data/logs/qbittorrent.log"),
            );
            assert!(
                !late && self.process.exit_status().is_none(),
                "qbittorrent-nox does not get on: {torrents:#?}{}\n{log:?}",
                self.process.tails()
            );
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}

/// What an address on a host's loopback answers; `None` when nobody does.
pub fn curl(host: &Host, arguments: &[&str]) -> Option<String> {
    let mut command = host.command("curl");
    command
        .args(["--silent", "--fail", "--noproxy", "*", "--max-time", "20"])
        .args(arguments);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Downloads with aria2 and ends when it is complete. `settings` is the text of an `aria2.conf`.
pub fn aria2_get(place: &Place, settings: &str, source: &str, folder: &Path) -> Process {
    let conf = folder.join("aria2.conf");
    std::fs::write(&conf, settings).unwrap();
    let mut command = place.command("aria2c", folder);
    command
        .arg(format!("--conf-path={}", conf.display()))
        .arg(format!("--dir={}", folder.display()))
        .args([
            "--seed-time=0",
            "--show-console-readout=false",
            "--summary-interval=0",
        ])
        .arg(source);
    Process::spawn("aria2", command)
}

impl Libtorrent {
    /// Downloads with `settings` (a JSON object with the names of libtorrent's `settings_pack`) and seeds on.
    pub fn download(
        place: &Place,
        python: &Path,
        settings: &str,
        source: &str,
        folder: &Path,
        more: &[&str],
    ) -> Self {
        let file = folder.join("settings.json");
        std::fs::write(&file, settings).unwrap();
        let mut command = place.command(python, folder);
        command
            .arg(fixture("lt_get.py"))
            .args([source, folder.to_str().unwrap(), "--stay", "--settings"])
            .arg(&file)
            .args(more);
        let mut process = Process::spawn("libtorrent", command);
        let ready = process.wait_for_event(PATIENCE, "ready");
        let port = u16::try_from(ready["port"].as_u64().unwrap()).unwrap();
        Self {
            process,
            addr: place.host.addr(port),
        }
    }
}

impl Transmission {
    /// Starts one that downloads to `folder`. `settings` is a JSON object, a `settings.json`. Its control port is to be had
    /// at 9091 of the host's loopback. Call [`installed`](super::installed) first.
    pub fn download(place: &Place, settings: &str, source: &str, folder: &Path) -> Self {
        let config = TempDir::new().unwrap();
        let mut all: Map<String, Value> = serde_json::from_str(settings).unwrap();
        all.insert("download-dir".to_owned(), json!(folder));
        let text = Value::Object(all).to_string();
        std::fs::write(config.path().join("settings.json"), text).unwrap();
        let mut command = place.command("transmission-daemon", config.path());
        command
            .args(["--foreground", "--config-dir"])
            .arg(config.path());
        let mut this = Self {
            process: Process::spawn("transmission", command),
            addr: place.host.addr(51413),
            host: Some(place.host.clone()),
            rpc: "http://127.0.0.1:9091/transmission/rpc".to_owned(),
            _config: config,
        };
        let (host, rpc) = (place.host.clone(), this.rpc.clone());
        let add = json!({ "filename": source });
        this.process.wait_until(PATIENCE, |_| {
            try_rpc(Some(&host), "transmission", &rpc, "torrent-add", &add)
        });
        this
    }

    /// Part of the first torrent that is there, 0 to 1.
    pub fn done(&self) -> f64 {
        let fields = json!({ "fields": ["percentDone", "metadataPercentComplete", "errorString"] });
        let host = self.host.as_ref();
        let state = try_rpc(host, "transmission", &self.rpc, "torrent-get", &fields);
        let state = state.unwrap_or_default();
        let first = &state["torrents"][0];
        // A magnet link without metadata is said to be complete.
        if first["metadataPercentComplete"].as_f64() < Some(1.0) {
            return 0.0;
        }
        first["percentDone"].as_f64().unwrap_or(0.0)
    }

    /// Waits until the first torrent is complete.
    pub fn wait_done(&mut self) {
        let deadline = std::time::Instant::now() + 2 * PATIENCE;
        while self.done() < 1.0 {
            assert!(
                std::time::Instant::now() < deadline && self.process.exit_status().is_none(),
                "transmission does not get on: {:?}{}",
                self.peers(),
                self.process.tails()
            );
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}

/// A node of a private DHT, which is libtorrent without a torrent (`tests/fixtures/lt_dht.py`).
pub struct DhtNode {
    /// The program.
    pub process: Process,
    /// Its address.
    pub addr: std::net::SocketAddr,
}

impl DhtNode {
    /// Starts one that knows the others.
    pub fn start(python: &Path, host: &Host, others: &[std::net::SocketAddr]) -> Self {
        let mut command = host.command(python);
        let addr = host.addr(6881);
        command
            .arg(fixture("lt_dht.py"))
            .args(["--listen", &addr.to_string()]);
        for other in others {
            command.args(["--bootstrap", &other.to_string()]);
        }
        let mut process = Process::spawn("dht node", command);
        process.wait_for_event(PATIENCE, "ready");
        Self { process, addr }
    }

    /// Who has sent it datagrams that libtorrent took for DHT messages, in order of first ones.
    pub fn askers(&self) -> Vec<std::net::SocketAddr> {
        let mut askers = Vec::new();
        for line in self.process.events("asked") {
            let from = addr_of(&line["ip"], &line["port"]);
            if !askers.contains(&from) {
                askers.push(from);
            }
        }
        askers
    }
}
